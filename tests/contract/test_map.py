"""``map_args=True`` and the verb ``map``: one call for each item."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from objproxy import ProxyPool
from targets import Gate, Model
from ways import MakePool, Way


def test_iterables_are_zipped_to_the_shortest(shared_pool: ProxyPool[Model]) -> None:
    assert shared_pool.score([1, 2, 3, 4], (10, 20, 30), map_args=True).tolist() == [10, 40, 90]


def test_keyword_arguments_are_columns_too(shared_pool: ProxyPool[Model]) -> None:
    results = shared_pool.score(range(4), bias=[1, 2, 3], map_args=True)
    assert results.tolist() == [1, 4, 7]
    assert shared_pool.score(x=[1, 2], map_args=True).tolist() == [2, 4]


@pytest.mark.parametrize("mode", [{}, {"synchronize": True}], ids=["map", "rounds"])
def test_a_map_of_nothing_but_endless_iterables_is_refused(shared_pool: ProxyPool[Model], mode: dict[str, Any]) -> None:
    endless: list[Callable[[], Any]] = [lambda: itertools.repeat(1), itertools.count, lambda: itertools.cycle([1, 2])]
    for make in endless:
        with pytest.raises(ValueError, match=r"endless.*imap"):
            shared_pool.score(make(), factor=make(), map_args=True, **mode)
        with pytest.raises(ValueError, match=r"endless.*imap"):
            shared_pool.score.map(make())
        assert next(shared_pool.score.imap(make())) in (0, 2)
        assert len(shared_pool.score(make(), range(3), map_args=True, **mode)) == 3


def test_repeat_is_a_constant(shared_pool: ProxyPool[Model]) -> None:
    assert shared_pool.score(range(5), itertools.repeat(3), map_args=True).tolist() == [0, 3, 6, 9, 12]


def test_generators_are_items(shared_pool: ProxyPool[Model]) -> None:
    assert shared_pool.score((x * x for x in range(4)), map_args=True).tolist() == [0, 2, 8, 18]


def test_rows_of_an_array_are_items(shared_pool: ProxyPool[Model]) -> None:
    rows = np.arange(6).reshape(3, 2)
    np.testing.assert_array_equal(shared_pool.echo(rows, map_args=True), rows)


@pytest.mark.parametrize("empty", [[], (), range(0), iter(()), np.empty((0, 3))], ids=repr)
def test_no_items_give_no_results(shared_pool: ProxyPool[Model], empty: Any) -> None:
    assert len(shared_pool.score(empty, map_args=True)) == 0
    assert shared_pool.score.map([]) == []
    assert list(shared_pool.score.imap(())) == []


def test_results_come_in_the_order_of_the_items_however_many(shared_pool: ProxyPool[Model]) -> None:
    np.testing.assert_array_equal(shared_pool.score(range(20_000), map_args=True), np.arange(20_000) * 2)


@pytest.mark.concurrent
def test_results_come_in_the_order_of_the_items_whichever_ends_first(make_pool: MakePool, gates: Any) -> None:
    pool, last = make_pool(), gates("last")
    path = last.path.with_name("order")
    # Item 0 waits for item 5, which another worker runs.
    results = pool.wait_at.options(chunksize=1).submit(last, 0), pool.append_line.map(itertools.repeat(path), range(6))
    last.open()
    assert results[0].result(30) == 0
    assert results[1] == list(range(6))


@pytest.mark.concurrent
def test_all_workers_work_at_the_same_time(make_pool: MakePool, gates: Any) -> None:
    pool, one, other = make_pool(), gates("one"), gates("other")
    assert sorted(pool.meet([one, other], [other, one], map_args=True)) == [0, 1]


@pytest.mark.concurrent
def test_a_worker_that_is_free_takes_the_next_item(make_pool: MakePool, gates: Any, tmp_path: Path) -> None:
    pool = make_pool()
    started, gate = gates("started"), gates("gate")
    held = pool.report_and_wait.submit(started, gate)
    started.wait()
    places = pool.place.map(range(50))
    gate.open()
    held.result(30)
    assert len({worker_id for _, worker_id in places}) == 1


@pytest.mark.parametrize("chunksize", [1, 3, 10, 1000])
def test_any_chunksize_gives_the_same_results(shared_pool: ProxyPool[Model], chunksize: int) -> None:
    assert shared_pool.score(range(25), map_args=True, chunksize=chunksize).tolist() == [2 * x for x in range(25)]


def test_the_items_of_a_chunk_run_on_one_worker(shared_pool: ProxyPool[Model]) -> None:
    places = shared_pool.place.options(chunksize=5).map(range(40))
    chunks = [{worker_id for _, worker_id in places[start : start + 5]} for start in range(0, 40, 5)]
    assert all(len(workers) == 1 for workers in chunks)


@pytest.mark.parametrize("chunksize", [0, -1, 1.5, "2", True])
def test_a_chunksize_that_makes_no_sense_is_refused(shared_pool: ProxyPool[Model], chunksize: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="chunksize="):
        shared_pool.score(range(3), map_args=True, chunksize=chunksize)


def test_an_argument_that_is_no_iterable_is_named(shared_pool: ProxyPool[Model]) -> None:
    with pytest.raises(TypeError, match=r"argument 1 is a int.*itertools\.repeat"):
        shared_pool.score(range(3), 2, map_args=True)
    with pytest.raises(TypeError, match="argument 'bias' is a float"):
        shared_pool.score(range(3), bias=0.5, map_args=True)


def test_a_map_needs_at_least_one_iterable(shared_pool: ProxyPool[Model]) -> None:
    with pytest.raises(TypeError, match="at least one iterable"):
        shared_pool.nothing(map_args=True)


def test_the_verb_map_gives_a_list_untouched(shared_pool: ProxyPool[Model]) -> None:
    results = shared_pool.score.map(range(3))
    assert type(results) is list
    assert results == [0, 2, 4]


# ---- synchronize and dedicated ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["synchronize", "synchronize_workers"])
def test_synchronised_item_i_goes_to_worker_i_modulo_n(shared_pool: ProxyPool[Model], spelling: str) -> None:
    results = shared_pool.place(range(8), map_args=True, stack_results=False, **{spelling: True})
    assert results == [(i, i % 3) for i in range(8)]


def test_no_round_starts_before_the_last_has_ended(make_pool: MakePool, tmp_path: Path) -> None:
    pool, path = make_pool(worker_count=3), tmp_path / "lines"
    for _ in range(10):
        pool.append_line(itertools.repeat(path), range(9), map_args=True, synchronize=True)
    lines = [int(line) // 3 for line in path.read_text().split()]
    assert lines == [0, 0, 0, 1, 1, 1, 2, 2, 2] * 10


@pytest.mark.concurrent
def test_a_round_waits_for_its_slowest_item(make_pool: MakePool, gates: Any, tmp_path: Path) -> None:
    """The items of the second round are not even pulled before those of the first have ended."""
    pool, first, second = make_pool(), gates("first"), gates("second")
    first.open()
    pulled: list[bool] = []

    def items() -> Iterator[Gate]:
        yield first
        yield first
        pulled.append(True)
        yield second
        second.open()
        yield second

    assert pool.wait_at(items(), itertools.count(), map_args=True, synchronize=True).tolist() == [0, 1, 2, 3]
    assert pulled == [True]


def test_set_and_read_back_with_rounds(make_pool: MakePool) -> None:
    pool = make_pool(worker_count=3)
    pool.remember(range(3), map_args=True, synchronize=True)
    assert pool.read_history(stack_results=False) == [[0], [1], [2]]


def test_dedicated_item_i_always_goes_to_worker_i(make_pool: MakePool) -> None:
    pool = make_pool(worker_count=3, dedicated=True)
    for _ in range(30):
        assert pool.place(range(3), map_args=True, stack_results=False) == [(0, 0), (1, 1), (2, 2)]
    assert pool.place.map(iter(range(3))) == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize(
    ("items", "number"),
    [(range(2), "2"), (range(5), "5"), ([], "0"), (iter(range(4)), "4"), (iter(range(2)), "2")],
    ids=repr,
)
def test_dedicated_needs_as_many_items_as_workers(make_pool: MakePool, items: Any, number: str) -> None:
    pool = make_pool(worker_count=3, dedicated=True)
    with pytest.raises(ValueError, match=rf"{number}( or more)? items .* 3 workers"):
        pool.place(items, map_args=True)
    assert pool.count().tolist() == [1, 1, 1]


@pytest.mark.parametrize("is_dedicated", [True, False], ids=["dedicated", "synchronised"])
@pytest.mark.parametrize("verb", ["imap", "imap_unordered"])
def test_lazy_verbs_refuse_places_that_they_cannot_keep(make_pool: MakePool, is_dedicated: bool, verb: str) -> None:
    pool = make_pool(worker_count=3, dedicated=is_dedicated)
    method = getattr(pool.place.options(synchronize=not is_dedicated), verb)
    with pytest.raises(ValueError, match="dedicated" if is_dedicated else "synchronize=True"):
        method(range(3))


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_an_item_that_raises_ends_the_map_with_its_error(shared_pool: ProxyPool[Model]) -> None:
    with pytest.raises(ValueError, match="bad item 7") as caught:
        shared_pool.raise_at(range(20), itertools.repeat(7), map_args=True)
    note = caught.value.__notes__[0]
    assert "item 7" in note
    assert "raise_at" in note
    assert "on worker" in note
    assert shared_pool.echo(1).tolist() == [1, 1, 1]


@pytest.mark.parametrize("mode", [{}, {"synchronize": True}], ids=["free", "synchronised"])
def test_errors_can_be_returned_among_the_results(shared_pool: ProxyPool[Model], mode: dict[str, Any]) -> None:
    method = shared_pool.raise_at.options(on_error="return", stack_results=False, map_args=True, **mode)
    results = method(range(10), itertools.repeat(3), itertools.repeat(8))
    assert [i for i, result in enumerate(results) if isinstance(result, ValueError)] == [3, 8]
    assert "item 8" in results[8].__notes__[0]
    assert "on worker" in results[8].__notes__[0]
    assert [result for result in results if isinstance(result, int)] == [0, 1, 2, 4, 5, 6, 7, 9]


def test_return_exceptions_is_another_spelling(shared_pool: ProxyPool[Model]) -> None:
    results = shared_pool.raise_at.options(return_exceptions=True).map(range(4), itertools.repeat(1))
    assert [type(result) for result in results] == [int, ValueError, int, int]


@pytest.mark.parametrize("chunksize", [None, 1, 4])
def test_items_that_fail_can_be_skipped(shared_pool: ProxyPool[Model], chunksize: int | None) -> None:
    method = shared_pool.raise_at.options(on_error="skip", map_args=True, chunksize=chunksize)
    assert method(range(10), itertools.repeat(3), itertools.repeat(8)).tolist() == [0, 1, 2, 4, 5, 6, 7, 9]


def test_an_item_that_raises_stop_iteration_fails_alone(shared_pool: ProxyPool[Model]) -> None:
    results = shared_pool.stop_iteration.options(on_error="return").map(range(5))
    assert [type(result) for result in results] == [int, int, StopIteration, int, int]


@pytest.mark.parametrize("position", [0, 5, 11])
def test_an_iterable_that_raises_is_the_callers_error(shared_pool: ProxyPool[Model], position: int) -> None:
    error = OSError("disk")

    def items() -> Iterator[int]:
        for i in range(12):
            if i == position:
                raise error
            yield i

    with pytest.raises(OSError, match="disk") as caught:
        shared_pool.score(items(), map_args=True)
    assert caught.value is error
    assert shared_pool.echo(1).tolist() == [1, 1, 1]


def test_a_map_may_be_made_of_another_map_of_the_same_pool(shared_pool: ProxyPool[Model]) -> None:
    inner = shared_pool.score.imap(range(10))
    assert shared_pool.score(inner, map_args=True).tolist() == [4 * x for x in range(10)]


# ---- progress --------------------------------------------------------------------------------------------------------


def test_a_callable_is_told_of_progress(shared_pool: ProxyPool[Model]) -> None:
    told: list[tuple[int, int | None]] = []
    shared_pool.score.options(progress_bar=lambda done, total: told.append((done, total))).map(range(30))
    assert told[-1] == (30, 30)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    told.clear()
    list(shared_pool.score.options(progress_bar=lambda done, total: told.append((done, total))).imap(iter([1, 2])))
    assert told[-1][0] == 2
    told.clear()
    shared_pool.score.options(progress_bar=lambda done, total: told.append((done, total)))(1)
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("wanted", [True, {"desc": "scoring", "disable": False}], ids=["bool", "dict"])
def test_a_bar_is_shown(shared_pool: ProxyPool[Model], wanted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shared_pool.score.options(progress_bar=wanted, map_args=True)(range(30))
    shown = capsys.readouterr().err
    assert "30/30" in shown
    assert ("scoring" if isinstance(wanted, dict) else "score") in shown


def test_a_bar_of_nothing_sensible_is_refused(shared_pool: ProxyPool[Model]) -> None:
    with pytest.raises(TypeError, match="progress_bar=5"):
        shared_pool.score.options(progress_bar=5)


# ---- retries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_retries", [1, 3])
def test_an_item_is_tried_again_as_often_as_it_is_allowed(make_pool: MakePool, tmp_path: Path, n_retries: int) -> None:
    pool, path = make_pool(), tmp_path / "tries"
    method = pool.fail_first.options(retries=n_retries, retry_on=OSError, on_error="return", stack_results=False, map_args=True)
    results = method(itertools.repeat(path), range(6), [0, 1, n_retries, n_retries + 1, math.inf, 0])
    tries = path.read_text().split()
    assert [tries.count(str(item)) for item in range(6)] == [1, 2, n_retries + 1, n_retries + 1, n_retries + 1, 1]
    assert [type(result) for result in results] == [int, int, int, OSError, OSError, int]


def test_other_errors_are_not_tried_again(make_pool: MakePool, tmp_path: Path, way: Way) -> None:
    pool, path = make_pool(), tmp_path / "tries"
    with pytest.raises(OSError, match="not ready"):
        pool.fail_first.options(retries=3)(path, 0, 9)
    assert path.read_text().split() == ["0"] * len(pool)
    with pytest.raises(OSError, match="not ready"):
        pool[0].fail_first.options(retries=3, retry_on=(ValueError, KeyError))(path, 1, 9)
    assert path.read_text().split().count("1") == 1


def test_retries_count_for_a_future_and_for_one_instance(make_pool: MakePool, tmp_path: Path) -> None:
    pool, path = make_pool(), tmp_path / "tries"
    assert pool.fail_first.options(retries=2, retry_on=OSError).submit(path, 5, 2).result(30) == 5
    assert pool[1].fail_first.options(retries=2, retry_on=(OSError,))(path, 6, 1) == 6
    assert path.read_text().split() == ["5", "5", "5", "6", "6"]

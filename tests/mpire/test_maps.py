"""Maps: items, results, chunks, order, and what a map leaves."""

from __future__ import annotations

import itertools
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import mpire_targets as targets
from mpire_ways import MakePool, every_method, every_process
from objproxy import WorkerDiedError
from objproxy.mpire import WorkerPool
from objproxy.mpire.exception import CannotPickleExceptionError
from objproxy.mpire.utils import make_single_arguments
from targets import Gate


@every_method
def test_all_maps_return_every_result(make_any: MakePool) -> None:
    pool, squares = make_any(), [x * x for x in range(30)]
    assert pool.map(targets.square, range(30)) == squares
    assert sorted(pool.map_unordered(targets.square, range(30))) == squares
    assert list(pool.imap(targets.square, iter(range(30)))) == squares
    assert sorted(pool.imap_unordered(targets.square, range(30), chunk_size=4)) == squares


@every_method
def test_a_function_without_a_name_can_be_mapped(make_any: MakePool) -> None:
    factor = 3
    assert make_any().map(lambda x: factor * x, [1, 2]) == [3, 6]


@pytest.mark.parametrize(
    ("item", "called_with"),
    [
        (5, (5,)),
        ("ab", ("ab",)),
        (b"ab", (b"ab",)),
        (None, (None,)),
        ((1, 2), (1, 2)),
        ([1, 2], (1, 2)),
        ([], ()),
        (range(2), (0, 1)),
        ({"x": 1, "y": 2}, (("x", 1), ("y", 2))),
        ((5,), (5,)),
        (("ab", [1]), ("ab", [1])),
    ],
)
def test_an_item_stands_for_arguments(item: Any, called_with: tuple[Any, ...]) -> None:
    with WorkerPool(1, start_method="threading") as pool:
        assert pool.map(targets.collect, [item]) == [called_with]


def test_items_stand_for_the_same_in_processes(make_pool: MakePool) -> None:
    items = [5, "ab", (1, 2), [3], {"x": 1}, np.arange(3)]
    results = make_pool().map(targets.collect, items)
    assert results[:5] == [(5,), ("ab",), (1, 2), (3,), (("x", 1),)]
    assert len(results[5]) == 1
    assert results[5][0].tolist() == [0, 1, 2]


def test_single_arguments_are_not_unpacked(make_pool: MakePool) -> None:
    items = [(1, 2), [3, 4], {"a": 5}]
    assert make_pool().map(targets.collect, make_single_arguments(items)) == [((1, 2),), ([3, 4],), ({"a": 5},)]
    assert make_single_arguments(items, generator=False) == [((1, 2),), ([3, 4],), ({"a": 5},)]


def test_who_is_told_of_wrong_arguments_is_told_of_the_unpacking(make_pool: MakePool) -> None:
    """A one-element list, a set or a range as an item is unpacked without a word; the error has one."""
    with pytest.raises(TypeError) as caught:
        make_pool().map(targets.square, [[1, 2, 3]])
    assert "make_single_arguments" in "".join(caught.value.__notes__)


def test_imaps_are_generators_and_start_nothing(make_pool: MakePool) -> None:
    pool = make_pool()
    results = pool.imap(targets.square, [3], chunk_size="x")  # type: ignore[arg-type]
    assert isinstance(results, types.GeneratorType)
    with pytest.raises(TypeError, match="chunk_size"):
        next(results)
    assert isinstance(pool.imap_unordered(targets.square, []), types.GeneratorType)


def test_a_dropped_generator_leaves_the_pool_usable(make_any: MakePool) -> None:
    pool = make_any()
    results = pool.imap(targets.square, itertools.count())
    assert [next(results), next(results)] == [0, 1]
    results.close()  # type: ignore[attr-defined]
    assert pool.map(targets.square, [4]) == [16]


@pytest.mark.parametrize("keep_alive", [False, True])
def test_a_generator_that_was_dropped_with_workers_kept(make_pool: MakePool, keep_alive: bool) -> None:
    pool = make_pool(keep_alive=keep_alive)
    next(pool.imap(targets.square, range(100)))
    assert pool.map(targets.square, [4]) == [16]


def test_max_tasks_active_below_the_chunk_size_does_not_hang(make_pool: MakePool) -> None:
    assert make_pool().map(targets.square, range(4), max_tasks_active=1, chunk_size=3) == [0, 1, 4, 9]


def test_imap_pulls_at_most_as_many_items_as_may_be_active(make_pool: MakePool) -> None:
    pulled: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            pulled.append(item)
            yield item

    for n_yielded, _ in enumerate(make_pool().imap(targets.square, items(), max_tasks_active=5)):
        assert len(pulled) - n_yielded <= 5
    assert len(pulled) == 100


@pytest.mark.parametrize("order_tasks", [False, True])
def test_no_item_sees_what_was_done_to_another(make_process: MakePool, order_tasks: bool) -> None:
    pool, shared = make_process(2, order_tasks=order_tasks), [0]
    for options in ({}, {"chunk_size": 3}, {"max_tasks_active": 12}):
        assert pool.map(targets.append, [(shared, i) for i in range(12)], **options) == [2] * 12
        assert list(pool.imap(targets.append, [([], i) for i in range(12)], **options)) == [1] * 12


@pytest.mark.parametrize("order_tasks", [False, True])
@pytest.mark.parametrize("options", [{"chunk_size": 2.5}, {"n_splits": 3}, {"chunk_size": 100}, {}])
def test_chunks_of_any_size_lose_nothing(make_pool: MakePool, options: dict[str, Any], order_tasks: bool) -> None:
    pool = make_pool(order_tasks=order_tasks)
    assert pool.map(targets.square, range(10), **options) == [x * x for x in range(10)]
    assert pool.map(targets.square, iter(range(10)), **options) == [x * x for x in range(10)]


@pytest.mark.parametrize("items", [[], iter([]), np.empty((0, 3)), {}])
@pytest.mark.parametrize("order_tasks", [False, True])
def test_nothing_maps_to_nothing(make_pool: MakePool, items: Any, order_tasks: bool) -> None:
    pool = make_pool(order_tasks=order_tasks)
    assert pool.map(targets.square, items, progress_bar=False) == []
    assert list(pool.imap_unordered(targets.square, items)) == []


def test_iterable_len_cuts(make_pool: MakePool) -> None:
    assert make_pool().map(targets.square, itertools.count(), iterable_len=4) == [0, 1, 4, 9]
    assert make_pool().map(targets.square, range(10), iterable_len=2) == [0, 1]


def test_fewer_items_than_announced_are_an_error(make_pool: MakePool) -> None:
    with pytest.raises(ValueError, match=r"iterable_len=10.*after 4"):
        make_pool().map(targets.square, iter(range(4)), iterable_len=10)


def test_items_that_raise_raise_in_the_caller(make_pool: MakePool) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    pool = make_pool()
    with pytest.raises(LookupError, match="no more"):
        pool.map(targets.square, items())
    results = pool.imap(targets.square, items())
    assert next(results) == 1
    with pytest.raises(LookupError, match="no more"):
        next(results)


# ---- arrays --------------------------------------------------------------------------------------------------------


def test_an_array_is_cut_and_its_results_are_joined(make_any: MakePool) -> None:
    array = np.arange(24.0).reshape(12, 2)
    pool = make_any(keep_alive=True)
    assert (pool.map(targets.scale, array) == 2 * array).all()
    assert pool.map(targets.row_sum, array, n_splits=3) == [28.0, 92.0, 156.0]
    assert pool.map(targets.row_sum, array, chunk_size=6) == [66.0, 210.0]
    parts = pool.map(targets.scale, array, n_splits=4, concatenate_numpy_output=False)
    assert [part.shape for part in parts] == [(3, 2)] * 4
    assert np.concatenate(list(pool.imap(targets.scale, array, iterable_len=6))).tolist() == (2 * array[:6]).tolist()


@pytest.mark.parametrize("given", [0, 1, "no", None])
def test_what_stood_before_the_switch_for_arrays_is_not_taken_for_it(make_pool: MakePool, given: Any) -> None:
    with pytest.raises(TypeError, match=r"progress_bar_options=\{'position'"):
        make_pool(1).map(targets.scale, np.arange(4), None, None, None, None, None, False, given)


def test_an_array_has_as_many_pieces_by_default_as_the_documents_say(make_pool: MakePool) -> None:
    assert len(make_pool().map(targets.row_sum, np.ones((300, 2)))) == 2 * 64
    assert len(make_pool(1).map(targets.row_sum, np.ones((10, 2)))) == 10


# ---- order ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_setter", [False, True])
def test_chunks_go_to_the_workers_in_turn(make_any: MakePool, by_setter: bool) -> None:
    pool = make_any(order_tasks=not by_setter)
    if by_setter:
        pool.set_order_tasks()
    expected = [0, 0, 1, 1, 0, 0, 1]
    assert pool.map(targets.worker_of, range(7), chunk_size=2) == expected
    assert list(pool.imap(targets.worker_of, range(7), chunk_size=2, max_tasks_active=3)) == expected
    assert pool.map_unordered(targets.worker_of, range(3), chunk_size=1, task_timeout=60) == [0, 1, 0]


# ---- errors --------------------------------------------------------------------------------------------------------


def test_an_error_of_a_task_is_raised_as_itself(make_any: MakePool) -> None:
    pool = make_any()
    with pytest.raises(ValueError, match="bad item") as caught:
        pool.map(targets.fail_at, range(6))
    assert caught.value.args == ("bad item", 3)
    notes = "\n".join(caught.value.__notes__)
    assert "Exception occurred in Worker-" in notes
    assert "with the following arguments:\nArg 0: 3" in notes
    assert "fail_at" in str(caught.value.__cause__)
    assert pool.map(targets.square, [2]) == [4]

    results = pool.imap(targets.fail_at, range(6), chunk_size=1)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="bad item"):
        next(results)
    assert list(results) == []


def test_an_error_with_a_constructor_of_its_own_is_raised_as_itself(make_pool: MakePool) -> None:
    with pytest.raises(targets.TwoPartError, match="one") as caught:
        make_pool().map(targets.raise_two_parts, [1])
    assert caught.value.second == "two"


def test_an_error_that_cannot_be_rebuilt_says_so(make_pool: MakePool) -> None:
    with pytest.raises(CannotPickleExceptionError, match="Unpicklable: one"):
        make_pool().map(targets.raise_unpicklable, [1])


@every_process
def test_the_death_of_a_worker_is_a_runtime_error(make_process: MakePool) -> None:
    pool = make_process()
    with pytest.raises(RuntimeError, match=r"exited with code 7.*item 3") as caught:
        pool.map(targets.exit_at, range(6), chunk_size=1)
    assert isinstance(caught.value, WorkerDiedError)
    assert pool.map(targets.square, [2]) == [4]


def test_one_map_at_a_time(make_pool: MakePool) -> None:
    pool = make_pool()
    results = pool.imap(targets.square, range(10))
    next(results)
    with pytest.raises(RuntimeError, match="Cannot call 'map' while another 'imap' is running"):
        pool.map(targets.square, [1])
    assert list(results) == [x * x for x in range(1, 10)]
    assert pool.map(targets.square, [1]) == [1]


def test_results_of_a_terminated_pool_do_not_come(make_any: MakePool, tmp_path: Any) -> None:
    pool, gate = make_any(), Gate(tmp_path / "gate")
    never = Gate(tmp_path / "never")
    results = pool.imap(targets.wait_at, [(str(one.path), 0) for one in (gate, never, never, never)], chunk_size=1)
    gate.open()
    assert next(results) == 0
    pool.terminate()
    with pytest.raises(RuntimeError):
        list(results)
    never.open()  # for the threads, which nobody can end
    assert pool.map(targets.square, [3]) == [9]

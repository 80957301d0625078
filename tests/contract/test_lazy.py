"""Lazy verbs: `imap`, `imap_unordered`, and methods that are generators."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest

from objproxy import ProxyPool
from targets import PATIENCE_SECONDS, Model, poll_until
from ways import MakePool


class Counting:
    """An iterable without end that counts what was pulled."""

    def __init__(self) -> None:
        self.n_pulled = 0
        self.is_closed = False

    def __iter__(self) -> Iterator[int]:
        try:
            while True:
                self.n_pulled += 1
                yield self.n_pulled - 1
        finally:
            self.is_closed = True


def test_results_come_in_order(shared_pool: ProxyPool[Model]) -> None:
    assert list(shared_pool.score.imap(range(3000))) == [2 * x for x in range(3000)]
    assert list(shared_pool.score.imap([1, 2, 3], itertools.repeat(5), bias=[1, 2])) == [6, 12]


def test_unordered_results_are_all_there(shared_pool: ProxyPool[Model]) -> None:
    assert sorted(shared_pool.score.imap_unordered(range(3000))) == [2 * x for x in range(3000)]


@pytest.mark.concurrent
def test_unordered_results_come_as_they_are_ready(make_pool: MakePool, gates: Any) -> None:
    pool, late = make_pool(), gates("late")
    early = gates("early")
    early.open()
    results = pool.wait_at.options(chunksize=1).imap_unordered([late, early, early], range(3))
    assert {next(results), next(results)} == {1, 2}
    late.open()
    assert list(results) == [0]


@pytest.mark.parametrize("verb", ["imap", "imap_unordered"])
def test_input_may_be_endless(shared_pool: ProxyPool[Model], verb: str) -> None:
    results = getattr(shared_pool.score, verb)(itertools.count())
    assert len(list(itertools.islice(results, 100))) == 100


@pytest.mark.parametrize("verb", ["imap", "imap_unordered"])
@pytest.mark.parametrize("buffersize", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("chunksize", [None, 1, 4])
def test_items_pulled_minus_items_yielded_is_at_most_the_buffersize(
    shared_pool: ProxyPool[Model], verb: str, buffersize: int, chunksize: int | None
) -> None:
    source, worst, n_yielded = Counting(), 0, 0

    def watched() -> Iterator[int]:
        nonlocal worst
        for item in source:
            worst = max(worst, source.n_pulled - n_yielded)
            yield item

    results = getattr(shared_pool.score.options(buffersize=buffersize, chunksize=chunksize), verb)(watched())
    for _ in range(200):
        next(results)
        n_yielded += 1
        worst = max(worst, source.n_pulled - n_yielded)
    results.close()
    assert 1 <= worst <= buffersize


def test_the_buffersize_may_be_told_as_it_goes(shared_pool: ProxyPool[Model]) -> None:
    source, bound = Counting(), 2
    results = shared_pool.score.options(buffersize=lambda _seconds: bound).imap(source)
    ahead = []
    for n_yielded, _ in enumerate(itertools.islice(results, 30), 1):
        ahead.append(source.n_pulled - n_yielded)
        bound = 20 if n_yielded >= 10 else 2
    results.close()
    assert max(ahead[:10]) <= 2 < max(ahead[10:]) <= 20


@pytest.mark.concurrent
def test_the_buffersize_holds_while_the_iterator_waits(make_pool: MakePool, gates: Any) -> None:
    pool, gate, source = make_pool(), gates("gate"), Counting()
    results = pool.wait_at.options(buffersize=5).imap(itertools.repeat(gate), source)
    with pytest.raises(TimeoutError):
        results.next(timeout=0.05)
    assert source.n_pulled == 5
    gate.open()
    assert next(results) == 0
    assert source.n_pulled <= 6
    results.close()


@pytest.mark.concurrent
def test_a_late_result_holds_the_others_back_and_the_source_too(make_pool: MakePool, gates: Any) -> None:
    """Ordered: item 0 is late, so the items behind it count as pulled and not yielded."""
    pool, late, other, source = make_pool(), gates("late"), gates("other"), Counting()
    other.open()
    gates_of_items = itertools.chain([late], itertools.repeat(other))
    results = pool.wait_at.options(buffersize=6, chunksize=1).imap(gates_of_items, source)
    with pytest.raises(TimeoutError):
        results.next(timeout=0.05)
    assert source.n_pulled <= 6
    late.open()
    assert list(itertools.islice(results, 20)) == list(range(20))
    results.close()


def test_nothing_is_pulled_before_the_first_result_is_asked_for_and_a_little_after(
    shared_pool: ProxyPool[Model],
) -> None:
    source = Counting()
    results = shared_pool.score.imap(source)
    assert source.n_pulled == 0
    assert next(results) == 0
    assert source.n_pulled < 100_000
    results.close()


def test_an_item_that_fails_raises_in_its_turn_and_the_iterator_goes_on(shared_pool: ProxyPool[Model]) -> None:
    results = shared_pool.raise_at.imap(range(6), itertools.repeat(2), itertools.repeat(4))
    seen: list[Any] = []
    while len(seen) < 6:
        try:
            seen.append(next(results))
        except ValueError as exc:
            seen.append((str(exc), "on worker" in exc.__notes__[0]))
    assert seen == [0, 1, ("bad item 2", True), 3, ("bad item 4", True), 5]
    with pytest.raises(StopIteration):
        next(results)


@pytest.mark.parametrize("verb", ["imap", "imap_unordered"])
def test_errors_can_be_yielded_or_skipped(shared_pool: ProxyPool[Model], verb: str) -> None:
    columns = range(6), itertools.repeat(2), itertools.repeat(4)
    returned = list(getattr(shared_pool.raise_at.options(on_error="return"), verb)(*columns))
    assert sorted(str(value) for value in returned) == ["0", "1", "3", "5", "bad item 2", "bad item 4"]
    skipped = list(getattr(shared_pool.raise_at.options(on_error="skip"), verb)(*columns))
    assert sorted(skipped) == [0, 1, 3, 5]


def test_a_stop_iteration_of_a_method_does_not_end_the_iteration(shared_pool: ProxyPool[Model]) -> None:
    results = shared_pool.stop_iteration.imap(range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(RuntimeError, match="StopIteration"):
        next(results)
    assert list(results) == [3, 4]


@pytest.mark.parametrize("verb", ["imap", "imap_unordered"])
@pytest.mark.parametrize("position", [0, 5, 11])
def test_an_iterable_that_raises_does_so_behind_the_results_before_it(
    shared_pool: ProxyPool[Model], verb: str, position: int
) -> None:
    error = OSError("disk")

    def items() -> Iterator[int]:
        for i in range(12):
            if i == position:
                raise error
            yield i

    results, seen = getattr(shared_pool.score, verb)(items()), []
    with pytest.raises(OSError, match="disk") as caught:
        seen.extend(results)
    assert caught.value is error
    assert sorted(seen) == [2 * i for i in range(position)]
    assert list(results) == []


@pytest.mark.concurrent
def test_waiting_for_the_next_result_can_end_and_be_taken_up_again(make_pool: MakePool, gates: Any) -> None:
    pool, gate = make_pool(), gates("gate")
    results = pool.wait_at.imap([gate], [7])
    for _ in range(3):
        with pytest.raises(TimeoutError, match="nothing is lost"):
            results.next(timeout=0.01)
    gate.open()
    assert results.next(timeout=PATIENCE_SECONDS) == 7
    with pytest.raises(StopIteration):
        results.next(timeout=PATIENCE_SECONDS)


def test_the_workers_go_on_while_the_consumer_is_busy(make_pool: MakePool, tmp_path: Any) -> None:
    pool, path = make_pool(), tmp_path / "lines"
    results = pool.append_line.options(buffersize=10, chunksize=1).imap(itertools.repeat(path), range(20))
    assert next(results) == 0
    time.sleep(0.01)  # a consumer that is busy for a while
    assert next(results) == 1
    if pool.workers[0].pid is not None:
        poll_until(lambda: len(path.read_text().split()) >= 6)
    assert list(results) == list(range(2, 20))


@pytest.mark.parametrize("verb", ["imap", "imap_unordered"])
def test_dropping_an_iterator_forgets_what_has_not_run_and_closes_its_source(make_pool: MakePool, verb: str) -> None:
    pool, source = make_pool(), Counting()
    items = iter(source)
    results = getattr(pool.score.options(buffersize=20), verb)(items)
    next(results)
    del results
    assert source.is_closed
    assert pool.count().tolist() == [1, 1]
    assert pool.score.map(range(5)) == [0, 2, 4, 6, 8]


def test_an_iterator_can_be_closed_by_name_or_by_with(shared_pool: ProxyPool[Model]) -> None:
    with shared_pool.score.imap(itertools.count()) as results:
        assert next(results) == 0
    assert list(results) == []
    results.close()


def test_many_iterators_at_a_time_do_not_mix(shared_pool: ProxyPool[Model]) -> None:
    one, two = shared_pool.score.imap(range(100)), shared_pool.score.imap(range(100), itertools.repeat(3))
    assert list(zip(one, two, strict=True)) == [(2 * x, 3 * x) for x in range(100)]


def test_calls_may_be_made_between_two_results(shared_pool: ProxyPool[Model]) -> None:
    for x, result in enumerate(shared_pool.score.imap(range(20))):
        assert shared_pool.echo(result).tolist() == [2 * x] * 3
        assert shared_pool[0].echo(result) == 2 * x


# ---- generators ------------------------------------------------------------------------------------------------------


def test_a_generator_of_one_instance_is_an_iterator(make_pool: MakePool) -> None:
    pool = make_pool()
    rows = pool[1].rows(4)
    assert iter(rows) is rows
    assert list(rows) == [(1, row) for row in range(4)]
    assert list(rows) == []
    assert pool[1].history == ["ended"]


def test_a_generator_is_pulled_as_it_is_consumed(make_pool: MakePool) -> None:
    pool = make_pool()
    rows = pool[0].rows(10**9)
    assert pool[0].calls == 0
    assert [next(rows)[1], next(rows)[1]] == [0, 1]
    assert pool[0].calls == 2
    rows.close()
    assert pool[0].history == ["ended"]
    assert list(rows) == []


def test_a_broadcast_of_a_generator_gives_an_iterator_for_each_worker(make_pool: MakePool) -> None:
    pool = make_pool()
    streams = pool.rows(3)
    assert len(streams) == 2
    assert list(zip(*streams, strict=True)) == [((0, row), (1, row)) for row in range(3)]


def test_a_generator_may_come_from_a_map_or_a_future(make_pool: MakePool) -> None:
    pool = make_pool()
    assert [[row for _, row in rows] for rows in pool.rows([2, 3], map_args=True)] == [[0, 1], [0, 1, 2]]
    assert [row for _, row in pool.rows.submit(2).result(PATIENCE_SECONDS)] == [0, 1]
    assert [len(list(rows)) for rows in pool.rows.imap([1, 2])] == [1, 2]


def test_an_error_of_a_generator_comes_behind_its_items(make_pool: MakePool) -> None:
    pool = make_pool()
    rows, seen = pool[0].rows(5, fail_at=2), []
    with pytest.raises(ValueError, match="row 2"):
        seen.extend(row for _, row in rows)
    assert seen == [0, 1]
    assert list(rows) == []


def test_a_generator_that_is_dropped_is_ended_in_its_worker(make_pool: MakePool) -> None:
    pool = make_pool()
    rows = pool[0].rows(5)
    next(rows)
    del rows
    poll_until(lambda: pool[0].history == ["ended"])


def test_other_calls_may_be_made_between_the_items_of_a_generator(make_pool: MakePool) -> None:
    pool = make_pool()
    for number, (worker_id, row) in enumerate(pool[0].rows(5)):
        assert (worker_id, row) == (0, number)
        assert pool.echo(row).tolist() == [row, row]


def test_an_iterator_may_be_collected_as_garbage_at_any_moment(shared_pool: ProxyPool[Model]) -> None:
    """CPython collects cycles wherever something is allocated, also in the middle of the engine."""
    import gc

    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(30):
            results = shared_pool.score.options(buffersize=4).imap(itertools.count())
            next(results)
            cycle: list[Any] = [results]
            cycle.append(cycle)
            del results, cycle
            shared_pool.score(1)
    finally:
        gc.set_threshold(*thresholds)
    assert shared_pool.score.map(range(3)) == [0, 2, 4]

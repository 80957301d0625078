"""Faults of lazy iteration and of order (F)."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faulty import Meeting, Victim
from objproxy import ProxyPool, TaskTimeoutError, WorkerDiedError
from targets import LIMIT_SECONDS, PATIENCE_SECONDS, poll_until
from ways import MakePool

OFTEN = (10_000, 1.0)


class Counting:
    """An endless iterable that counts what was pulled."""

    def __init__(self) -> None:
        self.n_pulled = 0

    def __iter__(self) -> Iterator[int]:
        while True:
            self.n_pulled += 1
            yield self.n_pulled - 1


@pytest.mark.parametrize("verb", ["imap", "imap_unordered"])
def test_an_endless_iterable_of_which_ten_are_taken_is_pulled_a_little_further(make_pool: MakePool, verb: str) -> None:
    """F1: at most the buffer; then the workers are idle, and the pool is usable and ends."""
    pool, source = make_pool(Victim), Counting()
    results = getattr(pool.obey.options(buffersize=6), verb)(source)
    assert len({*itertools.islice(results, 10)}) == 10
    del results
    assert 10 <= source.n_pulled <= 16
    assert pool.obey.map([1, 2]) == [1, 2]
    poll_until(lambda: {worker.state for worker in pool.workers} == {"idle"})
    assert source.n_pulled <= 16


@pytest.mark.parametrize("buffersize", [None, 5])
def test_a_consumer_that_never_goes_on_stops_the_pulling(make_pool: MakePool, buffersize: int | None) -> None:
    """F2: what was pulled is finished and kept; nothing more is pulled, however much the pool is used."""
    pool, source = make_pool(Victim), Counting()
    results = pool.obey.options(buffersize=buffersize, chunksize=1).imap(source)
    assert next(results) == 0
    n_pulled = source.n_pulled
    assert buffersize is None or n_pulled <= buffersize + 1
    for _ in range(50):
        assert pool.obey.map(range(20)) == list(range(20))
        assert pool.obey.submit(3).result(PATIENCE_SECONDS) == 3
    poll_until(lambda: {worker.state for worker in pool.workers} == {"idle"})
    assert source.n_pulled == n_pulled
    assert list(itertools.islice(results, 20)) == list(range(1, 21))
    results.close()


@pytest.mark.processes
@pytest.mark.parametrize("verb", ["imap", "imap_unordered"])
def test_a_fault_in_a_lazy_map_is_the_error_of_its_item(make_pool: MakePool, tmp_path: Path, verb: str) -> None:
    """F4: a death, a time-out, an error: each at its index, or as it comes; the others are there."""
    pool, never_over = make_pool(Victim, max_restarts=OFTEN), Meeting(tmp_path / "never over")
    items = [0, 1, "SIGKILL", 3, never_over, 5, "LookupError", 7, "os._exit(0)", 9]
    method = pool.obey.options(timeout=LIMIT_SECONDS, on_error="return", buffersize=4)
    results = list(getattr(method, verb)(items))
    kinds = {2: WorkerDiedError, 4: TaskTimeoutError, 6: LookupError, 8: WorkerDiedError}
    if verb == "imap":
        assert [type(result) for result in results] == [kinds.get(i, int) for i in range(10)]
    assert [result.item for result in results if isinstance(result, TaskTimeoutError)] == [4]
    assert sorted(result.item for result in results if isinstance(result, WorkerDiedError)) == [2, 8]
    assert sorted(result for result in results if isinstance(result, int)) == [0, 1, 3, 5, 7, 9]


@pytest.mark.processes
def test_errors_of_a_lazy_map_are_raised_in_their_turn(make_pool: MakePool) -> None:
    """F4: and the iteration goes on behind each."""
    pool = make_pool(Victim, max_restarts=OFTEN)
    results, seen = pool.obey.imap([0, "SIGKILL", 2, "LookupError", "os._exit(1)", 5]), []
    while len(seen) < 6:
        try:
            seen.append(next(results))
        except (WorkerDiedError, LookupError) as exc:
            seen.append(type(exc))
    assert seen == [0, WorkerDiedError, 2, LookupError, WorkerDiedError, 5]
    with pytest.raises(StopIteration):
        next(results)


@pytest.mark.race
def test_a_death_is_told_while_an_iterable_blocks(tmp_path: Path) -> None:
    """F5: to everybody but who is in the iterable, which is the user's own code in the user's own thread."""
    may_go_on, is_asked, seen = threading.Event(), threading.Event(), []
    with ProxyPool(Victim, worker_count=2, max_restarts=OFTEN) as pool:

        def items() -> Iterator[Any]:
            yield "SIGKILL"
            is_asked.set()
            may_go_on.wait(PATIENCE_SECONDS)
            yield 1

        def consume() -> None:
            seen.extend(pool.obey.options(on_error="return", chunksize=1).imap(items()))

        consumer = threading.Thread(target=consume)
        consumer.start()
        assert is_asked.wait(PATIENCE_SECONDS)
        for how in ("SIGSEGV", "os._exit(3)"):
            assert isinstance(pool.obey.submit(how).exception(PATIENCE_SECONDS), WorkerDiedError)
            with pytest.raises(WorkerDiedError):
                pool.obey.map([how])
        poll_until(lambda: sum(worker.generation for worker in pool.workers) == 5)
        assert not may_go_on.is_set()
        may_go_on.set()
        consumer.join(PATIENCE_SECONDS)
    assert [type(result) for result in seen] == [WorkerDiedError, int]

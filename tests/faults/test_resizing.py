"""A pool whose size changes while it is used: each call sees one set of workers, from its start to its end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from changing_targets import Member
from faulty import Meeting
from objproxy import ObjProxyError, PoolBrokenError, PoolClosedError, ProxyPool, WorkerDiedError
from targets import PATIENCE_SECONDS, poll_until
from ways import MakePool

OFTEN = (10_000, 1.0)


def check(is_right: object, *what: object) -> None:
    if not is_right:
        raise AssertionError(what)


def use_attributes(pool: ProxyPool[Any], _turn: int) -> None:
    numbers = pool.number.tolist()
    check(numbers == list(range(len(numbers))), numbers)
    pool.tag = 3


def use_rounds(pool: ProxyPool[Any], _turn: int) -> None:
    numbers = pool.who.options(map_args=True, synchronize=True)(range(20)).tolist()
    n_workers = max(numbers) + 1
    check(numbers == [item % n_workers for item in range(20)], numbers)


def use_broadcast(pool: ProxyPool[Any], _turn: int) -> None:
    totals: list[Any] = []
    results = pool.who.options(progress_bar=lambda *count: totals.append(count))().tolist()
    check(results == list(range(len(results))), results)
    check(totals[-1] == (len(results), len(results)), totals, results)


def use_streams(pool: ProxyPool[Any], _turn: int) -> None:
    with pool.who.stream() as tasks:
        tasks.put(list(range(5)))
        check(len([tasks.get(PATIENCE_SECONDS) for _ in range(5)]) == 5)


def use_instances(pool: ProxyPool[Any], _turn: int) -> None:
    instances = list(pool)
    for number, instance in enumerate(instances):
        try:
            check(instance.who() == number)
        except WorkerDiedError as exc:  # it has left since
            check("no longer part of this pool" in str(exc), exc)


def look(pool: ProxyPool[Any], _turn: int) -> None:
    present = [worker.id for worker in pool.workers]
    check(present == sorted(set(present)), present)
    counted = [worker.id for worker in pool.insights().workers]  # those that have left among them
    check(counted == list(range(len(counted))), counted)
    pool.dump_stacks(1.0)
    repr(pool), dir(pool), pool.wait_ready(PATIENCE_SECONDS)


USES: dict[str, Callable[[ProxyPool[Any], int], Any]] = {
    "attributes": use_attributes,
    "rounds": use_rounds,
    "broadcasts": use_broadcast,
    "streams": use_streams,
    "instances": use_instances,
    "views": look,
    "checkpoints": lambda pool, _turn: pool.checkpoint(),
    "journalled broadcasts": lambda pool, turn: pool.tell.options(journal=True)(turn),
    "maps": lambda pool, _turn: check(len(pool.who.map(range(50))) == 50),
    "lazy maps": lambda pool, _turn: check(len(list(pool.who.imap(range(50)))) == 50),
    "futures": lambda pool, _turn: [future.result() for future in [pool.who.submit() for _ in range(5)]],
}


class Users:
    """Threads that use a pool until they are told to stop, or something goes wrong."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.errors: list[BaseException] = []
        self.n_turns: dict[str, int] = {}
        self._threads: list[threading.Thread] = []

    def start(self, name: str, use: Callable[[int], Any]) -> None:
        thread = threading.Thread(target=self._use, args=(name, use))
        self._threads.append(thread)
        thread.start()

    def _use(self, name: str, use: Callable[[int], Any]) -> None:
        self.n_turns[name] = 0
        try:
            while not self.stop.is_set():
                use(self.n_turns[name])
                self.n_turns[name] += 1
        except BaseException as exc:
            exc.add_note(f"in {name}, turn {self.n_turns[name]}")
            self.errors.append(exc)
            self.stop.set()

    def join(self, n_turns: int) -> None:
        """Wait until each has had so many turns, and for their ends."""
        try:
            poll_until(lambda: self.stop.is_set() or min(self.n_turns.values()) >= n_turns)
        finally:
            self.stop.set()
            for thread in self._threads:
                thread.join(PATIENCE_SECONDS)
        assert not any(thread.is_alive() for thread in self._threads)
        if self.errors:
            raise self.errors[0]


@contextmanager
def resizing(pool: ProxyPool[Any], n_threads: int = 1) -> Iterator[Users]:
    """Resize a pool from other threads as fast as it goes."""
    users = Users()
    for number in range(n_threads):
        users.start(f"resizing {number}", lambda turn, number=number: pool.resize(1 + (2 * turn + number) % 3))
    try:
        yield users
    finally:
        users.stop.set()


@pytest.mark.race
@pytest.mark.concurrent
@pytest.mark.not_spawn
@pytest.mark.parametrize("use", list(USES))
def test_a_pool_may_be_resized_while_it_is_used(make_pool: MakePool, use: str) -> None:
    """G1: right results, from whichever set of workers."""
    pool = make_pool(Member, worker_count=3, on_restart="snapshot" if use == "checkpoints" else "replay")
    with resizing(pool) as users:
        users.start(use, lambda turn: USES[use](pool, turn))
        users.join(6)
    pool.resize(2)
    assert pool.who().tolist() == [0, 1]
    assert len({tuple(told) for told in pool.told}) == 1  # a worker that has joined knows what the others were told


@pytest.mark.race
@pytest.mark.concurrent
@pytest.mark.not_spawn
def test_several_threads_may_resize_while_others_use_the_pool_in_all_ways(make_pool: MakePool) -> None:
    """G1: right results, from whichever set of workers."""
    pool = make_pool(Member, worker_count=3, on_restart="replay")
    with resizing(pool, n_threads=2) as users:
        for name, use in USES.items():
            users.start(name, lambda turn, use=use: use(pool, turn))
        users.join(3)
    pool.resize(3)
    assert pool.who().tolist() == [0, 1, 2]
    assert len({tuple(told) for told in pool.told}) == 1


@pytest.mark.race
@pytest.mark.processes
@pytest.mark.not_spawn
def test_a_pool_may_be_resized_while_its_workers_die(make_pool: MakePool) -> None:
    """G3: nothing is lost."""
    pool = make_pool(Member, worker_count=3, max_restarts=OFTEN)

    def kill(_turn: int) -> None:
        pid = pool.workers[-1].pid
        with suppress(ProcessLookupError):  # it has left meanwhile
            os.kill(pid or 0x7FFFFFFF, signal.SIGKILL)
        pool.wait_ready(PATIENCE_SECONDS)

    def call(_turn: int) -> None:
        try:
            pool.who()
        except WorkerDiedError as exc:
            check("no longer part" not in str(exc), exc)

    with resizing(pool) as users:
        users.start("deaths", kill)
        users.start("calls", call)
        users.join(5)
    pool.resize(2)
    poll_until(lambda: pool.wait_ready(1.0))
    for _ in range(2):  # a death that nobody was told of
        try:
            assert pool.who().tolist() == [0, 1]
        except WorkerDiedError:
            continue


@pytest.mark.race
@pytest.mark.concurrent
@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_pool_may_end_while_it_is_resized(make_pool: MakePool, end: str) -> None:
    """G4: whichever comes first."""
    pool = make_pool(Member, worker_count=2)
    with resizing(pool) as users:
        poll_until(lambda: users.n_turns["resizing 0"] > 1)
        getattr(pool, end)()
        with pytest.raises(PoolClosedError):
            users.join(10**9)


@pytest.mark.race
@pytest.mark.concurrent
def test_a_pool_whose_workers_are_always_being_replaced_can_be_resized(make_pool: MakePool) -> None:
    """G3: nothing is lost."""
    pool = make_pool(Member, worker_count=2, max_tasks_per_worker=1)
    users = Users()
    users.start("calls", lambda _turn: pool.who.map(range(4)))
    for n_workers in (3, 1, 4, 2):
        pool.resize(n_workers)
    users.join(1)
    assert pool.who().tolist() == [0, 1]


@pytest.mark.processes
def test_a_broadcast_on_its_way_is_finished_by_workers_that_go(make_pool: MakePool, tmp_path: Path) -> None:
    """G2: and the results are theirs."""
    meeting, results = Meeting(tmp_path / "meeting"), []
    pool = make_pool(Member, worker_count=3)
    future = pool[0].meet.submit(meeting)
    poll_until(meeting.path.exists)
    caller = threading.Thread(target=lambda: results.append(pool.meet(meeting).tolist()))
    caller.start()
    poll_until(lambda: pool._core.driver.state.n_outstanding == 4)
    resizer = threading.Thread(target=pool.resize, args=(1,))
    resizer.start()
    poll_until(lambda: len(pool) == 1)
    assert len(pool.workers) == 3
    meeting.end()
    caller.join(PATIENCE_SECONDS)
    resizer.join(PATIENCE_SECONDS)
    assert (results, future.result(PATIENCE_SECONDS)) == ([[0, 1, 2]], 0)
    assert pool.who().tolist() == [0]


@pytest.mark.concurrent
def test_rounds_keep_their_workers_to_the_end(make_pool: MakePool) -> None:
    """G2: the size changes between two rounds; a resize from within waits for nothing, since the call waits for it."""
    pool = make_pool(Member, worker_count=3)

    def items() -> Iterator[int]:
        for item in range(9):
            if item == 4:
                pool.resize(1)
                assert len(pool) == 1
                assert pool.who().tolist() == [0]
            yield item

    assert pool.who.options(map_args=True, synchronize=True)(items()).tolist() == [0, 1, 2] * 3
    poll_until(lambda: len(pool.workers) == 1)
    assert pool.who.options(map_args=True, synchronize=True)(range(3)).tolist() == [0, 0, 0]


@pytest.mark.concurrent
def test_a_dedicated_call_keeps_its_workers(make_pool: MakePool) -> None:
    """G2: and the results are theirs."""
    pool = make_pool(Member, worker_count=3, dedicated=True)

    def items() -> Iterator[int]:
        yield 0
        pool.resize(2)
        yield from (1, 2)

    assert pool.who(items(), map_args=True).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="for 2 workers"):
        pool.who(range(3), map_args=True)


def test_the_instances_of_a_pool_are_those_of_when_it_was_asked(make_pool: MakePool) -> None:
    """G6: and the others go on."""
    pool = make_pool(Member, worker_count=3)
    instances = iter(pool)
    last = pool[2]
    pool.resize(1)
    numbers = [number for number, _ in enumerate(instances)]
    assert numbers == [0, 1, 2]
    with pytest.raises(WorkerDiedError, match=r"worker 2 is no longer part of this pool \(see resize\)") as caught:
        last.who()
    assert not isinstance(caught.value, PoolBrokenError)
    assert isinstance(caught.value, ObjProxyError)
    with pytest.raises(IndexError):
        _ = pool[2]


def test_a_worker_that_joins_does_not_start_from_the_snapshot_of_one_that_has_left(make_pool: MakePool) -> None:
    """G5: as if it had been there."""
    pool = make_pool(Member, worker_count=2, on_restart="snapshot")
    pool.tell(5)
    pool.checkpoint()
    pool.resize(1)
    pool.resize(2)
    assert list(pool.told) == [[5], []]


@pytest.mark.processes
def test_a_worker_that_joins_while_a_broadcast_is_journalled_is_told_of_it(make_pool: MakePool, tmp_path: Path) -> None:
    """G5: as if it had been there."""
    pool, meeting = make_pool(Member, worker_count=1, on_restart="replay"), Meeting(tmp_path / "meeting")
    caller = threading.Thread(target=lambda: pool.tell.options(journal=True)(7, meeting))
    caller.start()
    poll_until(meeting.path.exists)
    resizer = threading.Thread(target=pool.resize, args=(2,))
    resizer.start()
    meeting.end()
    caller.join(PATIENCE_SECONDS)
    resizer.join(PATIENCE_SECONDS)
    assert list(pool.told) == [[7], [7]]

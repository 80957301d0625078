"""Faults while a task is sent (B): its arguments, the iterables they come from, the channel, shared memory."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from faulty import FailsAtPickle, FailsAtUnpickle, Victim, rows
from objproxy import (
    ArgumentPickleError,
    PoolClosedError,
    ProxyPool,
    ResultPickleError,
    SharedArray,
    SharedMemoryFullError,
    TaskTimeoutError,
    WorkerDiedError,
)
from objproxy import shared as shared_arrays
from objproxy._worker.segments import NamedSegments
from objproxy.backends import plane as planes
from objproxy.backends import process
from objproxy.backends.plane import ProgramPlane
from programs import segments_of
from targets import PATIENCE_SECONDS
from ways import MakePool, Way, some

OFTEN = (10_000, 1.0)

#: What no channel takes in one go: 10 MB in one frame.
LARGE = rows(10_000)


def calls_of(pool: ProxyPool[Any], name: str, value: Any) -> dict[str, Callable[[], Any]]:
    """Return the ways to call a method once, all of which raise its error."""
    method = getattr(pool, name)
    return {
        "broadcast": lambda: method(value),
        "instance": lambda: getattr(pool[1], name)(value),
        "submit": lambda: method.submit(value).result(PATIENCE_SECONDS),
        "map_args": lambda: method([value], map_args=True),
        "rounds": lambda: method([value], map_args=True, synchronize=True),
        "map": lambda: method.map([value]),
        "imap": lambda: list(method.imap([value])),
    }


@pytest.mark.processes
@pytest.mark.parametrize("n_workers", [2, 5])
def test_an_argument_that_fails_to_be_pickled_fails_in_the_caller(make_pool: MakePool, n_workers: int) -> None:
    """B1: nothing is sent, no worker is harmed, and a hundred of them fill nothing.

    Mutation: `parcel.pack` that sends something else when pickling fails: the error is another, and workers are asked.
    """
    pool = make_pool(Victim, worker_count=n_workers)
    pids = pool.pid.broadcast()
    for how, kind in (("PicklingError", ArgumentPickleError), ("TypeError", ArgumentPickleError), ("SystemExit", SystemExit)):
        for call in calls_of(pool, "obey", FailsAtPickle(how)).values():
            for _ in range(5):
                with pytest.raises(kind, match="bad luck"):
                    call()
    assert pool.n_calls.tolist() == [0] * n_workers
    assert pool.pid.broadcast() == pids
    assert pool.obey.map(range(10)) == list(range(10))


@pytest.mark.processes
@pytest.mark.parametrize("chunksize", [None, 1, 4, 100])
def test_an_item_that_fails_to_be_pickled_costs_itself_alone(make_pool: MakePool, chunksize: int | None) -> None:
    """B2: wherever it is in its chunk."""
    pool = make_pool(Victim)
    items = [FailsAtPickle("TypeError") if i == 3 else i for i in range(10)]
    method = pool.obey.options(on_error="return", chunksize=chunksize)
    for results in (method.map(items), list(method.imap(items))):
        assert [i for i, result in enumerate(results) if isinstance(result, ArgumentPickleError)] == [3]
        assert [result for result in results if isinstance(result, int)] == [0, 1, 2, 4, 5, 6, 7, 8, 9]


@pytest.mark.race
@pytest.mark.concurrent
@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_pool_ends_while_an_iterable_blocks(make_pool: MakePool, end: str) -> None:
    """B4: whoever waits in an iterable of the user's hears of it when that goes on."""
    pool = make_pool(Victim)
    is_asked, may_go_on, seen = threading.Event(), threading.Event(), []

    def items() -> Iterator[int]:
        yield 1
        is_asked.set()
        may_go_on.wait(PATIENCE_SECONDS)
        yield 2

    def consume() -> None:
        try:
            seen.extend(pool.obey.options(chunksize=1).imap(items()))
        except BaseException as exc:
            seen.append(exc)

    consumer = threading.Thread(target=consume)
    consumer.start()
    assert is_asked.wait(PATIENCE_SECONDS)
    getattr(pool, end)()
    assert not may_go_on.is_set()
    may_go_on.set()
    consumer.join(PATIENCE_SECONDS)
    assert isinstance(seen[-1], PoolClosedError)


@pytest.mark.race
@pytest.mark.processes
def test_a_worker_may_die_while_it_reads_its_arguments(make_pool: MakePool, way: Way) -> None:
    """B5: who counts on its state is told; any other call is sent to another worker, for it had not started.

    Better than the row, which lets every caller be told. Mutation: `ProcessBackend._write_more` without its `except OSError`
    breaks the pool.
    """
    pool = make_pool(Victim, max_restarts=OFTEN)
    for name, call in some(way, calls_of(pool, "size", LARGE)):
        pool.end_in_reading.options(return_exceptions=True)(1_000_000, "os._exit(3)")
        if name in ("broadcast", "instance"):
            with pytest.raises(WorkerDiedError) as caught:
                call()
            assert not caught.value.started
        else:
            assert np.sum(call()) in (len(LARGE), 2 * len(LARGE))
        pool.pid.options(return_exceptions=True)()  # who has lost its state and has told nobody does so here
    assert pool.size(LARGE).tolist() == [len(LARGE)] * 2


@pytest.mark.race
@pytest.mark.processes
@pytest.mark.parametrize("value", [LARGE, np.ones(4_000_000)], ids=["channel", "shared memory"])
def test_the_time_limit_holds_while_a_stopped_worker_is_sent_its_arguments(make_pool: MakePool, value: Any) -> None:
    """B6: a worker that reads nothing is replaced when the time of its call is over.

    Mutation: channels that block in the program never let the time limit be seen.
    """
    pool = make_pool(Victim)
    os.kill(pool.workers[0].pid, signal.SIGSTOP)
    with pytest.raises(TaskTimeoutError):
        pool[0].size.options(timeout=0.3)(value)
    assert pool[0].place() == (0, 1)
    assert pool[0].size(value) == len(value)
    assert pool[1].place() == (1, 0)


@pytest.mark.processes
def test_an_argument_that_fails_to_be_rebuilt_is_its_calls_error(make_pool: MakePool, way: Way) -> None:
    """B7: the error, or the death of the worker, of that call and no other, also where it is one item of a chunk.

    Mutation: `except Exception` in `WorkerLoop._serve` makes an exit of the argument the end of the worker.
    """
    pool = make_pool(Victim, max_restarts=OFTEN)
    kinds = {"LookupError": LookupError, "SystemExit": SystemExit, "os._exit(7)": WorkerDiedError, "SIGSEGV": WorkerDiedError}
    for how, kind in kinds.items():
        bad = FailsAtUnpickle(how)
        pool.pid.options(return_exceptions=True)()  # who has lost its state and has told nobody does so here
        for _, call in some(way, calls_of(pool, "obey", bad)):
            with pytest.raises(kind) as caught:
                call()
            assert kind is not WorkerDiedError or caught.value.started
        pool.obey.map(range(2000))  # chunks are large from now on
        for chunksize in (None, 1, 10):
            results = pool.obey.options(on_error="return", chunksize=chunksize).map([*range(33), bad, *range(34, 40)])
            assert [i for i, result in enumerate(results) if isinstance(result, kind)] == [33], (how, chunksize)
            assert [result for result in results if isinstance(result, int)] == [*range(33), *range(34, 40)]
        assert (sum(worker.generation for worker in pool.workers) > 0) == (kind is WorkerDiedError)


@pytest.fixture
def named_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[Path]]]:
    """Have shared memory in files, as where there is none without names; give a function that removes all that there are."""
    monkeypatch.setenv("OBJPROXY_PORTABLE", "1")
    plane = ProgramPlane()
    for module in (process, shared_arrays, planes):
        monkeypatch.setattr(module, "program_plane", lambda: plane)

    def remove_all() -> list[Path]:
        paths = segments_of(os.getpid())
        for path in paths:
            path.unlink()
        return paths

    yield remove_all
    plane.segments.close()


RemoveAll = Callable[[], list[Path]]


@pytest.mark.usefixtures("named_memory")
def test_a_shared_array_whose_memory_is_gone_is_its_calls_error() -> None:
    """B8: where shared memory has names, somebody may remove one; the error says which."""
    with ProxyPool(Victim, worker_count=2) as pool:
        before = segments_of(os.getpid())
        with SharedArray.zeros(100_000) as shared:
            (path,) = {*segments_of(os.getpid())} - {*before}
            path.unlink()
            for call in calls_of(pool, "size", shared).values():
                with pytest.raises(FileNotFoundError, match=path.name):
                    call()
        assert pool.obey(1).tolist() == [1, 1]
        assert [worker.generation for worker in pool.workers] == [0, 0]


def test_memory_that_is_gone_before_a_call_is_made_anew(named_memory: RemoveAll) -> None:
    """B8: what calls use again is looked after, and what they share from the beginning is open from the beginning.

    Mutation: a `Lane` that opens its tables when they are first needed breaks the pool.
    """
    values = np.ones(100_000)
    with ProxyPool(Victim, worker_count=2) as pool:
        for _ in range(3):
            assert named_memory()
            for name, call in calls_of(pool, "size", values).items():
                assert {*np.ravel(call())} == {100_000}, name
            assert named_memory()
            assert np.sum(pool[0].make_ones(values.size)) == 100_000
        assert [worker.generation for worker in pool.workers] == [0, 0]


def test_memory_that_is_gone_while_a_call_is_on_its_way_is_that_calls_error(named_memory: RemoveAll) -> None:
    """B8: the worker that shall read it is stopped; the next call is as any other."""
    with ProxyPool(Victim, worker_count=1) as pool:
        os.kill(pool.workers[0].pid, signal.SIGSTOP)
        future = pool.size.submit(np.ones(100_000))
        removed = named_memory()
        os.kill(pool.workers[0].pid, signal.SIGCONT)
        with pytest.raises(FileNotFoundError, match="removed the shared memory") as caught:
            future.result(PATIENCE_SECONDS)
        assert Path(caught.value.filename) in removed
        assert pool.size(np.ones(100_000)).tolist() == [100_000]
        assert [worker.generation for worker in pool.workers] == [0]


def test_memory_that_is_gone_while_a_result_is_on_its_way_is_that_calls_error(
    named_memory: RemoveAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B8: it goes right before it is opened here."""
    values = np.ones(100_000)
    with ProxyPool(Victim, worker_count=1) as pool:
        open_segment = NamedSegments._open

        def open_too_late(*args: Any) -> int:
            named_memory()
            return open_segment(*args)

        with monkeypatch.context() as patch:
            patch.setattr(NamedSegments, "_open", open_too_late)
            with pytest.raises(ResultPickleError, match="removed the shared memory"):
                pool[0].make_ones(values.size)
        assert np.sum(pool[0].make_ones(values.size)) == 100_000
        assert [worker.generation for worker in pool.workers] == [0]


def test_shared_memory_that_is_full_is_told_in_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """B9: the system's refusal, whatever was free a moment ago; the pool goes on."""

    def refuse(*_args: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with ProxyPool(Victim, worker_count=2) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", refuse)
            for call in calls_of(pool, "size", np.ones(1_000_000)).values():
                with pytest.raises(SharedMemoryFullError, match="--shm-size"):
                    call()
        assert pool.size(np.ones(1_000_000)).tolist() == [1_000_000] * 2
        assert [worker.generation for worker in pool.workers] == [0, 0]

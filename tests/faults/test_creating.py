"""Faults while a pool is made (A): its constructor, its class, its processes."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import faulty
from faulty import FailsAtUnpickle, Locking, Refuser, Victim
from objproxy import ProxyPool, WorkerInitError
from objproxy.backends import process
from programs import run
from ways import MakePool, Way, some

START_METHODS = ["forkserver", "fork", "spawn"]


@pytest.mark.parametrize(("n_workers", "worker_ids"), [(1, None), (3, None), (3, (1,)), (5, (4,))])
def test_a_constructor_that_fails_is_tried_once(
    make_pool: MakePool, tmp_path: Path, n_workers: int, worker_ids: tuple[int, ...] | None
) -> None:
    """A1: no worker is started again, whichever of them fails, and none of the others stays.

    Mutation: `PoolState._fail_init` without its `_break` starts the worker again until it is quarantined.
    """
    path = tmp_path / "attempts"
    with pytest.raises(WorkerInitError, match="bad luck") as caught:
        make_pool(Refuser, worker_count=n_workers, init_args=("ValueError", worker_ids, path))
    assert worker_ids is None or caught.value.worker_id in worker_ids
    assert "in __init__" in caught.value.remote_traceback
    attempts = path.read_text().split()
    assert len(attempts) == len({*attempts})


def test_a_constructor_may_raise_anything(make_pool: MakePool) -> None:
    """A2: what is no `Exception`, or cannot be rebuilt, is told like any other error."""
    for how in ("SystemExit", "KeyboardInterrupt", "GeneratorExit", "RequiredArgumentsError", "BottomError"):
        with pytest.raises(WorkerInitError, match=how):
            make_pool(Refuser, worker_count=2, init_args=(how, (1,)))


@pytest.mark.processes
@pytest.mark.parametrize("n_workers", [1, 3])
def test_a_constructor_may_end_its_process(make_pool: MakePool, way: Way, n_workers: int) -> None:
    """A3: an exit with code 0 is no success either.

    Mutation: `ProcessBackend._hear_nursery` that drops notices of exits with code 0 never returns.
    """
    ends = {"os._exit(0)": 0, "os._exit(7)": 7, "exit(0)": 0, "SIGSEGV": -signal.SIGSEGV, "SIGKILL": -signal.SIGKILL}
    for how, exitcode in some(way, ends):
        with pytest.raises(WorkerInitError, match=how if exitcode < 0 else f"code {exitcode}") as caught:
            make_pool(Refuser, worker_count=n_workers, init_args=(how, (n_workers - 1,)))
        assert (caught.value.worker_id, caught.value.exitcode) == (n_workers - 1, exitcode)


@pytest.mark.parametrize("start_method", START_METHODS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_program_may_be_ended_while_a_constructor_hangs(number: signal.Signals, start_method: str) -> None:
    """A5: at once, with nothing left."""
    code = """
    class Hanging:
        def __init__(self):
            os.write(1, b"ready" + bytes([10]))
            time.sleep(1000)

    ProxyPool(Hanging, worker_count=1, start_method=sys.argv[1])
    """
    with run(code, start_method) as program:
        program.wait_ready()
        program.send(number, to_group=number == signal.SIGINT)
        ended = program.finish()
        assert ended.returncode == -number
        assert ended.errors.count("KeyboardInterrupt") == (number == signal.SIGINT), ended.errors
        assert program.left() == []


@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_class_may_fail_when_it_is_rebuilt(start_method: str) -> None:
    """A7: also in the process that loads it for the workers, where there is one."""
    for how in ("LookupError", "SystemExit", "os._exit(7)", "os._exit(0)", "SIGSEGV"):
        with pytest.raises(WorkerInitError):
            ProxyPool(FailsAtUnpickle(how), worker_count=2, start_method=start_method)
    with ProxyPool(Victim, worker_count=2, start_method=start_method) as pool:
        assert pool.obey(1).tolist() == [1, 1]


@pytest.mark.parametrize("nth", [1, 3])
def test_a_worker_that_cannot_be_started_is_told(monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    """A8: the error of the system comes out, and the workers that were started before are gone."""
    create, calls = process.journals.create, []

    def create_or_fail() -> int:
        calls.append(1)
        if len(calls) == nth:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return create()

    monkeypatch.setattr(process.journals, "create", create_or_fail)
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        ProxyPool(Victim, worker_count=4)
    with ProxyPool(Victim, worker_count=4) as pool:
        assert pool.obey(1).tolist() == [1, 1, 1, 1]


def test_a_program_without_descriptors_is_told_and_goes_on() -> None:
    """A8: with a limit that the kernel keeps."""
    code = """
    import resource
    with ProxyPool(Victim, worker_count=1):
        pass
    before = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for n_free in range(4, 24, 3):
        resource.setrlimit(resource.RLIMIT_NOFILE, (before + n_free, hard))
        try:
            ProxyPool(Victim, worker_count=40)
        except OSError as exc:
            assert exc.errno == 24, exc
        else:
            raise AssertionError(n_free)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert len(os.listdir("/proc/self/fd")) == before, n_free
    with ProxyPool(Victim, worker_count=2) as pool:
        print(pool.obey(1).tolist())
    """
    with run(code) as program:
        ended = program.finish()
    assert (ended.returncode, ended.output, ended.errors) == (0, "[1, 1]\n", "")


def test_a_process_that_cannot_be_forked_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A8: the process that forks the workers is refused the second of them."""
    owner, fork, calls = os.getpid(), os.fork, []

    def fork_or_fail() -> int:
        if os.getpid() != owner:
            calls.append(1)
            if len(calls) == 2:
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    monkeypatch.setattr(os, "fork", fork_or_fail)
    with pytest.raises(BlockingIOError, match="worker 1"):
        ProxyPool(Victim, worker_count=3, start_method="fork")
    monkeypatch.undo()
    with ProxyPool(Victim, worker_count=3, start_method="fork") as pool:
        assert pool.obey(1).tolist() == [1, 1, 1]


class _Holder:
    """A thread that holds locks."""

    def __init__(self, *locks: Any) -> None:
        self._may_end, has_begun = threading.Event(), threading.Event()

        def hold() -> None:
            for lock in locks:
                lock.acquire()
            has_begun.set()
            self._may_end.wait()
            for lock in locks:
                lock.release()

        self._thread = threading.Thread(target=hold)
        self._thread.start()
        assert has_begun.wait(60)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_exc_info: object) -> None:
        self._may_end.set()
        self._thread.join()


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_a_lock_that_a_thread_of_the_program_holds_is_free_in_the_workers(start_method: str) -> None:
    """A9: workers are no copies of a process with threads."""
    with (
        _Holder(faulty.program_lock, logging._lock),  # type: ignore[attr-defined]
        ProxyPool(Locking, worker_count=2, start_method=start_method, init_timeout=20) as pool,
    ):
        assert pool.obey(1).tolist() == [1, 1]


def test_a_lock_that_a_thread_of_the_program_holds_is_held_in_forked_workers() -> None:
    """A9: with fork they are, which Python says, and a limit ends it."""
    with (
        _Holder(faulty.program_lock),
        pytest.warns(DeprecationWarning, match="fork") if sys.version_info >= (3, 12) else contextlib.nullcontext(),
        pytest.raises(WorkerInitError, match="init_timeout"),
    ):
        ProxyPool(Locking, worker_count=2, start_method="fork", init_timeout=0.3)


class Nester(Victim):
    """Has a pool of its own in each worker, to a depth."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.inner = ProxyPool(Nester, worker_count=2, init_args=(depth - 1,)) if depth else None

    def pids(self) -> list[int]:
        """Return the processes of this and of everything below."""
        inner = [] if self.inner is None else self.inner.pids(stack_results=False)
        return [os.getpid(), *(pid for pids in inner for pid in pids)]

    def close(self) -> None:
        if self.inner is not None:
            self.inner.close()


@pytest.mark.parametrize(("depth", "start_method"), [(2, "forkserver"), (1, "fork"), (1, "spawn")])
def test_a_worker_may_have_a_pool(depth: int, start_method: str) -> None:
    """A10: works, as deep as one likes; what a killed worker had below it goes with it."""
    with ProxyPool(Nester, worker_count=1, init_args=(depth,), start_method=start_method) as pool:
        pids = pool[0].pids()
        assert len({*pids}) == sum(2**level for level in range(depth + 1))


def test_the_pool_of_a_worker_that_is_killed_goes_with_it() -> None:
    """A10: in any state."""
    pool = ProxyPool(Nester, worker_count=1, init_args=(2,))
    pids = pool[0].pids()
    handles = [os.pidfd_open(pid) for pid in pids]
    os.kill(pids[0], signal.SIGKILL)
    try:
        _wait_for_ends(handles)
    finally:
        pool.kill()
        for handle in handles:
            os.close(handle)


def _wait_for_ends(handles: list[int]) -> None:
    for handle in handles:
        assert select.select([handle], [], [], 30)[0]

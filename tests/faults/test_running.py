"""Faults while a task runs (C): deaths, errors, hangs, and what a task does to its own process."""

from __future__ import annotations

import concurrent.futures as cf
import contextlib
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faulty import BottomError, Hanger, Meeting, RequiredArgumentsError, Victim
from objproxy import (
    PoisonTaskError,
    ProxyPool,
    RemoteError,
    RemoteTraceback,
    TaskTimeoutError,
    WorkerDiedError,
    current_worker,
)
from programs import run
from targets import LIMIT_SECONDS, PATIENCE_SECONDS, Gate, poll_until
from ways import MakePool, Way, some

OFTEN = (10_000, 1.0)

#: The ways to run a method on items; each gives what came of every item, in their order.
OVER_ITEMS: dict[str, Callable[[Any, list[Any]], list[Any]]] = {
    "map_args": lambda method, items: method.options(map_args=True, stack_results=False, on_error="return")(items),
    "map": lambda method, items: method.options(on_error="return").map(items),
    "imap": lambda method, items: list(method.options(on_error="return").imap(items)),
    "submit": lambda method, items: [_outcome(future) for future in [method.submit(item) for item in items]],
}


def _outcome(future: cf.Future[Any]) -> Any:
    return future.exception(PATIENCE_SECONDS) or future.result()


@contextlib.contextmanager
def doing(action: Callable[[], Any]) -> Iterator[None]:
    """Do something in a thread, while this one is in a call."""
    errors: list[BaseException] = []

    def do() -> None:
        try:
            action()
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=do)
    thread.start()
    try:
        yield
    finally:
        thread.join(PATIENCE_SECONDS)
        assert not errors


# ---- deaths ----------------------------------------------------------------------------------------------------------


@pytest.mark.race
@pytest.mark.processes
@pytest.mark.parametrize("n_workers", [1, 2, 5])
def test_a_worker_that_is_killed_in_mid_task_costs_that_task(
    make_pool: MakePool, way: Way, tmp_path: Path, n_workers: int
) -> None:
    """C1: one of several workers, and nothing else is lost.

    Mutation: `Nursery._reap` that tells nobody: no call ever ends.
    """
    pool = make_pool(Victim, worker_count=n_workers, max_restarts=OFTEN)
    for name, over_items in some(way, OVER_ITEMS):
        meeting = Meeting(tmp_path / name)
        with doing(lambda meeting=meeting: os.kill(meeting.pid(), signal.SIGKILL)):
            results = over_items(pool.obey, [0, 1, meeting, 3, 4, 5])
        assert [type(result) for result in results] == [int, int, WorkerDiedError, int, int, int], name
        assert (results[2].signal, results[2].started, results[2].pid) == ("SIGKILL", True, meeting.pid())
    assert sum(worker.generation for worker in pool.workers) == len(some(way, OVER_ITEMS))


@pytest.mark.race
@pytest.mark.processes
def test_all_workers_may_be_killed_in_mid_task(make_pool: MakePool, way: Way, tmp_path: Path) -> None:
    """C1: each running task has its own error, what waits behind them runs on their successors."""
    pool = make_pool(Victim, worker_count=3, max_restarts=OFTEN)
    for name, over_items in some(way, OVER_ITEMS):
        meetings = [Meeting(tmp_path / f"{name}-{i}") for i in range(3)]
        with doing(lambda meetings=meetings: [os.kill(pid, signal.SIGKILL) for pid in [each.pid() for each in meetings]]):
            results = over_items(pool.obey, [*meetings, 3, 4, 5])
        assert [type(result) for result in results] == [WorkerDiedError] * 3 + [int] * 3, name
        assert len({result.pid for result in results[:3]}) == 3
    pids, meeting = pool.pid.broadcast(), Meeting(tmp_path / "broadcast")
    with doing(lambda: [os.kill(pid, signal.SIGKILL) for pid in pids if meeting.pid()]):
        results = pool.obey.options(return_exceptions=True)(meeting)
    assert [type(result) for result in results] == [WorkerDiedError] * 3
    assert pool.obey(1).tolist() == [1, 1, 1]


@pytest.mark.processes
def test_a_task_that_ends_its_process_is_told_with_the_exit_code(make_pool: MakePool, way: Way) -> None:
    """C2: by Python's exit or the C library's; code 0 is no success.

    Mutation: `ProcessBackend._hear_nursery` that drops notices of exits with code 0 never returns.
    """
    pool = make_pool(Victim, max_restarts=OFTEN)
    for how, exitcode in (("os._exit(0)", 0), ("os._exit(1)", 1), ("exit(0)", 0), ("exit(3)", 3)):
        for name, over_items in some(way, OVER_ITEMS):
            results = over_items(pool.obey, [0, how, 2, 3])
            assert [type(result) for result in results] == [int, WorkerDiedError, int, int], (how, name)
            assert (results[1].exitcode, results[1].signal) == (exitcode, None)
        results = pool.obey.options(return_exceptions=True)(how)
        assert [result.exitcode for result in results] == [exitcode] * 2


@pytest.mark.processes
def test_a_crash_is_told_by_the_name_of_its_signal(make_pool: MakePool, way: Way) -> None:
    """C3: whatever handlers are installed.

    Mutation: `describe_exit` that gives numbers.
    """
    pool = make_pool(Victim, max_restarts=OFTEN)
    for how in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"):
        for name, over_items in some(way, OVER_ITEMS):
            results = over_items(pool.obey, [0, how, 2])
            assert [type(result) for result in results] == [int, WorkerDiedError, int], (how, name)
            assert results[1].signal == how
            assert how in str(results[1])


@pytest.mark.parametrize("start_method", ["forkserver", "fork", "spawn"])
def test_a_crash_leaves_its_stack(start_method: str) -> None:
    """C3: on stderr, or in the error.

    Mutation: `run_worker` without `faulthandler.enable`.
    """
    code = """
    class Crashing:
        def go_down(self):
            fail("SIGSEGV")

    with ProxyPool(Crashing, worker_count=1, start_method=sys.argv[1]) as pool:
        try:
            pool[0].go_down()
        except WorkerDiedError as exc:
            print(exc)
    """
    with run(code, start_method) as program:
        ended = program.finish()
    assert ended.returncode == 0
    assert "Segmentation fault" in ended.output + ended.errors
    assert "in go_down" in ended.output + ended.errors


# ---- errors ----------------------------------------------------------------------------------------------------------


#: What is raised, and what comes out.
RAISED = {
    "SystemExit": SystemExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "BottomError": BottomError,
    "StopIteration": StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "MemoryError": MemoryError,
    "real MemoryError": MemoryError,
    "RecursionError": RecursionError,
    "real RecursionError": RecursionError,
}


def test_whatever_a_task_raises_is_its_error_and_the_worker_lives(make_pool: MakePool) -> None:
    """C4: also what is no `Exception`.

    Mutation: `except Exception` in `ChunkRunner.run` and `WorkerLoop._perform` lets the worker end.
    """
    pool = make_pool(Victim)
    pids = pool.pid.broadcast()
    for how, kind in RAISED.items():
        for name, over_items in OVER_ITEMS.items():
            results = over_items(pool.obey, [0, how, 2, 3, how, 5])
            assert [type(result) for result in results] == [int, kind, int, int, kind, int], (how, name)
            assert [result for result in results if isinstance(result, int)] == [0, 2, 3, 5]
        with pytest.raises(kind):
            pool[1].obey(how)
        assert all(isinstance(result, kind) for result in pool.obey.options(return_exceptions=True)(how))
    assert pool.pid.broadcast() == pids
    assert [worker.generation for worker in pool.workers] == [0, 0]


#: What an exception comes home as from another process: its own type, also without its constructor, or a `RemoteError`.
STRANGE = {
    "RequiredArgumentsError": (RequiredArgumentsError, "one two"),
    "holds a lock": (RemoteError, "holds a lock"),
    "LocalError": (Exception, "local"),
    "UnpicklableError": (RemoteError, "reduce"),
    "huge": (ValueError, "xxx"),
    "BadTextError": (Exception, None),
    "cyclic cause": (ValueError, "cyclic"),
    "ExceptionGroup": (ExceptionGroup, "several"),
    "unpickling exits": (RemoteError, "SystemExit"),
}


@pytest.mark.processes
def test_an_exception_that_is_hard_to_send_comes_home_all_the_same(make_pool: MakePool) -> None:
    """C5, C6: as itself or as a stand-in, with its traceback, and the worker lives.

    C6: what unpickling the error does it does in the worker, where the round trip is made before anything is sent.
    Mutation: `encode_error` without its `pickle.loads`: the exit is met in the caller.
    """
    pool = make_pool(Victim)
    pids = pool.pid.broadcast()
    for how, (kind, text) in STRANGE.items():
        for name, over_items in OVER_ITEMS.items():
            results = over_items(pool.obey, [0, how, 2])
            assert [results[0], results[2]] == [0, 2], (how, name)
            error = results[1]
            assert isinstance(error, kind), (how, name)
            assert text is None or text in str(error)
            assert isinstance(error.__cause__, RemoteTraceback)
            assert "in obey" in error.__cause__.text or "cannot be shown" in error.__cause__.text
    assert pool.pid.broadcast() == pids


@pytest.mark.processes
def test_an_exception_that_kills_who_unpickles_it_never_reaches_the_caller(make_pool: MakePool, way: Way) -> None:
    """C6: the worker that makes the round trip dies of it, which is that task's error."""
    pool = make_pool(Victim, max_restarts=OFTEN)
    for name, over_items in some(way, OVER_ITEMS):
        results = over_items(pool.obey, [0, "unpickling kills", 2, 3])
        assert [type(result) for result in results] == [int, WorkerDiedError, int, int], name


# ---- hangs -----------------------------------------------------------------------------------------------------------

HANGS = ["sleep", "swallow", "C", "SIGTERM ignored", "stopped", "flock"]


@pytest.mark.processes
def test_a_task_that_hangs_is_ended_at_its_time_whatever_it_does(make_pool: MakePool, tmp_path: Path) -> None:
    """C7: asleep, deaf to exceptions, in C, deaf to SIGTERM, stopped, blocked in a lock: and the other tasks are untouched.

    Mutation: `PoolState._on_ticked` that asks workers to end politely: none of these is ever gone.
    """
    import fcntl

    lock_path = tmp_path / "lock"
    hangs = [None, *HANGS, None]
    meetings = [Meeting(tmp_path / f"{how}-{i}") for i, how in enumerate(hangs)]
    pool = make_pool(Hanger, worker_count=len(HANGS))
    before = pool.pid.broadcast()
    with open(lock_path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        method = pool.hang.options(timeout=LIMIT_SECONDS, on_error="return")
        results = method.map(hangs, meetings, [lock_path] * len(hangs))
    assert [type(result) for result in results] == [type(None), *[TaskTimeoutError] * len(HANGS), type(None)]
    assert [(error.item, error.seconds) for error in results[1:-1]] == [(i, LIMIT_SECONDS) for i in range(1, len(hangs) - 1)]
    assert pool.wait_ready(PATIENCE_SECONDS)
    gone = {meeting.pid() for meeting in meetings[1:-1]}
    assert gone <= {*before}
    assert not gone & {*pool.pid.broadcast()}


@pytest.mark.race
@pytest.mark.processes
def test_a_time_limit_leaves_the_neighbours_alone(make_pool: MakePool, tmp_path: Path) -> None:
    """C7: a call that runs beside one that times out goes on, with its worker."""
    pool = make_pool(Hanger, worker_count=2)
    meeting = Meeting(tmp_path / "meeting")
    beside = pool[0].obey.submit(meeting)
    meeting.pid()
    with pytest.raises(TaskTimeoutError):
        pool[1].hang.options(timeout=0.2)("sleep", Meeting(tmp_path / "other"), tmp_path)
    meeting.end()
    assert beside.result(PATIENCE_SECONDS) == "met"
    assert [pool[0].place(), pool[1].place()] == [(0, 0), (1, 1)]


@pytest.mark.race
@pytest.mark.parametrize("n_workers", [1, 2])
def test_a_limit_that_is_met_at_the_last_moment_gives_one_outcome(n_workers: int) -> None:
    """C8: tasks that take about as long as they may have a result or an error, never both, and the pool is whole after them."""
    with ProxyPool(Sleeper, worker_count=n_workers) as pool:
        outcomes = pool.sleep.options(timeout=0.03, on_error="return").map([0.03 + i * 0.0005 for i in range(-10, 10)])
        assert {type(outcome) for outcome in outcomes} <= {float, TaskTimeoutError}
        assert len(outcomes) == 20
        assert pool.wait_ready(PATIENCE_SECONDS)
        assert pool.obey.map(range(10)) == list(range(10))


class Sleeper(Victim):
    """Takes its time."""

    def sleep(self, seconds: float) -> float:
        import time

        time.sleep(seconds)
        return seconds


# ---- attempts --------------------------------------------------------------------------------------------------------


@pytest.mark.race
@pytest.mark.processes
def test_a_task_that_dies_once_and_then_succeeds_has_one_result(make_pool: MakePool, tmp_path: Path) -> None:
    """C10: in its place, by every verb.

    Mutation: `Settlement.may_retry` that compares with ``<`` gives the first death as an error.
    """
    pool = make_pool(Victim, max_restarts=OFTEN)
    method = pool.try_once.options(retries=1)
    hows = ["os._exit(0)", "SIGKILL", "SIGSEGV", "os._exit(1)"]
    assert method.map([tmp_path / f"map-{i}" for i in range(4)], hows) == ["done"] * 4
    assert list(method.imap([tmp_path / f"imap-{i}" for i in range(4)], hows)) == ["done"] * 4
    assert method.submit(tmp_path / "submit", "SIGKILL").result(PATIENCE_SECONDS) == "done"
    for name, call in {"instance": pool[0].try_once.options(retries=1), "broadcast": method}.items():
        pool.pid.options(return_exceptions=True)()  # the next who counts on a state is told that it was lost
        assert {*np.atleast_1d(call(tmp_path / name, "SIGKILL"))} == {"done"}


def test_a_poison_task_is_blamed_after_its_attempts_and_the_others_are_fine(tmp_path: Path) -> None:
    """C11: three attempts with ``retries=2``, and a restart for each."""
    path = tmp_path / "attempts"
    with ProxyPool(Victim, worker_count=2, max_restarts=(3, 100.0)) as pool:
        orders = [0, 1, "SIGKILL", 3, 4]
        results = pool.note.options(retries=2, on_error="return").map([path] * 5, orders)
        assert [type(result) for result in results] == [int, int, PoisonTaskError, int, int]
        assert results[2].attempts == 3
        attempts = path.read_text().split()
        assert [attempts.count(str(order)) for order in orders] == [1, 1, 3, 1, 1]
        assert pool.wait_ready(PATIENCE_SECONDS)
        assert sum(worker.generation for worker in pool.workers) == 3


def test_a_task_that_dies_runs_once_unless_it_was_asked_otherwise(tmp_path: Path) -> None:
    """C12: at most once, by every verb."""
    with ProxyPool(Victim, worker_count=2, max_restarts=OFTEN) as pool:
        path = tmp_path / "attempts"
        for name, call in {
            "map": lambda: pool.note.map([path], ["SIGKILL"]),
            "imap": lambda: list(pool.note.imap([path], ["SIGKILL"])),
            "submit": lambda: pool.note.submit(path, "SIGKILL").result(PATIENCE_SECONDS),
            "instance": lambda: pool[0].note(path, "SIGKILL"),
        }.items():
            with pytest.raises(WorkerDiedError):
                call()
            assert path.read_text() == "SIGKILL\n", name
            path.unlink()


# ---- replaced workers ------------------------------------------------------------------------------------------------


class SlowToEnd(Victim):
    """Ends when it is told to, on one worker."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    def work(self, item: int) -> tuple[int, int]:
        if item == 7:
            self.gate.open()
        return item, os.getpid()

    def close(self) -> None:
        if current_worker().worker_id == 0:
            self.gate.wait()


@pytest.mark.race
def test_a_worker_that_is_recycled_and_slow_to_end_loses_and_doubles_nothing(gates: Any) -> None:
    """C13: one task for each worker, and one of them waits, at its end, for a later task."""
    with ProxyPool(SlowToEnd, worker_count=2, init_args=(gates("gate"),), max_tasks_per_worker=1) as pool:
        results = pool.work.map(range(10))
        assert [item for item, _ in results] == list(range(10))
        assert len({pid for _, pid in results}) == 10


class Vandal(Victim):
    """Damages its own process."""

    def _channel(self) -> int:
        links = {int(fd): os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)}
        return max(fd for fd, link in links.items() if link.startswith("socket:"))

    def close_all(self) -> None:
        os.closerange(3, 1000)

    def replace_channel(self) -> None:
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, self._channel())

    def print_much(self, item: int) -> int:
        os.write(1, b"x" * 1_000_000)
        return item

    def close_streams(self, item: int) -> int:
        os.closerange(0, 3)
        return item

    def wander(self, item: int) -> int:
        os.chdir("/")
        return item

    def handle(self, item: int) -> int:
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, lambda *_: None)
        return item

    def start_thread(self, item: int) -> int:
        for wait in (signal.pause, threading.Event().wait):
            threading.Thread(target=wait, daemon=True).start()
        threading.Timer(0.05, int).start()  # this one is waited for
        return item

    def start_child(self, item: int) -> int:
        import subprocess

        subprocess.Popen(["sleep", "600"])
        return item


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


@pytest.mark.parametrize("name", ["close_all", "replace_channel"])
def test_a_task_that_closes_its_channel_is_taken_for_dead(name: str) -> None:
    """C15: not waited for."""
    with ProxyPool(Vandal, worker_count=2, max_restarts=OFTEN) as pool:
        for _ in range(3):
            with pytest.raises(WorkerDiedError):
                getattr(pool[0], name)()
        assert pool.obey(1).tolist() == [1, 1]


def test_a_task_may_change_its_process_and_the_pool_goes_on_and_ends() -> None:
    """C16: streams, folder, signal handlers, threads, children."""
    code = """
    sys.path.insert(0, "tests/faults")
    from test_running import Vandal

    for name in ("print_much", "close_streams", "wander", "handle", "start_thread", "start_child"):
        with ProxyPool(Vandal, worker_count=2) as pool:
            method = getattr(pool, name)
            for _ in range(2):
                results = [*method.map(range(4)), *method(7), *(worker.generation for worker in pool.workers)]
                print("", *results, sep=os.linesep, flush=True)
    """
    with run(code) as program:
        ended = program.finish()
    lines = [line for line in ended.output.split("\n") if line and "x" not in line]
    assert lines == list("01237700") * 12
    assert (ended.returncode, ended.errors) == (0, "")


# ---- idle workers, lost states ---------------------------------------------------------------------------------------


def test_the_error_of_a_lost_state_names_the_worker_and_its_generation() -> None:
    """C19: whose state it was."""
    with ProxyPool(Victim, worker_count=2, max_restarts=OFTEN) as pool:
        for generation in range(3):
            with pytest.raises(WorkerDiedError, match=f"worker 1 .*generation {generation}") as caught:
                pool[1].obey("SIGKILL")
            assert (caught.value.worker_id, caught.value.generation, caught.value.state_lost) == (1, generation, True)
            assert pool[1].place() == (1, generation + 1)


@pytest.mark.race
@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_broadcast_of_which_one_worker_dies_has_an_outcome_for_each(tmp_path: Path, bad: int) -> None:
    """C20: never a shorter list."""
    with ProxyPool(Victim, worker_count=3, max_restarts=OFTEN) as pool:
        pids = pool.pid.broadcast()
        meeting = Meeting(tmp_path / "meeting")

        def kill() -> None:
            meeting.pid()
            os.kill(pids[bad], signal.SIGKILL)
            poll_until(lambda: _is_gone(pids[bad]))
            meeting.end()

        with doing(kill):
            results = pool.obey.options(return_exceptions=True)(meeting)
        assert [type(result) for result in results] == [WorkerDiedError if i == bad else str for i in range(3)]
        with pytest.raises(WorkerDiedError) as caught:
            pool.obey("os._exit(1)")
        assert len(caught.value.__notes__) == 2


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.race
def test_random_deaths_lose_and_double_nothing(tmp_path: Path) -> None:
    """C21: of 2000 tasks one in fifty kills its worker, once; the results are right, in order, and each death one restart."""
    seed = int(os.environ.get("OBJPROXY_FAULTS_SEED", "21"))
    print(f"OBJPROXY_FAULTS_SEED={seed}")  # noqa: T201 - shown when the test fails
    fates = random.Random(seed)
    hows = [fates.choice(["SIGKILL", "os._exit(0)", "SIGSEGV"]) if fates.random() < 0.02 else "" for _ in range(2000)]
    n_deaths = sum(map(bool, hows))
    with ProxyPool(Chaotic, worker_count=3, init_args=(tmp_path,), max_restarts=OFTEN) as pool:
        assert pool.work.options(retries=1).map(range(2000), hows) == [7 * i for i in range(2000)]
        assert pool.wait_ready(PATIENCE_SECONDS)
        assert sum(worker.generation for worker in pool.workers) == n_deaths
    assert len(list(tmp_path.iterdir())) == n_deaths


class Chaotic(Victim):
    """Dies at its first attempt of some items."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def work(self, item: int, how: str) -> int:
        if how:
            self.try_once(self.folder / str(item), how)
        return 7 * item

"""Faults at the end (E): of a pool, of the program that has it, of the machinery between them."""

from __future__ import annotations

import concurrent.futures as cf
import contextlib
import gc
import os
import random
import select
import signal
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faulty import Meeting, Refuser, Victim, fail
from objproxy import PoolBrokenError, PoolClosedError, ProxyPool, TaskTimeoutError, WorkerDiedError, WorkerInitError
from programs import GONE_SECONDS, run, segments_of
from targets import PATIENCE_SECONDS, poll_until
from ways import MakePool, Way, some

START_METHODS = ["forkserver", "fork", "spawn"]
OFTEN = (10_000, 1.0)


# ---- pools -----------------------------------------------------------------------------------------------------------


@pytest.mark.race
@pytest.mark.processes
def test_a_pool_may_be_closed_in_any_state(make_pool: MakePool, tmp_path: Path) -> None:
    """E1: idle, twice, broken, and under a running call of another thread by several at a time.

    Mutation: `PoolState._move_on` that ends no idle worker never returns.
    """
    idle = make_pool(Victim)
    idle.close()
    idle.close()

    broken = make_pool(Victim, worker_count=1, max_restarts=(0, 100.0))
    with pytest.raises(WorkerDiedError):
        broken[0].obey("SIGKILL")
    with pytest.raises(PoolBrokenError):
        broken.obey(1)
    for _ in range(2):
        broken.close()
    broken.kill()

    busy, meeting, outcomes = make_pool(Victim), Meeting(tmp_path / "meeting"), []

    def use() -> None:
        with contextlib.suppress(PoolClosedError):  # not all of it was submitted yet
            outcomes.extend(busy.obey.map([meeting, 1, 2]))

    caller = threading.Thread(target=use)
    caller.start()
    meeting.pid()
    closers = [threading.Thread(target=busy.close) for _ in range(3)]
    for closer in closers:
        closer.start()
    poll_until(lambda: "closing" in repr(busy))
    meeting.end()
    for thread in (caller, *closers):
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()
    assert outcomes in (["met", 1, 2], [])
    with pytest.raises(PoolClosedError):
        busy.obey(1)


def _wait_for_end(handle: int) -> None:
    try:
        assert select.select([handle], [], [], PATIENCE_SECONDS)[0]
    finally:
        os.close(handle)


class HardToEnd(Victim):
    """Ends as it was told to, not as it is asked to."""

    def __init__(self, how: str, path: Path) -> None:
        super().__init__()
        self.how = how
        self.path = path
        if "SIGTERM" in how:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def close(self) -> None:
        self.path.touch()
        if self.how == "hangs, SIGTERM ignored":
            while True:
                signal.pause()
        if self.how == "raises":
            raise LookupError("mine")
        if self.how.startswith(("SIG", "os._exit", "exit")):
            fail(self.how)


@pytest.mark.processes
def test_a_worker_may_end_as_it_likes_when_its_pool_is_closed(make_pool: MakePool, way: Way, tmp_path: Path) -> None:
    """E2: it dies, raises, or does not end at all, and is killed when the time of the pool is over; ``close()`` tells it.

    Mutation: `Driver.close` that does not look at its time never returns.
    """
    errors = {
        "hangs, SIGTERM ignored": TaskTimeoutError,
        "SIGKILL": WorkerDiedError,
        "os._exit(0)": WorkerDiedError,
        "exit(3)": WorkerDiedError,
        "raises": LookupError,
    }
    for how, error in some(way, errors):
        path = tmp_path / how
        pool = make_pool(HardToEnd, init_args=(how, path))
        handles = [os.pidfd_open(pid) for pid in pool.pid.broadcast()]
        with cf.ThreadPoolExecutor(1) as closer:
            closing = closer.submit(pool.close, 3.0 if error is TaskTimeoutError else None)
            assert isinstance(closing.exception(PATIENCE_SECONDS), error), how
        assert path.exists(), how
        for handle in handles:
            _wait_for_end(handle)


@pytest.mark.race
@pytest.mark.processes
def test_a_worker_that_dies_while_its_pool_finishes_costs_its_own_task(make_pool: MakePool, tmp_path: Path) -> None:
    """E2: what was submitted before is finished by its successor."""
    pool, meeting = make_pool(Victim, worker_count=1), Meeting(tmp_path / "meeting")
    running, behind = pool.obey.submit(meeting), pool.obey.submit(7)
    pid = meeting.pid()
    closer = threading.Thread(target=pool.close)
    closer.start()
    poll_until(lambda: "closing" in repr(pool))
    os.kill(pid, signal.SIGKILL)
    closer.join(PATIENCE_SECONDS)
    assert isinstance(running.exception(PATIENCE_SECONDS), WorkerDiedError)
    assert behind.result(PATIENCE_SECONDS) == 7


@pytest.mark.race
@pytest.mark.processes
def test_an_error_in_a_with_block_is_not_hidden_by_tasks_that_run(make_pool: MakePool, tmp_path: Path) -> None:
    """E3: they are ended, in whatever state.

    Mutation: `ProxyPool.__exit__` that always closes never returns.
    """
    meeting = Meeting(tmp_path / "never over")
    with pytest.raises(KeyError, match="mine") as caught, make_pool(Victim) as pool:  # noqa: PT012
        futures = [pool.obey.submit(meeting) for _ in range(5)]
        os.kill(meeting.pid(), signal.SIGSTOP)
        raise KeyError("mine")
    assert caught.value.__context__ is None
    assert [type(future.exception(PATIENCE_SECONDS)) for future in futures] == [PoolClosedError] * 5


def test_fifty_pools_leave_nothing(tmp_path: Path) -> None:
    """E9: well ended, crashed, not made, timed out; the check behind every test counts what is left."""
    for _ in range(13):
        with ProxyPool(Victim, worker_count=1) as well:
            assert well.obey(1).tolist() == [1]
        with ProxyPool(Victim, worker_count=1, max_restarts=(0, 1.0)) as crashed:
            assert isinstance(crashed.obey.submit("SIGKILL").exception(PATIENCE_SECONDS), WorkerDiedError)
        with pytest.raises(WorkerInitError):
            ProxyPool(Refuser, worker_count=1, init_args=("ValueError",))
    for _ in range(11):
        with ProxyPool(Victim, worker_count=1) as late, pytest.raises(TaskTimeoutError):
            late.obey.options(timeout=0.02)(Meeting(tmp_path / "never over"))


@pytest.mark.race
def test_a_defect_of_the_engine_is_told_to_everybody_who_waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """E10: with the defect as its cause; who has met it itself gets it as it is."""
    with ProxyPool(Victim, worker_count=2) as pool:
        backend = pool._core.backend
        meeting, errors = Meeting(tmp_path / "never over"), []

        def use() -> None:
            try:
                pool.obey.map([meeting])
            except BaseException as exc:
                errors.append(exc)

        callers = [threading.Thread(target=use) for _ in range(2)]
        for caller in callers:
            caller.start()
        poll_until(lambda: [worker.state for worker in pool.workers] == ["busy", "busy"])

        def fail_once(_timeout: float | None) -> Any:
            monkeypatch.undo()
            raise ZeroDivisionError("a defect")

        monkeypatch.setattr(backend, "wait", fail_once)
        backend.wake()
        for caller in callers:
            caller.join(PATIENCE_SECONDS)
            assert not caller.is_alive()
        assert sorted(type(error).__name__ for error in errors) == ["PoolBrokenError", "ZeroDivisionError"]
        with pytest.raises(PoolBrokenError, match="a defect") as caught:
            pool.obey(1)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("action", ["use", "close", "kill", "drop"])
def test_a_forked_child_of_the_program_cannot_harm_its_pool(action: str) -> None:
    """E12: it cannot use the pool, and ending or dropping it there ends nothing here."""
    with ProxyPool(Victim, worker_count=2) as pool:
        pids = pool.pid.broadcast()
        child = os.fork()
        if not child:
            status = 1
            try:
                if action == "use":
                    with pytest.raises(PoolClosedError, match="another process"):
                        pool.obey(1)
                elif action == "drop":
                    del pool
                    gc.collect()
                else:
                    getattr(pool, action)()
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert pool.pid.broadcast() == pids
        assert pool.obey.map(range(20)) == list(range(20))


# ---- programs --------------------------------------------------------------------------------------------------------

#: Workers in every state: idle, asleep, in C, stopped, with a child of their own; and a pool whose constructor hangs.
EVERY_STATE = """
    import subprocess

    class Worker(Victim):
        def __init__(self, hangs=False):
            super().__init__()
            if hangs:
                os.write(1, b"ready" + bytes([10]))
                time.sleep(1000)
        def sleep(self): time.sleep(1000)
        def work_in_c(self): sum(range(10**12))
        def stop(self): os.kill(os.getpid(), signal.SIGSTOP)
        def start_child(self): return subprocess.Popen(["sleep", "600"]).pid

    pool = ProxyPool(Worker, worker_count=5, start_method=sys.argv[1])
    pool[4].start_child()
    calls = [pool[1].sleep.submit(), pool[2].work_in_c.submit(), pool[3].stop.submit()]
    while not all(call.running() for call in calls):
        time.sleep(0.001)

    def make_another():
        ProxyPool(Worker, worker_count=1, init_args=(True,), start_method=sys.argv[1])
"""

#: Has the pipes and sockets of everything, and outlives the program.
INHERITORS = """
    import multiprocessing
    second = ProxyPool(Worker, worker_count=1)
    manager = multiprocessing.Manager()
    child = os.fork()
    if not child:
        time.sleep(1000)
    print(child, flush=True)
"""

ENDS = {
    "sys.exit": "sys.exit(0)",
    "unhandled error": "raise LookupError('mine')",
    "os._exit": "os._exit(0)",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM)",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
}

UNDER_CONSTRUCTION = """
    threading.Thread(target=make_another, daemon=True).start()
"""

WAIT_FOR_TEST = """
    while not os.path.exists(sys.argv[2]):
        time.sleep(0.001)
"""


@pytest.mark.parametrize(
    ("end", "start_method"),
    [(end, "forkserver") for end in ENDS] + [(end, other) for end in ("SIGKILL", "sys.exit") for other in ("fork", "spawn")],
)
def test_however_a_program_ends_nothing_of_it_is_left(tmp_path: Path, end: str, start_method: str) -> None:
    """E5: workers that are idle, asleep, in C, stopped, under construction, and what they have started; seen by handles.

    Mutation: a nursery that ends none of its workers, and no signal of the kernel's at the death of a parent.
    """
    go = tmp_path / "go"
    with run(EVERY_STATE + UNDER_CONSTRUCTION + WAIT_FOR_TEST + "\n    " + ENDS[end], start_method, str(go)) as program:
        program.wait_ready()
        go.touch()
        program.finish()
        assert program.left() == []
        assert segments_of(program.pid) == []


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("end", ["sys.exit", "SIGKILL"])
def test_nothing_of_a_program_is_left_though_others_have_inherited_its_channels(tmp_path: Path, end: str) -> None:
    """E6: a second pool, a manager, and a child of the program that lives on.

    What ``multiprocessing`` has started lives as long as the child, which holds its pipes: the manager, and since Python 3.14
    the fork server that it comes from and the resource tracker.
    """
    go = tmp_path / "go"
    code = EVERY_STATE + INHERITORS + UNDER_CONSTRUCTION + WAIT_FOR_TEST + "\n    " + ENDS[end]
    with run(code, "forkserver", str(go)) as program:
        program.wait_ready()
        others = [int(program.output), *program.children_named("multiprocessing")]
        go.touch()
        program.end_of_itself()
        assert program.left(but=others) == []


IDLE_ENDS = {
    "idle": "pool.obey(1)",
    "busy": "calls = [pool.obey.submit(Meeting(Path(sys.argv[2]) / str(i))) for i in range(4)]",
    "half-way": "results = iter(pool.obey.imap(itertools.count())); next(results)",
    "another thread": """
    def use():
        global mine
        mine = ProxyPool(Victim, worker_count=1, start_method=sys.argv[1])
        mine.obey.submit(Meeting(Path(sys.argv[2]) / "m"))
    thread = threading.Thread(target=use)
    thread.start(); thread.join()
    """,
    "a child was forked": """
    child = os.fork()
    if not child:
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    """,
}


@pytest.mark.parametrize(
    ("state", "start_method"),
    [(state, "forkserver") for state in IDLE_ENDS] + [("half-way", "fork"), ("busy", "spawn"), ("another thread", "fork")],
)
def test_a_program_that_leaves_its_pool_open_ends_at_once_and_quietly(tmp_path: Path, state: str, start_method: str) -> None:
    """E4: with nothing on stderr but Python's own warning of what was never closed.

    Mutation: `core._end_forgotten` that closes politely waits for what runs.
    """
    code = "import itertools\npool = ProxyPool(Victim, worker_count=2, start_method=sys.argv[1])\n"
    code += textwrap.dedent(IDLE_ENDS[state]) + "\nprint('ready', flush=True)\n"
    with run(code, start_method, str(tmp_path)) as program:
        program.wait_ready()
        ended = program.finish()
        assert ended.returncode == 0
        assert ended.seconds < GONE_SECONDS
        assert [line for line in ended.errors.splitlines() if "Warning" not in line and not line.startswith("  ")] == []
        assert "leaked" not in ended.errors
        assert program.left() == []


INTERRUPTED = {
    "idle": "say(); time.sleep(1000)",
    "busy": "pool.sleep()",
    "in C": "pool.work_in_c()",
    "in a constructor": "ProxyPool(Sleeper, worker_count=1, init_args=(True,))",
    "in close()": "pool.sleep.submit(); pool.close()",
    "in a lazy map": "[None for _ in pool.wait_at_third.imap(itertools.count())]",
    "in a callback": "pool.obey.options(progress_bar=lambda *_: (say(), time.sleep(1000))).map([1, 2, 3])",
}

SLEEPER = """
    import itertools

    def say():
        os.write(1, b"ready" + bytes([10]))

    class Sleeper(Victim):
        def __init__(self, hangs=False):
            super().__init__()
            if hangs:
                self.sleep()
        def sleep(self):
            say()
            time.sleep(1000)
        def work_in_c(self):
            say()
            sum(range(10**12))
        def wait_at_third(self, item):
            if item == 3:
                self.sleep()
            return item

    pool = ProxyPool(Sleeper, worker_count=1, start_method=sys.argv[1])
"""


@pytest.mark.parametrize(
    ("state", "start_method"), [(state, "forkserver") for state in INTERRUPTED] + [("busy", "fork"), ("in C", "spawn")]
)
def test_ctrl_c_once_is_enough(state: str, start_method: str) -> None:
    """E7: wherever the program is: one KeyboardInterrupt, no word of a worker, nobody left.

    Mutation: a root nursery in the program's own process group that does not ignore SIGINT says so on stderr.
    """
    with run(SLEEPER + "\n    " + INTERRUPTED[state], start_method) as program:
        program.wait_ready()
        program.send(signal.SIGINT, to_group=True)
        ended = program.finish()
        assert ended.returncode == -signal.SIGINT
        assert ended.seconds < GONE_SECONDS
        assert ended.errors.count("KeyboardInterrupt") == 1, ended.errors
        assert "Process" not in ended.errors
        assert program.left() == []


@pytest.mark.parametrize("state", ["busy", "in close()", "in a constructor"])
def test_ctrl_c_twice_ends_the_program_too(state: str) -> None:
    """E7: a second one, at whatever moment, leaves nobody behind either."""
    with run(SLEEPER + "\n    " + INTERRUPTED[state], "forkserver") as program:
        program.wait_ready()
        program.send(signal.SIGINT, to_group=True)
        program.send(signal.SIGINT, to_group=True)
        ended = program.finish()
        assert ended.returncode != 0
        assert ended.seconds < GONE_SECONDS
        assert program.left() == []


@pytest.mark.parametrize("state", ["busy", "in C", "in a lazy map", "in a callback"])
def test_a_pool_works_after_a_ctrl_c_that_was_caught(state: str) -> None:
    """E8: what ran is ended, its worker replaced, the next call works."""
    rest = f"""
    try:
        {INTERRUPTED[state]}
    except KeyboardInterrupt:
        print(pool.obey.map(range(3)), [list(pool.obey.imap(range(3)))])
        pool.pid.options(return_exceptions=True)()
        print(pool[0].obey(7))
    pool.close()
    """
    with run(SLEEPER + rest, "forkserver") as program:
        program.wait_ready()
        program.send(signal.SIGINT, to_group=True)
        ended = program.finish()
        assert (ended.returncode, ended.errors) == (0, "")
        assert ended.output == "[0, 1, 2] [[0, 1, 2]]\n7\n"
        assert program.left() == []


@pytest.mark.race
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Python drops what hits it in a `__del__`
def test_a_busy_pool_outlives_every_interrupt(make_pool: MakePool, way: Way) -> None:
    """E8: at whatever moment it comes, of short calls one after another: the next call works.

    Mutation: `Driver.wait_until` that is not held breaks the pool within a few interrupts.
    """
    pool = make_pool(Victim, worker_count=2)
    calls: list[Callable[[], Any]] = [
        lambda: pool.obey.map(range(300)),
        lambda: list(pool.obey.imap(range(300))),
        lambda: pool[0].obey(1),
        lambda: pool.obey.broadcast(1),
    ]
    if way.name != "simulated":  # which is for one thread
        calls.append(lambda: pool.obey.submit(1).result())
    pool.obey.map(range(3))
    for number in range(20):
        _repeat_until_interrupted(calls[number % len(calls)], random.uniform(0, 0.01))
        assert pool.obey.map(range(3)) == [0, 1, 2]
        assert pool.obey.broadcast(4) == [4, 4]


def _repeat_until_interrupted(call: Callable[[], Any], seconds: float) -> None:
    is_over = threading.Event()

    def strike(seconds: float = seconds) -> None:
        while not is_over.wait(seconds):
            os.kill(os.getpid(), signal.SIGINT)
            seconds = 5.0  # once more, if it was dropped

    striker = threading.Thread(target=strike)
    try:
        striker.start()
        while True:
            call()
    except KeyboardInterrupt:
        is_over.set()
    striker.join()

"""Workers that take too long, fall silent or crash: what the caller learns, and what the task may still do."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from objproxy import ProxyPool, TaskTimeoutError, WorkerDiedError, WorkerInitError
from objproxy._worker import platform
from optional import need
from targets import PATIENCE_SECONDS, Gate, poll_until

psutil = need("psutil")

ROOT = Path(__file__).resolve().parent.parent


class Busy:
    """An object whose methods do not end by themselves, each in another way."""

    def pid(self) -> int:
        return os.getpid()

    def sleep(self, started: Gate) -> None:
        started.open()
        time.sleep(600)

    def swallow(self, started: Gate) -> None:
        started.open()
        while True:
            try:
                time.sleep(600)
            except BaseException:
                continue

    def compute(self, started: Gate) -> None:
        started.open()
        sum(range(10**12))  # in one call of compiled code, which holds the interpreter lock

    def stop(self, started: Gate) -> None:
        started.open()
        os.kill(os.getpid(), signal.SIGSTOP)

    def take_descriptor(self, started: Gate) -> None:
        signal.set_wakeup_fd(-1)  # as an asyncio loop does; nothing will come behind the stacks
        self.sleep(started)

    def block_signals(self, started: Gate) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self.sleep(started)

    def ignore_terminate(self, started: Gate) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.sleep(started)

    def lock_file(self, started: Gate) -> None:
        holder = os.open(started.path, os.O_RDWR | os.O_CREAT)
        fcntl.flock(holder, fcntl.LOCK_EX)
        started.open()
        other = os.open(started.path, os.O_RDWR)
        fcntl.flock(other, fcntl.LOCK_EX)  # for ever: the first descriptor has it

    def clean_up(self, started: Gate, path: Path) -> None:
        try:
            self.sleep(started)
        finally:
            path.write_text("clean")

    def catch_and_return(self, started: Gate, path: Path) -> str:
        try:
            self.sleep(started)
        except KeyboardInterrupt as exc:
            path.write_text(str(exc))
        return "too late"

    def crash(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    def be_killed(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def answer_in_parts(self, item: int, gate: Gate) -> int:
        if item:
            gate.wait()
        return item


HANGS = ["sleep", "swallow", "compute", "stop", "take_descriptor", "block_signals", "ignore_terminate", "lock_file"]

#: Seconds in which a task is sure to have begun, also on a busy machine.
LIMIT = 1.0

#: Where a worker that hangs so can say where it stands.
TELLS = {"sleep", "swallow", "compute", "take_descriptor", "ignore_terminate", "lock_file"}


@pytest.fixture(params=["forkserver", "fork", "spawn", "portable"])
def pool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProxyPool[Busy]]:
    if request.param == "portable":
        monkeypatch.setenv("OBJPROXY_PORTABLE", "1")
    method = None if request.param == "portable" else request.param
    made = ProxyPool(Busy, worker_count=2, start_method=method, max_restarts=(50, 5.0))
    yield made
    made.kill()  # what a failed test left running would never end


@pytest.fixture
def started(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "started")


# ---- time limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", HANGS)
def test_whatever_hangs_is_timed_out_and_its_worker_replaced(started: Gate, how: str) -> None:
    with ProxyPool(Busy, worker_count=2) as pool:
        check_time_out(pool, started, how)


def test_a_task_that_sleeps_is_timed_out_under_every_start_method(pool: ProxyPool[Busy], started: Gate) -> None:
    check_time_out(pool, started, "sleep")


def check_time_out(pool: ProxyPool[Busy], started: Gate, how: str) -> None:
    pids = pool.pid().tolist()
    other = pool[1].pid()
    with pytest.raises(TaskTimeoutError) as caught:
        getattr(pool[0], how).options(timeout=LIMIT).submit(started).result()
    assert (caught.value.worker_id, caught.value.method, caught.value.seconds) == (0, how, LIMIT)
    assert started.is_open
    if how in TELLS:
        assert f"in {how}" in caught.value.stack
        assert "nursery" not in caught.value.stack, "how the process came to be is of no interest"
        assert caught.value.stack.rstrip() in str(caught.value)
    assert pool.wait_ready(PATIENCE_SECONDS)
    assert pool[0].pid() not in pids
    assert pool[1].pid() == other
    poll_until(lambda: not psutil.pid_exists(pids[0]))


def test_an_interrupted_task_can_clean_up(pool: ProxyPool[Busy], started: Gate, tmp_path: Path) -> None:
    with pytest.raises(TaskTimeoutError):
        pool.clean_up.options(timeout=LIMIT).submit(started, tmp_path / "trace").result()
    assert pool.wait_ready(PATIENCE_SECONDS)
    assert (tmp_path / "trace").read_text() == "clean"


def test_a_cancelled_task_can_clean_up(pool: ProxyPool[Busy], started: Gate, tmp_path: Path) -> None:
    future = pool.clean_up.submit(started, tmp_path / "trace")
    started.wait()
    assert future.cancel()
    assert pool.wait_ready(PATIENCE_SECONDS)
    assert (tmp_path / "trace").read_text() == "clean"


def test_what_an_interrupted_task_still_returns_counts_no_more(pool: ProxyPool[Busy], started: Gate, tmp_path: Path) -> None:
    pids = set(pool.pid().tolist())
    with pytest.raises(TaskTimeoutError):
        pool.catch_and_return.options(timeout=LIMIT).submit(started, tmp_path / "trace").result()
    assert pool.wait_ready(PATIENCE_SECONDS)
    assert "given this call up" in (tmp_path / "trace").read_text()
    assert len(set(pool.pid().tolist()) - pids) == 1


def test_a_cancelled_task_that_ignores_its_interrupt_is_killed_though_nobody_waits(started: Gate) -> None:
    with ProxyPool(Busy, worker_count=1) as pool:
        pid = pool[0].pid()
        future = pool.swallow.submit(started)
        started.wait()
        assert future.cancel()
        pool.wait_ready(PATIENCE_SECONDS)  # waits beside the thread that drives the futures, and that knew of no deadline
        assert pool[0].pid() != pid


def test_a_task_that_ignores_its_interrupt_is_killed_though_the_program_does_other_things(started: Gate) -> None:
    with ProxyPool(Busy, worker_count=1) as pool:
        pid = pool[0].pid()
        with pytest.raises(TaskTimeoutError):
            pool[0].swallow.options(timeout=LIMIT)(started)
        poll_until(lambda: not psutil.pid_exists(pid))


def test_a_constructor_that_takes_too_long_is_told_with_where_it_stands() -> None:
    class Slow:
        def __init__(self) -> None:
            self.wait_for_ever()

        def wait_for_ever(self) -> None:
            time.sleep(600)

    with pytest.raises(WorkerInitError, match=r"init_timeout=0\.3 s") as caught:
        ProxyPool(Slow, worker_count=1, init_timeout=0.3)
    assert "in wait_for_ever" in caught.value.remote_traceback


# ---- stacks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["sleep", "compute", "take_descriptor"])
def test_stacks_can_be_asked_for_at_any_time(pool: ProxyPool[Busy], started: Gate, how: str) -> None:
    future = getattr(pool[1], how).submit(started)
    started.wait()
    # A worker that has just said that it is ready may still be on its way to where it waits.
    poll_until(lambda: "in receive" in pool.dump_stacks(timeout=PATIENCE_SECONDS)[0])
    for _ in range(3):
        stacks = pool.dump_stacks(timeout=PATIENCE_SECONDS)
        assert set(stacks) == {0, 1}
        assert "in receive" in stacks[0]
        assert f"in {how}" in stacks[1]
    assert future.cancel()


def test_one_waits_for_workers_beside_the_thread_that_drives_futures(started: Gate) -> None:
    """Regression: who slept beside the leader was not woken by what happened to workers."""
    with ProxyPool(Busy, worker_count=2) as pool:
        future = pool[1].sleep.submit(started)
        pid = pool.workers[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        poll_until(lambda: psutil.pid_exists(pid) is False)
        began = time.monotonic()
        assert pool.wait_ready(60)
        assert time.monotonic() - began < 50, "it waited for its own time limit"
        assert future.cancel()


def test_a_stopped_worker_is_told_as_such(pool: ProxyPool[Busy], started: Gate) -> None:
    future = pool[0].stop.submit(started)
    pid = pool.workers[0].pid
    assert pid is not None
    poll_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    stacks = pool.dump_stacks(timeout=0.1)
    assert "has not told" in stacks[0]
    assert "stopped" in stacks[0]
    assert future.cancel()


def test_a_worker_that_never_says_where_it_stands_is_waited_for_until_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    with ProxyPool(Busy, worker_count=2) as pool:
        monkeypatch.setattr(pool._core.backend, "inspect", lambda *_args: None)
        stacks = pool.dump_stacks(timeout=0.05)
        assert all("has not told" in stack for stack in stacks.values())
        assert pool.pid().tolist() == [worker.pid for worker in pool.workers]


def test_asking_for_stacks_disturbs_nothing(pool: ProxyPool[Busy]) -> None:
    pids = pool.pid().tolist()
    for _ in range(50):
        pool.dump_stacks(timeout=PATIENCE_SECONDS)
    assert pool.pid().tolist() == pids


def test_stacks_of_threads_of_the_pool(started: Gate) -> None:
    class Waiting:
        def wait(self, started: Gate, gate: Gate) -> None:
            started.open()
            gate.wait()

    gate = Gate(started.path.with_name("gate"))
    with ProxyPool(Waiting, worker_count=1, backend="thread") as pool:
        future = pool.wait.submit(started, gate)
        started.wait()
        assert "in wait" in pool.dump_stacks(timeout=PATIENCE_SECONDS)[0]
        gate.open()
        future.result()


def test_stacks_need_a_time_to_wait_and_an_open_pool() -> None:
    pool = ProxyPool(Busy, worker_count=1)
    for bad, error in ((None, TypeError), ("1", TypeError), (0, ValueError)):
        with pytest.raises(error):
            pool.dump_stacks(bad)  # type: ignore[arg-type]
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        pool.dump_stacks()


def test_threads_of_a_worker_are_shown_too() -> None:
    class Threaded:
        def __init__(self) -> None:
            threading.Thread(target=self.beside, daemon=True).start()

        def beside(self) -> None:
            time.sleep(600)

    with ProxyPool(Threaded, worker_count=1) as pool:
        poll_until(lambda: "in beside" in pool.dump_stacks(timeout=PATIENCE_SECONDS)[0])


# ---- silence --------------------------------------------------------------------------------------------------------------


def test_a_silent_worker_is_worth_a_warning(started: Gate, caplog: pytest.LogCaptureFixture) -> None:
    with ProxyPool(Busy, worker_count=2, stall_warning=0.05) as pool, caplog.at_level(logging.WARNING, "objproxy"):
        future = pool[1].sleep.submit(started)
        poll_until(lambda: caplog.records)
        record = caplog.records[0]
        assert (record.name, record.levelno, record.worker_id) == ("objproxy", logging.WARNING, 1)  # type: ignore[attr-defined]
        assert "worker 1" in record.getMessage()
        assert "sleep, item 0" in record.getMessage()
        assert future.cancel()
        pool.wait_ready(PATIENCE_SECONDS)
        assert len(caplog.records) == 1


# ---- evidence -------------------------------------------------------------------------------------------------------------


def test_a_crash_leaves_its_trace(pool: ProxyPool[Busy]) -> None:
    with pytest.raises(WorkerDiedError) as caught:
        pool[0].crash()
    assert caught.value.signal == "SIGSEGV"
    assert "in crash" in caught.value.stack
    assert caught.value.stack.rstrip() in str(caught.value)


def test_the_most_memory_that_a_worker_held_is_told(pool: ProxyPool[Busy]) -> None:
    with pytest.raises(WorkerDiedError) as caught:
        pool[0].be_killed()
    assert caught.value.peak_rss is not None
    assert 1e6 < caught.value.peak_rss < 1e10
    assert f"{caught.value.peak_rss / 1e6:.0f} MB" in str(caught.value)


def test_a_kill_for_want_of_memory_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's count is the evidence; a real want of memory would hit more than this test."""
    counts = iter([3, 3, 4])
    monkeypatch.setattr(platform, "count_memory_kills", lambda: next(counts))
    with ProxyPool(Busy, worker_count=2) as pool:
        with pytest.raises(WorkerDiedError, match="somebody did"):
            pool[0].be_killed()
        with pytest.raises(WorkerDiedError, match=r"want of memory .* rose from 3 to 4"):
            pool[0].be_killed()


def test_the_kernels_count_of_such_kills_can_be_read() -> None:
    count = platform.count_memory_kills()
    assert count is None or count >= 0
    assert count is not None or not any(os.path.exists(path) for path in ("/proc/vmstat", "/sys/fs/cgroup/memory.events"))


# ---- what a replacement has to know ---------------------------------------------------------------------------------------


def test_a_worker_that_dies_before_a_journalled_broadcast_has_ended_elsewhere_replays_it(tmp_path: Path) -> None:
    class Scale:
        value = 0

        def __init__(self, gate: Gate) -> None:
            self.gate = gate

        def set(self, value: int, wait_on: int) -> None:
            from objproxy import current_worker

            if current_worker().worker_id == wait_on:
                self.gate.wait()
            self.value = value

        def pid(self) -> int:
            return os.getpid()

    gate = Gate(tmp_path / "gate")
    with ProxyPool(Scale, worker_count=2, init_args=(gate,), on_restart="replay") as pool:
        pid = pool[0].pid()
        caller = threading.Thread(target=lambda: pool.set.options(journal=True)(5, wait_on=1))
        caller.start()
        poll_until(lambda: pool._core.recipe.replays[0])
        os.kill(pid, signal.SIGKILL)
        poll_until(lambda: pool.workers[0].generation == 1)
        gate.open()
        caller.join()
        with pytest.raises(WorkerDiedError):
            pool[0].pid()
        assert pool.value.tolist() == [5, 5]


def test_a_worker_that_joins_a_pool_has_what_the_journalled_broadcasts_gave_the_others() -> None:
    with ProxyPool(Setting, worker_count=1, on_restart="replay") as pool:
        pool.set.options(journal=True)(3)
        pool.resize(3)
        assert pool.value.tolist() == [3, 3, 3]
        pool.resize(1)
        pool.set.options(journal=True)(4)
        pool.resize(2)
        assert pool.value.tolist() == [4, 4]


class Setting:
    value = 0

    def set(self, value: int) -> None:
        self.value = value

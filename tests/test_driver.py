"""Who waits, who turns the engine, and what is done when that goes wrong: the corners that other tests pass by."""

from __future__ import annotations

import collections
import concurrent.futures as cf
import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faulty import Meeting, Victim
from objproxy import ArgumentPickleError, PoolBrokenError, PoolClosedError, ProxyPool, WorkerDiedError
from stream_targets import Clerk
from targets import PATIENCE_SECONDS, poll_until


@pytest.fixture
def pool() -> Iterator[ProxyPool[Victim]]:
    with ProxyPool(Victim, worker_count=2, max_restarts=(10_000, 1.0)) as made:
        yield made


class Taken(collections.deque[Any]):
    """Seems to hold something, and does not: another thread was faster."""

    def __bool__(self) -> bool:
        return True

    def pop(self, _at: int = 0) -> Any:
        return self.popleft()


def test_a_future_that_fails_at_once_is_told_in_its_submission() -> None:
    with ProxyPool(Victim, worker_count=2, max_restarts=(0, 100.0)) as pool:
        with pytest.raises(WorkerDiedError):
            pool[0].obey("SIGKILL")
        future = pool[0].obey.submit(1)
        assert isinstance(future.exception(0), WorkerDiedError)


def test_a_callback_may_wait_for_a_limited_time(pool: ProxyPool[Victim], tmp_path: Path) -> None:
    """It is called by the thread that turns the engine, which goes on turning it meanwhile."""
    meeting, errors = Meeting(tmp_path / "meeting"), []
    running = pool.obey.submit(meeting)

    def wait(_future: cf.Future[Any]) -> None:
        for seconds in (0.01, PATIENCE_SECONDS):
            try:
                assert pool._core.driver.wait_until(running.done, pool._core.backend.now() + seconds)
            except AssertionError as exc:
                errors.append(exc)
                meeting.end()

    future = pool.obey.submit(1)
    future.add_done_callback(wait)
    assert future.result(PATIENCE_SECONDS) == 1
    assert running.result(PATIENCE_SECONDS) == "met"
    assert len(errors) == 1


def test_a_closed_pool_is_not_looked_at() -> None:
    pool = ProxyPool(Victim, worker_count=1)
    pool.close()
    assert pool.workers == ()


def test_a_call_that_is_dropped_twice_is_dropped_once(pool: ProxyPool[Victim]) -> None:
    future = pool.obey.submit(1)
    driver, call = pool._core.driver, future._call  # type: ignore[attr-defined]
    assert future.result(PATIENCE_SECONDS) == 1
    for _ in range(2):
        driver.cancel(call)
    assert call.is_dropped
    assert pool.obey(1).tolist() == [1, 1]


def test_a_call_in_a_forked_child_does_not_touch_the_engine(pool: ProxyPool[Victim], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lock may have been taken by a thread that is not there any more."""
    driver, events = pool._core.driver, []
    with monkeypatch.context() as patch:
        patch.setattr(driver, "_owner_pid", 1)
        patch.setattr(driver, "_feed", events.append)
        for call in (pool[0].obey, pool.obey, pool.obey.map, pool.obey.submit):
            with pytest.raises(PoolClosedError, match="forked"):
                call([1])
    assert events == []
    assert pool.obey(1).tolist() == [1, 1]


def test_two_threads_may_see_to_the_same_leftovers(pool: ProxyPool[Victim]) -> None:
    driver = pool._core.driver
    driver._forgotten = Taken()
    driver._resolved = Taken()  # type: ignore[assignment]
    driver._cancel_forgotten()
    driver._resolve()
    driver._forgotten = collections.deque()
    driver._resolved = []
    assert pool.obey(1).tolist() == [1, 1]


def test_what_is_dropped_by_a_thread_that_holds_the_lock_is_seen_to_in_the_next_turn(pool: ProxyPool[Victim]) -> None:
    """The garbage collector may delete an iterator anywhere."""
    driver = pool._core.driver
    results = pool.obey.options(buffersize=4).imap(iter(range(10**9)))
    assert next(results) == 0
    call = results._run.call  # type: ignore[attr-defined]
    with driver._lock:
        del results
    assert not call.is_dropped
    assert pool.obey(1).tolist() == [1, 1]
    assert call.is_dropped


def test_who_waits_for_a_stream_that_is_stopped_goes_on(gates: Any) -> None:
    """Beside the thread that turns the engine, which hears nothing of it."""
    started, gate = gates("started"), gates("gate")
    with ProxyPool(Clerk, worker_count=2) as pool:
        stream = pool.do.stream()
        stream.put([("wait", "late", gate, started)])
        started.wait()
        leader = threading.Thread(target=pool.do, args=(("wait", "leading", gate),))
        leader.start()
        driver = pool._core.driver
        poll_until(driver._leading.locked)
        errors: list[BaseException] = []
        waiter = threading.Thread(target=_note_error, args=(errors, stream.get))
        waiter.start()
        poll_until(lambda: len(driver._sleepers) > 0)
        stream.close()
        waiter.join(PATIENCE_SECONDS)
        assert not waiter.is_alive()
        assert len(errors) == 1
        gate.open()
        leader.join(PATIENCE_SECONDS)


def _note_error(errors: list[BaseException], call: Any) -> None:
    try:
        call()
    except Exception as exc:
        errors.append(exc)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("end", ["close", "kill"])
def test_the_engine_of_a_forked_child_ends_nothing(pool: ProxyPool[Victim], monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        if end == "close":
            pool._core.driver.close()
        else:
            pool._core.driver.kill(PoolClosedError("not mine"))
    assert pool.obey(1).tolist() == [1, 1]


class PickledOnce:
    """Pickles once, and then no more."""

    def __init__(self, order: Any) -> None:
        self.order = order
        self.is_pickled = False

    def __reduce__(self) -> tuple[Any, ...]:
        if self.is_pickled:
            raise LookupError("it was changed")
        self.is_pickled = True
        return _identity, (self.order,)


def _identity(value: Any) -> Any:
    return value


def test_items_that_cannot_be_sent_again_fail_alone(pool: ProxyPool[Victim]) -> None:
    """The death of a worker in mid-chunk has the rest of it sent again, which by now does not pickle."""
    items = [PickledOnce(order) for order in (0, "SIGKILL", 2, 3)]
    outcomes = pool.obey.options(on_error="return", chunksize=4).map(items)
    assert [type(outcome) for outcome in outcomes] == [int, WorkerDiedError, ArgumentPickleError, ArgumentPickleError]
    assert pool.obey.map(range(5)) == list(range(5))


def test_rules_that_fail_in_their_midst_break_the_pool(pool: ProxyPool[Victim], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can tell which of them were applied: by a defect, or by an interrupt."""

    def fail(*_args: Any) -> Any:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(pool._core.driver.state, "handle", fail)
    with pytest.raises(KeyboardInterrupt):
        pool.obey(1)
    with pytest.raises(PoolBrokenError) as caught:
        pool.obey(1)
    assert isinstance(caught.value.__cause__, KeyboardInterrupt)


def test_a_broken_pool_ends_what_it_can(
    pool: ProxyPool[Victim], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One worker that cannot be ended keeps the others from nothing."""
    backend, pids = pool._core.backend, pool.pid.broadcast()
    end = backend.end

    def fail_for_the_first(worker_id: int, generation: int, how: str) -> None:
        if not worker_id:
            raise ZeroDivisionError("cannot be ended")
        end(worker_id, generation, how)

    def fail(_timeout: float | None) -> Any:
        monkeypatch.undo()
        monkeypatch.setattr(backend, "end", fail_for_the_first)
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(backend, "wait", fail)
    with caplog.at_level(logging.ERROR, "objproxy"), pytest.raises(ZeroDivisionError, match="a defect"):
        pool.obey(1)
    assert "while ending a broken pool" in caplog.text
    with pytest.raises(PoolBrokenError, match="a defect"):
        pool.obey(1)
    os.kill(pids[0], signal.SIGKILL)


def test_futures_of_a_pool_that_breaks_are_told(
    pool: ProxyPool[Victim], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also if it was the pump that turned the engine, and everybody else only waits."""
    backend = pool._core.backend
    futures = [pool.obey.submit(Meeting(tmp_path / "never over")) for _ in range(4)]
    poll_until(lambda: pool._core.driver._leading.locked())
    pool._core.driver._pump._wanted.clear()  # nobody else asks for it

    def fail(_timeout: float | None) -> Any:
        monkeypatch.undo()
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(backend, "wait", fail)
    backend.wake()
    assert not cf.wait(futures, PATIENCE_SECONDS).not_done
    for future in futures:
        with pytest.raises(PoolBrokenError, match="a defect"):
            future.result()


class SetMeanwhile(threading.Event):
    """Is set in the moment in which nobody waits for it any more."""

    def __init__(self) -> None:
        super().__init__()
        self.n_waits = 0

    def wait(self, _timeout: float | None = None) -> bool:
        self.n_waits += 1
        if self.n_waits == 1:
            self.set()
            return False
        return super().wait(0)


def test_the_pump_goes_on_if_it_is_wanted_while_it_ends(pool: ProxyPool[Victim]) -> None:
    driver = pool._core.driver
    wanted = driver._pump._wanted = SetMeanwhile()
    future = pool.obey.submit(1)
    poll_until(lambda: driver._pump._thread is None)
    assert future.done()
    assert wanted.n_waits == 2


def test_a_pump_that_could_not_be_started_is_started_the_next_time(
    pool: ProxyPool[Victim], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        monkeypatch.undo()
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        pool.obey.submit(1)
    assert not cf.wait([pool.obey.submit(2)], PATIENCE_SECONDS).not_done


def test_a_pump_steps_away_only_where_there_is_something_to_settle(
    pool: ProxyPool[Victim], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that step away in turn, each replaced by the end of the other, would start threads without end and do nothing."""
    driver: Any = pool._core.driver
    settled: list[Any] = []
    monkeypatch.setattr(driver._pump, "run_callbacks", settled.append)
    driver._drive_for_futures()
    driver._call_user()
    assert settled == []
    monkeypatch.setattr(driver, "_resolved", [None])
    driver._call_user()
    assert settled == [driver._resolve]

"""Watching all pools of a program from beside, without touching what they do."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from objproxy import PoolBrokenError, ProxyPool, WorkerDiedError
from objproxy.observing import Observer, PoolView
from targets import Gate, poll_until


class Work:
    def __init__(self, gate: str = "") -> None:
        self.gate = gate

    def double(self, x: int) -> int:
        return 2 * x

    def wait(self) -> None:
        Gate(self.gate).wait()

    def fail(self, x: int) -> None:
        raise LookupError(f"no {x}")

    def exit(self) -> None:
        import os

        os._exit(3)


def view_of(views: tuple[PoolView, ...], name: str) -> PoolView:
    return next(view for view in views if view.name == name)


@pytest.mark.parametrize("backend", ["process", "thread", "serial"])
def test_a_pool_is_seen_from_its_start_to_its_end(backend: str) -> None:
    with Observer() as observer:
        with ProxyPool(Work, worker_count=2, backend=backend, name="seen") as pool:
            pool.double.map(range(10))
            pool.double(4)
            seen = view_of(observer.look(), "seen")
            assert (seen.kind, seen.backend, seen.phase, seen.n_tasks, seen.n_failed) == ("Work", backend, "open", 12, 0)
            assert [(call.method, call.n_done, call.total, call.error) for call in seen.calls] == [
                ("double", 10, 10, ""),
                ("double", 2, 2, ""),
            ]
            assert all(call.ended is not None and call.ended >= call.began for call in seen.calls)
            assert sum(span.n_items for span in seen.insights.timeline) == 12
            assert [(worker.id, worker.state) for worker in seen.workers] == [(0, "idle"), (1, "idle")]
            again = view_of(observer.look(), "seen")
            assert again.calls == again.insights.timeline == ()
        last = view_of(observer.look(), "seen")
        assert last.phase == "closed"
        assert last.ended is not None
        assert sum(worker.n_tasks for worker in last.insights.workers) == 12
        assert observer.look() == ()


def test_what_runs_is_seen(gates: type[Gate]) -> None:
    gate = gates("go")
    with Observer() as observer, ProxyPool(Work, worker_count=1, init_args=(str(gate.path),)) as pool:
        future = pool.wait.submit()
        poll_until(lambda: observer.look()[0].workers[0].method == "wait")
        (worker,) = pool.workers
        assert (worker.method, worker.state) == ("wait", "busy")
        assert worker.running_seconds > 0
        assert observer.look()[0].n_outstanding == 1
        gate.open()
        future.result()
        assert pool.workers[0].method == ""


def test_a_stream_is_counted_as_long_as_there_is_one() -> None:
    with Observer() as observer, ProxyPool(Work, worker_count=1) as pool:
        stream = pool.double.stream()
        stream.put([1, 2, 3])
        assert [stream.get() for _ in range(3)] == [2, 4, 6]
        assert [(call.method, call.n_done, call.total) for call in observer.look()[0].calls] == [("double", 3, 3)]
        stream.close()
        del stream
        gc.collect()
        assert observer.look()[0].calls == ()


def test_each_failure_is_seen_once_however_it_is_told() -> None:
    with Observer() as observer, ProxyPool(Work, worker_count=2) as pool:
        pool.fail.options(on_error="return").map([0, 1])
        pool.fail.options(on_error="skip").map([0, 1])
        assert list(pool.fail.options(on_error="skip").imap([0, 1])) == []
        for _ in range(2):
            with pytest.raises(LookupError):
                pool.fail(7)
        with pytest.raises(LookupError):
            pool.fail.submit(8).result()
        with pytest.raises(WorkerDiedError):
            pool[0].exit()
        seen = observer.look()[0]
        assert seen.n_failed == 2 + 2 + 2 + 4 + 1 + 1
        assert seen.failing == {"fail": 11, "exit": 1}
        assert [failure.number for failure in seen.failures] == list(range(1, 13))
        assert {failure.item for failure in seen.failures[:6]} == {0, 1}
        assert (seen.failures[0].error, seen.failures[-1].error) == ("LookupError", "WorkerDiedError")
        assert "raise LookupError" in seen.failures[0].traceback


def test_of_many_failures_the_number_is_known() -> None:
    with Observer() as observer, ProxyPool(Work, worker_count=1) as pool:
        pool.fail.options(on_error="skip").map(range(100))
        seen = observer.look()[0]
        assert (seen.n_failed, len(seen.failures)) == (100, 20)
        pool.fail.options(on_error="skip").map(range(1))
        assert [failure.number for failure in observer.look()[0].failures] == [101]


def test_a_call_that_ends_by_an_error_says_so() -> None:
    with Observer() as observer, ProxyPool(Work, worker_count=1) as pool:
        with pytest.raises(LookupError):
            pool.fail.map([1, 2])
        (call,) = observer.look()[0].calls
        assert (call.method, call.error) == ("fail", "LookupError")


def test_an_error_that_cannot_be_shown_does_no_harm() -> None:
    class Shy(Exception):
        def __str__(self) -> str:
            raise RuntimeError("never")

    class Raises:
        def go(self) -> None:
            raise Shy

    with Observer() as observer, ProxyPool(Raises, worker_count=1, backend="serial") as pool:
        with pytest.raises(Shy):
            pool[0].go()
        assert observer.look()[0].failures[0].text == "(cannot be shown: RuntimeError)"


def test_pools_that_were_there_are_seen_and_left_as_they_were() -> None:
    with ProxyPool(Work, worker_count=2, name="there") as pool:
        pool.double.map(range(10))
        before = pool._core.driver.backend
        with Observer() as observer:
            pool.double.map(range(20))
            seen = view_of(observer.look(), "there")
            assert seen.n_tasks == 30
            assert sum(span.n_items for span in seen.insights.timeline) == 20
            assert pool.insights().timeline == ()
        assert pool._core.driver.backend is before
        assert pool._core.reports.ended is None
        assert pool._core.failure_watch is None
        assert pool.double.map([1]) == [2]


def test_a_time_line_of_the_pools_own_is_used() -> None:
    with ProxyPool(Work, worker_count=1, timeline=True) as pool, Observer() as observer:
        pool.double.map(range(5))
        assert sum(span.n_items for span in observer.look()[0].insights.timeline if span.kind == "call") == 5
        assert sum(span.n_items for span in pool.insights().timeline if span.kind == "call") == 5


def test_a_pool_that_is_watched_ends_when_nobody_holds_it(recwarn: pytest.WarningsRecorder) -> None:
    with Observer() as observer:
        pool: Any = ProxyPool(Work, worker_count=1, name="dropped", warn_unclosed=False)
        held = weakref.ref(pool._core)
        pool.double(1)
        observer.look()
        del pool
        gc.collect()
        assert held() is None
        assert view_of(observer.look(), "dropped").phase == "killed"


def test_there_is_one_observer_at_a_time() -> None:
    with Observer(), pytest.raises(RuntimeError, match="observed already"):
        Observer().start()
    observer = Observer().start()
    observer.stop()
    observer.stop()


def test_a_worker_that_has_answered_is_idle_though_nobody_has_turned_the_engine_since() -> None:
    with Observer() as observer, ProxyPool(Work, worker_count=1) as pool:
        for _ in range(20):
            pool.fail.options(on_error="return").map([1])
            (worker,) = observer.look()[0].workers
            assert (worker.state, worker.method, worker.running_seconds) == ("idle", "", 0.0)


def test_a_pool_that_breaks_has_ended_though_nobody_has_closed_it() -> None:
    with Observer() as observer, ProxyPool(Work, worker_count=1, name="breaks", max_restarts=(0, 5.0)) as pool:
        with pytest.raises(WorkerDiedError):
            pool[0].exit()
        with pytest.raises(PoolBrokenError):
            pool.double.map([1])
        seen = observer.look()[0]
        assert (seen.phase, seen.n_failed) == ("broken", 1)
        assert "exited with code 3" in seen.why
        assert seen.ended is not None
        assert observer.look()[0].ended == seen.ended
    with Observer() as observer:
        pool = ProxyPool(Work, worker_count=1)
        pool.kill()
        (seen,) = observer.look()
        assert (seen.phase, seen.why) == ("killed", "")

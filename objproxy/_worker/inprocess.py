"""A worker that shares the memory of its caller: a thread, or the caller itself. Arguments pass by reference."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from objproxy._worker.boot import make_host
from objproxy._worker.context import Worker, enter_worker, leave_worker
from objproxy._worker.event_loop import EventLoop
from objproxy._worker.execute import Host
from objproxy._worker.outcome import Failure, with_worker_trace
from objproxy._worker.tasks import Ended, Tasks
from objproxy._worker.wire import Operation


class InProcessWorker:
    """One object, served by whichever thread calls `serve`, one at a time.

    Parameters
    ----------
    host : Host
        The object.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._item_base: tuple[int, int] | None = None
        host.worker._locate_item = self._locate_item
        self.tasks = Tasks(host)

    def begin_task(self, seq: int, operation: Operation, item: tuple[int, int] | None) -> None:
        """Begin a concurrent task; it runs in `run_tasks`."""
        enter_worker(self._host.worker, whole_process=False)
        try:
            self.tasks.begin(seq, operation, item)
        finally:
            leave_worker()

    def run_tasks(self, is_woken: Callable[[], bool]) -> list[Ended]:
        """Run the concurrent tasks until one has ended or ``is_woken()``; an interrupt ends all of them."""
        enter_worker(self._host.worker, whole_process=False)
        try:
            return self.tasks.run(is_woken)
        except KeyboardInterrupt:
            self.tasks.cancel_all()
            ended: list[Ended] = []
            while self.tasks.is_any_running:
                ended += self.tasks.run()
            return ended
        finally:
            leave_worker()

    def wake(self) -> None:
        """Make `run_tasks` return; any thread may call this."""
        self._host.loop.wake()

    def forget_tasks(self) -> None:
        """Cancel what runs in the event loop, and close it."""
        enter_worker(self._host.worker, whole_process=False)
        try:
            self._host.loop.close()
        finally:
            leave_worker()

    def serve(self, operation: Operation, call_number: int, start: int, count: int) -> tuple[list[Any], list[int], float]:
        """Carry an operation out; return the outcomes, the offsets of those that failed, and the seconds it took."""
        began = time.perf_counter()
        self._item_base = (call_number, start) if call_number else None
        self._host.worker.begin_calls()
        enter_worker(self._host.worker, whole_process=False)
        try:
            outcomes = self._perform(operation, count)
        finally:
            leave_worker()
            self._item_base = None
        failed = [offset for offset, outcome in enumerate(outcomes) if type(outcome) is Failure]
        return outcomes, failed, time.perf_counter() - began

    def _perform(self, operation: Operation, count: int) -> list[Any]:
        if operation.verb == "map":
            return self._host.perform_map(operation, count)
        try:
            return [self._host.perform(operation)]
        except BaseException as exc:  # the same errors as in a process are the call's own, SystemExit among them
            return [Failure(with_worker_trace(exc))]

    @property
    def instance(self) -> Any:
        """The object."""
        return self._host.instance

    def finish(self) -> tuple[str, BaseException] | None:
        """Run the object's own end; return its name and its error if it raises."""
        enter_worker(self._host.worker, whole_process=False)
        try:
            self._host.finish()
        except BaseException as exc:  # an exit or an interrupt too: the worker is as good as gone
            return self._host.name_of_end(), with_worker_trace(exc)
        finally:
            leave_worker()
        return None

    def _locate_item(self) -> tuple[int, int] | None:
        if self._item_base is None:
            return None
        call_number, start = self._item_base
        return call_number, start + self._host.n_done


def make_worker(
    worker: Worker, build: Callable[[], Any], replays: Iterable[Operation], *, is_of_factory: bool, has_thread: bool = False
) -> InProcessWorker:
    """Build the object with ``build()``, as code that knows which worker it runs in; see `boot.make_host`."""
    enter_worker(worker, whole_process=False)
    try:
        loop = EventLoop(is_of_thread=has_thread)
        return InProcessWorker(make_host(build(), worker, replays, is_of_factory=is_of_factory, loop=loop))
    finally:
        leave_worker()

"""A worker that shares the memory of its caller: a thread, or the caller itself. Arguments pass by reference."""

from __future__ import annotations

import time
from typing import Any

from objproxy._worker.context import Worker, enter_worker, leave_worker
from objproxy._worker.execute import Host
from objproxy._worker.outcome import Failure, with_worker_trace
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

    def finish(self) -> None:
        """Run the object's own end."""
        enter_worker(self._host.worker, whole_process=False)
        try:
            self._host.finish()
        finally:
            leave_worker()

    def _locate_item(self) -> tuple[int, int] | None:
        if self._item_base is None:
            return None
        call_number, start = self._item_base
        return call_number, start + self._host.n_done


def make_host(worker: Worker, build: Any) -> InProcessWorker:
    """Build the object with ``build()``, as code that knows which worker it runs in."""
    enter_worker(worker, whole_process=False)
    try:
        return InProcessWorker(Host(build(), worker))
    finally:
        leave_worker()

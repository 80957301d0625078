"""The future of one task: a real ``concurrent.futures.Future`` that also stops what runs, and turns the engine if it must."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any

from objproxy._engine import forked
from objproxy._engine.calls import Call
from objproxy._engine.driver import Driver
from objproxy._engine.interrupts import Condition, as_user_code, held
from objproxy._worker import natives


class CallFuture(concurrent.futures.Future[Any]):
    """Promise for the result of one task.

    ``wait``, ``as_completed``, ``asyncio.wrap_future`` and callbacks work as with every future. Different from an executor's,
    `cancel` also stops a call that runs: its worker is replaced, as after a time-out, and the state of its object is lost.

    Parameters
    ----------
    driver : Driver
        Turned by the thread that waits for the result, if nobody else turns it.
    call : Call
        The task.
    finish : callable
        Makes the result, or raises the error, from the outcome.
    """

    def __init__(self, driver: Driver, call: Call, finish: Any) -> None:
        super().__init__()
        self._condition = Condition()  # what settles futures must never find it taken for ever
        self._driver = driver
        self._call = call
        self._finish = finish
        # Between them, cancel() and settle() tell the waiters exactly once.
        self._end_lock = natives.Lock()
        self._refusal: BaseException | None = None  # why a forked child cannot wait for it
        call.future = self

    def running(self) -> bool:
        """Return whether a worker is at it."""
        return not self.done() and bool(self._call.running)

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[Any]], object]) -> None:
        """Call `fn` with the future when it is done, in whichever thread turns the engine then."""
        super().add_done_callback(as_user_code(fn))

    @held
    def cancel(self) -> bool:
        """Cancel the task, also if it runs; False only if it is done already."""
        with self._end_lock:
            if not super().cancel():
                return False
            is_first = not self._call.is_dropped
            if is_first:
                self.set_running_or_notify_cancel()
        if is_first:
            self._driver.cancel(self._call, and_running=True)
        return True

    def result(self, timeout: float | None = None) -> Any:
        """Return the result, or raise the error of the call; `timeout` in seconds."""
        error = self.exception(timeout)  # the base class asks whether the error is true, and gives None if it is not
        if error is None:
            return self._result
        try:
            raise error
        finally:
            del error, self  # else its traceback and this frame keep each other alive

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the error of the call, or None; `timeout` in seconds."""
        is_patient = not self._driver.is_calling_hooks
        self._drive(timeout)
        error = super().exception(timeout)
        self._driver.finish_hooks(is_patient=is_patient)
        if error is not None and error is self._refusal:
            raise error
        return error

    def _drive(self, timeout: float | None) -> None:
        if not self.done():
            deadline = None if timeout is None else self._driver.backend.now() + timeout
            self._driver.drive_if_free(self.done, deadline)

    def forget_parent(self) -> None:
        """Refuse to wait, in a forked child: what has no outcome gets an error. Callbacks are the parent's, and not called."""
        self._condition, self._end_lock = Condition(), natives.Lock()
        self._waiters: list[Any] = []
        self._done_callbacks: list[Any] = []
        if not self.done():
            self._exception = self._refusal = forked.refusal()
            self._state = "FINISHED"

    def forget(self) -> None:
        """Let nobody wait for the task: if it is queued it never runs, if it runs it is left to finish."""
        self._driver.cancel(self._call)

    def settle(self, outcome: Any, worker_id: int | None) -> None:
        """Take the outcome in; called by the driver, outside of its lock."""
        with self._end_lock:
            if self.cancelled() or not self.set_running_or_notify_cancel():
                return
        try:
            result = self._finish(outcome, worker_id)
        except BaseException as exc:
            self.set_exception(exc)
        else:
            self.set_result(result)
        finally:
            self._finish = None  # it may hold the pool

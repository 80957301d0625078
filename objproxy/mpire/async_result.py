"""The result of a task that is not there yet."""

from __future__ import annotations

import contextlib
import enum
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any

__all__ = ["AsyncResult", "JobType"]

_job_ids = itertools.count()


class JobType(enum.Enum):
    """The kinds of results that MPIRE tells apart; `AsyncResult` is that of an apply."""

    MAIN = enum.auto()
    INIT = enum.auto()
    MAP = enum.auto()
    EXIT = enum.auto()
    APPLY = enum.auto()


class AsyncResult:
    """The result of `WorkerPool.apply_async`; the pool makes it.

    Parameters
    ----------
    future : Future
        The task.
    callback : callable or None
        Called with the result.
    error_callback : callable or None
        Called with the error.
    unpack : callable
        Makes the result of what the worker returned.

    Attributes
    ----------
    job_id : int
        Number of the task.
    type : JobType
        `JobType.APPLY`.

    Notes
    -----
    A callback runs once, before `get` returns, in whichever thread takes the result in. One that raises is logged and costs
    nothing else.
    """

    def __init__(
        self,
        future: Future[Any],
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
        unpack: Callable[[Any], Any] = lambda value: value,
    ) -> None:
        self.type = JobType.APPLY
        self.job_id = next(_job_ids)
        self._future = future
        self._callback = callback
        self._error_callback = error_callback
        self._unpack = unpack
        self._is_known = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._is_settled = threading.Event()
        self._owner_pid = os.getpid()
        future.add_done_callback(self._settle)

    def _settle(self, _future: Future[Any]) -> None:
        try:
            self._learn()
            if self._error is None:
                self._tell(self._callback, self._value)
            else:
                self._tell(self._error_callback, self._error)
        finally:
            self._is_settled.set()

    def _learn(self) -> None:
        """Take the outcome from the future; who is interrupted in here does it again."""
        try:
            self._error = self._future.exception()
        except CancelledError as exc:
            self._error = exc
        if self._error is None:
            self._value = self._unpack(self._future.result())
        self._is_known = True

    def _tell(self, callback: Callable[[Any], Any] | None, what: Any) -> None:
        if callback is None:
            return
        try:
            callback(what)
        except Exception:
            logging.getLogger("objproxy").exception("a callback of apply_async raised")

    def _is_owned(self) -> bool:
        return os.getpid() == self._owner_pid

    def ready(self) -> bool:
        """Return whether the task has ended, well or not."""
        return self._is_settled.is_set()

    def successful(self) -> bool:
        """Return whether the task has ended without an error.

        Raises
        ------
        ValueError
            It has not ended yet.
        """
        if not self.ready():
            raise ValueError(f"{self.job_id} is not ready")
        return self._error is None

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the task has ended, or `timeout` seconds have passed."""
        if not self._is_owned():
            self._future.exception()  # what has no outcome has a PoolClosedError now
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._future.done():
            # This thread turns the engine, if nobody else does.
            with contextlib.suppress(CancelledError, TimeoutError):
                self._future.exception(timeout)
        self._is_settled.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))

    def get(self, timeout: float | None = None) -> Any:
        """Return the result, or raise the error of the task; may be called again.

        Parameters
        ----------
        timeout : float or None
            Seconds; None waits as long as it takes.

        Raises
        ------
        TimeoutError
            The task has not ended in time; it goes on.
        """
        self.wait(timeout)
        if not self.ready() and self._is_owned():
            raise TimeoutError(f"the task has not ended within {timeout} s; it goes on, call get() again")
        if not self._is_known:
            self._learn()
        if self._error is not None:
            raise self._error
        return self._value

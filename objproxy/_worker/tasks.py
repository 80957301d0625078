"""Concurrent tasks of a worker: coroutines of its object that overlap while they wait."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from objproxy._worker.context import ItemOfTask, item_of_task
from objproxy._worker.event_loop import forget_unawaited, is_awaitable, stack_of
from objproxy._worker.execute import Host
from objproxy._worker.outcome import Failure
from objproxy._worker.wire import Operation


class Ended(NamedTuple):
    """A task that has ended.

    Attributes
    ----------
    seq : int
        Its number.
    method : str
        The method.
    outcome : object
        What it returned, or a `Failure`.
    seconds : float
        How long it took.
    """

    seq: int
    method: str
    outcome: Any
    seconds: float


class Tasks:
    """Runs tasks in the event loop of a worker.

    Parameters
    ----------
    host : Host
        The object.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._running: dict[int, tuple[Any, Any]] = {}  # by their numbers: asyncio's task and our coroutine
        self._ended: list[Ended] = []

    @property
    def is_any_running(self) -> bool:
        """Whether a task runs, or has ended and was not taken."""
        return bool(self._running or self._ended)

    @property
    def is_any_ended(self) -> bool:
        """Whether there is something to take."""
        return bool(self._ended)

    def begin(self, seq: int, operation: Operation, item: tuple[int, int] | None) -> None:
        """Begin a task; `item` is what its random numbers depend on, None for those of the worker.

        What is called is not called in the loop: a plain method may run a loop of its own, and ends here.
        """
        began, context = time.perf_counter(), contextvars.copy_context()
        context.run(item_of_task.set, None if item is None else ItemOfTask(item))
        try:
            value = context.run(self._host.call_once, operation, is_alone=not self._running)
            if is_awaitable(value):
                self._await(seq, operation.name, value, context, began)
                return
            outcome = self._host.keep(value)
        except BaseException as exc:
            outcome = Failure(exc)
        self._ended.append(Ended(seq, operation.name, outcome, time.perf_counter() - began))

    def _await(self, seq: int, method: str, value: Any, context: contextvars.Context, began: float) -> None:
        """Run what a method has returned in the loop."""
        loop, coroutine = self._host.loop, self._perform(value)
        task = loop.get(value).create_task(coroutine, context=context)
        self._running[seq] = task, coroutine

        def note_end(_task: Any) -> None:
            self._running.pop(seq, None)
            forget_unawaited(value, task)
            outcome = task.result() if not task.cancelled() else Failure(_cancelled())
            self._ended.append(Ended(seq, method, outcome, time.perf_counter() - began))
            loop.stop()

        task.add_done_callback(note_end)

    async def _perform(self, awaitable: Any) -> Any:
        """Await the value of a call; SystemExit and KeyboardInterrupt too are its error, and do not end the loop."""
        try:
            return self._host.keep(await awaitable)
        except BaseException as exc:
            return Failure(exc)

    def take_ended(self) -> list[Ended]:
        """Return the tasks that have ended, once."""
        ended, self._ended = self._ended, []
        return ended

    def cancel(self, seq: int) -> str | None:
        """Cancel a task and return where it stood; None if it does not run."""
        if seq not in self._running:
            return None
        task, coroutine = self._running[seq]
        stack = stack_of(coroutine.cr_await) or stack_of(coroutine)
        task.cancel()
        return f"Coroutine (most recent call last):\n{stack}"

    def cancel_all(self) -> None:
        """Cancel every task, and let each begin to clean up."""
        for task, _ in self._running.values():
            task.cancel()

    def run(self, is_woken: Callable[[], bool] = lambda: False) -> list[Ended]:
        """Run the loop until a task has ended, or it is woken; return the tasks that have ended."""
        self._host.loop.wait(lambda: not self._ended and not is_woken())
        return self.take_ended()


def _cancelled() -> BaseException:
    import asyncio

    return asyncio.CancelledError()

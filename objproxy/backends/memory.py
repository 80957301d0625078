"""What the back ends that share the caller's memory have in common: their workers, and the building of objects."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from objproxy._engine import failures
from objproxy._engine import messages as m
from objproxy._engine.interrupts import user_code
from objproxy._worker.boot import own_attributes
from objproxy._worker.context import Worker
from objproxy._worker.inprocess import InProcessWorker, make_worker
from objproxy._worker.logs import tag_records
from objproxy._worker.outcome import Failure, with_worker_trace
from objproxy._worker.parcel import resolve, resolvers
from objproxy._worker.tasks import Ended
from objproxy._worker.wire import Operation
from objproxy.backends.base import PoolContext, WorkerInfo
from objproxy.handling import log_error

_logger = logging.getLogger("objproxy")


class MemoryWorker:
    """One worker in the memory of the caller.

    Parameters
    ----------
    context : PoolContext
        Builds its object.
    worker_id, generation : int
        Which one it is.
    wake : callable
        Called when it has reported progress.
    has_thread : bool
        Whether it has a thread for itself.
    """

    def __init__(
        self,
        context: PoolContext,
        worker_id: int,
        generation: int,
        wake: Callable[[], None] = lambda: None,
        *,
        has_thread: bool = False,
    ) -> None:
        self._has_thread = has_thread
        self.worker_id = worker_id
        self.generation = generation
        self.info = WorkerInfo()
        self._recipe = context.recipe
        self._on_progress = context.on_progress
        self._wake = wake
        self._served: InProcessWorker | None = None

    def boot(self) -> list[m.Event]:
        """Build the object; return the event that says how it went."""
        tag_records()
        boot = self._recipe.boot(self.worker_id, self.generation, with_pickles=False)
        worker = Worker(
            self.worker_id,
            boot.n_workers,
            device=self._recipe.device(self.worker_id),
            generation=self.generation,
            pool_name=boot.pool_name,
            entropy=boot.entropy,
            depth=boot.depth,
            on_progress=self._report,
        )
        began = time.perf_counter()
        try:
            with user_code:
                self._served = make_worker(
                    worker,
                    lambda: self._recipe.build(self.worker_id, self.generation),
                    self._recipe.replay(self.worker_id),
                    is_of_factory=self._recipe.is_of_factory,
                    has_thread=self._has_thread,
                )
        except BaseException as exc:
            return [*init_failed(self.worker_id, self.generation, exc, str(worker.device or "") or None)]

        seconds = time.perf_counter() - began
        self.info = WorkerInfo(None, 0.0, seconds, own_attributes(self._served.instance))
        return [m.Ready(self.worker_id, self.generation)]

    def _report(self, done: int, total: int | None) -> None:
        self._on_progress(self.worker_id, done, total)
        self._wake()

    def serve(self, batch: m.Batch) -> m.Replied:
        """Run a batch."""
        assert self._served is not None
        rules = batch.rules
        try:
            with user_code:
                outcomes, failed, seconds = self._served.serve(batch.payload.data, rules.call_number, batch.start, batch.count)
        except BaseException as exc:  # an interrupt before or after the user's own code
            outcomes, failed, seconds = [Failure(exc)] * batch.count, list(range(batch.count)), 0.0
        return m.Replied(self.worker_id, self.generation, batch.seq, outcomes, failed, True, seconds)

    # ---- concurrent tasks --------------------------------------------------------------------------------------------

    @property
    def is_any_running(self) -> bool:
        """Whether a concurrent task runs."""
        return self._served is not None and self._served.tasks.is_any_running

    def begin_task(self, batch: m.Batch) -> list[m.Event]:
        """Begin a concurrent task, which runs in `run_tasks`."""
        assert self._served is not None
        item = (batch.rules.call_number, batch.start) if batch.rules.call_number else None
        try:
            with user_code:
                self._served.begin_task(batch.seq, batch.payload.data, item)
        except KeyboardInterrupt as exc:  # before the user's own code
            failed = Failure(with_worker_trace(exc))
            return [m.Replied(self.worker_id, self.generation, batch.seq, [failed], [0], True, 0.0)]
        return []

    def cancel_task(self, seq: int) -> list[m.Event]:
        """Cancel a concurrent task, which ends in `run_tasks`."""
        stack = None if self._served is None else self._served.tasks.cancel(seq)
        return [] if stack is None else [m.Stopping(self.worker_id, self.generation, seq, stack)]

    def run_tasks(self, is_woken: Callable[[], bool] = lambda: False) -> list[m.Event]:
        """Run the concurrent tasks until one has ended or ``is_woken()``; return the answers."""
        assert self._served is not None
        try:
            with user_code:
                return [self._answer(ended) for ended in self._served.run_tasks(is_woken)]
        except KeyboardInterrupt:  # before the user's own code
            return []

    def _answer(self, ended: Ended) -> m.Event:
        outcome = ended.outcome
        is_failure = type(outcome) is Failure
        if is_failure:
            outcome = Failure(with_worker_trace(outcome.error))
        failed = [0] if is_failure else []
        return m.Replied(self.worker_id, self.generation, ended.seq, [outcome], failed, True, ended.seconds)

    def wake_tasks(self) -> None:
        """Make `run_tasks` return; any thread may call this."""
        if self._served is not None:
            self._served.wake()

    def forget_tasks(self) -> list[m.Event]:
        """Cancel what runs in the event loop of the worker, and close that."""
        if self._served is not None:
            try:
                with user_code:
                    self._served.forget_tasks()
            except BaseException as exc:  # the worker ends all the same
                log_error(_logger, "the event loop of worker %d was not closed in order", exc, self.worker_id)
        return []

    def finish(self) -> list[m.Event]:
        """Run the object's own end and be gone; return the events that say how it went."""
        served, self._served = self._served, None
        try:
            with user_code:
                failed = None if served is None else served.finish()
        except BaseException as exc:  # an interrupt before the user's own code
            failed = "close", exc
        # There is no interpreter to end here, so nothing is left to be done.
        events: list[m.Event] = [m.Ending(self.worker_id, self.generation, "leaving")]
        if failed is not None:
            events.append(m.EndFailed(self.worker_id, self.generation, *failed))
        return [*events, m.Died(self.worker_id, self.generation, exitcode=0)]


def stack_of(thread_id: int | None) -> str:
    """Return where a thread of this process stands; "" if there is no such thread."""
    frame = None if thread_id is None else sys._current_frames().get(thread_id)
    return "" if frame is None else "".join(traceback.format_stack(frame))


def init_failed(worker_id: int, generation: int, error: BaseException, device: str | None) -> tuple[m.InitFailed, m.Died]:
    """Return the events that tell of a constructor that raised."""
    init_error = failures.raised_in_constructor(worker_id, with_worker_trace(error), device)
    return m.InitFailed(worker_id, generation, init_error), m.Died(worker_id, generation, exitcode=1)


class ByReference:
    """How values travel where nothing is copied."""

    def encode(self, operation: Operation) -> Operation:
        """Pass the arguments as they are; what is shared, as what it stands for."""
        return operation._replace(args=resolve(operation.args), kwargs=resolve(operation.kwargs)) if resolvers else operation

    def pack(self, value: Any) -> Any:
        """Pass a value as it is."""
        return resolve(value)

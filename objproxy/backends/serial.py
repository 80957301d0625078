"""Workers that run in the caller, one call after another: for debugging, and as the plainest meaning of every rule.

The calling thread runs a batch when it waits for results, so ``breakpoint()`` works and tracebacks are whole. Each worker still
has an object of its own.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from objproxy._engine import messages as m
from objproxy._engine.interrupts import waiting_for_events
from objproxy._worker.waits import Bell
from objproxy.backends.base import Capabilities, PoolContext, WorkerInfo
from objproxy.backends.memory import ByReference, MemoryWorker


class SerialBackend(ByReference):
    """Runs every worker in the thread that waits."""

    name = "serial"
    capabilities = Capabilities(can_kill=False, crosses_processes=False, binds_devices=False, can_run_concurrently=True)

    def __init__(self) -> None:
        self._context: PoolContext | None = None
        self._workers: dict[int, MemoryWorker] = {}
        self._todo: deque[Callable[[], Sequence[m.Event]]] = deque()
        self._bell = Bell()

    def open(self, context: PoolContext) -> None:
        """Keep what builds the objects."""
        self._context = context

    def now(self) -> float:
        """Return the monotonic time."""
        return time.monotonic()

    def start(self, worker_id: int, generation: int) -> None:
        """Note that an object has to be built."""
        assert self._context is not None
        worker = self._workers[worker_id] = MemoryWorker(self._context, worker_id, generation)
        self._todo.append(worker.boot)

    def send(self, worker_id: int, batch: m.Batch) -> None:
        """Note that a batch has to be run."""
        worker = self._workers[worker_id]
        if batch.rules.concurrency:
            self._todo.append(lambda: worker.begin_task(batch))
        else:
            self._todo.append(lambda: [worker.serve(batch)])
        self.wake()  # another thread may be waiting

    def stop(self, worker_id: int, generation: int, seq: int, limit: float | None) -> None:
        """Note that a task has to be cancelled."""
        worker = self._workers[worker_id]
        self._todo.append(lambda: worker.cancel_task(seq))
        self.wake()

    def inspect(self, worker_id: int, generation: int, is_last_call: bool, limit: float | None = None) -> None:
        """Say nothing: who asks runs in the worker's own thread."""
        self._todo.appendleft(lambda: [m.Inspected(worker_id, generation, "")])

    def end(self, worker_id: int, generation: int, how: str) -> None:
        """Note that a worker has to end; a kill leaves out the object's own end, and what was to be run for it."""
        worker = self._workers[worker_id]
        if how == "ask":
            self._todo.append(worker.finish)
        else:
            self._todo.append(lambda: [*worker.forget_tasks(), m.Died(worker_id, generation)])

    def wait(self, timeout: float | None) -> Sequence[m.Event]:
        """Do the next thing that is to be done; if there is none, nothing will ever happen but time."""
        if self._todo:
            return self._todo.popleft()()
        busy = next((worker for worker in self._workers.values() if worker.is_any_running), None)
        if busy is not None:  # what these wait for passes by itself
            return busy.run_tasks(lambda: bool(self._todo))
        if timeout:
            with waiting_for_events:
                self._bell.wait(timeout)
        return []

    def wake(self) -> None:
        """Make `wait` return."""
        for worker in list(self._workers.values()):
            worker.wake_tasks()
        self._bell.ring()

    def info(self, worker_id: int) -> WorkerInfo:
        """Return what is known of a worker."""
        worker = self._workers.get(worker_id)
        return worker.info if worker is not None else WorkerInfo()

    def close(self) -> None:
        """Forget the objects."""
        self._workers.clear()
        self._todo.clear()

    def abandon(self) -> None:
        """Forget the copy of everything that a forked child has."""
        self.close()

"""Workers that are threads: no copies, no start-up, and no protection: a crash, an endless loop or ``os._exit`` hits everybody.

A thread cannot be ended from outside. So there are no time limits here, and a pool that is killed forgets its threads: they
finish what they run, and end.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from objproxy._engine import messages as m
from objproxy._engine.interrupts import waiting_for_events
from objproxy._worker import forking
from objproxy._worker.outcome import Failure
from objproxy._worker.waits import Bell, Helper, make_inbox
from objproxy.backends.base import Capabilities, PoolContext, WorkerInfo
from objproxy.backends.memory import ByReference, MemoryWorker, stack_of
from objproxy.handling import describe, log_error

_logger = logging.getLogger("objproxy")


class ThreadBackend(ByReference):
    """Runs each worker in a thread of the calling process."""

    name = "thread"
    capabilities = Capabilities(can_kill=False, crosses_processes=False, binds_devices=False, can_run_concurrently=True)

    def __init__(self) -> None:
        self._context: PoolContext | None = None
        self._events: deque[m.Event] = deque()
        self._bell = Bell()
        self._threads: dict[int, _WorkerThread] = {}

    def open(self, context: PoolContext) -> None:
        """Keep what builds the objects."""
        self._context = context

    def now(self) -> float:
        """Return the monotonic time."""
        return time.monotonic()

    def start(self, worker_id: int, generation: int) -> None:
        """Start a thread."""
        assert self._context is not None
        worker = MemoryWorker(self._context, worker_id, generation, self.wake, has_thread=True)
        self._threads[worker_id] = _WorkerThread(worker, self._tell)

    def send(self, worker_id: int, batch: m.Batch) -> None:
        """Put a batch into the thread's queue."""
        self._threads[worker_id].put(batch)

    def stop(self, worker_id: int, generation: int, seq: int, limit: float | None) -> None:
        """Have the thread cancel a task."""
        self._threads[worker_id].put(seq)

    def inspect(self, worker_id: int, generation: int, is_last_call: bool, limit: float | None = None) -> None:
        """Look at the thread's frames."""
        self._tell(m.Inspected(worker_id, generation, stack_of(self._threads[worker_id].ident)))

    def end(self, worker_id: int, generation: int, how: str) -> None:
        """Ask the thread to end; anything more does not wait for what it runs."""
        thread = self._threads[worker_id]
        if how == "ask":
            thread.put(None)
        else:
            thread.forget()
            self._tell(m.Died(worker_id, generation))

    def wait(self, timeout: float | None) -> Sequence[m.Event]:
        """Wait for what the threads tell."""
        if not self._events:
            with waiting_for_events:
                self._bell.wait(timeout)
        return [self._events.popleft() for _ in range(len(self._events))]

    def _tell(self, event: m.Event) -> None:
        self._events.append(event)
        self.wake()

    def wake(self) -> None:
        """Make `wait` return."""
        self._bell.ring()

    def info(self, worker_id: int) -> WorkerInfo:
        """Return what is known of a worker."""
        thread = self._threads.get(worker_id)
        return thread.worker.info if thread is not None else WorkerInfo()

    def close(self) -> None:
        """Wait for the threads that were asked to end."""
        for thread in list(self._threads.values()):  # several threads may close the pool
            thread.join_if_ending()
        self._threads.clear()

    def abandon(self) -> None:
        """Threads do not survive a fork; there is nothing to let go."""
        self._threads.clear()


class _WorkerThread:
    """A thread, its queue, and the worker that it serves."""

    def __init__(self, worker: MemoryWorker, tell: Callable[[m.Event], None]) -> None:
        self.worker = worker
        self._inbox = make_inbox()
        self._tell = tell
        self._is_forgotten = False
        self._n_forks = forking.count
        # A daemon, because a call that never ends must not keep the interpreter from ending.
        self._thread = Helper(self._run, f"objproxy-worker-{worker.worker_id}")
        self._thread.start()

    @property
    def ident(self) -> int | None:
        """The thread's identifier."""
        return self._thread.ident

    def put(self, message: m.Batch | int | None) -> None:
        """Give the thread a batch to run, the number of a task to cancel, or None to end."""
        self._inbox.put(message)
        self.worker.wake_tasks()

    def forget(self) -> None:
        """Listen no more to this thread; it ends when it has done what it runs, and cancels its coroutines."""
        self._is_forgotten = True
        self.put(None)

    def join_if_ending(self) -> None:
        if not self._is_forgotten and not self._thread.is_current():
            self._thread.join()

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException as exc:  # a defect: the pool must not wait for a thread that is gone
            log_error(_logger, "the thread of worker %d failed", exc, self.worker.worker_id)
            self._say(m.Died(self.worker.worker_id, self.worker.generation, exitcode=1, detail=describe(exc)))

    def _serve(self) -> None:
        events = self.worker.boot()
        self._end_child(None)
        for event in events:
            self._say(event)
            if type(event) is m.Died:
                return
        while (message := self._next_message()) is not None and not self._is_forgotten:
            if isinstance(message, int):
                events = self.worker.cancel_task(message)
            elif message.rules.concurrency:
                events = self.worker.begin_task(message)
            else:
                events = [self.worker.serve(message)]
            self._say_all(events)
            del message, events  # they may be large, and an error holds its caller; the next may be long in coming
        if self._is_forgotten:
            self.worker.forget_tasks()
        else:  # a pool that was killed does not run the objects' own ends
            self._say(m.Ending(self.worker.worker_id, self.worker.generation, "finishing"))
            events = self.worker.finish()
            self._end_child(None)
            for event in events:
                self._say(event)

    def _next_message(self) -> m.Batch | int | None:
        """Wait for the next message; run the concurrent tasks meanwhile, and tell which have ended."""
        while self.worker.is_any_running and self._inbox.empty():
            self._say_all(self.worker.run_tasks(lambda: not self._inbox.empty()))
        message: m.Batch | int | None = self._inbox.get()
        return message

    def _say_all(self, events: Sequence[m.Event]) -> None:
        for event in events:
            if isinstance(event, m.Replied):
                self._end_child(event.outcomes[-1])
            self._say(event)

    def _end_child(self, outcome: object) -> None:
        """End this process if the user's code has forked it: nothing waits here for what this thread, the only one, does."""
        if forking.count != self._n_forks:
            forking.end_child(outcome.error if type(outcome) is Failure else None)

    def _say(self, event: m.Event) -> None:
        if not self._is_forgotten:
            self._tell(event)

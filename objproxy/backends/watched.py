"""A back end that lets others watch: whoever wants to know what happens to the workers need not be part of the engine."""

from __future__ import annotations

from collections.abc import Sequence

from objproxy._engine.messages import Batch, Event
from objproxy.backends.base import Backend, PoolContext, WorkerInfo


class Watcher:
    """Is told what passes through the seam between engine and back end; a base whose methods do nothing."""

    def started(self, worker_id: int, generation: int, now: float) -> None:
        """Note that a worker is being started."""

    def sent(self, worker_id: int, batch: Batch, now: float) -> None:
        """Note that a batch was sent to a worker."""

    def ending(self, worker_id: int, generation: int, how: str, now: float) -> None:
        """Note that a worker was asked to end, interrupted, or is being killed."""

    def happened(self, event: Event, info: WorkerInfo, now: float) -> None:
        """Note an event; `info` is what is known of its worker."""

    def seconds_until_look(self, now: float) -> float | None:
        """Return after how many seconds `look` shall be called though nothing happens; None: not at all."""
        return None

    def look(self, now: float) -> None:
        """Look at the clock."""

    def closed(self) -> None:
        """Note that there will be no more."""


class WatchedBackend:
    """A back end and its watchers.

    Parameters
    ----------
    backend : Backend
        Does the work.
    watchers : sequence of Watcher
        Are told of it.
    """

    def __init__(self, backend: Backend, watchers: Sequence[Watcher]) -> None:
        self.name = backend.name
        self.capabilities = backend.capabilities
        self._backend = backend
        self._watchers = watchers
        # What is not watched goes straight through.
        self.now = backend.now
        self.encode = backend.encode
        self.pack = backend.pack
        self.wake = backend.wake
        self.info = backend.info
        self.inspect = backend.inspect
        self.abandon = backend.abandon

    def open(self, context: PoolContext) -> None:
        """Take over what the pool gives."""
        self._backend.open(context)

    def start(self, worker_id: int, generation: int) -> None:
        """Start a worker."""
        now = self.now()
        for watcher in self._watchers:
            watcher.started(worker_id, generation, now)
        self._backend.start(worker_id, generation)

    def send(self, worker_id: int, batch: Batch) -> None:
        """Send a batch to a worker."""
        now = self.now()
        for watcher in self._watchers:
            watcher.sent(worker_id, batch, now)
        self._backend.send(worker_id, batch)

    def stop(self, worker_id: int, generation: int, seq: int, limit: float | None) -> None:
        """Have a worker cancel a task."""
        self._backend.stop(worker_id, generation, seq, limit)

    def end(self, worker_id: int, generation: int, how: str) -> None:
        """End a worker."""
        now = self.now()
        for watcher in self._watchers:
            watcher.ending(worker_id, generation, how, now)
        self._backend.end(worker_id, generation, how)

    def wait(self, timeout: float | None) -> Sequence[Event]:
        """Wait until something happens."""
        events = self._backend.wait(self._shortened(timeout))
        now = self.now()
        for watcher in self._watchers:
            for event in events:
                # Every event of a back end is of a worker; the callers' own events never come from there.
                watcher.happened(event, self.info(event.worker_id), now)  # type: ignore[union-attr]
            watcher.look(now)
        return events

    def _shortened(self, timeout: float | None) -> float | None:
        now = self.now()
        moments = [watcher.seconds_until_look(now) for watcher in self._watchers]
        known = [seconds for seconds in (timeout, *moments) if seconds is not None]
        return max(0.0, min(known)) if known else None

    def close(self) -> None:
        """Give everything back."""
        self._backend.close()
        for watcher in self._watchers:
            watcher.closed()

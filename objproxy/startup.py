"""A progress bar of the workers that are ready, while their constructors run."""

from __future__ import annotations

from typing import Any

from objproxy._engine import messages as m
from objproxy._engine.messages import Event
from objproxy.backends.base import WorkerInfo
from objproxy.backends.watched import Watcher
from objproxy.progress import Progress

#: Constructors that are done by then need no bar.
_PATIENCE_SECONDS = 1.0


class StartUpBar(Watcher):
    """Shows a bar if it takes long until every worker is ready, and takes it away then.

    Parameters
    ----------
    wanted : bool, str, dict or callable
        As for `Progress`.
    name : str
        Of the pool.
    n_workers : int
        How many there will be.
    """

    def __init__(self, wanted: Any, name: str, n_workers: int) -> None:
        self._wanted = wanted
        self._name = name
        self._n_workers = n_workers
        self._n_ready = 0
        self._shows_at: float | None = None
        self._progress: Progress | None = None
        self._is_over = False

    def started(self, worker_id: int, generation: int, now: float) -> None:
        """Begin to wait with the first worker."""
        if self._shows_at is None:
            self._shows_at = now + _PATIENCE_SECONDS

    def happened(self, event: Event, info: WorkerInfo, now: float) -> None:
        """Count the workers that are ready; one that fails ends the start."""
        if self._is_over:
            return
        if type(event) is m.Ready:
            self._n_ready += 1
            if self._progress is not None:
                self._progress.update(1)
        if type(event) is m.InitFailed:
            self._end(event.error)
        elif self._n_ready == self._n_workers:
            self._end()

    def seconds_until_look(self, now: float) -> float | None:
        """Return when the bar is due."""
        if self._is_over or self._progress is not None or self._shows_at is None:
            return None
        return self._shows_at - now

    def look(self, now: float) -> None:
        """Show the bar when its time has come."""
        if not self._is_over and self._progress is None and self._shows_at is not None and now >= self._shows_at:
            self._progress = Progress(self._wanted, self._n_workers, f"starting {self._name}")
            self._progress.update(self._n_ready)

    def closed(self) -> None:
        """Take the bar away."""
        self._end()

    def _end(self, error: BaseException | None = None) -> None:
        self._is_over = True
        if self._progress is not None:
            self._progress.close(error)

"""What a pool tells of itself: one frozen record a worker, and where the time went."""

from __future__ import annotations

import dataclasses
from typing import Any

from objproxy._worker.platform import resident_bytes


@dataclasses.dataclass(frozen=True)
class WorkerView:
    """One worker at one moment.

    Attributes
    ----------
    id : int
        Index in the pool.
    pid : int or None
        Its process; None for threads and for a worker that is not up.
    device : str or None
        Its device; None for a CPU worker.
    generation : int
        How often it was replaced.
    state : str
        "starting", "idle", "busy", "ending", "gone" or "quarantined".
    n_tasks : int
        Items it has done, over all generations.
    rss : int or None
        Bytes of memory it holds now, where that can be read.
    """

    id: int
    pid: int | None
    device: str | None
    generation: int
    state: str
    n_tasks: int
    rss: int | None

    @property
    def worker_id(self) -> int:
        """The same as `id`."""
        return self.id


@dataclasses.dataclass(frozen=True)
class WorkerInsights:
    """Where the time of one worker went, in seconds.

    Attributes
    ----------
    id : int
        Index in the pool.
    n_tasks : int
        Items it has done.
    start_up, init, waiting, working, exit : float
        Until its process ran; in its constructor; without work; in its methods; ending.
    """

    id: int
    n_tasks: int
    start_up: float
    init: float
    waiting: float
    working: float
    exit: float


@dataclasses.dataclass(frozen=True)
class SlowItem:
    """One of the slowest items.

    Attributes
    ----------
    seconds : float
        How long it took; for an item of a chunk, the mean of its chunk.
    method : str
        What ran.
    item : int
        Its index in its call.
    worker_id : int
        Where it ran.
    """

    seconds: float
    method: str
    item: int
    worker_id: int


@dataclasses.dataclass(frozen=True)
class Insights:
    """Where the time of a pool went.

    Attributes
    ----------
    workers : tuple of WorkerInsights
        One for each worker.
    slowest : tuple of SlowItem
        The slowest items, slowest first; at most five.
    """

    workers: tuple[WorkerInsights, ...]
    slowest: tuple[SlowItem, ...]

    def total(self, part: str) -> float:
        """Return the sum over the workers of one part, for instance ``total("working")``."""
        return float(sum(getattr(worker, part) for worker in self.workers))

    @property
    def working_ratio(self) -> float:
        """Share of the workers' time that they spent in their methods."""
        everything = sum(self.total(part) for part in ("start_up", "init", "waiting", "working", "exit"))
        return self.total("working") / everything if everything else 0.0


def memory_of(pid: int | None) -> int | None:
    """Return the bytes of memory that a process holds, or None where that cannot be read."""
    if pid is None:
        return None
    return resident_bytes(pid) or _resident_bytes_portably(pid)


def _resident_bytes_portably(pid: int) -> int | None:
    try:
        import psutil  # an extra
    except ImportError:
        return None
    try:
        memory: Any = psutil.Process(pid).memory_info()
    except psutil.Error:
        return None
    return int(memory.rss)

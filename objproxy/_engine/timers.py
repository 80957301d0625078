"""The moments by which workers must have done something."""

from __future__ import annotations

import heapq

from objproxy._engine.workers import WorkerRecord


class Timers:
    """At most one deadline for each worker: the end of its constructor, or of its oldest batch.

    A deadline that is met costs nothing more: its entry stays in the heap, and when it comes up it is thrown away, or
    moved to the deadline that the worker has by then. So there is about one entry for each worker, however many tasks
    have a time limit.

    Attributes
    ----------
    heap : list
        Entries: (moment, tie-breaker, worker).
    """

    __slots__ = ("_n_pushed", "heap")

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, WorkerRecord]] = []
        self._n_pushed = 0

    def set(self, record: WorkerRecord, deadline: float) -> None:
        """Watch a worker until `deadline`; setting ``record.deadline = None`` ends it."""
        record.deadline = deadline
        if record.timer is None or deadline < record.timer:
            record.timer = deadline
            self._n_pushed += 1
            heapq.heappush(self.heap, (deadline, self._n_pushed, record))

    def next_deadline(self) -> float | None:
        """Return the first deadline that is not met yet, or None."""
        heap = self.heap
        while heap:
            moment, _, record = heap[0]
            if record.deadline == moment:
                return moment
            heapq.heappop(heap)
            if record.timer == moment:
                record.timer = None
                if record.deadline is not None:
                    self.set(record, record.deadline)
        return None

    def pop_due(self, now: float) -> WorkerRecord | None:
        """Return a worker whose deadline has passed, once, or None."""
        deadline = self.next_deadline()
        if deadline is None or deadline > now:
            return None
        record = heapq.heappop(self.heap)[2]
        record.deadline = record.timer = None
        return record

"""The moments by which workers must have done something."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Timers(Generic[K]):
    """At most one deadline of a kind for each worker: the end of its constructor, say, or of its oldest batch.

    A deadline that is met costs nothing more: its entry stays in the heap, and when it comes up it is thrown away, or
    moved to the deadline that the worker has by then. So there is about one entry for each worker, however many tasks
    have a time limit.

    Attributes
    ----------
    heap : list
        Entries: (moment, tie-breaker, worker).
    deadlines : dict of worker to float
        Those that are neither met nor passed.
    """

    __slots__ = ("_entries", "_n_pushed", "deadlines", "heap")

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, K]] = []
        self.deadlines: dict[K, float] = {}
        self._entries: dict[K, float] = {}  # the earliest entry of each worker in the heap
        self._n_pushed = 0

    def set(self, record: K, deadline: float) -> None:
        """Watch a worker until `deadline`, or until `clear`."""
        self.deadlines[record] = deadline
        entry = self._entries.get(record)
        if entry is None or deadline < entry:
            self._entries[record] = deadline
            self._n_pushed += 1
            heapq.heappush(self.heap, (deadline, self._n_pushed, record))

    def clear(self, record: K) -> None:
        """Watch a worker no more."""
        self.deadlines.pop(record, None)

    def next_deadline(self) -> float | None:
        """Return the first deadline that is not met yet, or None."""
        heap = self.heap
        while heap:
            moment, _, record = heap[0]
            deadline = self.deadlines.get(record)
            if deadline == moment:
                return moment
            heapq.heappop(heap)
            if self._entries.get(record) == moment:
                del self._entries[record]
                if deadline is not None:
                    self.set(record, deadline)
        return None

    def pop_due(self, now: float) -> K | None:
        """Return a worker whose deadline has passed, once, or None."""
        deadline = self.next_deadline()
        if deadline is None or deadline > now:
            return None
        record = heapq.heappop(self.heap)[2]
        del self.deadlines[record], self._entries[record]
        return record

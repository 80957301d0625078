"""The order in which batches wait."""

from __future__ import annotations

import heapq

from objproxy._engine.messages import Batch


class Backlog:
    """Batches that wait: larger priority first, then in order of submission, then by the index of their first item.

    A batch that was sent and has to be sent again keeps its place. Batches of a call that nobody waits for any more
    stay until they come to the front, so that dropping a call costs nothing for each of them; they are never given out.

    Attributes
    ----------
    heap : list
        Empty if nothing waits. Tuples, because they are compared without running Python code.
    """

    __slots__ = ("heap",)

    def __init__(self) -> None:
        self.heap: list[tuple[int, int, int, Batch]] = []

    def push(self, batch: Batch) -> None:
        """Put a batch at its place."""
        rules = batch.rules
        rules.n_queued += batch.count
        heapq.heappush(self.heap, (-rules.priority, batch.order, batch.start, batch))

    def head(self) -> Batch | None:
        """Return the batch that is next, or None."""
        heap = self.heap
        while heap:
            batch = heap[0][3]
            if not batch.rules.is_dropped:
                return batch
            self.pop()
        return None

    def pop(self) -> Batch:
        """Take the first batch out."""
        batch = heapq.heappop(self.heap)[3]
        batch.rules.n_queued -= batch.count
        return batch

    def take_all(self) -> list[Batch]:
        """Take out, in order, all that somebody still waits for."""
        batches = []
        while self.head() is not None:
            batches.append(self.pop())
        return batches

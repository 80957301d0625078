"""The journal: what a dead worker leaves behind.

A chunk of many items is answered by few messages, so a worker that dies inside a chunk would take the results of the items
before along with it. Each result is therefore written into a small shared memory as soon as it exists, and the count of
finished items after it. When the worker dies the parent reads from it which items are finished, with their results, and which
item was running: that one alone is lost.

Only the worker writes, the parent reads after the worker's death; so there is no lock. The order of the writes is what
matters: a result first, then the count. Memory order between them is not a question, since the death of a process is a
barrier. A count without its result cannot be seen; a result without its count belongs to the running item, and is lost.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import NamedTuple

from objproxy._worker import wire

NBYTES = 1 << 17
_HEADER_WORDS = 8
_HEADER_BYTES = _HEADER_WORDS * 8

#: Numbers that fit between two messages.
N_SLOTS = (NBYTES - _HEADER_BYTES) // 8

# Words of the header: batch being run, lane, items finished, first item that is still in the journal, bytes used.
SEQ, LANE, DONE, BASE, USED = range(5)


class Segment(NamedTuple):
    """Results of consecutive items as they travel: lane, number of items, bytes."""

    lane: int
    count: int
    data: bytes

    def packed(self) -> memoryview:
        """Return the segment with its head, as in a message."""
        return memoryview(wire.SEGMENT_HEAD.pack(self.lane, self.count, len(self.data)) + self.data)


def create() -> int:
    """Make the shared memory of a journal and return its descriptor.

    Anonymous where the platform has it (Linux), else a temporary file whose name is removed at once.
    """
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("objproxy-journal", os.MFD_CLOEXEC)
    else:
        fd, path = tempfile.mkstemp(prefix="objproxy-journal-")
        os.unlink(path)
    os.ftruncate(fd, NBYTES)
    return fd


class Journal:
    """The shared memory of one worker, mapped.

    Parameters
    ----------
    fd : int
        From `create`; it is not needed afterwards.
    """

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, NBYTES)
        view = memoryview(self._memory)
        self.header = view[:_HEADER_BYTES].cast("q")
        self.body = view[_HEADER_BYTES:]
        self.ints = self.body.cast("q")
        self.floats = self.body.cast("d")

    def begin(self, seq: int) -> None:
        """Note that batch `seq` has started.

        SEQ is written last. Whoever dies before that leaves the number of the batch before, whose last reply was sent, and
        the parent sees that `seq` has not started.
        """
        header = self.header
        header[DONE] = header[BASE] = header[USED] = 0
        header[SEQ] = seq

    def segment(self) -> Segment:
        """Return the results that are still in the journal."""
        lane, count = self.header[LANE], self.header[DONE] - self.header[BASE]
        return Segment(lane, count, bytes(self.body[: self._nbytes(lane, count)]))

    def _nbytes(self, lane: int, count: int) -> int:
        if lane in (wire.INTS, wire.FLOATS):
            return 8 * count
        return self.header[USED] if lane == wire.PICKLES else 0

    def forget(self) -> None:
        """Drop the results up to now: they have been sent."""
        self.header[BASE] = self.header[DONE]
        self.header[USED] = 0

    def recover(self, seq: int, received: int) -> tuple[Segment | None, int | None] | None:
        """Read what a dead worker left of batch `seq`.

        Parameters
        ----------
        seq : int
            The oldest batch that it had not answered in full.
        received : int
            Number of items of it whose results have arrived.

        Returns
        -------
        tuple or None
            None if the batch had not started; else the results that never arrived, and the index of the item that ran (None if
            no item ran).

        Notes
        -----
        A death between sending and `forget` leaves results that have arrived as well. Messages are sent whole journals at a
        time, so either all of a journal has arrived, or nothing of it. A death between sending a result that never was in the
        journal and counting it leaves ``done < received``: the next item had not started.
        """
        if self.header[SEQ] != seq:
            return None

        done, base = self.header[DONE], self.header[BASE]
        if done <= received:
            return None, (done if done == received else None)
        return (self.segment() if base >= received else None), done

    def close(self) -> None:
        """Unmap the memory."""
        for view in (self.header, self.ints, self.floats, self.body):
            view.release()
        self._memory.close()

"""The journal: what a dead worker leaves behind.

A chunk of many items is answered by few messages, so a worker that dies inside a chunk would take the results of the items
before along with it. Each result is therefore written into a small shared memory as soon as it exists. When the worker dies the
parent reads from it which items are finished, with their results, and which item was running: that one alone is lost.

Only the worker writes, the parent reads after the worker's death; so there is no lock. What matters is the order of the writes:
whenever the worker dies between two of them, the parent must read either the state before or the state after, or one in which
nothing was running. Memory order is not a question, since the death of a process is a barrier.

How many results there are is not counted in the fast lanes: free slots hold a random mark, and the first mark ends the results.
A count would cost a fourth of the time of the hot loop (`chunk._fill`). A result that equals the mark (64 random bits, drawn by
each worker) would be taken for a free slot, and its item for the one that was running.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import sys
import time
from typing import Any, NamedTuple

from objproxy._worker import descriptors, natives, platform, wire
from objproxy._worker.segments import find_folder, map_file
from objproxy.errors import SharedMemoryFullError

NBYTES = 1 << 17
_HEADER_WORDS = 9
_HEADER_BYTES = _HEADER_WORDS * 8

#: Numbers that fit between two messages.
N_SLOTS = (NBYTES - _HEADER_BYTES) // 8

#: Concurrent tasks for which it has room: their numbers, and when each began.
N_TASKS = N_SLOTS // 2

#: Lane of a worker that runs concurrent tasks: the body holds pairs of words, one for each.
TASKS = 255

# Words of the header: batch being run; lane; items of it before those in the journal; items in the journal (slow lanes only);
# bytes that they fill; the mark of a free slot; slots that are in use or marked free; whether arguments are being unpickled;
# when that had ended, in nanoseconds of the monotonic clock, which is one for all processes of a machine.
SEQ, LANE, BASE, COUNT, USED, MARK, LIMIT, UNPICKLING, BEGAN = range(9)


_FILE_LIMIT = (
    "A worker's journal is a file, and no file of this process may be so large (ulimit -f, RLIMIT_FSIZE): raise that limit."
)


class Segment(NamedTuple):
    """Results of consecutive items as they travel: lane, number of items, bytes."""

    lane: int
    n_items: int
    data: bytes

    def packed(self) -> bytes:
        """Return the segment with its head, as in a message."""
        return wire.SEGMENT_HEAD.pack(self.lane, self.n_items, len(self.data)) + self.data


def create() -> int:
    """Make the shared memory of a journal and return its descriptor.

    Anonymous where the platform has it (Linux), else a temporary file whose name is removed at once.
    """
    try:
        return _make_anonymous() if platform.has_memory_files() else _make_in_folder()
    except OSError as exc:
        if exc.errno == errno.EFBIG:
            raise SharedMemoryFullError(NBYTES, 0, _FILE_LIMIT) from exc
        raise


def _make_anonymous() -> int:
    try:
        return descriptors.make_memory_file("objproxy-journal", NBYTES)
    except OSError as exc:
        if exc.errno in (errno.ENOSYS, errno.EPERM, errno.EACCES):  # anonymous files are not allowed here
            return _make_in_folder()
        raise


def _make_in_folder() -> int:
    import shutil  # slow to load, and not needed where memory can be anonymous
    import tempfile

    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:  # no usual folder can be written
        folder = find_folder()
    fd, path = tempfile.mkstemp(prefix="objproxy-journal-", dir=folder)
    os.unlink(path)
    fd = descriptors.move_above_standard(fd)
    try:
        os.ftruncate(fd, NBYTES)
        descriptors.allocate(fd, 0, NBYTES)
    except OSError as exc:
        natives.close(fd)
        if exc.errno == errno.ENOSPC:
            free, hint = (
                shutil.disk_usage(folder).free,
                f"It is for a worker's journal; free some space in {folder}, or set TMPDIR.",
            )
            raise SharedMemoryFullError(NBYTES, free, hint) from exc
        raise
    return fd


class Journal:
    """The shared memory of one worker, mapped.

    Parameters
    ----------
    fd : int
        From `create`; it is not needed afterwards.

    Attributes
    ----------
    header : memoryview of int64
        See the names of its words.
    body : memoryview of bytes
        The results.
    slots : dict of int to memoryview
        The body as numbers, for each lane of numbers.
    """

    def __init__(self, fd: int) -> None:
        self._memory = map_file(fd, 0, NBYTES, mmap.MAP_SHARED)
        view = memoryview(self._memory)
        self.header = view[:_HEADER_BYTES].cast("q")
        self.body = view[_HEADER_BYTES:]
        self.slots: dict[int, Any] = {wire.INTS: self.body.cast("q"), wire.FLOATS: self.body.cast("d")}
        self._free = b""

    def _draw_mark(self) -> bytes:
        """Choose what free slots hold; the worker does this once, when it needs the first."""
        mark = os.urandom(8)
        self.header[MARK] = int.from_bytes(mark, sys.byteorder, signed=True)
        return mark * N_SLOTS

    def begin(self, seq: int) -> None:
        """Note that batch `seq` has started.

        SEQ is written last. Whoever dies before that leaves the number of the batch before, whose last reply was sent, and
        the parent sees that `seq` has not started.
        """
        header = self.header
        header[LANE] = wire.NONES
        header[BASE] = header[COUNT] = 0
        header[UNPICKLING] = 1
        header[SEQ] = seq

    def begin_loading(self) -> None:
        """Note that something is being unpickled for the next batch, which comes right behind it."""
        self.header[UNPICKLING] = 1

    def begin_items(self) -> None:
        """Note that the arguments are there; from now on it is an item that runs."""
        self.header[BEGAN] = time.monotonic_ns()
        self.header[UNPICKLING] = 0

    def open_tasks(self) -> None:
        """Note that concurrent tasks follow; no batch is running.

        LIMIT says how many pairs count. It is set to 0 before the lane says that there are any.
        """
        header = self.header
        header[LANE] = wire.NONES
        header[BASE] = header[COUNT] = header[LIMIT] = header[UNPICKLING] = 0
        header[LANE] = TASKS

    def begin_task(self, place: int, seq: int) -> None:
        """Note at a free place that a concurrent task has started: its arguments are being unpickled.

        Places are taken from 0 on, so those below LIMIT have all been written.
        """
        words, header = self.slots[wire.INTS], self.header
        words[2 * place + 1] = 0
        words[2 * place] = seq
        if header[LIMIT] <= place:
            header[LIMIT] = place + 1

    def begin_item_of_task(self, place: int) -> None:
        """Note that the arguments of a task are there."""
        self.slots[wire.INTS][2 * place + 1] = time.monotonic_ns()

    def end_task(self, place: int) -> None:
        """Free a place: the answer of its task was sent."""
        self.slots[wire.INTS][2 * place] = 0

    def began_task(self, seq: int) -> float:
        """Return when a concurrent task began, in seconds of the monotonic clock; infinity if it has not."""
        words = self._words_of_tasks()
        for task, began in zip(words[::2], words[1::2], strict=True):
            if task == seq and began:
                return float(began / 1e9)
        return math.inf

    def recover_tasks(self) -> frozenset[int]:
        """Return the numbers of the concurrent tasks that had started when the worker died, and were perhaps not answered.

        Raises
        ------
        ValueError
            Something has written over the journal.
        """
        if self.header[LANE] == TASKS and not 0 <= self.header[LIMIT] <= N_TASKS:
            raise ValueError(f"it tells of {self.header[LIMIT]} tasks")
        return frozenset(self._words_of_tasks()[::2]) - {0}

    def _words_of_tasks(self) -> list[int]:
        header = self.header
        if header[LANE] != TASKS or not 0 <= header[LIMIT] <= N_TASKS:
            return []
        words: list[int] = self.slots[wire.INTS][: 2 * header[LIMIT]].tolist()
        return words

    def began(self, seq: int) -> float:
        """Return when the items of batch `seq` began, in seconds of the monotonic clock.

        Infinity stands for arguments that are being unpickled, 0 for a batch that the worker has not looked at. The parent
        reads this while the worker lives, and may see its writes in another order: then it gets the time of an earlier
        batch, so what is earlier than the sending counts as that.
        """
        header = self.header
        if header[UNPICKLING]:
            return math.inf
        return header[BEGAN] / 1e9 if header[SEQ] == seq else 0.0

    @property
    def is_unpickling(self) -> bool:
        """Whether the arguments of the batch are being unpickled: no item of it has run."""
        return bool(self.header[UNPICKLING])

    def open_lane(self, lane: int, base: int, n_items: int) -> None:
        """Empty the journal, whose results have been sent; the next, at most `n_items`, go into `lane`.

        First the results vanish, then BASE moves: in between, the journal says that fewer items are finished than have
        arrived, which the parent takes for "nothing was running", and that is true.
        """
        header = self.header
        header[COUNT] = header[USED] = 0
        if lane in self.slots:
            self._free = self._free or self._draw_mark()
            header[LIMIT] = n_slots = min(n_items, N_SLOTS)
            self.body[: 8 * n_slots] = self._free[: 8 * n_slots]
        header[LANE] = lane
        header[BASE] = base

    @property
    def count(self) -> int:
        """Number of results in the journal."""
        header = self.header
        if header[LANE] not in self.slots:
            return header[COUNT]
        slots, mark = self.slots[wire.INTS], header[MARK]
        low, high = 0, header[LIMIT]
        while low < high:  # results come first, free slots after them
            middle = (low + high) // 2
            if slots[middle] == mark:
                high = middle
            else:
                low = middle + 1
        return low

    @property
    def done(self) -> int:
        """Number of items of the batch that are finished; the next one is running, if there is one."""
        return self.header[BASE] + self.count

    def segment(self, count: int) -> Segment:
        """Return the first `count` results, which are all that there are."""
        lane = self.header[LANE]
        nbytes = 8 * count if lane in self.slots else self.header[USED]
        return Segment(lane, count, bytes(self.body[:nbytes]))

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

        Raises
        ------
        ValueError, IndexError
            Something has written over the journal.

        Notes
        -----
        Results are sent a whole journal at a time, so either all that is in it has arrived, or nothing of it. A death after
        sending and before the journal is emptied leaves ``done == received``; a death before a result that never was in the
        journal (an error, a large one) is counted leaves ``done < received``: no item was running then.
        """
        if self.header[SEQ] != seq:
            return None

        count = self.count
        if min(count, self.header[BASE], self.header[USED]) < 0:
            raise ValueError("it has negative counts")
        done = self.header[BASE] + count
        if done < received:
            return None, None
        return (self.segment(count) if done > received else None), done

    def detach(self) -> None:
        """Let go of the memory in a forked child, and go on with memory of its own.

        Code further up the stack may hold views of the shared memory: writing to those raises ValueError now.
        """
        done = self.done
        self.close()
        view = memoryview(bytearray(_HEADER_BYTES + 8))
        self.header, self.body = view[:_HEADER_BYTES].cast("q"), view[_HEADER_BYTES:]
        self.slots = {wire.INTS: self.body.cast("q"), wire.FLOATS: self.body.cast("d")}
        self.header[LANE], self.header[BASE] = wire.NONES, done

    def close(self) -> None:
        """Unmap the memory."""
        for view in (self.header, *self.slots.values(), self.body):
            view.release()
        self._memory.close()

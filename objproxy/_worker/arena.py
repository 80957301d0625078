"""The arena: where one process makes the segments that it fills, and how it uses them again.

A fresh page of memory costs ten times what copying into it costs, so segments are kept and used again. Sizes fall into classes,
eight for each power of two; a segment that is free serves the next request of its class. What has not been used for a while is
given back.

A segment is in use while this process holds its `Extent` and while another process that was told of it has not given it back
(`loans`). Neither end is announced: extents vanish wherever garbage is collected, and who gives back writes one word. So
nothing here waits for a message, and segments that may have become free are looked at when the next one is wanted.
"""

from __future__ import annotations

import errno
import time
from collections import deque
from typing import Any

from objproxy._worker import natives
from objproxy._worker.loans import LoanTable
from objproxy._worker.segments import PAGE, RANGE, Mapping, Segments, whole_pages
from objproxy.errors import SharedMemoryFullError

#: Seconds after which memory that nobody uses is given back.
COLD_SECONDS = 5.0

#: Loans that one request looks at, at most: a worker may keep thousands of arrays.
_MAX_LOOKS = 64

#: Below this no question is asked about the memory that is left.
_SMALL = 1 << 20


_FREE_SOME = (
    "Free memory, send less at a time (a smaller chunksize or buffersize), or share one array with SharedArray; "
    "in a container, give it more memory (--memory, --shm-size)."
)
_FILE_LIMIT = "No file of this process may be larger (ulimit -f, RLIMIT_FSIZE), and a segment is a file: raise that limit."
_NO_ADDRESSES = (
    "This process may map no more memory (ulimit -v, RLIMIT_AS, or vm.max_map_count): raise that limit, or send less at a time."
)


class Block:
    """One segment: where it is, how much of it has memory, who has it."""

    __slots__ = ("capacity", "filled", "freed_at", "loans", "mapping", "offset")

    def __init__(self, offset: int, capacity: int) -> None:
        self.offset = offset
        self.capacity = capacity
        self.filled = 0  # bytes from the start that have memory
        self.mapping: Mapping | None = None
        self.loans: list[tuple[LoanTable, int]] = []
        self.freed_at = 0.0

    def is_lent(self) -> bool:
        """Whether another process still has it."""
        while self.loans:
            table, slot = self.loans[-1]
            if not table.is_returned(slot):
                return True
            self.loans.pop()
        return False


class Extent:
    """The right to a segment; when it is gone, and nobody has the segment on loan, the arena uses it again.

    Attributes
    ----------
    arena : Arena
        Whose it is.
    block : Block
        The segment.
    nbytes : int
        Bytes that are used.
    is_fresh : bool
        Whether every byte is still zero.
    """

    __slots__ = ("arena", "block", "is_fresh", "nbytes")

    def __init__(self, arena: Arena, block: Block, nbytes: int, is_fresh: bool) -> None:
        self.arena = arena
        self.block = block
        self.nbytes = nbytes
        self.is_fresh = is_fresh

    def write(self, data: Any) -> None:
        """Copy a buffer of `nbytes` bytes into the segment."""
        assert self.block.mapping is not None
        with memoryview(self.block.mapping) as view:
            view[: self.nbytes] = memoryview(data).cast("B")

    def lend(self, table: LoanTable) -> int:
        """Lend the segment to the process of `table`; return the slot that it will clear."""
        slot = table.lend()
        self.block.loans.append((table, slot))
        return slot

    def __del__(self) -> None:
        self.arena.take_back(self.block)


class Arena:
    """Makes and recycles the segments of one process.

    Parameters
    ----------
    segments : Segments
        The space.
    base : int
        Offset of the part of it that belongs to this process.
    limit : int or None
        Most bytes of memory that all segments together may have.
    """

    def __init__(self, segments: Segments, base: int, limit: int | None = None) -> None:
        self.segments = segments
        self.base = base
        self.limit = limit
        self.held = 0  # bytes of memory in all segments
        self.is_closed = False
        # Guards everything below; nothing that takes it is ever called when an object is deleted.
        self._lock = natives.Lock()
        self._next, self._end = base, base + RANGE
        self._free: dict[int, list[Block]] = {}
        self._lent: deque[Block] = deque()
        self._returned: deque[Block] = deque()  # no extent any more; filled when objects are deleted, wherever that is

    def take(self, nbytes: int, *, is_mapped: bool = True) -> Extent:
        """Return a segment with memory for `nbytes` bytes, mapped if it is to be written through the extent.

        Raises
        ------
        SharedMemoryFullError
            There is not enough memory, or it would be more than the limit; or no segment may be so large.
        """
        if nbytes > self.segments.largest:
            raise full(nbytes, self.segments.largest, _FILE_LIMIT)
        capacity = min(_size_class(nbytes), self.segments.largest)
        with self._lock:
            self._collect(_MAX_LOOKS)
            free = self._free.get(capacity)
            block = free.pop() if free else self._make(capacity)
            if block.filled and not self.segments.is_there(block.offset):
                self._empty(block)  # somebody else has removed it; it is made anew
            try:
                is_fresh = not block.filled
                if block.filled < nbytes:
                    self._fill(block, nbytes)
                if is_mapped and block.mapping is None:
                    block.mapping = map_shared(self.segments, block.offset, capacity, is_full=block.filled == capacity)
            except BaseException:
                self._put_back(block)
                raise
        return Extent(self, block, nbytes, is_fresh)

    def take_back(self, block: Block) -> None:
        """Note that nobody here holds a segment any more; called when an object is deleted, wherever that is."""
        if self.is_closed:
            self.segments.discard(block.offset, block.capacity)
        else:
            self._returned.append(block)

    def close(self) -> None:
        """Give everything back; what is in use, as soon as it is not."""
        with self._lock:
            self.is_closed = True
            self._collect(None)
            self._trim(0.0)

    def _make(self, capacity: int) -> Block:
        if self._next + capacity > self._end:
            raise SharedMemoryFullError(capacity, 0, "This process has made more segments than there is room for addresses.")
        block = Block(self._next, capacity)
        self._next += capacity
        return block

    def _fill(self, block: Block, nbytes: int) -> None:
        """Get memory for a block."""
        stop = block.capacity  # all of it: the next user of the block may need a little more
        if self.limit is not None and self.held + stop - block.filled > self.limit:
            stop = whole_pages(nbytes)
        need = stop - block.filled
        self._check_room(need)
        try:
            if not block.filled:
                self.segments.make(block.offset, block.capacity)
            self.segments.reserve(block.offset, block.filled, stop)
        except OSError as exc:
            self._empty(block)  # a part of it may have got memory
            raise_if_full(exc, need, self.segments)
            raise
        block.filled = stop
        self.held += need

    def _check_room(self, need: int) -> None:
        if self.limit is not None and self.held + need > self.limit:
            self._collect(None)
            self._trim(0.0)
            if self.held + need > self.limit:
                hint = f"The pool was given shared_memory_limit={self.limit}; raise it, or drop results that are not needed."
                raise SharedMemoryFullError(need, max(0, self.limit - self.held), hint)
        if need < _SMALL:
            return
        free = self.segments.free_bytes()
        if free is not None and need > free:
            self._collect(None)
            self._trim(0.0)
            free = self.segments.free_bytes()
            if free is not None and need > free:
                raise full(need, free)

    def _collect(self, max_looks: int | None) -> None:
        """Find segments that have become free."""
        while self._returned:
            self._lent.append(self._returned.popleft())
        n_looks = len(self._lent) if max_looks is None else min(max_looks, len(self._lent))
        for _ in range(n_looks):
            block = self._lent.popleft()
            if block.is_lent():
                self._lent.append(block)
            else:
                self._put_back(block)

    def _put_back(self, block: Block) -> None:
        block.freed_at = time.monotonic()
        self._free.setdefault(block.capacity, []).append(block)

    def trim(self, min_age: float) -> int:
        """Give the memory of segments back that have been free for `min_age` seconds; return the bytes that are not in use."""
        with self._lock:
            self._collect(None)
            return self._trim(min_age)

    def trim_if_free(self) -> None:
        """Give back what nobody uses, unless a thread, maybe this one, is at work here; may be called anywhere."""
        if self._lock.acquire(blocking=False):
            try:
                self._collect(None)
                self._trim(0.0)
            finally:
                self._lock.release()

    def _trim(self, min_age: float) -> int:
        latest, idle = time.monotonic() - min_age, 0
        for blocks in self._free.values():
            for block in blocks:
                if block.filled and block.freed_at <= latest:
                    self._empty(block)
                idle += block.filled
        return idle

    def _empty(self, block: Block) -> None:
        block.mapping = None
        self.segments.discard(block.offset, block.capacity)
        self.held -= block.filled
        block.filled = 0


def map_shared(segments: Segments, offset: int, nbytes: int, *, is_full: bool) -> Mapping:
    """Map a segment for writing.

    Raises
    ------
    SharedMemoryFullError
        This process may map no more memory.
    """
    try:
        return segments.map(offset, nbytes, is_shared=True, is_full=is_full)
    except OSError as exc:
        if exc.errno == errno.ENOMEM:
            raise full(nbytes, 0, _NO_ADDRESSES) from exc
        raise


def _size_class(nbytes: int) -> int:
    """Round up to an eighth of a power of two, and to whole pages."""
    step = max(PAGE, (1 << (nbytes - 1).bit_length()) // 16)
    return -(-nbytes // step) * step


def raise_if_full(error: OSError, need: int, segments: Segments) -> None:
    """Raise the error that says so, if a system has refused memory; a lack of descriptors is another thing."""
    if error.errno == errno.EFBIG:
        raise full(need, segments.largest, _FILE_LIMIT) from error
    if error.errno not in (errno.EMFILE, errno.ENFILE):
        raise full(need, segments.free_bytes() or 0) from error


def full(need: int, free: int, hint: str = _FREE_SOME) -> SharedMemoryFullError:
    """Return the error for a system that has no room for a segment."""
    return SharedMemoryFullError(need, free, hint)

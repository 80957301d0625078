"""Loans: one process fills a segment, tells another of it, and learns without a message when that one is done with it.

Each worker has two tables in shared memory: of segments that the parent lent to it, and of those that it lent to the parent. A
loan is a word in a table. The lender sets it and names its slot in the message; the borrower clears it when the last array that
lies in the segment is gone. That is one store, so it can be done wherever garbage is collected, in any thread; and a borrower
that is killed is told by its death.

Nothing orders the borrower's last read before its store but the time between the two, in which an interpreter runs hundreds of
instructions.
"""

from __future__ import annotations

import contextlib
import functools
import struct
from typing import Any, NamedTuple

from objproxy._worker.segments import Mapping, Segments, whole_pages

#: Slots of a table.
N_SLOTS = 1 << 16
TABLE_BYTES = 8 * N_SLOTS

#: Offsets of the tables in a worker's range; its segments come behind them.
TO_WORKER, TO_PARENT, FIRST_SEGMENT = 0, TABLE_BYTES, 2 * TABLE_BYTES

#: With more loans than this in a table, borrowers are asked to copy and give back at once.
_CROWDED = N_SLOTS // 2

#: A smaller buffer is copied by the borrower: mapping it would cost more.
MAP_MIN = 1 << 18

# Where the bytes of a part belong: beside the pickle, as a buffer; or they are the pickle; or (0 and above) there in it.
BESIDE, WHOLE = -1, -2

_PART = struct.Struct("<QQqI?")


class Part(NamedTuple):
    """What a message tells of one segment.

    Attributes
    ----------
    offset, nbytes : int
        The segment, and how many bytes of it count.
    position : int
        Where they belong.
    slot : int
        Of the loan.
    must_copy : bool
        Whether the borrower shall not keep it.
    """

    offset: int
    nbytes: int
    position: int
    slot: int
    must_copy: bool

    def packed(self) -> bytes:
        """Return the part as it travels."""
        return _PART.pack(*self)


def unpack_parts(data: bytes) -> list[Part]:
    """Read what `Part.packed` wrote, any number of times."""
    return [Part(*fields) for fields in _PART.iter_unpack(data)]


class LoanTable:
    """A table as its lender sees it.

    Parameters
    ----------
    memory : Mapping
        Of `TABLE_BYTES`.
    """

    def __init__(self, memory: Mapping) -> None:
        self._words = memoryview(memory).cast("q")
        self._unused = 0  # slots from here on were never used
        self._free: list[int] = []
        self._is_dead = False

    def lend(self) -> int:
        """Mark a slot as lent and return it."""
        if self._free:
            slot = self._free.pop()
        else:
            slot = self._unused
            if slot == N_SLOTS:
                raise OSError("a worker has been told of more segments than it has taken in")
            self._unused += 1
        self._words[slot] = 1
        return slot

    @property
    def is_crowded(self) -> bool:
        """Whether many segments are lent."""
        return self._unused - len(self._free) > _CROWDED

    def is_returned(self, slot: int) -> bool:
        """Whether a loan has ended; asked once more after that, it may be another's."""
        if self._is_dead:
            return True
        if self._words[slot]:
            return False
        self._free.append(slot)
        return True

    def end(self) -> None:
        """Take everything back: the borrower is dead."""
        self._is_dead = True


class Borrower:
    """A table as its borrower sees it, and the way to what it lists.

    Parameters
    ----------
    segments : Segments
        The space.
    memory : Mapping
        The table.
    """

    def __init__(self, segments: Segments, memory: Mapping) -> None:
        self._segments = segments
        self._words: Any = memoryview(memory).cast("q")
        self.live: dict[int, tuple[int, int]] = {}  # slot -> start and stop of a segment that is mapped here
        self._is_dead = False

    def open(self, part: Part) -> Any:
        """Return the bytes of a part as a copy: small ones in memory of their own, large ones copied when they are written."""
        if part.nbytes >= MAP_MIN and not part.must_copy:
            with contextlib.suppress(OSError):  # this process has as many mappings as the system allows
                mapping = self.map(part, is_shared=False)
                mapping.again = functools.partial(self._segments.map, part.offset, part.nbytes, is_shared=False)
                return mapping
        try:
            data = bytearray(part.nbytes)
        except MemoryError:
            self.give_back(part.slot)
            raise
        self.read_into(part, data)
        return data

    def map(self, part: Part, *, is_shared: bool) -> Mapping:
        """Map a part; the loan ends when the mapping is gone."""
        mapping = self._segments.map(part.offset, part.nbytes, is_shared=is_shared, is_full=is_shared)
        self.live[part.slot] = (part.offset, part.offset + whole_pages(part.nbytes))
        mapping.on_gone = _Return(self, part.slot)
        return mapping

    def read_into(self, part: Part, buffer: Any, start: int = 0) -> None:
        """Copy a part from byte `start` on; give it back if `buffer` reaches to its end."""
        try:
            self._segments.read_into(part.offset, buffer, start)
        finally:
            if start + len(buffer) == part.nbytes:
                self.give_back(part.slot)

    def give_back(self, slot: int) -> None:
        """End a loan."""
        stretch = self.live.pop(slot, None)
        if not self._is_dead:
            self._words[slot] = 0
        elif stretch is not None:
            self._segments.discard(stretch[0], stretch[1] - stretch[0])

    def outlive_lender(self, start: int, stop: int) -> None:
        """Note that the lender is dead: what it had made between two offsets is given back, but for what is in use here."""
        self._is_dead = True
        in_use = list(self.live.values())  # arrays may vanish meanwhile; they find this lender dead
        for begin, end in sorted(in_use):
            if start < begin:
                self._segments.discard_all(start, begin)
            start = end
        self._segments.discard_all(start, stop)


class _Return:
    """Ends one loan; a forked child, which has a copy of this, must not."""

    __slots__ = ("_borrower", "_slot")

    def __init__(self, borrower: Borrower, slot: int) -> None:
        self._borrower = borrower
        self._slot = slot

    def __call__(self) -> None:
        if not self._borrower._segments.is_inherited:
            self._borrower.give_back(self._slot)

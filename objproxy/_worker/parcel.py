"""Parcels: a pickle with its large buffers beside it, in shared memory.

::

    value ── pickle, protocol 5 ──> stream (small)  +  buffers (large: arrays, bytes)
                                      |                   | copied once, into segments of the arena
                                      v                   v
                                    frame  <── parts: where each buffer is
                                      |                   | mapped, copy-on-write; or read, if it is small
    equal value <── unpickle ─────────+───────────────────+

What has no large buffer is plain bytes: most messages never come here, but for one comparison.

Objects with buffers (NumPy, pandas, Arrow) give them out of band. ``bytes``, ``bytearray`` and ``str`` do not, but a pickler
that writes to a file hands large ones over as they are, without copying them first. So the pickler here writes to a list.
"""

from __future__ import annotations

import functools
import io
import operator
import pickle
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from objproxy._worker import texts
from objproxy._worker.arena import Arena, Extent
from objproxy._worker.by_value import make_pickler
from objproxy._worker.importable import names_unimportable
from objproxy._worker.loans import BESIDE, WHOLE, Borrower, LoanTable, Part
from objproxy._worker.mutable import PLAIN
from objproxy._worker.reducers import Reducers, array_reducer, usual_reducers
from objproxy._worker.wire import Constant
from objproxy.errors import SharedMemoryFullError

#: A larger buffer leaves the pickle (`python -m benchmarks argument_sizes`).
INLINE_MAX = 96 << 10

#: A piece of a pickle that is larger was one object: picklers write frames of 64 KiB and little more.
_ONE_OBJECT = 1 << 17

# What is larger than a segment may be (where the size of files is limited) stays in the pickle too.

#: More buffers than this stay in the pickle: each has a slot in a table.
MAX_BUFFERS = 4096


class Parcel:
    """A pickle, and what lies beside it.

    Attributes
    ----------
    stream : bytes
        The pickle, without its large buffers.
    pieces : list of (Extent, int)
        The segments with the buffers, and the position of each.
    shared : tuple
        Objects that are shared, not copied, and that the receiver must have opened.
    """

    __slots__ = ("pieces", "shared", "stream")

    def __init__(self, stream: bytes, pieces: list[tuple[Extent, int]], shared: tuple[Any, ...] = ()) -> None:
        self.stream = stream
        self.pieces = pieces
        self.shared = shared

    def __len__(self) -> int:
        return len(self.stream)

    def lend(self, table: LoanTable) -> list[Part]:
        """Lend every segment; return what the receiver has to know."""
        must_copy = table.is_crowded
        return [
            Part(extent.block.offset, extent.nbytes, position, extent.lend(table), must_copy)
            for extent, position in self.pieces
        ]


class Packing(NamedTuple):
    """What is asked and noted while one value is pickled.

    Attributes
    ----------
    shared : list
        Shared objects that were met.
    is_frozen : bool
        Whether arrays shall arrive read-only.
    sharing : Sharing or None
        Knows which objects of registered types the receiver has; None if none are registered (see `shared_values`).
    """

    shared: list[Any]
    is_frozen: bool
    sharing: Any = None


Reducer = Callable[[Any, Packing], Any]

#: How to pickle what is shared, and not copied: by exact type.
reducers: dict[type, Reducer] = {}

#: What may hold shared objects that are to be found.
_CONTAINERS = frozenset({list, tuple, dict})

#: What stands for such an object where nothing is pickled, by exact type.
resolvers: dict[type, Callable[[Any], Any]] = {}


def resolve(value: Any, *, within: tuple[int, ...] = ()) -> Any:
    """Return `value` as the methods of an object in this process get it: what is shared, at any depth, as what it stands for.

    Lists, tuples and dicts that hold something shared are copied; everything else is passed on as it is. `within` are the
    containers around the value: one that holds itself is not looked into again.
    """
    kind = type(value)
    if kind in resolvers:
        return resolvers[kind](value)
    if kind is Constant:
        return Constant(resolve(value.value, within=within))
    if not resolvers or kind not in _CONTAINERS or id(value) in within:
        return value
    within = (*within, id(value))
    if kind is dict:
        values = {key: resolve(part, within=within) for key, part in value.items()}
        return value if all(values[key] is part for key, part in value.items()) else values
    parts = [resolve(part, within=within) for part in value]
    return value if all(map(operator.is_, parts, value)) else kind(parts)


def pack(value: Any, arena: Arena | None, *, is_frozen: bool = False, sharing: Any = None) -> bytes | Parcel:
    """Pickle `value`, with its large buffers beside it; what no other process can import by name goes by value.

    Parameters
    ----------
    value : object
        What is to travel.
    arena : Arena or None
        Where large buffers go; None keeps everything in the pickle.
    is_frozen : bool
        Whether arrays shall arrive read-only.
    sharing : Sharing or None
        As in `Packing`.

    Raises
    ------
    SharedMemoryFullError
        There is no memory for the large buffers.
    Exception
        Whatever the value's own pickling raises.
    """
    try:
        packed = pack_in_one_way(value, arena, Packing([], is_frozen, sharing), by_value=False)
    except SharedMemoryFullError:
        raise
    except Exception:
        packed = None
    return pack_by_value(value, arena, Packing([], is_frozen, sharing)) if packed is None else packed


def pack_by_value(value: Any, arena: Arena | None, packing: Packing) -> bytes | Parcel:
    """Pickle `value` with cloudpickle."""
    packed = pack_in_one_way(value, arena, packing, by_value=True)
    assert packed is not None
    return packed


def pack_result(value: Any, arena: Arena, sharing: Any = None) -> bytes | Parcel:
    """Pickle a result; numbers and short text need no care."""
    if type(value) in PLAIN and sys.getsizeof(value) < INLINE_MAX:
        return pickle.dumps(value, 5)
    return pack(value, arena, sharing=sharing)


class Sink:
    """A file whose `write` is that of a list."""

    __slots__ = ("write",)

    def __init__(self, write: Callable[[Any], Any]) -> None:
        self.write = write


def pack_in_one_way(value: Any, arena: Arena | None, packing: Packing, *, by_value: bool) -> bytes | Parcel | None:
    """Pickle in one of the two ways; None if `value` has to go by value and shall not."""
    written: list[Any] = []
    buffers: list[memoryview] = []

    def is_small(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if arena is None or not INLINE_MAX < raw.nbytes <= arena.segments.largest or len(buffers) == MAX_BUFFERS:
            return True
        buffers.append(raw)
        return False

    make = by_value_pickler if by_value else by_name_pickler
    is_usual = not (by_value or reducers or packing.is_frozen or packing.sharing is not None)
    special = usual_reducers() if is_usual else custom_reducers(packing)
    pickler = make(Sink(written.append), is_small, special)
    large_texts = [] if arena is None else texts.find_large(value)
    try:
        if large_texts:
            texts.write_first(pickler, written, large_texts)
        pickler.dump(value)
    finally:
        special.forget_classes()
    if arena is None:
        stream = b"".join(written)
        large: list[tuple[Any, int]] = []
    else:
        stream, large = _split(written, arena.segments.largest)
    if not by_value and names_unimportable(stream):
        return None
    if arena is None or not (buffers or large or packing.shared or len(stream) > INLINE_MAX):
        return stream
    return make_parcel(stream, large, buffers, packing.shared, arena)


def _split(written: list[Any], largest: int) -> tuple[bytes, list[tuple[Any, int]]]:
    """Return the pickler's own words, and the bytes of large single objects with their positions in them."""
    if len(written) == 1:
        return written[0], []
    words: list[Any] = []
    large: list[tuple[Any, int]] = []
    position = 0
    for piece in written:
        nbytes = memoryview(piece).nbytes
        if _ONE_OBJECT < nbytes <= largest and len(large) < MAX_BUFFERS:
            large.append((piece, position))
        else:
            words.append(piece)
            position += nbytes
    return b"".join(words), large


def make_parcel(
    stream: bytes, large: list[tuple[Any, int]], buffers: list[memoryview], shared: list[Any], arena: Arena
) -> Parcel:
    """Copy everything large into segments."""
    pieces = [_fill(arena, raw, BESIDE) for raw in buffers]
    pieces += [_fill(arena, piece, position) for piece, position in large]
    if INLINE_MAX < len(stream) <= arena.segments.largest and not large:
        pieces.append(_fill(arena, stream, WHOLE))
        stream = b""
    return Parcel(stream, pieces, tuple(shared))


def _fill(arena: Arena, data: Any, position: int) -> tuple[Extent, int]:
    extent = arena.take(memoryview(data).nbytes)
    extent.write(data)
    return extent, position


def by_name_pickler(sink: Sink, is_small: Callable[[Any], bool], special: Reducers) -> Any:
    """Return a pickler that refers to classes and functions by their names."""
    pickler = pickle.Pickler(sink, 5, buffer_callback=is_small)
    pickler.dispatch_table = special if special.is_complete else special.by_name()
    return pickler


def by_value_pickler(sink: Sink, is_small: Callable[[Any], bool], special: Reducers) -> Any:
    """Return a pickler that writes classes and functions down where they have no name that a worker could import."""
    return make_pickler(sink, is_small, special)


def custom_reducers(packing: Packing) -> Reducers:
    """Return the custom reducers, by exact type: of arrays and other objects with memory, and of what is shared."""
    special: dict[type, Callable[[Any], Any]] = {}
    for kind, reducer in reducers.items():  # none before the first shared object is made
        special[kind] = functools.partial(_reduce_with, reducer, packing)
    of_arrays = array_reducer(is_frozen=packing.is_frozen)
    if of_arrays is not None:
        special[of_arrays[0]] = of_arrays[1]
    share = None if packing.sharing is None else packing.sharing.wrap_reducers(packing)
    return Reducers(special, is_frozen=packing.is_frozen, share=share)


def _reduce_with(reducer: Reducer, packing: Packing, value: Any) -> Any:
    return reducer(value, packing)


def freeze(value: Any) -> Any:
    """Make the arrays in a value read-only that NumPy pickles in a way of its own (subclasses, objects), and return the value.

    It looks into lists, tuples and dicts, not into other objects.
    """
    array_type = getattr(sys.modules.get("numpy"), "ndarray", None)
    if type(value) in (list, tuple, dict):
        for part in value.values() if type(value) is dict else value:
            freeze(part)
    elif array_type is not None and isinstance(value, array_type):
        value.flags.writeable = False
        mask = getattr(value, "_mask", None)  # of a masked array
        if isinstance(mask, array_type):
            mask.flags.writeable = False
    return value


def unpack(stream: Any, parts: Sequence[Part], borrower: Borrower | None) -> Any:
    """Rebuild what `pack` was given.

    Parameters
    ----------
    stream : bytes-like
        The pickle.
    parts : sequence of Part
        What was told of its buffers.
    borrower : Borrower or None
        Opens them.
    """
    if not parts:
        return pickle.loads(stream)
    assert borrower is not None
    buffers: list[Any] = []
    pieces: list[Part] = []
    unopened = list(reversed(parts))
    try:
        while unopened:
            part = unopened.pop()
            if part.position == BESIDE:
                buffers.append(borrower.open(part))
            elif part.position == WHOLE:
                stream = borrower.open(part)
            else:
                pieces.append(part)
        if not pieces:
            return pickle.loads(stream, buffers=buffers)
        return pickle.Unpickler(_PiecedStream(stream, pieces, borrower), buffers=buffers).load()
    finally:
        for part in (*unopened, *pieces):  # what was read has left `pieces`
            borrower.give_back(part.slot)


class _PiecedStream(io.RawIOBase):
    """A pickle whose large pieces lie in segments.

    Parameters
    ----------
    stream : bytes
        The small pieces, joined.
    pieces : list of Part
        The large ones, in the order of their positions; each is taken out when its end is read.
    """

    def __init__(self, stream: bytes, pieces: list[Part], borrower: Borrower) -> None:
        self._stream = memoryview(stream)
        self._at = 0
        self._at_in_piece = 0  # how much of the first of `pieces` was read
        self._pieces = pieces
        self._borrower = borrower

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`, and return how much: less than asked only where the pickle ends.

        Up to Python 3.14 a large object asks for all of its bytes at once, later in steps that double (CPython's gh-115952).
        """
        view = memoryview(buffer)
        n_read = 0
        while n_read < len(view) and (n_more := self._read_some(view[n_read:])):
            n_read += n_more
        return n_read

    def _read_some(self, view: memoryview) -> int:
        """Read from the large piece that is next, or from the small ones in front of it."""
        if self._pieces and self._pieces[0].position == self._at:
            return self._read_large(self._pieces[0], view)
        stop = min(self._at + len(view), self._pieces[0].position if self._pieces else len(self._stream))
        n_read = stop - self._at
        view[:n_read] = self._stream[self._at : stop]
        self._at = stop
        return n_read

    def _read_large(self, part: Part, view: memoryview) -> int:
        start = self._at_in_piece
        n_read = min(len(view), part.nbytes - start)
        self._at_in_piece += n_read
        if self._at_in_piece == part.nbytes:
            self._at_in_piece = 0
            del self._pieces[0]  # before it is read: that gives it back, even if it fails
        self._borrower.read_into(part, view[:n_read], start)
        return n_read

    def read(self, size: int = -1) -> bytes:
        """Return the next `size` bytes, fewer only where the pickle ends; all that are left if `size` is negative."""
        if size < 0:
            return self.readall()
        data = bytearray(size)
        del data[self.readinto(data) :]
        return bytes(data)

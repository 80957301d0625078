"""The arguments of a map on their way: items that share nothing, whatever chunk they lie in.

::

    columns ── no two items can hold the same changing object (`mutable.share_nothing`) ──> one pickle of the columns
       |
       └── else ──> Rows: a pickle for each item, one after the other
                    large buffers beside them, each once; an item gets a copy-on-write copy of one that others have too
                    mutable constants (`itertools.repeat`) once, rebuilt for each item
                    classes and functions that go by value once, shared by all items

The worker unpickles a row right before its call, so an item that cannot be unpickled fails alone.
"""

from __future__ import annotations

import collections
import copyreg
import functools
import gc
import io
import itertools
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FunctionType
from typing import Any

from objproxy._worker.arena import Arena
from objproxy._worker.importable import names_unimportable
from objproxy._worker.mutable import PLAIN, is_atom, is_immutable, share_nothing
from objproxy._worker.parcel import (
    INLINE_MAX,
    MAX_BUFFERS,
    Packing,
    Parcel,
    Sink,
    by_name_pickler,
    by_value_pickler,
    custom_reducers,
    make_parcel,
    pack,
    pack_in_one_way,
)
from objproxy._worker.segments import Mapping
from objproxy._worker.wire import Constant, Operation
from objproxy.errors import SharedMemoryFullError

#: Values of these types are not even noted in a pickler's memo.
_NUMBERS = frozenset({int, float, bool, type(None)})

#: What can be pickled without a memo, if it is small.
_LIGHT = PLAIN | {tuple, list, dict}

#: Mean bytes of the pickle of an item for that.
_MAX_LIGHT = 256

#: A constant that is smaller, and of a plain type, is part of each row.
_SMALL = 1 << 10


def pack_operation(operation: Operation, arena: Arena | None, sharing: Any = None) -> bytes | Parcel:
    """Pickle the arguments of a call; numbers and short text, which need no care, are most of them.

    `sharing` knows which objects of registered types the workers have; None if none are registered.
    """
    args = operation.args
    if operation.verb == "map":
        return _pack_map(operation, arena, sharing)
    if not operation.kwargs and PLAIN.issuperset(map(type, args)) and sum(map(sys.getsizeof, args)) < INLINE_MAX:
        return pickle.dumps(tuple(operation), 5)
    return pack(tuple(operation), arena, sharing=sharing)


def _pack_map(operation: Operation, arena: Arena | None, sharing: Any) -> bytes | Parcel:
    """Pickle the items of a chunk, together if they share nothing that can change."""
    varying = [column for column in operation.args if type(column) is not Constant]
    if len(varying[0]) == 1:
        return pack(tuple(operation), arena, sharing=sharing)
    constants = [column.value for column in operation.args if type(column) is Constant]
    if not all(map(is_immutable, constants)):
        return _pack_apart(operation, arena, sharing)
    if all(_is_small(value) or is_atom(type(value)) for value in constants):
        packed = _pack_at_once(operation, varying, arena)
        if packed is not None:
            return packed
    if share_nothing(varying):
        return pack(tuple(operation), arena, sharing=sharing)
    return _pack_apart(operation, arena, sharing)


def _is_small(value: Any) -> bool:
    return type(value) in PLAIN and sys.getsizeof(value) < _SMALL


def _pack_at_once(operation: Operation, varying: Sequence[Sequence[Any]], arena: Arena | None) -> bytes | Parcel | None:
    """Pickle what looks like tiny items, without a look at each of them first; None if there is more in them."""
    kinds = {type(column[at]) for column in varying for at in (0, len(column) // 2, -1)}
    packing = Packing([], is_frozen=False)
    try:
        if _NUMBERS.issuperset(kinds):
            stream = _pack_numbers(operation, packing)
        elif _LIGHT.issuperset(kinds):
            stream = _pack_light(operation, varying, packing)
        else:
            return None
    except Exception:  # told by the way that finds the culprit
        return None
    if stream is None or names_unimportable(stream):
        return None
    if arena is None or not (packing.shared or len(stream) > INLINE_MAX):
        return stream
    return make_parcel(stream, [], [], packing.shared, arena)


def _pack_numbers(operation: Operation, packing: Packing) -> bytes | None:
    """Pickle columns that look like numbers; None if anything else turned up in them.

    A look at the type of each value would cost a tenth of a map of tiny items. But a pickler notes everything that two items
    could share in its memo, and it notes no numbers: so the memo tells whether there was anything else.
    """
    written: list[Any] = []
    pickler = pickle.Pickler(Sink(written.append), 5)
    pickler.dispatch_table = {**copyreg.dispatch_table, **custom_reducers(packing)}
    empty: list[Any] = [column if type(column) is Constant else [] for column in operation.args]
    pickler.dump(tuple(operation._replace(args=tuple(empty))))
    n_noted = len(pickler.memo.copy())
    pickler.clear_memo()
    written.clear()
    packing.shared.clear()
    pickler.dump(tuple(operation))
    return b"".join(written) if len(pickler.memo.copy()) == n_noted else None


def _pack_light(operation: Operation, varying: Sequence[Sequence[Any]], packing: Packing) -> bytes | None:
    """Pickle columns of text, and of small tuples, lists and dicts, without a memo; None if anything else turned up in them.

    Without a memo no two items share anything. That an item itself does not hold one object twice is seen by hashing what it
    holds: no built-in object that can change has a hash, and of other classes the pickler takes none.
    """
    written: list[Any] = []
    room = _MAX_LIGHT * len(varying[0])

    def write(piece: Any) -> None:
        nonlocal room
        room -= len(piece)
        if room < 0:  # long text may be the same in many items: a memo is better
            raise _NotLightError
        written.append(piece)

    changing = [column for column in varying if _can_change(column)]
    if len(changing) > 1:
        return None  # an item may hold one list in two of its arguments
    for column in changing:
        _hash_all(gc.get_referents(*column))
    pickler = _LightPickler(Sink(write), 5)
    pickler.dispatch_table = {**copyreg.dispatch_table, **custom_reducers(packing)}
    pickler.fast = True
    pickler.dump(tuple(operation))
    return b"".join(written)


def _can_change(column: Sequence[Any]) -> bool:
    try:
        _hash_all(column)
    except TypeError:
        return True
    return False


def _hash_all(values: Iterable[Any]) -> None:
    collections.deque(map(hash, values), maxlen=0)


class _NotLightError(Exception):
    """What is being pickled is more than text and numbers in small containers."""


class _LightPickler(pickle.Pickler):
    """Refuses everything but objects of built-in types, and what every item may have."""

    def reducer_override(self, value: Any) -> Any:
        """Refuse; this is called for what is of no basic type."""
        if type(value) is Constant or is_atom(type(value)):
            return NotImplemented
        raise _NotLightError


def _pack_apart(operation: Operation, arena: Arena | None, sharing: Any) -> bytes | Parcel:
    """Pickle the items one by one, by name if possible."""
    try:
        packed = _pack_rows(operation, arena, sharing, by_value=False)
    except SharedMemoryFullError:
        raise
    except Exception:
        packed = None
    return _pack_rows(operation, arena, sharing, by_value=True) if packed is None else packed  # type: ignore[return-value]


def _pack_rows(operation: Operation, arena: Arena | None, sharing: Any, *, by_value: bool) -> bytes | Parcel | None:
    """Pickle the items one by one, in one of the two ways; None if that has to be by value and shall not."""
    packing = Packing([], is_frozen=False, sharing=sharing)
    writer = _RowWriter(operation.args, arena, packing, by_value=by_value)
    rows = writer.write()
    if not by_value and names_unimportable(rows.stream):
        return None
    return pack_in_one_way(tuple(operation._replace(args=rows)), arena, packing, by_value=by_value)


class _RowWriter:
    """Pickles the items of a chunk one by one.

    Parameters
    ----------
    columns : sequence
        For each argument its values, or a `Constant`.
    arena : Arena or None
        Where large buffers will go; None leaves them in the pickles.
    packing : Packing
        Notes what is shared on purpose.
    by_value : bool
        Whether to write down classes and functions that have no name that a worker could import.
    """

    def __init__(self, columns: Sequence[Any], arena: Arena | None, packing: Packing, *, by_value: bool) -> None:
        self._columns = columns
        self._has_arena = arena is not None
        self._make = by_value_pickler if by_value else by_name_pickler
        self._special = custom_reducers(packing)
        self._written: list[bytes] = []
        self._buffers: list[memoryview] = []
        self._places: dict[Any, int] = {}  # of the buffers, by where they lie in memory
        self._used: list[int] = []  # buffers of the pickle that is being written
        self._code = _Code() if by_value else None
        for kind, reduce in self._special.items():
            if kind.__name__ == "ndarray":
                self._special[kind] = functools.partial(_reduce_once, {}, reduce)

    def write(self) -> Rows:
        """Pickle all items."""
        constants = {at: column.value for at, column in enumerate(self._columns) if type(column) is Constant}
        kept = {at: value for at, value in constants.items() if not _is_small(value) and is_immutable(value)}
        columns = [iter(column) for at, column in enumerate(self._columns) if at not in kept]
        own = tuple(value for at, value in constants.items() if at not in kept)
        head = None if all(map(_is_small, own)) else own
        ends, uses, stream, head_stream = self._write_rows(zip(*columns), head)  # noqa: B905 - constants have no end
        code = self._write_code()
        return Rows(stream, ends, uses, list(map(pickle.PickleBuffer, self._buffers)), head_stream, code, kept)

    def _write_rows(self, rows: Iterator[tuple[Any, ...]], head: Any) -> tuple[list[int], Any, bytes, Any]:
        """Pickle rows behind a head: the constants, to which the pickles of all rows refer."""
        first, pickler = self._new_pickler(), self._new_pickler()
        head_pickle = None
        if head is not None:
            first.dump(head)
            head_pickle = self._taken()
        streams: list[bytes] = []
        uses: list[tuple[int, ...]] = []
        for row in rows:
            if head is None:
                pickler.clear_memo()
            else:
                pickler.memo = first.memo
            pickler.dump(row)
            stream, used = self._taken()
            streams.append(stream)
            uses.append(used)
        self._forget(first, pickler)
        ends = list(itertools.accumulate(map(len, streams)))
        return ends, uses if any(uses) else None, b"".join(streams), head_pickle

    def _taken(self) -> tuple[bytes, tuple[int, ...]]:
        """Return what was written, and the buffers that belong to it."""
        stream, used = b"".join(self._written), tuple(self._used)
        self._written.clear()
        self._used.clear()
        return stream, used

    def _new_pickler(self) -> Any:
        pickler = self._make(Sink(self._written.append), self._is_small, self._special)
        if self._code is not None:
            self._code.watch(pickler)
        return pickler

    def _write_code(self) -> Any:
        """Pickle the classes and functions that go by value; None if there are none."""
        if self._code is None or not self._code.found:
            return None
        pickler = self._make(Sink(self._written.append), self._is_small, self._special)
        pickler.dump(self._code.found)
        return self._taken()

    def _forget(self, *picklers: Any) -> None:
        """Let go of the user's objects now: a pickler that is watched is part of a cycle."""
        for pickler in picklers:
            pickler.clear_memo()
            if self._code is not None:
                del pickler.reducer_override

    def _is_small(self, buffer: pickle.PickleBuffer) -> bool:
        """Note a large buffer, each once however many items have it."""
        raw = buffer.raw()
        if not self._has_arena or raw.nbytes <= INLINE_MAX or len(self._buffers) == MAX_BUFFERS:
            return True
        place = self._places.setdefault(_address(raw), len(self._buffers))
        if place == len(self._buffers):
            self._buffers.append(raw)  # kept, so that nothing else comes to lie there
        self._used.append(place)
        return False


def _reduce_once(reduced: dict[int, tuple[Any, Any]], reduce: Callable[[Any], Any], array: Any) -> Any:
    """Reduce a large array once for all items: of one that is not contiguous that makes a copy."""
    if array.nbytes <= INLINE_MAX:
        return reduce(array)
    if id(array) not in reduced:
        reduced[id(array)] = array, reduce(array)
    return reduced[id(array)][1]


def _address(raw: memoryview) -> tuple[int, int]:
    """Return where a buffer lies, and its size."""
    numpy: Any = sys.modules.get("numpy")
    if numpy is None:
        return id(raw.obj), raw.nbytes
    return numpy.frombuffer(raw, numpy.uint8).__array_interface__["data"][0], raw.nbytes


class _Code:
    """Classes and functions that go by value: written down once for all items, which refer to them by number."""

    def __init__(self) -> None:
        self.found: list[Any] = []
        self._numbers: dict[int, int] = {}

    def watch(self, pickler: Any) -> None:
        """Have a pickler refer to what goes by value."""
        usual = pickler.reducer_override

        def reduce(value: Any) -> Any:
            if not isinstance(value, (FunctionType, type)):
                return usual(value)
            number = self._numbers.get(id(value))
            if number is None:
                reduced = usual(value)
                if reduced is NotImplemented:
                    return reduced
                number = self._numbers[id(value)] = len(self.found)
                self.found.append(value)
            return _take_code, (number,)

        pickler.reducer_override = reduce


class Rows:
    """The items of a chunk, pickled one by one; an iterator over their arguments that goes on after one that cannot be read.

    Parameters
    ----------
    stream : bytes
        The pickles.
    ends : list of int
        Where each of them ends.
    uses : list of tuple of int, or None
        The buffers of each; None if there are none.
    buffers : list
        Large buffers, each once.
    head : (bytes, tuple of int) or None
        The pickle of constants to which the rows refer, and its buffers.
    code : (bytes, tuple of int) or None
        The same of classes and functions, which all rows share.
    kept : dict of int to object
        Constants that all rows share, by their position.
    """

    def __init__(
        self, stream: bytes, ends: list[int], uses: Any, buffers: list[Any], head: Any, code: Any, kept: dict[int, Any]
    ) -> None:
        self.stream = stream
        self._fields = ends, uses, buffers, head, code, kept
        self._view = memoryview(stream)
        self._at = 0
        self._n_uses: list[int] = []
        self._code: list[Any] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Rows, (self.stream, *self._fields)

    def __len__(self) -> int:
        return len(self._fields[0])

    def __iter__(self) -> Rows:
        return self

    def __next__(self) -> Sequence[Any]:
        global _reading
        at = self._at
        if at == len(self):
            raise StopIteration
        self._at += 1
        if self._fields[4] is None:
            return self._read(at)
        _reading = self
        try:
            return self._read(at)
        finally:
            _reading = None  # the rows may stand for much memory

    def _read(self, at: int) -> Sequence[Any]:
        ends, uses, _, head, _, kept = self._fields
        piece = self._view[ends[at - 1] if at else 0 : ends[at]]
        buffers = self._open(uses[at]) if uses else ()
        row: Sequence[Any]
        row = pickle.loads(piece, buffers=buffers) if head is None else self._read_behind(head, piece, buffers)
        if not kept:
            return row
        values = list(row)
        for position, value in kept.items():  # in ascending order, so that each finds its place
            values.insert(position, value)
        return values

    def _read_behind(self, head: tuple[bytes, tuple[int, ...]], piece: memoryview, buffers: Any) -> Any:
        """Rebuild the constants, and then the row that refers to them."""
        file = io.BytesIO(b"".join((head[0], piece)))
        unpickler = pickle.Unpickler(file, buffers=itertools.chain(self._open(head[1]), buffers))
        unpickler.load()
        return unpickler.load()

    def _open(self, places: Sequence[int]) -> Iterator[Any]:
        """Return the buffers at some places: copies that the reader may write to, where others have them too."""
        if places and not self._n_uses:
            self._n_uses = self._count_uses()
        return map(self._open_one, places)

    def _open_one(self, place: int) -> Any:
        buffer = self._fields[2][place]
        base = buffer.obj if type(buffer) is memoryview else buffer
        if self._n_uses[place] == 1:
            return base
        return base.copy() if isinstance(base, (Mapping, bytearray)) else base

    def _count_uses(self) -> list[int]:
        ends, uses, buffers, head, code, _ = self._fields
        counts = [0] * len(buffers)
        for place in itertools.chain(*(uses or ()), code[1] if code else ()):
            counts[place] += 1
        for place in head[1] if head else ():
            counts[place] += len(ends)
        return counts

    def take_code(self, number: int) -> Any:
        """Return a class or function that all rows share."""
        if self._code is None:
            stream, places = self._fields[4]
            self._code = pickle.loads(stream, buffers=self._open(places))
        return self._code[number]


#: The rows one of which is being read; a process reads one at a time.
_reading: Any = None


def _take_code(number: int) -> Any:
    return _reading.take_code(number)

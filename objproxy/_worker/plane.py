"""The data plane of a worker process: its own segments, the two tables of loans, and the shared objects that it has open.

Everything is made when it is first needed: a worker that never meets a large buffer pays nothing.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from typing import Any

from objproxy._worker import lineage, loans, wire
from objproxy._worker.arena import COLD_SECONDS, Arena
from objproxy._worker.loans import Borrower, LoanTable, Part
from objproxy._worker.parcel import Parcel, freeze, pack, pack_result, unpack
from objproxy._worker.segments import Segments, open_segments
from objproxy._worker.shared_values import ResultSharing, Sharing, registered


class WorkerPlane:
    """What one worker has of the data plane.

    Parameters
    ----------
    fd : int or None
        The inherited file of all segments, where there is one.
    prefix : str
        Of the names of the segments, where they have names.
    base : int
        Offset at which this worker's range begins.
    limit : int or None
        Most bytes that its results may hold.
    write : callable
        Writes frames to the parent.
    """

    def __init__(self, fd: int | None, prefix: str, base: int, limit: int | None, write: Callable[[bytes], None]) -> None:
        self._fd = fd
        self._prefix = prefix
        self._base = base
        self._limit = limit
        self._write = write

    @functools.cached_property
    def _segments(self) -> Segments:
        return open_segments(self._fd, self._prefix)

    @functools.cached_property
    def arena(self) -> Arena:
        """Where large results go."""
        return Arena(self._segments, self._base + loans.FIRST_SEGMENT, self._limit)

    @functools.cached_property
    def borrower(self) -> Borrower:
        """Opens what the parent has lent."""
        return Borrower(self._segments, self._table(loans.TO_WORKER))

    @functools.cached_property
    def _lent(self) -> LoanTable:
        return LoanTable(self._table(loans.TO_PARENT))

    def _table(self, offset: int) -> Any:
        return self._segments.map(self._base + offset, loans.TABLE_BYTES, is_shared=True)

    def open_tables(self) -> None:
        """Open now what others could remove before it is first needed."""
        if self._prefix:
            _ = self._lent, self.borrower

    @functools.cached_property
    def _sharing(self) -> ResultSharing:
        return ResultSharing(self._base, self._send_shared)

    def pack(self, value: Any, *, may_share: bool = True) -> bytes | Parcel:
        """Pickle a result; what it shares with others (`register_shared`) is sent ahead, once, if it may be shared."""
        return _check(pack_result(value, self.arena, self._sharing if registered and may_share else None))

    def _send_shared(self, number: int, value: Any, sharing: Sharing) -> None:
        """Send objects to which results will refer."""
        packed, head = _check(pack(value, self.arena, sharing=sharing)), wire.GROUP_HEAD.pack(number)
        if isinstance(packed, Parcel):
            self._write(wire.frame(wire.PARTS, self.lend(packed)) + wire.frame(wire.SHARED, head, packed.stream))
        else:
            self._write(wire.frame(wire.SHARED, head, packed))

    def drop_unshared(self) -> None:
        """Forget shared objects that nothing refers to any more; every result so far has been sent."""
        if "_sharing" in self.__dict__:
            self._sharing.drop_unused()
            if self._sharing.unused:
                self._write(wire.frame(wire.UNSHARED, *map(wire.GROUP_HEAD.pack, self._sharing.unused)))
                self._sharing.unused.clear()

    def lend(self, parcel: Parcel) -> bytes:
        """Lend a parcel to the parent; return what the message before it has to say."""
        return b"".join(part.packed() for part in parcel.lend(self._lent))

    @lineage.unpickles_arguments
    def unpack(self, stream: Any, parts: list[Part]) -> Any:
        """Rebuild what the parent has sent."""
        return unpack(stream, parts, self.borrower if parts else None)

    def forget_results(self) -> None:
        """Let go of what results have shared: it ends with the object of the worker."""
        if "_sharing" in self.__dict__:
            self._sharing.drop_all()

    def open_shared(self, body: bytes, parts: list[Part]) -> None:
        """Open a shared object, until the parent says that it is closed; if that fails, the calls that use it will say so."""
        key, kind, about = pickle.loads(body)
        try:
            opened[key] = _OPENERS[kind](self, about, parts)
        except Exception as exc:
            failed[key] = exc

    def trim(self) -> float | None:
        """Give back what has not been used for a while; return the seconds after which to ask again, None for never."""
        if "arena" not in self.__dict__ or not self.arena.held:
            return None
        self.arena.trim(COLD_SECONDS)
        return COLD_SECONDS if self.arena.held else None


def _check(packed: bytes | Parcel) -> bytes | Parcel:
    if isinstance(packed, Parcel) and packed.shared:
        raise TypeError("a shared array that was made in a worker cannot be returned; return its .array, which is copied")
    return packed


#: The shared objects that this process has open, by their keys; and those that could not be opened.
opened: dict[int, Any] = {}
failed: dict[int, Exception] = {}


def get_shared(key: int) -> Any:
    """Return a shared object; this is how one looks in a pickle."""
    if key in failed:
        raise failed[key]
    return opened[key]


def get_shared_part(key: int, index: int) -> Any:
    """Return one of several shared objects; this is how an argument of a registered type looks in a pickle."""
    return get_shared(key)[index]


def forget_shared(key: int) -> None:
    """Let go of a shared object, whose owner has closed it; what the user's object keeps of it stays."""
    opened.pop(key, None)
    failed.pop(key, None)


def _open_array(plane: WorkerPlane, about: tuple[Any, ...], parts: list[Part]) -> Any:
    """Map an array that everybody may write."""
    import numpy as np

    dtype, shape, order = about
    try:
        mapping = plane.borrower.map(parts[0], is_shared=True)
    except OSError:
        plane.borrower.give_back(parts[0].slot)
        raise
    return np.ndarray(shape, dtype, mapping, order=order)


def _open_value(plane: WorkerPlane, stream: bytes, parts: list[Part]) -> Any:
    """Rebuild what was put, once for all calls to come."""
    return freeze(plane.unpack(stream, parts))


def _open_group(plane: WorkerPlane, stream: bytes, parts: list[Part]) -> Any:
    """Rebuild objects of registered types, once for all calls to come."""
    return plane.unpack(stream, parts)[1]


_OPENERS: dict[str, Callable[[WorkerPlane, Any, list[Part]], Any]] = {
    "array": _open_array,
    "value": _open_value,
    "group": _open_group,
}

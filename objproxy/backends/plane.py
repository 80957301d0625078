"""The data plane of the program: the space of shared memory, the arenas of its pools, one lane to each worker.

::

    range 0            the program: SharedArrays
    range k            a pool: arguments on their way, what was put
    range m            a worker: two tables of loans, then its results
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import pickle
import weakref
from typing import Any, Protocol

from objproxy._worker import loans, natives, shared_values, wire
from objproxy._worker.arena import COLD_SECONDS, Arena, raise_if_full
from objproxy._worker.loans import Borrower, LoanTable, Part, unpack_parts
from objproxy._worker.parcel import Parcel, unpack
from objproxy._worker.segments import N_RANGES, RANGE, NamedSegments, open_segments, sweep
from objproxy._worker.waits import Flag, Helper
from objproxy.backends import nurseries


class SharedObject(Protocol):
    """What is opened by workers, and not copied to them.

    Attributes
    ----------
    key : int
        Its number in this program.
    kind : str
        How it is opened.
    about : object
        What opening it needs beside its memory.
    parcel : Parcel
        Its memory.
    """

    key: int
    kind: str
    about: Any
    parcel: Parcel

    def is_opened_by(self, lane: Lane) -> None:
        """Note who has to be told when it is closed."""
        ...


class ProgramPlane:
    """The shared memory of this program; made when the first pool or shared array needs it."""

    def __init__(self) -> None:
        self.segments = open_segments()
        if isinstance(self.segments, NamedSegments):
            sweep()
            nurseries.entrust(self.segments.prefix)
            atexit.register(self.segments.close)
        self._lock = natives.Lock()
        self._unused_ranges = itertools.count(1)
        self._free_ranges: list[int] = []
        self._arenas: weakref.WeakSet[Arena] = weakref.WeakSet()
        self._trimmer: _Trimmer | None = None
        self.arena = Arena(self.segments, 0)

    def take_range(self) -> int:
        """Return the offset of a range that nobody uses."""
        with self._lock:
            number = self._free_ranges.pop() if self._free_ranges else next(self._unused_ranges)
        if number >= N_RANGES:
            raise OSError("too many workers have left results that are still in use")
        return number * RANGE

    def return_range(self, base: int) -> None:
        """Take back a range in which nothing is in use."""
        self._free_ranges.append(base // RANGE)

    def open_arena(self, limit: int | None) -> Arena:
        """Make the arena of a pool."""
        arena = Arena(self.segments, self.take_range(), limit)
        with self._lock:
            self._arenas.add(arena)
        return arena

    def close_arena(self, arena: Arena) -> None:
        """Close the arena of a pool; what is in use is given back later, one by one, so its range is not used again."""
        arena.close()
        self.arena.trim(0.0)  # the workers of the pool may have had shared arrays open
        if not arena.held:
            self.return_range(arena.base)
        with self._lock:
            self._arenas.discard(arena)
            trimmer = self._trimmer if not self._arenas else None
        if trimmer is not None:
            trimmer.look_now()

    def pause_trimming(self) -> None:
        """End the thread that trims, before this process is forked; the next `trim_later` starts another."""
        with self._lock:
            trimmer, self._trimmer = self._trimmer, None
        if trimmer is not None:
            trimmer.end()

    def trim_later(self) -> None:
        """See that memory that has gone cold is given back although nobody may call again."""
        if self._trimmer is None:
            with self._lock, contextlib.suppress(RuntimeError):  # no room for a thread: the next call tries again
                if self._trimmer is None:
                    self._trimmer = _Trimmer(self)

    def trim(self) -> bool:
        """Give back what has gone cold; False if there is nothing left that could."""
        for arena in (self.arena, *self._arenas):
            arena.trim(COLD_SECONDS)
        with self._lock:
            if self.is_trimmable:
                return True
            self._trimmer = None
            return False

    @property
    def is_trimmable(self) -> bool:
        """Whether a pool holds shared memory."""
        return any(arena.held for arena in list(self._arenas))


class _Trimmer:
    """A thread that gives memory back. There is one only while a pool holds shared memory."""

    def __init__(self, plane: ProgramPlane) -> None:
        self._plane = plane
        self._is_woken = Flag()
        self._is_ended = False
        self._thread = Helper(self._run, "objproxy-trim")
        self._thread.start()

    def _run(self) -> None:
        while not self._is_ended and self._plane.trim():
            if self._is_woken.wait(COLD_SECONDS):
                self._is_woken.clear()

    def look_now(self) -> None:
        """Look without waiting: the last pool has been closed."""
        self._is_woken.set()

    def end(self) -> None:
        """End, and wait for the end: a process with threads had better not be forked."""
        self._is_ended = True
        self._is_woken.set()
        if not natives.has_green_threads():
            self._thread.join()


@functools.cache
def program_plane() -> ProgramPlane:
    """Return the one of this program."""
    return ProgramPlane()


def _before_fork() -> None:
    if program_plane.cache_info().currsize:
        program_plane().pause_trimming()


# The thread is not started again in the parent but with the next call that carries an array: Python 3.13 counts the threads
# after the hooks have run, and would warn of this one.
os.register_at_fork(before=_before_fork, after_in_child=program_plane.cache_clear)


class Lane:
    """What the program and one worker know of each other's segments.

    Parameters
    ----------
    plane : ProgramPlane
        Where the segments are.
    on_forget : callable
        Called with the key of a shared object that was closed and that this worker has open; it may be called anywhere.
    """

    def __init__(self, plane: ProgramPlane, on_forget: Any) -> None:
        self._plane = plane
        self._segments = plane.segments
        self.base = plane.take_range()
        self.opened: set[int] = set()
        self._expected: list[Part] = []
        self.on_forget = on_forget
        try:
            self._make_tables()
        except OSError as exc:
            self._segments.discard_all(self.base, self.base + RANGE)
            plane.return_range(self.base)
            raise_if_full(exc, 2 * loans.TABLE_BYTES, self._segments)
            raise

    def _make_tables(self) -> None:
        for table in (loans.TO_WORKER, loans.TO_PARENT):
            self._segments.make_table(self.base + table, loans.TABLE_BYTES)
        if self._segments.prefix:
            # What has a name may be removed by others; what is open stays. Else a call would fail when it is half sent.
            _ = self._lent, self.borrower

    @functools.cached_property
    def _lent(self) -> LoanTable:
        return LoanTable(self._table(loans.TO_WORKER))

    @functools.cached_property
    def borrower(self) -> Borrower:
        """Opens what the worker has lent."""
        return Borrower(self._segments, self._table(loans.TO_PARENT))

    def _table(self, offset: int) -> Any:
        return self._segments.map(self.base + offset, loans.TABLE_BYTES, is_shared=True)

    def announce(self, parcel: Parcel) -> bytes:
        """Return the frames that have to come before the one with a parcel's pickle, and lend what they name."""
        if parcel.pieces:
            self._plane.trim_later()
        frames = [self._open(shared) for shared in parcel.shared if shared.key not in self.opened]
        return b"".join((*frames, self._parts(parcel)))

    def _open(self, shared: SharedObject) -> bytes:
        self.opened.add(shared.key)
        shared.is_opened_by(self)
        body = pickle.dumps((shared.key, shared.kind, shared.about), 5)
        return self._parts(shared.parcel) + wire.frame(wire.OPEN, body)

    def _parts(self, parcel: Parcel) -> bytes:
        parts = parcel.lend(self._lent)
        return wire.frame(wire.PARTS, *[part.packed() for part in parts]) if parts else b""

    def expect(self, body: bytes) -> None:
        """Note where the large buffers of the worker's next reply are."""
        self._expected = unpack_parts(body)

    def unpack(self, stream: Any) -> Any:
        """Rebuild a result that has large buffers."""
        parts, self._expected = self._expected, []
        return unpack(stream, parts, self.borrower)

    def keep(self, body: bytes) -> None:
        """Rebuild objects to which results of the worker will refer."""
        (number,) = wire.GROUP_HEAD.unpack_from(body)
        shared_values.keep(self.base, number, lambda: self.unpack(memoryview(body)[wire.GROUP_HEAD.size :]))

    def drop(self, body: bytes) -> None:
        """Let go of such objects."""
        shared_values.drop(self.base, [number for (number,) in wire.GROUP_HEAD.iter_unpack(body)])

    def forget(self, key: int) -> None:
        """Have the worker close a shared object."""
        if key in self.opened:
            self.opened.discard(key)
            self.on_forget(key)

    def end(self, *, is_certain: bool = True) -> None:
        """Take everything back: the worker is dead.

        If that is not certain, it may still write into its range, which is not used again then.
        """
        shared_values.drop_all(self.base)
        if "_lent" in self.__dict__:
            self._lent.end()
        if "borrower" in self.__dict__:
            self.borrower.outlive_lender(self.base, self.base + RANGE)
        else:
            self._segments.discard_all(self.base, self.base + RANGE)
        if is_certain and ("borrower" not in self.__dict__ or not self.borrower.live):
            self._plane.return_range(self.base)

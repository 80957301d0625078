"""Frames and pickles: how messages look on the channel between the parent and one worker.

A frame is a header (kind, number of bytes) and its bytes. It is complete or it does not exist: a reader that meets the end of
the channel inside a frame drops the part it has. A length beyond `MAX_FRAME` is not believed and nothing is allocated for it.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import pickle
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from objproxy._worker import hubs, natives, waits
from objproxy._worker.by_value import make_pickler
from objproxy._worker.descriptors import StreamSocket
from objproxy._worker.importable import names_unimportable

# Kinds of frames. From the parent:
BOOT, CALL, STOP, PARTS, OPEN, CARGO, DEBUG_LINE = 1, 2, 3, 4, 5, 6, 7
LEAVE = 8  # STOP has the object's own end run, LEAVE does not
TASK, CANCEL = 9, 10  # a call that runs beside others, and the end of one
# From the worker (PARTS, which tell of the large buffers of the frame behind them, go both ways):
READY, INIT_FAILED, REPLY, LOG, PROGRESS, OUTGROWN, UNREADABLE = 11, 12, 13, 14, 15, 16, 17
DEBUG_OUT, DEBUG_IN, DEBUG_END = 18, 19, 20
ENDING, END_FAILED = 21, 22
SHARED, UNSHARED = 23, 24  # objects to which later results refer, and which of them will not be referred to any more
STOPPING = 25

# Steps in the end of a worker, the body of ENDING: it runs the object's own end, waits for background work, does the rest.
FINISHING, JOINING, LEAVING = 1, 2, 3

#: Kind of a frame and the number of bytes that follow.
HEADER = struct.Struct("<IQ")

#: A longer frame is a damaged channel, not a message.
MAX_FRAME = 1 << 40

#: Sequence number of the batch, call number for random streams, index of the first item, number of items.
CALL_HEAD = struct.Struct("<QQQI")

#: Sequence number of the batch, whether this is its last reply, nanoseconds of work so far.
REPLY_HEAD = struct.Struct("<Q?Q")

#: Sequence number of a batch of several items that cannot be unpickled.
UNREADABLE_BODY = struct.Struct("<Q")

#: Number of a group of shared objects.
GROUP_HEAD = struct.Struct("<Q")

#: Sequence number of a task that is to be cancelled, or is being cancelled; then, from the worker, where it stands.
TASK_HEAD = struct.Struct("<Q")

#: Lane of a segment, number of items, number of bytes.
SEGMENT_HEAD = struct.Struct("<BQQ")

# Lanes: how the results of consecutive items are written.
INTS, FLOATS, NONES, PICKLES, ERRORS, PARCEL = 1, 2, 3, 4, 5, 6

#: Seconds that a reader looks again before it sleeps. Waking a sleeping process costs 15 to 20 us a side on a virtual
#: machine, so a ping-pong of small calls is four times faster this way (`python -m benchmarks round_trip`).
SPIN_SECONDS = 120e-6

#: Bytes that one read may bring. Room for more would have to be touched when a worker starts.
READ_SIZE = 1 << 16


class Operation(NamedTuple):
    """What a worker shall do with its object; pickled once, in the caller."""

    verb: str  # "call", "map", "get", "set", "augment", "next", "drop", "forget", "snapshot"
    name: str  # method or attribute
    args: Any  # positional arguments; for "map" one column (sequence of values, or `Constant`) for each
    kwargs: Any  # keyword arguments; for "map" the names of the last columns


class Constant:
    """A column of a "map" that is one value throughout; it crosses once with each message.

    Parameters
    ----------
    value : object
        That value.
    """

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __iter__(self) -> Iterator[Any]:
        return itertools.repeat(self.value)

    def __getitem__(self, index: Any) -> Any:
        """Return the value, or a part of the column, which is the column."""
        return self if isinstance(index, slice) else self.value

    def __reduce__(self) -> tuple[Any, ...]:
        return Constant, (self.value,)


class ChannelClosedError(ConnectionError):
    """The other side of the channel is gone."""


def dumps(value: Any) -> bytes:
    """Pickle `value`, by reference where the reader can import it, else by value.

    What lives in ``__main__``, or in a module that was loaded from a path, cannot be imported by a worker, and a lambda by no
    process: those go through cloudpickle. The plain pickler is tried first because it is several times faster.
    """
    try:
        data = pickle.dumps(value, 5)
    except Exception:
        return _dumps_by_value(value)

    return _dumps_by_value(value) if names_unimportable(data) else data


def _dumps_by_value(value: Any) -> bytes:
    sink = io.BytesIO()
    make_pickler(sink).dump(value)
    return sink.getvalue()


def frame(kind: int, *parts: bytes | bytearray | memoryview) -> bytes:
    """Join pieces into one frame."""
    return b"".join((HEADER.pack(kind, sum(map(len, parts))), *parts))


class FrameReader:
    """Reads a non-blocking stream socket and cuts complete frames out of it.

    Parameters
    ----------
    sock : socket
        Where to read.
    space : memoryview or None
        Room for one read; readers that never read at the same time may share it.
    """

    __slots__ = ("_receive", "_rest", "_space")

    def __init__(self, sock: StreamSocket, space: memoryview | None = None) -> None:
        self._receive = sock.recv_into
        self._space = memoryview(bytearray(READ_SIZE)) if space is None else space
        self._rest = bytearray()  # the beginning of a frame whose end has not come yet

    def read(self) -> list[tuple[int, bytes]]:
        """Read once; return the frames that are complete now, as (kind, body).

        Raises
        ------
        BlockingIOError
            There is nothing to read.
        ChannelClosedError
            The other side is gone, or what it sends is no frame.
        """
        try:
            n_read = self._receive(self._space)
        except ConnectionResetError:
            n_read = 0
        if not n_read:
            raise ChannelClosedError("the other side is gone")
        if self._rest:
            self._rest += self._space[:n_read]
            with memoryview(self._rest) as data:
                frames, used = _cut(data)
            del self._rest[:used]
        else:
            frames, used = _cut(self._space[:n_read])
            if used < n_read:
                self._rest += self._space[used:n_read]
        return frames


def _cut(data: memoryview) -> tuple[list[tuple[int, bytes]], int]:
    """Return the complete frames in `data` and the number of bytes that they fill."""
    frames = []
    at, end = 0, len(data)
    while end - at >= HEADER.size:
        kind, nbytes = HEADER.unpack_from(data, at)
        if nbytes > MAX_FRAME:
            raise ChannelClosedError(f"protocol error: a frame of {nbytes} bytes was announced")
        stop = at + HEADER.size + nbytes
        if stop > end:
            break
        frames.append((kind, data[at + HEADER.size : stop].tobytes()))
        at = stop
    return frames, at


class WorkerChannel:
    """The worker's end of its channel: blocking, with a short spin before it sleeps.

    Parameters
    ----------
    fd : int
        A connected stream socket that nobody else reads.
    lock : lock
        Held while a frame is written, because log records come from any thread.
    """

    def __init__(self, fd: int, lock: Any) -> None:
        self._sock = StreamSocket(fd)
        self._sock.setblocking(False)
        self._fd = fd
        self._lock = lock
        self._reader = FrameReader(self._sock)
        self._ready: list[tuple[int, bytes]] = []
        self.on_idle: Callable[[], float | None] = lambda: None  # called while nothing comes; returns when to call it again
        self.wait_for_descriptor: Callable[[int, float | None], bool] = waits.wait_readable

    def send(self, kind: int, *parts: bytes) -> None:
        """Write one frame."""
        self.write(frame(kind, *parts))

    def write(self, data: bytes) -> None:
        """Write frames, whole, however long the parent takes to read them."""
        with self._lock:
            try:
                self._write_all(memoryview(data))
            except (BrokenPipeError, ConnectionResetError) as exc:
                raise ChannelClosedError("the parent is gone") from exc
            except OSError as exc:
                self._check_is_here(exc)
                raise

    def _write_all(self, rest: memoryview) -> None:
        while rest:
            try:
                rest = rest[natives.write(self._fd, rest) :]
            except BlockingIOError:
                wait_for_room(self._fd)

    def detach(self) -> None:
        """Close this copy of the channel in a forked child: whatever uses it there is told that the parent is gone."""
        self._lock = contextlib.nullcontext()  # a thread that is not here may hold the lock
        self._fd = -1
        self._sock.close()

    def receive(self) -> tuple[int, bytes]:
        """Wait for the next frame.

        Raises
        ------
        ChannelClosedError
            The parent is gone.
        """
        ready = self._ready
        while not ready:
            try:
                ready += self._reader.read()
            except BlockingIOError:
                self._wait()
            except OSError as exc:
                self._check_is_here(exc)
                raise
        return ready.pop(0)

    def has_frame(self) -> bool:
        """Whether a frame was read and not received."""
        return bool(self._ready)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def _check_is_here(self, error: OSError) -> None:
        if self._fd < 0:
            raise ChannelClosedError("this process was forked from a worker, and the channel is the worker's") from error

    def receive_only(self, kind: int) -> bytes:
        """Wait for a frame of one kind; what else comes is kept, in its order."""
        while True:
            for at, (found, body) in enumerate(self._ready):
                if found == kind:
                    del self._ready[at]
                    return body
            waits.wait_readable(self._fd)
            with contextlib.suppress(BlockingIOError):
                self._ready += self._reader.read()

    def _wait(self) -> None:
        """Sleep until there is something to read, after looking again for a moment."""
        deadline = time.perf_counter() + SPIN_SECONDS
        while not self._ready and time.perf_counter() < deadline:
            os.sched_yield()  # others may need this processor, the other side of the channel first of all
            try:
                self._ready += self._reader.read()
            except BlockingIOError:
                continue
        while not self._ready:
            if self.wait_for_descriptor(self._fd, self.on_idle()):
                return


def wait_for_room(fd: int) -> None:
    """Sleep until `fd` can be written, or its other side is gone; no other greenlet runs, since a lock is held meanwhile."""
    poll = natives.poll()
    poll.register(fd, hubs.WRITABLE)
    poll.poll()

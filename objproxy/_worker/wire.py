"""Frames and pickles: how messages look on the channel between the parent and one worker.

A frame is a header (kind, number of bytes) and its bytes. It is complete or it does not exist: a reader that meets the end of
the channel inside a frame drops the part it has. A length beyond `MAX_FRAME` is not believed and nothing is allocated for it.
"""

from __future__ import annotations

import os
import pickle
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

# Kinds of frames. From the parent:
BOOT, CALL, STOP = 1, 2, 3
# From the worker:
READY, INIT_FAILED, REPLY, LOG, PROGRESS = 11, 12, 13, 14, 15

#: Kind of a frame and the number of bytes that follow.
HEADER = struct.Struct("<IQ")

#: A longer frame is a damaged channel, not a message.
MAX_FRAME = 1 << 40

#: Sequence number of the batch, call number for random streams, index of the first item, number of items.
CALL_HEAD = struct.Struct("<QQQI")

#: Sequence number of the batch, whether this is its last reply, nanoseconds of work so far.
REPLY_HEAD = struct.Struct("<Q?Q")

#: Lane of a segment, number of items, number of bytes.
SEGMENT_HEAD = struct.Struct("<BQQ")

# Lanes: how the results of consecutive items are written.
INTS, FLOATS, NONES, PICKLES, ERRORS = 1, 2, 3, 4, 5

#: Seconds that a reader looks again before it sleeps. Waking a sleeping process costs 15 to 20 us a side on a virtual
#: machine, so a ping-pong of small calls is four times faster this way (`python -m benchmarks round_trip`).
SPIN_SECONDS = 60e-6

_READ_SIZE = 1 << 18


class Operation(NamedTuple):
    """What a worker shall do with its object; pickled once, in the caller."""

    verb: str  # "call", "map", "get", "set", "next", "drop", "snapshot"
    name: str  # method or attribute
    args: Any  # positional arguments; for "map" one column (sequence of values) for each argument
    kwargs: Any  # keyword arguments; for "map" the names of the last columns


class ChannelClosedError(Exception):
    """The other side of the channel is gone."""


def dumps(value: Any) -> bytes:
    """Pickle `value`, by reference where the reader can import it, else by value.

    What lives in ``__main__`` cannot be imported by a worker, and a lambda by nobody: those go through cloudpickle. The plain
    pickler is tried first because it is several times faster.
    """
    try:
        data = pickle.dumps(value, 5)
    except Exception:
        return _dumps_by_value(value)

    return _dumps_by_value(value) if b"__main__" in data else data


def _dumps_by_value(value: Any) -> bytes:
    import cloudpickle  # noqa: PLC0415 - 13 ms that most messages never need

    data: bytes = cloudpickle.dumps(value, 5)
    return data


def frame(kind: int, *parts: bytes | bytearray | memoryview) -> bytes:
    """Join `parts` into one frame."""
    return b"".join((HEADER.pack(kind, sum(map(len, parts))), *parts))


class FrameBuffer:
    """Collects what arrives on a channel and cuts complete frames out of it."""

    __slots__ = ("_data", "_start")

    def __init__(self) -> None:
        self._data = bytearray()
        self._start = 0

    def feed(self, data: bytes) -> None:
        """Append what was read."""
        self._data += data

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Yield every complete frame as (kind, body)."""
        data, start = self._data, self._start
        while len(data) - start >= HEADER.size:
            kind, nbytes = HEADER.unpack_from(data, start)
            if nbytes > MAX_FRAME:
                raise ChannelClosedError(f"protocol error: a frame of {nbytes} bytes was announced")

            begin = start + HEADER.size
            if len(data) - begin < nbytes:
                break

            start = begin + nbytes
            self._start = start
            yield kind, bytes(memoryview(data)[begin:start])

        if start:
            del data[:start]
            self._start = 0


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
        self._fd = fd
        self._lock = lock
        self._buffer = FrameBuffer()
        self._ready: list[tuple[int, bytes]] = []
        os.set_blocking(fd, False)

    def send(self, kind: int, *parts: bytes | bytearray | memoryview) -> None:
        """Write one frame, whole, however long the parent takes to read it."""
        data: bytes | memoryview = frame(kind, *parts)
        with self._lock:
            try:
                sent = os.write(self._fd, data)
            except BlockingIOError:
                sent = 0

            if sent < len(data):
                self._send_rest(memoryview(data)[sent:])

    def _send_rest(self, rest: memoryview) -> None:
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                wait_for_descriptor(self._fd, for_writing=True)

    def receive(self) -> tuple[int, bytes]:
        """Wait for the next frame.

        Raises
        ------
        ChannelClosedError
            The parent is gone.
        """
        while not self._ready:
            data = spin_read(self._fd, SPIN_SECONDS)
            if data is None:
                wait_for_descriptor(self._fd)
                continue

            if not data:
                raise ChannelClosedError("the parent is gone")

            self._buffer.feed(data)
            self._ready = list(self._buffer.frames())
            self._ready.reverse()

        return self._ready.pop()

    @property
    def has_frames(self) -> bool:
        """Whether the next frame is already here."""
        return bool(self._ready)


def spin_read(fd: int, seconds: float, _now: Callable[[], float] = time.perf_counter) -> bytes | None:
    """Read `fd`, looking again for `seconds` before giving up with None; b"" is the end of the channel."""
    try:
        return os.read(fd, _READ_SIZE)
    except BlockingIOError:
        pass
    except ConnectionResetError:
        return b""

    deadline = _now() + seconds
    while _now() < deadline:
        # Others may need this processor, the other side of the channel first of all.
        os.sched_yield()
        try:
            return os.read(fd, _READ_SIZE)
        except BlockingIOError:
            continue
        except ConnectionResetError:
            return b""
    return None


def wait_for_descriptor(fd: int, *, for_writing: bool = False, timeout: float | None = None) -> None:
    """Sleep until `fd` can be read (or written), its other side is gone, or `timeout` seconds have passed."""
    import select  # noqa: PLC0415 - not needed by every reader of this module

    poll = select.poll()
    poll.register(fd, select.POLLOUT if for_writing else select.POLLIN)
    poll.poll(None if timeout is None else timeout * 1000)

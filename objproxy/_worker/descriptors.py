"""Open descriptors that are never 0, 1 or 2: those numbers belong to the user.

A program may run without standard streams (a daemon, ``>&-``). The system then gives their numbers to the next descriptors
that are opened, and what a method writes to "standard output" would land in a channel or in shared memory. So every descriptor
of ours is moved above them at once. In a nursery and in a worker ``/dev/null`` stands where a stream is missing.

Sockets are here, too. A pool talks to no network, but needs pairs of connected sockets, made without the module `socket`:
test suites replace ``socket.socket`` by a class that refuses, and gevent by one that switches to other greenlets.
"""

from __future__ import annotations

import _socket
import array
import contextlib
import errno
import fcntl
import os
import sys
from collections.abc import Sequence

from objproxy._worker import natives

_FIRST = 3

#: A program may have SIGPIPE end it, as command line tools do. What is sent to a process that is gone is no such case.
NO_SIGNAL: int = getattr(_socket, "MSG_NOSIGNAL", 0)

_SEALS = "F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_SEAL"


def move_above_standard(fd: int) -> int:
    """Return a descriptor for the same file that is not one of the standard streams; `fd` is closed if it has to be moved."""
    if fd >= _FIRST:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST)
    finally:
        natives.close(fd)


def make_pipe() -> tuple[int, int]:
    """Make a pipe, as `os.pipe` does."""
    read_fd, write_fd = os.pipe()
    try:
        read_fd = move_above_standard(read_fd)
        return read_fd, move_above_standard(write_fd)
    except OSError:
        with contextlib.suppress(OSError):  # the one that could not be moved is closed already
            natives.close(read_fd)
        with contextlib.suppress(OSError):
            natives.close(write_fd)
        raise


class StreamSocket(_socket.socket):
    """One end of a pair of connected sockets; it blocks, whatever time limit the program has set for its new sockets."""

    __slots__ = ()

    def __init__(self, fd: int) -> None:
        super().__init__(fileno=fd)
        self.settimeout(None)

    def __enter__(self) -> StreamSocket:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()


def send_with_fds(sock: _socket.socket, data: bytes, fds: Sequence[int]) -> int:
    """Send bytes and descriptors, without a signal; return how many bytes were sent."""
    return sock.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", fds))], NO_SIGNAL)


def receive_with_fds(sock: _socket.socket, nbytes: int, max_fds: int) -> tuple[bytes, list[int], bool]:
    """Receive bytes and descriptors, as `socket.recv_fds` does; also whether descriptors were lost for want of room."""
    fds = array.array("i")
    data, ancillary, flags, _address = sock.recvmsg(nbytes, _socket.CMSG_LEN(max_fds * fds.itemsize))
    for level, kind, body in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds.frombytes(body[: len(body) - len(body) % fds.itemsize])
    return data, list(fds), bool(flags & _socket.MSG_CTRUNC)


def make_socket_pair() -> tuple[StreamSocket, StreamSocket]:
    """Make two connected stream sockets."""
    one, other = _socket.socketpair()
    try:
        mine = StreamSocket(move_above_standard(one.detach()))
    except OSError:
        other.close()
        raise
    try:
        return mine, StreamSocket(move_above_standard(other.detach()))
    except OSError:
        mine.close()
        raise


def open_file(path: str, flags: int, mode: int = 0o666) -> int:
    """Open a file, as `os.open` does."""
    return move_above_standard(os.open(path, flags | os.O_CLOEXEC, mode))


def make_memory_file(name: str, nbytes: int) -> int:
    """Make an anonymous file in memory, whose size cannot be changed any more.

    Touching a mapped page behind the end of a file kills the process. So a task that truncates what it finds among its
    descriptors would kill the program. Old systems have no seals.
    """
    fd = move_above_standard(os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    try:
        os.ftruncate(fd, nbytes)
    except OSError:
        natives.close(fd)
        raise
    with contextlib.suppress(AttributeError, OSError):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, sum(getattr(fcntl, seal) for seal in _SEALS))
    return fd


def allocate(fd: int, start: int, nbytes: int) -> None:
    """Give memory, or room on the disk, to a part of a file.

    Touching a mapped page for which a full file system has no room kills the process; this raises OSError instead.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, start, nbytes)
        return
    zeros = memoryview(bytes(min(nbytes, 1 << 20)))
    stop = start + nbytes
    while start < stop:
        start += os.pwrite(fd, zeros[: stop - start], start)


def fill_standard_streams() -> None:
    """Put ``/dev/null`` where this process has no standard stream, so that nothing that is opened later takes its number."""
    for fd in range(_FIRST):
        if not is_open(fd):
            while (got := os.open(os.devnull, os.O_RDWR)) != fd:  # the lowest number that is free
                natives.close(got)
            os.set_inheritable(fd, True)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)  # noqa: SIM115  (it stays for as long as the process)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def is_open(fd: int) -> bool:
    """Return whether a descriptor is open."""
    try:
        os.fstat(fd)
    except OSError as exc:
        return exc.errno != errno.EBADF
    return True

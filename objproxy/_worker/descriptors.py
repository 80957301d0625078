"""Open descriptors that are never 0, 1 or 2: those numbers belong to the user.

A program may run without standard streams (a daemon, ``>&-``). The system then gives their numbers to the next descriptors
that are opened, and what a method writes to "standard output" would land in a channel or in shared memory. So every descriptor
of ours is moved above them at once. In a nursery and in a worker ``/dev/null`` stands where a stream is missing.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import socket
import sys
from collections.abc import Sequence

_FIRST = 3

#: A program may have SIGPIPE end it, as command line tools do. What is sent to a process that is gone is no such case.
NO_SIGNAL: int = getattr(socket, "MSG_NOSIGNAL", 0)

_SEALS = "F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_SEAL"


def move_above_standard(fd: int) -> int:
    """Return a descriptor for the same file that is not one of the standard streams; `fd` is closed if it has to be moved."""
    if fd >= _FIRST:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST)
    finally:
        os.close(fd)


def make_pipe() -> tuple[int, int]:
    """Make a pipe, as `os.pipe` does."""
    read_fd, write_fd = os.pipe()
    try:
        read_fd = move_above_standard(read_fd)
        return read_fd, move_above_standard(write_fd)
    except OSError:
        with contextlib.suppress(OSError):  # the one that could not be moved is closed already
            os.close(read_fd)
        with contextlib.suppress(OSError):
            os.close(write_fd)
        raise


def make_socket_pair() -> tuple[socket.socket, socket.socket]:
    """Make two connected stream sockets, as `socket.socketpair` does."""
    one, other = socket.socketpair()
    try:
        one = _move_socket(one)
        return one, _move_socket(other)
    except OSError:
        one.close()
        other.close()
        raise


def send_with_fds(sock: socket.socket, data: bytes, fds: Sequence[int]) -> int:
    """Send bytes and descriptors, without a signal; return how many bytes were sent. `socket.send_fds` passes no flags on."""
    return sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))], NO_SIGNAL)


def _move_socket(sock: socket.socket) -> socket.socket:
    return sock if sock.fileno() >= _FIRST else socket.socket(fileno=move_above_standard(sock.detach()))


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
        os.close(fd)
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
                os.close(got)
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

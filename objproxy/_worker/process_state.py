"""What a process inherits: read in the program, taken over by the nurseries of later pools.

The first pool's workers look like the program because the root nursery is started then. The program may change afterwards: it
turns into a daemon, redirects its output, lowers a limit. So each pool reads the state once more at its start:

- `ProcessState` is what a nursery can take over by itself: umask, resource limits, CPU affinity, niceness, signals. Only what
  differs from the root's is sent.
- `Origin` is what it cannot, or may not: user and groups, capabilities, root directory, namespaces, control groups, session,
  scheduling classes. If one of them has changed, a fresh root is started, which inherits all of it.
- The standard streams are passed as descriptors, for as long as the pool lives. The root, its spare and what is kept for the
  next pool have ``/dev/null``: they must not hold a pipe open that the program has closed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from objproxy._worker import natives
from objproxy._worker.descriptors import is_open
from objproxy._worker.platform import STACK_SIGNAL

#: Output and errors. Standard input is the program's alone: two readers would take each other's lines.
_STREAMS = (1, 2)

#: Signals that nurseries and workers handle themselves, and those that every Python program ignores.
_OWN_SIGNALS = {"SIGKILL", "SIGSTOP", "SIGCHLD", "SIGINT", "SIGTERM", "SIGPIPE", "SIGXFSZ"}
_OWN_NUMBERS = {int(getattr(signal, name)) for name in _OWN_SIGNALS if hasattr(signal, name)} | {STACK_SIGNAL}
_NUMBERS = tuple(number for number in range(1, signal.NSIG) if number not in _OWN_NUMBERS)

#: Fields of /proc/pid/status that say what a process may do.
_RIGHTS = (b"Uid", b"Gid", b"Groups", b"CapInh", b"CapPrm", b"CapEff", b"CapBnd", b"CapAmb", b"NoNewPrivs", b"Seccomp_filters")

#: A thread may unshare them. (Not the namespace of pids: children in a new one cannot see the program.)
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "user", "uts")

#: Of the names of limits in /proc/pid/limits.
_NAME_WIDTH = 25

#: Systems call "no limit" -1, 2^63 - 1 or 2^64 - 1.
_NO_LIMIT = (1 << 63) - 1

#: ioprio_get(2) has no function in C libraries; its number depends on the architecture.
_IOPRIO_GET = {"x86_64": 252, "aarch64": 31, "riscv64": 31}
_IOPRIO_WHO_PROCESS = 1

_libc = ctypes.CDLL(None, use_errno=True)


class ProcessState(NamedTuple):
    """What a nursery can take over.

    Attributes
    ----------
    umask : int
        The mask of modes.
    limits : tuple of (int, int or None, int or None)
        Number of each resource, its soft and its hard limit; None is no limit.
    cpus : tuple of int
        Processors that the calling thread may use; empty where that cannot be told.
    niceness : int
        As in ``os.nice``.
    ignored, blocked : tuple of int
        Signals.
    """

    umask: int
    limits: tuple[tuple[int, int | None, int | None], ...]
    cpus: tuple[int, ...]
    niceness: int
    ignored: tuple[int, ...]
    blocked: tuple[int, ...]

    def changes_since(self, before: ProcessState) -> dict[str, Any]:
        """Return the fields that differ from an earlier state; of the limits only those that do."""
        changes = {name: value for name, value in self._asdict().items() if value != getattr(before, name)}
        if "limits" in changes:
            changes["limits"] = tuple(limit for limit in self.limits if limit not in before.limits)
        return changes

    def may_be_refused(self, before: ProcessState) -> bool:
        """Return whether a process that was started in state `before` may lack the right to take this one over."""
        hard_limits = {number: hard for number, _soft, hard in before.limits}
        is_raised = any(_is_above(hard, hard_limits.get(number)) for number, _soft, hard in self.limits)
        return is_raised or self.niceness < before.niceness


class Origin(NamedTuple):
    """What only a process that is started anew takes over."""

    rights: tuple[Any, ...]
    places: tuple[Any, ...]
    groups: bytes
    session: int
    scheduling: tuple[Any, ...]


def _is_above(limit: int | None, other: int | None) -> bool:
    return other is not None and (limit is None or limit > other)


# ---- in the program ------------------------------------------------------------------------------------------------------


def read_state() -> ProcessState:
    """Return what the program is like now, as its calling thread sees it."""
    status = _read_status()
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else ()
    blocked = sorted({int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())} - _OWN_NUMBERS)
    umask = int(status[b"Umask"], 8) if b"Umask" in status else _try_umask()
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    return ProcessState(umask, _read_limits(), tuple(cpus), niceness, tuple(_read_ignored(status)), tuple(blocked))


def read_origin() -> Origin:
    """Return what the program is now, as its calling thread sees it."""
    status = _read_status()
    rights = [status.get(name) for name in _RIGHTS] if status else [os.geteuid(), os.getuid(), os.getgid(), os.getgroups()]
    places = [_identity("/"), *[_identity(f"/proc/thread-self/ns/{name}") for name in _NAMESPACES]]
    return Origin(tuple(rights), tuple(places), _read("/proc/self/cgroup"), os.getsid(0), _read_scheduling())


def open_streams() -> tuple[int, ...]:
    """Return the descriptors of the standard streams for output that are open."""
    return tuple(fd for fd in _STREAMS if is_open(fd))


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError:  # there is no /proc here, or it lacks that
        return b""


def _read_status() -> dict[bytes, bytes]:
    fields = (line.partition(b":\t") for line in _read("/proc/thread-self/status").splitlines())
    return {name: value for name, _, value in fields}


def _read_limits() -> tuple[tuple[int, int | None, int | None], ...]:
    """Return the limits; from /proc, where they stand in the order of their numbers, since `resource` takes time to load."""
    lines = _read("/proc/self/limits").splitlines()[1:]
    if lines:
        pairs = [line[_NAME_WIDTH:].split()[:2] for line in lines]
        return tuple((number, _take_limit(soft), _take_limit(hard)) for number, (soft, hard) in enumerate(pairs))
    try:
        import resource
    except ImportError:  # the program sees no files any more (chroot)
        return ()
    numbers = sorted({value for name, value in vars(resource).items() if name.startswith("RLIMIT_")})
    limits = [(number, resource.getrlimit(number)) for number in numbers]
    return tuple((number, _take_limit(soft), _take_limit(hard)) for number, (soft, hard) in limits)


def _take_limit(limit: bytes | int) -> int | None:
    if isinstance(limit, bytes):
        return None if limit == b"unlimited" else int(limit)
    return limit if 0 <= limit < _NO_LIMIT else None


def _read_ignored(status: dict[bytes, bytes]) -> Iterable[int]:
    if b"SigIgn" not in status:
        return [number for number in _NUMBERS if _is_ignored(number)]
    mask = int(status[b"SigIgn"], 16)
    return [number for number in _NUMBERS if mask >> (number - 1) & 1]


def _is_ignored(number: int) -> bool:
    try:
        return signal.getsignal(number) is signal.SIG_IGN
    except ValueError:  # the C library keeps it for itself
        return False


def _try_umask() -> int:
    """Return the umask by setting it, the only way on some systems; a file that another thread makes meanwhile is private."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _read_scheduling() -> tuple[Any, ...]:
    """Return the class and priority of the processor and of files, and how soon the kernel kills for want of memory."""
    if sys.platform != "linux":
        return ()
    number = _IOPRIO_GET.get(os.uname().machine)
    io_priority = _libc.syscall(number, _IOPRIO_WHO_PROCESS, 0) if number is not None else None
    priority = os.sched_getparam(0).sched_priority
    return os.sched_getscheduler(0), priority, io_priority, _read("/proc/self/oom_score_adj")


# ---- in a nursery --------------------------------------------------------------------------------------------------------


def take_over(changes: dict[str, Any]) -> None:
    """Make this process be like the program in what `ProcessState.changes_since` has told; what is refused stays as it is."""
    for name, value in changes.items():
        with contextlib.suppress(OSError, ValueError):
            _TAKERS[name](value)


def _set_limits(limits: Sequence[tuple[int, int | None, int | None]]) -> None:
    import resource

    for number, *pair in limits:
        soft, hard = (resource.RLIM_INFINITY if limit is None else limit for limit in pair)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(number, (soft, hard))


def _set_ignored(numbers: Sequence[int]) -> None:
    for number in _NUMBERS:
        if _is_ignored(number) != (number in numbers):
            signal.signal(number, signal.SIG_IGN if number in numbers else signal.SIG_DFL)


def _set_blocked(numbers: Sequence[int]) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, numbers)


_TAKERS: dict[str, Callable[[Any], object]] = {
    "umask": os.umask,
    "limits": _set_limits,
    "cpus": lambda cpus: os.sched_setaffinity(0, cpus),
    "niceness": lambda niceness: os.setpriority(os.PRIO_PROCESS, 0, niceness),
    "ignored": _set_ignored,
    "blocked": _set_blocked,
}


def unblock_own_signals() -> None:
    """Let through what a nursery and its workers need, whatever the program has blocked."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD, signal.SIGINT, STACK_SIGNAL})


def take_streams(numbers: Sequence[int], fds: Sequence[int]) -> None:
    """Put the program's streams where this process has ``/dev/null``, and buffer what is printed as suits them."""
    for number, fd in zip(numbers, fds, strict=False):  # where descriptors run out, none has come
        os.dup2(fd, number)
    if sys.__stdout__ is not None and not sys.__stdout__.closed:
        sys.__stdout__.reconfigure(line_buffering=os.isatty(1))


def drop_streams() -> None:
    """Let go of the program's streams, behind what was printed to them."""
    flush_streams()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        for number in _STREAMS:
            os.dup2(null, number)
    finally:
        natives.close(null)


def flush_streams() -> None:
    """Write what was printed; a process that is forked would write it once more."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # there is none, it is closed, or nobody reads it any more
            stream.flush()

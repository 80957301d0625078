"""The seam for what only some systems have: a signal when the parent dies, and descriptors that stand for processes.

Linux has both. Elsewhere, or with OBJPROXY_PORTABLE=1 in the environment (so that it is tested here too), the portable way is
used: the end of a channel, and asking once a second whether the owner is still there.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def has_linux_means() -> bool:
    """Return whether the Linux-only means are used."""
    return sys.platform == "linux" and os.environ.get("OBJPROXY_PORTABLE") != "1"


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to kill this process when the thread that made it ends.

    Call it in a process that was made by the main thread of its parent: the signal follows the thread, not the process.
    """
    if not has_linux_means():
        return

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The parent may have died before the request was in force; then nobody will ever send the signal.
    if os.getppid() != parent_pid:
        os._exit(1)


def watch_process(pid: int) -> int | None:
    """Return a descriptor that becomes readable when process `pid` ends, or None where there is no such thing."""
    if not has_linux_means() or not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def is_process_alive(pid: int) -> bool:
    """Return whether a process `pid` exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def reap_child(before: Callable[[int], None]) -> tuple[int, int] | None:
    """Reap one child that has ended, after calling ``before(pid)``; None if there is none.

    Returns
    -------
    tuple of int or None
        Process id, and exit code (negative for a signal).

    Notes
    -----
    `before` runs while the pid still belongs to the child, so that its process group can be signalled safely. Portably one
    learns of the end only by reaping; the window in which the pid could be reused is then a few microseconds.
    """
    try:
        if not has_linux_means():
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return None
            before(pid)
            return pid, os.waitstatus_to_exitcode(status)

        info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if info is None:
            return None
        before(info.si_pid)
        return info.si_pid, os.waitstatus_to_exitcode(os.waitpid(info.si_pid, 0)[1])
    except ChildProcessError:
        return None


_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(pid: int | None = None) -> int | None:
    """Return the memory that a process holds (this one without `pid`), or None where that cannot be read."""
    try:
        with open(f"/proc/{pid or 'self'}/statm", "rb") as statm:
            return int(statm.read().split()[1]) * _PAGE_SIZE
    except (OSError, IndexError):
        return None

"""The seam for what only some systems have: a signal when the parent dies, descriptors for processes, memory figures.

Linux has all of them. Elsewhere, or with OBJPROXY_PORTABLE=1 in the environment (so that it is tested here too), the portable
way is used: the end of a channel, and asking once a second whether the owner is still there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable

from objproxy._worker.descriptors import move_above_standard

_PR_SET_PDEATHSIG = 1

#: Has a worker tell where its threads stand. Nobody else uses SIGSTKFLT, and its number cannot be mistaken for text.
STACK_SIGNAL: int = getattr(signal, "SIGSTKFLT", signal.SIGUSR2)

#: The C library, opened once for all the processes that are forked from this one.
_libc = ctypes.CDLL(None, use_errno=True)


def has_linux_means() -> bool:
    """Return whether the Linux-only means are used."""
    return sys.platform == "linux" and os.environ.get("OBJPROXY_PORTABLE") != "1"


def has_memory_files() -> bool:
    """Return whether files in memory can be made that have no name; an interpreter that was built on an old system has none."""
    return has_linux_means() and hasattr(os, "memfd_create")


def has_one_thread() -> bool:
    """Return whether this process has one thread, those of compiled code counted too; False where nobody can tell."""
    if not has_linux_means():
        return False
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:  # there is no /proc here
        return False


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to kill this process when the thread that made it ends.

    Call it in a process that was made by the main thread of its parent: the signal follows the thread, not the process.
    """
    if not has_linux_means():
        return

    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The parent may have died before the request was in force; then nobody will ever send the signal.
    if os.getppid() != parent_pid:
        os._exit(1)


def watch_process(pid: int) -> int | None:
    """Return a descriptor that becomes readable when process `pid` ends, or None where there is no such thing."""
    if not has_linux_means() or not hasattr(os, "pidfd_open"):
        return None
    try:
        return move_above_standard(os.pidfd_open(pid))
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


def reap_child(before: Callable[[int], None]) -> tuple[int, int, int] | None:
    """Reap one child that has ended, after calling ``before(pid)``; None if there is none.

    Returns
    -------
    tuple of int or None
        Process id, exit code (negative for a signal), and the most memory that it ever held, in bytes.

    Notes
    -----
    `before` runs while the pid still belongs to the child, so that its process group can be signalled safely. Portably one
    learns of the end only by reaping; the window in which the pid could be reused is then a few microseconds.
    """
    try:
        if not has_linux_means():
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                return None
            before(pid)
            return pid, os.waitstatus_to_exitcode(status), usage.ru_maxrss * _MAXRSS_UNIT

        info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if info is None:
            return None
        before(info.si_pid)
        pid, status, usage = os.wait4(info.si_pid, 0)
        return pid, os.waitstatus_to_exitcode(status), usage.ru_maxrss * _MAXRSS_UNIT
    except ChildProcessError:
        return None


_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")

#: getrusage(2): kilobytes on Linux, bytes on macOS.
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


def resident_bytes(pid: int | None = None) -> int | None:
    """Return the memory that a process holds (this one without `pid`), or None where that cannot be read."""
    try:
        with open(f"/proc/{pid or 'self'}/statm", "rb") as statm:
            return int(statm.read().split()[1]) * _PAGE_SIZE
    except (OSError, IndexError):
        return None


def available_bytes() -> int | None:
    """Return the memory that is left, by the figures of the system and of this control group; None if nobody can tell."""
    try:
        with open("/proc/meminfo", "rb") as meminfo:
            fields = dict(line.split(b":") for line in meminfo)
        available = int(fields[b"MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        return None
    group = _free_in_control_group()
    return available if group is None else min(available, group)


def _control_group() -> str:
    """Return the folder of this process's control group (version 2)."""
    with open("/proc/self/cgroup") as groups:
        path = next(line.strip().partition("::")[2] for line in groups if line.startswith("0::"))
    return f"/sys/fs/cgroup{path}"


def count_memory_kills() -> int | None:
    """Return how many processes the kernel has killed for want of memory so far; None if that cannot be read.

    The count is that of this control group (``memory.events``), or, where it has none, that of the system (``/proc/vmstat``).
    """
    try:
        return _read_count(f"{_control_group()}/memory.events")
    except (OSError, ValueError, StopIteration):
        pass
    try:
        return _read_count("/proc/vmstat")
    except (OSError, ValueError, StopIteration):
        return None


class MemoryKills:
    """The kernel's count of kills for want of memory, by which such a death is recognised."""

    def __init__(self) -> None:
        self._count = count_memory_kills()

    def explain(self, exitcode: int) -> str:
        """Say that the kernel killed a process for want of memory, if it has killed anything since this was last asked."""
        if exitcode != -signal.SIGKILL:
            return ""
        before, self._count = self._count, count_memory_kills()
        if before is None or self._count in (None, before):
            return ""
        return (
            f"The kernel has killed for want of memory (its count of such kills rose from {before} to {self._count}): "
            "give the pool fewer workers or smaller items, or see max_rss="
        )


def _read_count(path: str) -> int:
    with open(path) as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def process_state(pid: int) -> str | None:
    """Return what a process does, in the words of ``/proc``: "running", "sleeping", "stopped", ...; None if nobody can tell."""
    try:
        letter = _state_letter(f"/proc/{pid}/stat")
    except (OSError, IndexError):
        return None
    return _STATES.get(letter, letter)


#: proc(5), field "state" of /proc/pid/stat.
_STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "waiting for a disk",
    "T": "stopped",
    "t": "being debugged",
    "Z": "dead",
}


def process_activity(pid: int) -> str | None:
    """Return "stopped", "running" or "sleeping", of all threads of a process taken together; None if unknown."""
    letters = set()
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                letters.add(_state_letter(f"/proc/{pid}/task/{thread}/stat"))
    except (OSError, IndexError):
        return None
    if letters == {"T"}:
        return "stopped"
    return "running" if letters & {"R", "D"} else "sleeping"


def _state_letter(path: str) -> str:
    with open(path, "rb") as stat:
        return stat.read().rpartition(b")")[2].split()[0].decode()


def hears(pid: int, signal_number: int) -> bool:
    """Return whether a process would handle a signal: one of its threads neither is stopped nor blocks it. If unknown, True."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return True
    return any(_thread_hears(f"/proc/{pid}/task/{thread}", signal_number) for thread in threads)


def _thread_hears(folder: str, signal_number: int) -> bool:
    try:
        with open(f"{folder}/status", "rb") as status:
            fields = dict(line.split(b":", 1) for line in status)
        is_stopped = fields[b"State"].split()[0] in (b"T", b"t")
        return not is_stopped and not int(fields[b"SigBlk"], 16) >> (signal_number - 1) & 1
    except (OSError, ValueError, KeyError):  # it has just ended
        return True


def _free_in_control_group() -> int | None:
    """Return what the control group (version 2) of this process has left; files that it has cached count as free."""
    try:
        folder = _control_group()
        with open(f"{folder}/memory.max") as limit, open(f"{folder}/memory.current") as current:
            left = int(limit.read()) - int(current.read())  # ValueError if the limit is "max"
        with open(f"{folder}/memory.stat") as stat:
            cached = next(int(line.split()[1]) for line in stat if line.startswith("inactive_file "))
        return max(0, left + cached)
    except (OSError, ValueError, StopIteration):
        return None

"""Watch the memory of a program and all its descendants, from a process outside: pickling would starve a thread.

Run by `MemoryWatch`: reads the program's pid and then commands, one a line, from its standard input, and writes numbers
of bytes. Each page counts once, however many of the processes have it: this is the sum of their proportional set sizes.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterable
from types import TracebackType

_PERIOD = 0.003

#: How often the tree of processes is looked up; in between, the same processes are looked at.
_N_LOOKS_PER_TREE = 5


class MemoryWatch:
    """The largest memory of this program and its descendants, looked at every few milliseconds.

    Examples
    --------
    >>> with MemoryWatch() as watch:
    ...     watch.begin()
    ...     n_bytes = watch.end()
    """

    def __init__(self) -> None:
        command = [sys.executable, "-c", "from benchmarks._memory import main; main()"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._ask(str(os.getpid()))

    def begin(self) -> int:
        """Note the memory as it is now; return it, in bytes."""
        return self._ask("begin")

    def end(self) -> int:
        """Return by how many bytes the largest memory since `begin` exceeded that at `begin`."""
        return self._ask("end")

    def _ask(self, command: str) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(command, file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def __enter__(self) -> MemoryWatch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()  # closing its input would not do: forked workers may hold the other end
        self._process.communicate()


def main() -> None:
    """Be the process that looks."""
    program = int(sys.stdin.readline())
    print(0, flush=True)
    before = largest = 0
    pids: list[int] = []
    for number, command in enumerate(_commands()):
        if number % _N_LOOKS_PER_TREE == 0 or command:
            pids = descendants(program)
        now = sum(map(proportional_nbytes, pids))
        if command == "begin":
            before = largest = now
            print(before, flush=True)
        largest = max(largest, now)
        if command == "end":
            print(largest - before, flush=True)


def _commands() -> Iterable[str]:
    """Yield each command, and an empty one whenever there was none for a while; end with the input."""
    while True:
        is_ready, _, _ = select.select([sys.stdin], [], [], _PERIOD)
        line = sys.stdin.readline() if is_ready else "\n"
        if not line:
            return
        yield line.strip()


def descendants(program: int) -> list[int]:
    """Return the pids of a process, and of all that come from it or share its session, but for this process."""
    parents: dict[int, int] = {}
    sessions: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            parents[int(name)], sessions[int(name)] = int(fields[1]), int(fields[3])
    session = sessions.get(program)
    found = {pid for pid in parents if sessions[pid] == session or _has_ancestor(pid, program, parents)}
    return sorted(found - {os.getpid()})


def _has_ancestor(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid in parents and pid != ancestor:
        pid = parents[pid]
    return pid == ancestor


def proportional_nbytes(pid: int) -> int:
    """Return a process's proportional set size; 0 if it has ended, or belongs to somebody else."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            return next((1024 * int(line.split()[1]) for line in file if line.startswith("Pss:")), 0)
    except OSError:
        return 0

"""A program with pools in methods of pools, three deep, that ends in some way. Run by ``faults/test_nested_ends.py``.

As ``observe`` it starts the program, waits until it has ended, and prints the processes that are left in the namespace.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from objproxy import ProxyPool

ENDS = ("normally", "by an error", "by os._exit", "by SIGKILL", "by SIGTERM")
WORKER_ENDS = ("killed", "timed out", "cancelled", "recycled", "pool killed")

_PATIENCE_SECONDS = 40.0


class Level:
    """Has a pool of its own, down to a level; the last one hangs, and says so."""

    def __init__(self, start_method: str | None) -> None:
        self.start_method = start_method

    def dig(self, depth: int, flag: str) -> None:
        """Make pools down to `depth`, and wait there for ever."""
        if not depth:
            Path(flag, str(os.getpid())).touch()
            time.sleep(1000)
        with ProxyPool(Level, worker_count=2, init_args=(self.start_method,), start_method=self.start_method) as pool:
            pool.dig(depth - 1, flag)

    def leave(self, depth: int, flag: str) -> int:
        """Make pools down to `depth`, and leave them open."""
        if depth:
            self.pool: Any = ProxyPool(Level, worker_count=1, init_args=(self.start_method,), start_method=self.start_method)
            self.pool.leave(depth - 1, flag)
        Path(flag, str(os.getpid())).touch()
        while depth == 2 and not os.path.exists(f"{flag}.go"):
            time.sleep(0.02)
        return os.getpid()


def _wait_for(folder: str, n_files: int) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while len(os.listdir(folder)) < n_files:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(os.listdir(folder))} of {n_files}")
        time.sleep(0.02)


def end_program(how: str, start_method: str, folder: str) -> None:
    """Make pools three deep and end."""
    pool = ProxyPool(Level, worker_count=1, init_args=(start_method,), start_method=start_method)
    future = pool.dig.submit(2, folder)
    _wait_for(folder, 4)
    assert not future.done()
    if how == "by an error":
        raise LookupError
    if how == "by os._exit":
        os._exit(0)
    if how.startswith("by SIG"):
        os.kill(os.getpid(), getattr(signal, how.removeprefix("by ")))


def end_worker(how: str, start_method: str, folder: str) -> None:
    """Make pools three deep and end the first worker; print what is left below it while this program lives."""
    options: Any = {"max_tasks_per_worker": 1} if how == "recycled" else {}
    pool = ProxyPool(Level, worker_count=1, init_args=(start_method,), start_method=start_method, **options)
    worker = pool.workers[0].pid
    assert worker is not None
    work = pool.leave if how == "recycled" else pool.dig.options(timeout=8 if how == "timed out" else None)
    future = work.submit(2, folder)
    _wait_for(folder, 3 if how == "recycled" else 4)
    below = [worker, *_below(worker)]
    Path(f"{folder}.go").touch()
    if how == "killed":
        os.kill(worker, signal.SIGKILL)
    elif how == "cancelled":
        assert future.cancel()
    elif how == "pool killed":
        pool.kill()
    elif how == "timed out":
        assert isinstance(future.exception(), TimeoutError)
    known = set(_processes()) - set(below)
    sys.stdout.write(f"{len(below) >= 3} {_left(known, below)}\n")
    pool.kill()


def _below(pid: int) -> list[int]:
    """Return the children of all generations."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
            found += [int(child), *_below(int(child))]
    return found


def _processes() -> list[int]:
    """Return the processes of this namespace that have not ended."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if state not in "ZX":
                found.append(int(name))
    return found


def _left(known: set[int], looked_for: list[int] | None = None) -> list[str]:
    """Wait until only some processes are left, or those that are looked for have gone; return the others."""

    def find() -> list[int]:
        return [pid for pid in _processes() if pid not in known and (looked_for is None or pid in looked_for)]

    deadline = time.monotonic() + 10
    while (left := find()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return [f"{pid} {Path(f'/proc/{pid}/cmdline').read_text()[-100:]!r}" for pid in left]


def observe(*args: str) -> None:
    """Run this file as a program, and print what is left of it."""
    known = set(_processes())
    subprocess.run([sys.executable, __file__, *args], stderr=subprocess.DEVNULL, check=False)
    sys.stdout.write(f"{_left(known)}\n")


if __name__ == "__main__":
    what, *args = sys.argv[1:]
    {"observe": observe, "program": end_program, "worker": end_worker}[what](*args)

"""Whole programs to interrupt and to kill: each in a session of its own, with its workers known by handles that outlive it."""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from objproxy._worker import platform
from optional import need
from targets import PATIENCE_SECONDS

psutil = need("psutil")

ROOT = Path(__file__).resolve().parent.parent

#: A program's workers shall be gone two seconds after its end; a test on a machine that is busy gives them longer.
GONE_SECONDS = 10.0

PREAMBLE = """
    import os, signal, sys, threading, time
    sys.path.insert(0, {tests!r})
    from faulty import *
    from objproxy import *
"""


def _prepare(test_pid: int) -> None:
    platform.die_with_parent(test_pid)  # a test run that is ended leaves no program


class Ended(NamedTuple):
    """How a program has ended, and what it has said behind the line that it was ready."""

    returncode: int
    output: str
    errors: str
    seconds: float


class Program:
    """A program that runs.

    Parameters
    ----------
    code : str
        What it does, behind `PREAMBLE`; it prints ``ready`` when the test may act.
    args : sequence of str
        Its arguments.
    """

    def __init__(self, code: str, *args: str) -> None:
        text = textwrap.dedent(PREAMBLE).format(tests=str(ROOT / "tests")) + textwrap.dedent(code)
        self._process = subprocess.Popen(
            [sys.executable, "-c", text, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
            preexec_fn=functools.partial(_prepare, os.getpid()),
        )
        self.pid = self._process.pid
        self._handles: dict[int, int] = {}  # process -> a descriptor that becomes readable at its end
        self.output = ""  # the lines before that

    def wait_ready(self) -> None:
        """Wait for the line that says so, and take hold of every process below."""
        assert self._process.stdout is not None
        watchdog = threading.Timer(PATIENCE_SECONDS, self._process.kill)
        watchdog.start()
        for line in self._process.stdout:
            if line == "ready\n":
                break
            self.output += line
        else:
            raise AssertionError(f"the program never came so far: {self._process.communicate()[1]}")
        watchdog.cancel()
        watchdog.join()
        self.hold(child.pid for child in psutil.Process(self.pid).children(recursive=True))

    def hold(self, pids: Iterator[int] | Sequence[int]) -> None:
        """Take hold of processes, to see them end."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                self._handles[pid] = os.pidfd_open(pid)

    def send(self, number: int, *, to_group: bool = False) -> None:
        """Send a signal: to the program, or to everything in its process group, as a terminal does."""
        (os.killpg if to_group else os.kill)(self.pid, number)

    def finish(self, timeout: float = PATIENCE_SECONDS) -> Ended:
        """Wait for its end."""
        began = time.monotonic()
        try:
            output, errors = self._process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise
        return Ended(self._process.returncode, output, errors, time.monotonic() - began)

    def children_named(self, word: str) -> list[int]:
        """Return the processes below whose command has a word in it."""
        found = []
        for child in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                if word in " ".join(child.cmdline()):
                    found.append(child.pid)
        return found

    def end_of_itself(self) -> None:
        """Wait for the end of the program, while others may hold its streams."""
        self._process.wait(PATIENCE_SECONDS)

    def left(self, seconds: float = GONE_SECONDS, *, but: Sequence[int] = ()) -> list[int]:
        """Return the processes that are still there after so many seconds, or nothing as soon as all but some have ended."""
        deadline = time.monotonic() + seconds
        waiting = {pid: handle for pid, handle in self._handles.items() if pid not in but}
        while waiting and time.monotonic() < deadline:
            ready, _, _ = select.select(waiting.values(), [], [], deadline - time.monotonic())
            waiting = {pid: handle for pid, handle in waiting.items() if handle not in ready}
        return list(waiting)

    def close(self) -> None:
        """End what is left of it."""
        for pid in self.left(0.0):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for handle in self._handles.values():
            os.close(handle)
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()


@contextlib.contextmanager
def run(code: str, *args: str) -> Iterator[Program]:
    """Start a program and end it, whatever the test has done to it."""
    program = Program(code, *args)
    try:
        yield program
    finally:
        program.close()


def is_gone(pid: int) -> bool:
    """Return whether a process has ended, also if nobody has waited for it yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def segments_of(pid: int) -> list[Path]:
    """Return the files that a program has left in shared memory."""
    return list(Path("/dev/shm").glob(f"objproxy-{pid}-*"))

"""Objects whose methods fork, or write to the program what no worker would; and a way to do something in a forked child."""

from __future__ import annotations

import ctypes
import gc
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from objproxy import current_worker, report_progress
from objproxy._worker.journal import Journal
from targets import PATIENCE_SECONDS

IN_CHILD = -1


def in_child(action: Callable[[], Any]) -> None:
    """Do something in a forked child; raise AssertionError with what it raised. A child that hangs is ended by an alarm."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(PATIENCE_SECONDS))
        try:
            action()
            text = "fine"
        except BaseException:
            text = traceback.format_exc()
        os.write(writer, text.encode()[-60_000:])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        text = said.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert (status, text) == (0, "fine"), text


def fork_and_wait() -> int:
    """Fork; return the exit code of the child in the parent, `IN_CHILD` in the child."""
    pid = os.fork()
    if not pid:
        return IN_CHILD
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Forker:
    """Its methods fork, and both processes return."""

    def __init__(self, forks: bool = False) -> None:
        self.made = fork_and_wait() if forks else 0

    def pid(self) -> int:
        """Return the process."""
        return os.getpid()

    def number(self, x: Any) -> Any:
        """Return what was given, in both."""
        assert fork_and_wait() in (0, IN_CHILD)
        return x

    def note(self, x: int, path: str) -> int:
        """Leave a line and fork; return the number of lines that there were to leave."""
        with open(path, "a") as file:
            file.write(f"{x}\n")
        assert fork_and_wait() in (0, IN_CHILD)
        return x

    def large(self, n: int) -> Any:
        """Return an array that tells whose it is."""
        code = fork_and_wait()
        array = np.full(n, code)
        assert code in (0, IN_CHILD)
        return array

    def end(self, how: Any) -> int:
        """Have the child end in some way; return its exit code."""
        code = fork_and_wait()
        if code != IN_CHILD:
            return code
        if how == "raise":
            raise ValueError("in the child")
        if how is not None:
            sys.exit(how)
        return code

    def rows(self, n: int) -> Any:
        """Fork while a generator runs."""
        for row in range(n):
            assert fork_and_wait() in (0, IN_CHILD)
            yield row

    def by_multiprocessing(self, x: int) -> tuple[int, int | None, bytes]:
        """Use children that are no business of the pool's; they report and log."""
        context = multiprocessing.get_context("fork")
        with context.Pool(2) as pool:
            total = sum(pool.map(abs, [x, -x]))
        process = context.Process(target=_talk)
        process.start()
        process.join()
        echo = subprocess.run(["echo", str(x)], capture_output=True, check=True, preexec_fn=os.getpid)
        return total, process.exitcode, echo.stdout


def _talk() -> None:
    report_progress(1, 2)
    logging.getLogger("child").warning("said by a child of worker %d", current_worker().worker_id)
    assert current_worker().rng.random() < 1


class Stranger(Forker):
    """Writes to the program what nobody asked for."""

    def send(self, data: bytes) -> str:
        """Write to every socket that this process has; the worker's channel is among them."""
        for fd in map(int, os.listdir("/proc/self/fd")):
            try:
                with socket.socket(fileno=os.dup(fd)) as copy:
                    is_channel = copy.family == socket.AF_UNIX
            except OSError:
                continue
            if is_channel:
                os.write(fd, data)
        return "sent"

    def fork_unseen(self) -> int:
        """Fork behind Python's back."""
        return int(ctypes.CDLL(None).fork())

    def scribble(self, x: int, byte: int) -> int:
        """Write over the shared memory that this process has mapped under the name of a journal, and end."""
        journal = next(each for each in gc.get_objects() if type(each) is Journal)
        seq = journal.header[0]
        journal.header[1] = byte
        journal.header[2:7] = memoryview(bytes([byte] * 40)).cast("q")
        journal.header[0] = seq
        os._exit(3)

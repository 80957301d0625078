"""Start the process of a nursery: an interpreter, the frozen application once more, or a fork of this program."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable

from objproxy._worker import hubs, lineage, native_threads, natives, segments
from objproxy._worker.descriptors import StreamSocket, is_open
from objproxy._worker.launching import Errand, Interpreter, make_command
from objproxy._worker.leaving import forget_parents_end


class ForkedProcess:
    """A root that was forked from this program; what `subprocess.Popen` is for one that was not.

    Parameters
    ----------
    pid : int
        The process.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def kill(self) -> None:
        """Kill it, unless it was waited for."""
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)

    def poll(self) -> int | None:
        """Return its exit code; None while it runs."""
        if self.returncode is None:
            try:
                pid, status = natives.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else has waited for it
                self.returncode = 0
            else:
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self) -> int:
        """Wait for its end."""
        if self.returncode is None:
            try:
                self.returncode = os.waitstatus_to_exitcode(natives.waitpid(self.pid, 0)[1])
            except ChildProcessError:  # somebody else has waited for it
                self.returncode = 0
        return self.returncode


def exec_root(interpreter: Interpreter, theirs: StreamSocket) -> subprocess.Popen[bytes]:
    """Start a root that serves `theirs`, in a process that has nothing of this one."""
    errand = Errand("objproxy._worker.nursery", "run_root", (theirs.fileno(), os.getpid(), interpreter.is_frozen))
    command, fd = make_command(interpreter, errand)
    try:
        return natives.popen_class()(
            command,
            stdin=subprocess.DEVNULL,
            stdout=None if is_open(1) else subprocess.DEVNULL,
            stderr=None if is_open(2) else subprocess.DEVNULL,
            env=lineage.mark_helper(dict(os.environ)),
            pass_fds=[theirs.fileno()] if fd is None else [theirs.fileno(), fd],
            process_group=0,
        )
    finally:
        if fd is not None:
            natives.close(fd)


def fork_helper(ours: StreamSocket, run: Callable[[], None]) -> int:
    """Fork this program; the child runs `run`, which never returns. Return its pid."""
    importlib.import_module("objproxy._worker.loop")  # here, once for the program, not in every worker of every pool
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):  # there is none, or it is closed
            stream.flush()  # what stands in the buffer would be written once more by every worker
    native_threads.release_openmp()
    segments.is_forking_own_child = True
    try:
        pid = hubs.fork()  # the hooks below close every other pool's descriptors in the child
    finally:
        segments.is_forking_own_child = False
    if not pid:
        # The collector of a worker would otherwise touch, and so copy, every page that it shares with the program.
        gc.freeze()
        forget_parents_end(is_program=True)  # the program's own exit functions are not the workers'
        native_threads.is_forked_from_program = True
        ours.close()
        os.setpgid(0, 0)
        run()
    return pid


def explain_refusal(application: Interpreter) -> str:
    """Say what a frozen application did that was started as the root and did not become it."""
    return f"{application.argv[0]!r} (this frozen application): has run as the application once more, or has ended"

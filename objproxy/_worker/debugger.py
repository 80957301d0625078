"""``breakpoint()`` in a worker: the debugger runs here, its lines come from and go to the program's terminal.

A worker has no terminal: it stands in a process group of its own. So each line that the debugger writes is a frame to the
parent, and for each line that it wants to read it asks the parent, which reads the terminal and is busy with nothing else
meanwhile, so that no deadline passes (`backends/debugging.py`).
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from objproxy._worker import forking, wire
from objproxy._worker.context import Worker


class Terminal:
    """The program's terminal, as a file for the debugger.

    Parameters
    ----------
    channel : WorkerChannel
        To the parent.
    """

    encoding = "utf-8"

    def __init__(self, channel: wire.WorkerChannel) -> None:
        self._channel = channel

    def write(self, text: str) -> int:
        """Have the parent print."""
        self._channel.send(wire.DEBUG_OUT, text.encode(errors="replace"))
        return len(text)

    def flush(self) -> None:
        """Do nothing: what was written is on its way."""

    def readline(self) -> str:
        """Return the next line that is typed, with its end; "" if there is no terminal."""
        self._channel.send(wire.DEBUG_IN)
        return self._channel.receive_only(wire.DEBUG_LINE).decode()

    def leave(self) -> None:
        """Let another worker have the terminal."""
        self._channel.send(wire.DEBUG_END)


def install(channel: wire.WorkerChannel, worker: Worker) -> None:
    """Make ``breakpoint()`` open a debugger on the program's terminal, unless the user has named another debugger."""
    if "PYTHONBREAKPOINT" in os.environ:
        return

    def hook(*_args: Any, **_kwargs: Any) -> None:
        if forking.is_child:
            raise RuntimeError("breakpoint() works in the worker, not in a process that was forked from it")
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("breakpoint() in a worker works in the thread that runs the method, not in another one")
        _make_debugger(Terminal(channel), worker).set_trace(sys._getframe(1))

    sys.breakpointhook = hook


def _make_debugger(terminal: Terminal, worker: Worker) -> Any:
    import pdb

    class Debugger(pdb.Pdb):
        """Gives the terminal back when it lets the task go on."""

        def set_continue(self) -> None:  # pragma: no cover  (runs, and ends all tracing, also that of who measures)
            super().set_continue()
            terminal.leave()

        def set_quit(self) -> None:  # pragma: no cover  (as above)
            super().set_quit()
            terminal.leave()

    debugger = Debugger(stdin=terminal, stdout=terminal, nosigint=True)  # type: ignore[arg-type]
    debugger.prompt = f"(Pdb, worker {worker.worker_id}) "
    return debugger

"""The program's side of ``breakpoint()`` in a worker: one debugger at a time has the terminal, and the clock stands still."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable

from objproxy._engine.interrupts import user_code
from objproxy._worker import natives, wire

#: An interrupt that comes just before we sleep at the terminal is noticed after so long.
_LOOK_SECONDS = 0.1


class DebugDesk:
    """Lends the terminal to one worker at a time.

    Attributes
    ----------
    paused : float
        Seconds that were spent waiting for somebody to type; deadlines do not count them.
    """

    def __init__(self) -> None:
        self.paused = 0.0
        self._guest: int | None = None  # the worker that has the terminal
        self._waiting: deque[tuple[int, int, bytes, Callable[[bytes], None]]] = deque()

    @property
    def is_in_use(self) -> bool:
        """Whether a worker has the terminal."""
        return self._guest is not None

    def serve(self, worker_id: int, kind: int, body: bytes, answer: Callable[[bytes], None]) -> None:
        """Do what the debugger of a worker asks for, now or when it is its turn.

        Parameters
        ----------
        worker_id : int
            Whose debugger it is.
        kind : int
            ``DEBUG_OUT``, ``DEBUG_IN`` or ``DEBUG_END``.
        body : bytes
            What it writes.
        answer : callable
            Takes the line that it reads.
        """
        if self._guest is None and kind != wire.DEBUG_END:
            self._guest = worker_id
        if self._guest != worker_id:
            self._waiting.append((worker_id, kind, body, answer))
        elif kind == wire.DEBUG_OUT:
            sys.stdout.write(body.decode(errors="replace"))
            sys.stdout.flush()
        elif kind == wire.DEBUG_IN:
            answer(self._read_line())
        else:
            self.leave(worker_id)

    def leave(self, worker_id: int) -> None:
        """Take the terminal back from a worker, if it has it, and lend it to the next."""
        if self._guest != worker_id:
            self._waiting = deque(entry for entry in self._waiting if entry[0] != worker_id)
            return
        self._guest = None
        waiting, self._waiting = self._waiting, deque()
        for entry in waiting:
            self.serve(*entry)

    def _read_line(self) -> bytes:
        began = time.monotonic()
        try:
            with user_code:
                _await_line()
                return f"{input()}\n".encode()
        except (EOFError, OSError, RuntimeError, ValueError, KeyboardInterrupt):  # no terminal, or who sits there wants out
            return b""
        finally:
            self.paused += time.monotonic() - began


def _await_line() -> None:
    """Wait until a line was typed, if there is a terminal.

    `input` sleeps in C: an interrupt that comes just before that is noticed only when the line is there. With GNU readline the
    terminal gives single keys, and only `input` knows how to take them.
    """
    if sys.stdin is not None and sys.stdin.isatty() and "readline" not in sys.modules:
        while not natives.select([sys.stdin], [], [], _LOOK_SECONDS)[0]:
            pass

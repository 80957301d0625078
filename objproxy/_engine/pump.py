"""A thread that turns the engine while results are to come that nobody waits for; it ends soon after the last of them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from objproxy._worker import natives
from objproxy._worker.waits import Flag, Helper
from objproxy.handling import log_error

_logger = logging.getLogger("objproxy")

#: The pump stays this long after the last future, so that a burst of short calls does not start a thread for each.
_LINGER_SECONDS = 0.5


class Pump:
    """Turns the engine of one pool in the background.

    Parameters
    ----------
    turn : callable
        ``turn()`` returns when there is nothing more to be turned for.
    is_needed : callable
        ``is_needed()`` says whether there is, after all.
    """

    def __init__(self, turn: Callable[[], object], is_needed: Callable[[], bool]) -> None:
        self._turn = turn
        self._is_needed = is_needed
        self._lock = natives.Lock()
        self._wanted = Flag()
        self._thread: Helper | None = None
        self._is_away = False  # it calls code of the user, which may wait for a future that no other thread drives

    def call(self) -> None:
        """See that it runs."""
        with self._lock:
            if self._thread is None or self._is_away:
                self._is_away = False
                self._thread = Helper(self._run, "objproxy-pump")
                try:
                    self._thread.start()
                except BaseException:  # for want of threads; the next call tries again
                    self._thread = None
                    raise
        self._wanted.set()

    def is_here(self) -> bool:
        """Whether the calling thread is the pump."""
        thread = self._thread
        return thread is not None and thread.is_current()

    def run_callbacks(self, callbacks: Callable[[], None]) -> None:
        """Call code of the user; if this is the pump's thread, another takes over as soon as one is called for meanwhile."""
        if not self.is_here():
            callbacks()
            return
        self._is_away = True
        try:
            callbacks()
        finally:
            with self._lock:
                if self.is_here():
                    self._is_away = False

    def step_aside(self) -> None:
        """Let another thread take over at once, if this is the pump's: it is about to call a hook, which may take long."""
        if self.is_here():
            with self._lock:
                self._thread = None
            if self._is_needed():
                self.try_call()

    def try_call(self) -> None:
        """See that it runs, if the system has room for a thread; else whoever turns the engine next sees to it."""
        with contextlib.suppress(RuntimeError):
            self.call()

    def _run(self) -> None:
        while True:
            self._wanted.clear()
            try:
                self._turn()
            except BaseException as exc:  # also an exit of a hook or a callback of the user's: waiting futures need this thread
                log_error(_logger, "turning the engine of a pool failed", exc)
            if not self.is_here():  # another has taken over, or will
                if self._is_needed():
                    self.try_call()  # not while the interpreter ends
                return
            if self._is_needed() or self._wanted.wait(_LINGER_SECONDS):
                continue
            with self._lock:
                if not self._wanted.is_set():
                    self._thread = None
                    return

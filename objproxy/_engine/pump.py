"""A thread that turns the engine while results are to come that nobody waits for; it ends soon after the last of them."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable

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
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None

    def call(self) -> None:
        """See that it runs."""
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="objproxy-pump", daemon=True)
                thread.start()  # this may fail, for want of threads; then the next call tries again
                self._thread = thread
        self._wanted.set()

    def try_call(self) -> None:
        """See that it runs, if the system has room for a thread; else whoever turns the engine next sees to it."""
        with contextlib.suppress(RuntimeError):
            self.call()

    def _run(self) -> None:
        while True:
            self._wanted.clear()
            try:
                self._turn()
            except BaseException:  # also an exit of a hook or a callback of the user's: who waits for futures needs this thread
                _logger.exception("turning the engine of a pool failed")
            if self._is_needed() or self._wanted.wait(_LINGER_SECONDS):
                continue
            with self._lock:
                if not self._wanted.is_set():
                    self._thread = None
                    return

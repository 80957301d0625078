"""Wait on descriptors: epoll where there is one, so that a wait costs nothing for the workers that are silent."""

from __future__ import annotations

import fcntl
import math
import os
import sys
import time
from typing import Any

from objproxy._engine.interrupts import waiting_for_events
from objproxy._worker import hubs, natives
from objproxy._worker.hubs import READABLE, WRITABLE, Hub
from objproxy._worker.platform import has_linux_means
from objproxy._worker.wire import SPIN_SECONDS

#: After a sleep longer than this, looking again before sleeping is not worth the processor's time.
_SPIN_PAYS_SECONDS = 300e-6

#: Other greenlets of the thread run at least so often, also where there is always something to read.
_SHARE_SECONDS = 0.01


def _make_epoll() -> Any:
    epoll = natives.epoll()
    if epoll.fileno() > 2:
        return epoll
    with epoll:  # one of the standard streams is closed, and its number is not ours
        return natives.epoll.fromfd(fcntl.fcntl(epoll.fileno(), fcntl.F_DUPFD_CLOEXEC, 3))


class Poller:
    """A set of descriptors that one thread waits on while others may change it.

    What a descriptor is ready for is told in the bits of poll(2), which are epoll's too. Every bit but `WRITABLE` (there is
    something to read, an error, a hang-up) is found out by reading.
    """

    def __init__(self) -> None:
        self._epoll = _make_epoll() if has_linux_means() else None
        self._set = self._epoll or natives.poll()
        self._masks: dict[int, int] = {}  # what it is asked for
        self._spin_pays = True
        self._shared_at = 0.0  # when other greenlets have run

    def add(self, fd: int) -> None:
        """Watch `fd` for what can be read."""
        self._set.register(fd, READABLE)
        self._masks[fd] = READABLE

    def watch_writable(self, fd: int, is_wanted: bool) -> None:
        """Watch `fd` for room to write too, or no more."""
        mask = READABLE | (WRITABLE if is_wanted else 0)
        self._set.modify(fd, mask)
        self._masks[fd] = mask

    def remove(self, fd: int) -> None:
        """Watch `fd` no more."""
        self._set.unregister(fd)
        del self._masks[fd]

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        """Return (descriptor, what it is ready for); wait at most `timeout` seconds.

        For a moment it looks again and again, because going to sleep and being woken costs more than a short call takes. It
        does so only if the last sleep was short.
        """
        if "greenlet" in sys.modules and (hub := hubs.find_hub()) is not None:
            return self._wait_in_hub(hub, timeout)
        if self._spin_pays and (timeout is None or timeout > SPIN_SECONDS):
            ready = self._spin()
            if ready:
                return ready

        before = time.perf_counter()
        try:
            with waiting_for_events:  # what is ready now still is so the next time, should an interrupt come between
                ready = self._poll(timeout)
        except Exception:
            self._poll(0)  # fails again if it was this that has failed, and not the handler of a signal
            raise
        self._spin_pays = time.perf_counter() - before < _SPIN_PAYS_SECONDS
        return ready

    def _wait_in_hub(self, hub: Hub, timeout: float | None) -> list[tuple[int, int]]:
        """Wait while other greenlets run."""
        ready = self._poll(0)
        if timeout == 0 or (ready and time.perf_counter() < self._shared_at + _SHARE_SECONDS):
            return ready
        try:
            with waiting_for_events:
                hub.wait(dict(self._masks) if self._epoll is None else {self._epoll.fileno(): READABLE}, timeout)
        except Exception:
            self._poll(0)  # as above: else it was thrown into the greenlet
            raise
        self._shared_at = time.perf_counter()
        return self._poll(0)

    def _spin(self) -> list[tuple[int, int]]:
        deadline = time.perf_counter() + SPIN_SECONDS
        while True:
            ready = self._poll(0)
            if ready or time.perf_counter() > deadline:
                return ready
            os.sched_yield()  # a worker may be waiting for this very processor

    def _poll(self, timeout: float | None) -> list[tuple[int, int]]:
        if self._epoll is not None:
            return self._epoll.poll(timeout)  # type: ignore[no-any-return]
        return self._set.poll(None if timeout is None else math.ceil(1000 * timeout))  # type: ignore[no-any-return]

    def close(self) -> None:
        """Give the descriptor back."""
        if self._epoll is not None:
            self._epoll.close()
        self._masks.clear()

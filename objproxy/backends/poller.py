"""Wait on descriptors: epoll where there is one, so that a wait costs nothing for the workers that are silent."""

from __future__ import annotations

import fcntl
import os
import select
import selectors
import time

from objproxy._engine.interrupts import waiting
from objproxy._worker.platform import has_linux_means
from objproxy._worker.wire import SPIN_SECONDS

#: After a sleep longer than this, looking again before sleeping is not worth the processor's time.
_SPIN_PAYS_SECONDS = 300e-6

#: What a descriptor is ready for, in epoll's own bits; every other bit (error, hang-up) is found out by reading.
WRITABLE = 4
_READABLE = 1


def _make_epoll() -> select.epoll:
    epoll = select.epoll()
    if epoll.fileno() > 2:
        return epoll
    with epoll:  # one of the standard streams is closed, and its number is not ours
        return select.epoll.fromfd(fcntl.fcntl(epoll.fileno(), fcntl.F_DUPFD_CLOEXEC, 3))


class Poller:
    """A set of descriptors that one thread waits on while others may change it."""

    def __init__(self) -> None:
        self._epoll = _make_epoll() if has_linux_means() else None
        self._selector = selectors.PollSelector()  # for where there is none
        self._spin_pays = True

    def add(self, fd: int) -> None:
        """Watch `fd` for what can be read."""
        if self._epoll is not None:
            self._epoll.register(fd, select.EPOLLIN)
        else:
            self._selector.register(fd, selectors.EVENT_READ)

    def watch_writable(self, fd: int, is_wanted: bool) -> None:
        """Watch `fd` for room to write too, or no more."""
        if self._epoll is not None:
            self._epoll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if is_wanted else 0))
        else:
            self._selector.modify(fd, selectors.EVENT_READ | (selectors.EVENT_WRITE if is_wanted else 0))

    def remove(self, fd: int) -> None:
        """Watch `fd` no more."""
        if self._epoll is not None:
            self._epoll.unregister(fd)
        else:
            self._selector.unregister(fd)

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        """Return (descriptor, what it is ready for); wait at most `timeout` seconds.

        For a moment it looks again and again, because going to sleep and being woken costs more than a short call takes. It
        does so only if the last sleep was short.
        """
        if self._spin_pays and (timeout is None or timeout > SPIN_SECONDS):
            ready = self._spin()
            if ready:
                return ready

        before = time.perf_counter()
        with waiting:  # what is ready now still is so the next time, should an interrupt come between
            ready = self._poll(timeout)
        self._spin_pays = time.perf_counter() - before < _SPIN_PAYS_SECONDS
        return ready

    def _spin(self) -> list[tuple[int, int]]:
        deadline = time.perf_counter() + SPIN_SECONDS
        while True:
            ready = self._poll(0)
            if ready or time.perf_counter() > deadline:
                return ready
            os.sched_yield()  # a worker may be waiting for this very processor

    def _poll(self, timeout: float | None) -> list[tuple[int, int]]:
        if self._epoll is not None:
            return self._epoll.poll(timeout)
        return [
            (key.fd, (_READABLE if mask & selectors.EVENT_READ else 0) | (WRITABLE if mask & selectors.EVENT_WRITE else 0))
            for key, mask in self._selector.select(timeout)
        ]

    def close(self) -> None:
        """Give the descriptor back."""
        if self._epoll is not None:
            self._epoll.close()
        else:
            self._selector.close()

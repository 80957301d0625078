"""What the engine needs to wait: descriptors, sleepers, flags, a lock that is held while waiting, threads of its own.

In a plain program these are the locks and threads of the system. Where the calling thread has a hub (gevent, eventlet), what
waits switches to it, so that other greenlets run; see `hubs`. Three rules keep both kinds of programs right:

- a lock that guards data (`natives.Lock`) is one of the system, and nothing that is done under it switches;
- whatever sleeps does so by `make_sleeper` or at a descriptor, and never by a lock of the system;
- who is asked for by `get_ident`: the greenlet, not its thread.
"""

from __future__ import annotations

import _thread
import contextlib
import sys
import threading
from _queue import SimpleQueue  # not that of the module `queue`, which gevent replaces
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from objproxy._worker import hubs, natives
from objproxy._worker.hubs import Sleeper, find_hub, get_ident, is_hub

__all__ = [
    "Bell",
    "Flag",
    "Helper",
    "Sleeper",
    "find_hub",
    "get_ident",
    "is_hub",
    "make_inbox",
    "make_patient_lock",
    "make_sleeper",
    "wait_readable",
]


def make_sleeper() -> Sleeper:
    """Return a lock that the caller holds; it waits for it once, and another thread or greenlet releases it.

    Raises
    ------
    RuntimeError
        The caller is a hub, which would wait for itself.
    """
    if "greenlet" in sys.modules:
        hub = find_hub()
        if hub is not None:
            return hub.make_sleeper()
        if is_hub():
            raise RuntimeError("a pool was used in a callback of the event loop, which must not wait; spawn a greenlet there")
    lock: Sleeper = natives.Lock()
    lock.acquire()
    return lock


def wait_readable(fd: int, timeout: float | None = None) -> bool:
    """Wait until `fd` can be read, or its other side is gone; False if `timeout` seconds have passed first."""
    hub = find_hub()
    if hub is not None:
        return hub.wait({fd: hubs.READABLE}, timeout)
    poll = natives.poll()
    poll.register(fd, hubs.READABLE)
    return bool(poll.poll(None if timeout is None else 1000 * timeout))


class Flag:
    """A flag to wait for, as `threading.Event`."""

    def __init__(self) -> None:
        self._sleepers: list[Sleeper] = []  # each step that changes it is one that the interpreter does not divide
        self._is_set = False

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Set it, and wake whoever waits."""
        self._is_set = True
        while self._sleepers:
            try:
                sleeper = self._sleepers.pop()
            except IndexError:  # its wait has ended meanwhile
                return
            sleeper.release()

    def clear(self) -> None:
        """Take it back."""
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set; return whether it was, before `timeout` seconds had passed."""
        if self._is_set:
            return True
        sleeper = make_sleeper()
        self._sleepers.append(sleeper)
        try:
            # It may have been set just before the sleeper was in the list.
            return self._is_set or sleeper.acquire(True, -1 if timeout is None else max(0.0, timeout))
        finally:
            if sleeper in self._sleepers:
                with contextlib.suppress(ValueError):  # it was woken in between
                    self._sleepers.remove(sleeper)


class Bell:
    """Rung whenever there is something to be looked at; one thread waits for that, and forgets it then."""

    def __init__(self) -> None:
        self._lock = natives.Lock()  # free if it was rung
        self._lock.acquire()
        self._sleeper: Sleeper | None = None  # of a greenlet that waits

    def ring(self) -> None:
        """Have the wait return, now or the next time."""
        if self._lock.locked():
            with contextlib.suppress(RuntimeError):  # another thread was faster
                self._lock.release()
        if self._sleeper is not None:
            self._sleeper.release()

    def wait(self, timeout: float | None) -> None:
        """Wait until it is rung, at most `timeout` seconds."""
        seconds = -1 if timeout is None else max(0.0, timeout)
        if "greenlet" not in sys.modules or find_hub() is None:
            self._lock.acquire(True, seconds)
            return
        self._sleeper = sleeper = make_sleeper()
        try:
            if not self._lock.acquire(False):
                sleeper.acquire(True, seconds)
                self._lock.acquire(False)
        finally:
            self._sleeper = None


class Inbox(Protocol):
    """A queue that one thread reads."""

    def put(self, item: Any) -> None:
        """Add an item."""
        ...

    def get(self) -> Any:
        """Wait for the next item, and take it out."""
        ...

    def empty(self) -> bool:
        """Whether there is no item now."""
        ...


def make_inbox() -> Inbox:
    """Return a queue for a `Helper` that is started now."""
    return _GreenInbox() if natives.has_green_threads() else SimpleQueue()


class _GreenInbox:
    """A queue that a greenlet reads; that of the standard library would hold up its whole thread."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._has_items = Flag()

    def put(self, item: Any) -> None:
        self._items.append(item)
        self._has_items.set()

    def get(self) -> Any:
        while not self._items:
            self._has_items.wait()
            self._has_items.clear()
        return self._items.popleft()

    def empty(self) -> bool:
        return not self._items


def make_patient_lock() -> contextlib.AbstractContextManager[object]:
    """Return a reentrant lock that may be held while its owner waits."""
    lock: contextlib.AbstractContextManager[object] = _PatientLock() if "greenlet" in sys.modules else natives.RLock()
    return lock


class _PatientLock:
    """A reentrant lock that belongs to a greenlet."""

    def __init__(self) -> None:
        self._lock = natives.Lock()  # guards the rest
        self._owner: int | None = None
        self._count = 0
        self._sleepers: list[Sleeper] = []

    def __enter__(self) -> _PatientLock:
        while not self._try():
            sleeper = make_sleeper()
            with self._lock:
                self._sleepers.append(sleeper)
            try:
                if self._owner is not None:  # else it was let go before the sleeper was in the list
                    sleeper.acquire()
            finally:
                with self._lock:
                    self._sleepers.remove(sleeper)
        return self

    def _try(self) -> bool:
        with self._lock:
            if self._owner not in (None, get_ident()):
                return False
            self._owner = get_ident()
            self._count += 1
            return True

    def __exit__(self, *_exc_info: object) -> None:
        with self._lock:
            self._count -= 1
            if self._count:
                return
            self._owner = None
            for sleeper in self._sleepers:
                if sleeper.locked():
                    sleeper.release()


class Helper:
    """A daemon thread; a greenlet where the program's threads are greenlets.

    Parameters
    ----------
    run : callable
        What it does.
    name : str
        Of the thread.

    Attributes
    ----------
    ident : int or None
        Its identifier while it runs.
    """

    def __init__(self, run: Callable[[], object], name: str) -> None:
        self.ident: int | None = None
        self._run = run
        self._name = name
        self._thread: threading.Thread | None = None
        self._is_over = Flag()

    def start(self) -> None:
        """Start it; where it is a greenlet, it runs as soon as the caller waits.

        Raises
        ------
        RuntimeError
            The system has no room for a thread.
        """
        if natives.has_green_threads():
            _thread.start_new_thread(self._serve, ())  # `Thread.start` waits, so that others would run under our locks
            return
        self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        self.ident = get_ident()
        try:
            self._run()
        finally:
            self.ident = None
            del self._run  # it holds what has started this
            self._is_over.set()

    def is_current(self) -> bool:
        """Whether it is the caller."""
        return self.ident is not None and self.ident == get_ident()

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, at most `timeout` seconds."""
        if self._thread is not None:
            self._thread.join(timeout)
        else:
            self._is_over.wait(timeout)

"""The hubs of gevent and eventlet: how a greenlet waits while others of its thread run.

A *hub* is the event loop of one thread; greenlets switch to it when they wait. It is looked for at each wait, since a program
may begin to use greenlets at any time. Nothing is imported here: a library that is not loaded has no hub.
"""

from __future__ import annotations

import sys
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from objproxy._worker import natives
from objproxy._worker.descriptors import make_pipe

#: What a greenlet waits for at a descriptor, in the bits of poll(2).
READABLE = 1
WRITABLE = 4

_modules = sys.modules


class Sleeper(Protocol):
    """A lock that its maker holds, waits for once, and that any other thread or greenlet releases."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Wait until it is released, at most `timeout` seconds unless that is -1; return whether it was."""
        ...

    def release(self) -> None:
        """End the wait."""
        ...

    def locked(self) -> bool:
        """Whether it was not released yet."""
        ...


class Hub(Protocol):
    """The hub of the calling thread."""

    def wait(self, masks: Mapping[int, int], timeout: float | None) -> bool:
        """Let other greenlets run until one of the descriptors is ready; False if `timeout` seconds have passed first."""
        ...

    def make_sleeper(self) -> Sleeper:
        """Make a sleeper for the calling greenlet."""
        ...


def _do_nothing() -> None:
    pass


#: Called before each switch to a hub; set by the room that has to know (`objproxy._engine.interrupts`).
before_switch: Callable[[], None] = _do_nothing


def find_hub() -> Hub | None:
    """Return the hub of this thread; None if there is none, or if the caller is the hub itself."""
    if "greenlet" not in _modules:
        return None
    for name, kind in _KINDS.items():
        module = _modules.get(name)
        hub = None if module is None else kind.find(module)
        if hub is not None:
            return None if hub.is_running() else hub
    return None


def is_hub() -> bool:
    """Return whether the caller is a hub: code that was called by an event loop, and that cannot wait for greenlets."""
    if "greenlet" not in _modules:
        return False
    found = [kind.find(_modules[name]) for name, kind in _KINDS.items() if name in _modules]
    return any(hub is not None and hub.is_running() for hub in found)


def has_work() -> bool:
    """Return whether this thread has greenlets that would run when the caller waits."""
    if "greenlet" not in _modules:
        return False
    found = [kind.find(_modules[name]) for name, kind in _KINDS.items() if name in _modules]
    return any(hub is not None and hub.has_work() for hub in found)


def get_ident() -> int:
    """Return the identifier of the calling greenlet; that of the thread for the first greenlet of each thread."""
    greenlet = _modules.get("greenlet")
    if greenlet is None:
        return natives.get_thread_ident()
    current = greenlet.getcurrent()
    return natives.get_thread_ident() if current.parent is None else id(current)


def fork() -> int:
    """Fork this process, and leave in the child the hub of this thread, with all greenlets: they are the parent's."""
    pid = natives.fork()
    if not pid:
        _leave_hub()
    return pid


def _leave_hub() -> None:
    for name, kind in _KINDS.items():
        if "greenlet" in _modules and name in _modules:
            hub = kind.find(_modules[name])
            if hub is not None:
                hub.leave()


def throw(error: BaseException) -> None:
    """Raise an error out of the handler of a signal in the code that it has interrupted, also where that waits in a hub.

    What is raised in a hub comes to the first greenlet of the thread; but gevent writes it to the standard error before.
    """
    module = _modules.get("gevent._hub_local")
    hub = None if module is None else _GeventHub.find(module)
    if hub is None or not hub.is_running():
        raise error
    hub.throw(error)


class _GeventHub:
    """The hub of gevent for the calling thread."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub

    @classmethod
    def find(cls, module: Any) -> _GeventHub | None:
        hub = module.get_hub_if_exists()
        return None if hub is None or hub.loop is None or "gevent.hub" not in _modules else cls(hub)

    def is_running(self) -> bool:
        return self._hub is _modules["greenlet"].getcurrent()

    def has_work(self) -> bool:
        return True  # it is made with the first greenlet, or by the first wait

    def leave(self) -> None:
        self._hub.destroy(destroy_loop=True)

    def throw(self, error: BaseException) -> None:
        """Raise an error in the greenlet that has made the hub, which is the first of the thread; the caller is the hub."""
        self._hub.loop.run_callback(self._hub.parent.throw, error)

    def wait(self, masks: Mapping[int, int], timeout: float | None) -> bool:
        io = self._hub.loop.io
        watchers = [io(fd, (mask & READABLE) | (2 if mask & WRITABLE else 0)) for fd, mask in masks.items()]
        try:
            return self.switch(watchers, timeout, lambda: False)
        finally:
            for watcher in watchers:
                watcher.close()

    def make_sleeper(self) -> Sleeper:
        return _GeventSleeper(self)

    def make_signal(self) -> Any:
        """Return a watcher whose ``send`` may be called by any thread."""
        return self._hub.loop.async_()

    def switch(self, watchers: list[Any], timeout: float | None, is_over: Callable[[], bool]) -> bool:
        """Switch to the hub until a watcher calls; ``is_over()`` is asked when they are started."""
        waiter = _modules["gevent.hub"].Waiter(self._hub)
        timer = None if timeout is None else self._hub.loop.timer(max(0.0, timeout))
        before_switch()
        try:
            for watcher in watchers:
                watcher.start(waiter.switch, True)
            if is_over():
                return True
            if timer is not None:
                timer.start(waiter.switch, False)
            return bool(waiter.get())
        finally:
            for watcher in watchers:
                watcher.stop()
            if timer is not None:
                timer.close()


class _GeventSleeper:
    """A sleeper of a greenlet of gevent; the watcher also keeps its loop from ending, where a thread is to release it."""

    def __init__(self, hub: _GeventHub) -> None:
        self._hub = hub
        self._lock = natives.Lock()  # guards the watcher, which must not be used any more when it is closed
        self._watcher: Any = None
        self._is_released = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._is_released or not blocking:
            return self._is_released
        watcher = self._watcher = self._hub.make_signal()
        try:
            return self._hub.switch([watcher], None if timeout < 0 else timeout, lambda: self._is_released)
        finally:
            with self._lock:
                self._watcher = None
            watcher.close()

    def release(self) -> None:
        with self._lock:
            self._is_released = True
            if self._watcher is not None:
                self._watcher.send()

    def locked(self) -> bool:
        return not self._is_released


class _EventletHub:
    """The hub of eventlet for the calling thread."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub

    @classmethod
    def find(cls, module: Any) -> _EventletHub | None:
        hub = getattr(getattr(module, "_threadlocal", None), "hub", None)
        return None if hub is None or not hasattr(module, "trampoline") else cls(hub)

    def is_running(self) -> bool:
        return self._hub.greenlet is _modules["greenlet"].getcurrent()

    def has_work(self) -> bool:
        hub = self._hub
        return bool(hub.greenlet or hub.timers or hub.next_timers or any(hub.listeners.values()))

    def leave(self) -> None:
        _modules["eventlet.hubs"].use_hub()

    def wait(self, masks: Mapping[int, int], timeout: float | None) -> bool:
        hub, listeners = self._hub, []

        def begin(wake: Callable[..., None]) -> bool:
            for fd, mask in masks.items():
                for bit, kind in ((READABLE, hub.READ), (WRITABLE, hub.WRITE)):
                    if mask & bit:
                        listeners.append(hub.add(kind, fd, wake, wake, wake))
            return False

        try:
            return self.switch(begin, timeout)
        finally:
            for listener in listeners:
                hub.remove(listener)

    def make_sleeper(self) -> Sleeper:
        return _EventletSleeper(self, _alarm_of(self._hub))

    def switch(self, begin: Callable[[Callable[..., None]], bool], timeout: float | None) -> bool:
        """Switch to the hub until it calls what ``begin(wake)`` gets, which returns whether there is no need to wait."""
        current: Any = _modules["greenlet"].getcurrent()
        is_waiting = True

        def wake(is_ready: Any = True, *_args: Any) -> None:
            nonlocal is_waiting
            if is_waiting:  # the hub may have found several descriptors ready, and calls for each
                is_waiting = False
                current.switch(is_ready is not None)

        timer = None
        before_switch()
        try:
            if begin(wake):
                return True
            if timeout is not None:
                timer = self._hub.schedule_call_global(max(0.0, timeout), wake, None)
            return bool(self._hub.switch())
        finally:
            is_waiting = False
            if timer is not None:
                timer.cancel()


class _EventletSleeper:
    """A sleeper of a greenlet of eventlet."""

    def __init__(self, hub: _EventletHub, alarm: _Alarm) -> None:
        self._hub = hub
        self._alarm = alarm
        self._wake: Callable[..., None] = _do_nothing
        self._is_released = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._is_released or not blocking:
            return self._is_released

        def begin(wake: Callable[..., None]) -> bool:
            self._wake = wake
            return self._is_released

        return self._hub.switch(begin, None if timeout < 0 else timeout)

    def release(self) -> None:
        self._is_released = True
        self._alarm.call(lambda: self._wake())

    def locked(self) -> bool:
        return not self._is_released


class _Alarm:
    """Has a hub of eventlet call something soon; other threads reach it by a pipe, since its own timers are its thread's."""

    def __init__(self, hub: Any) -> None:
        self._hub = weakref.ref(hub)
        self._thread = natives.get_thread_ident()
        self._due: deque[Callable[[], None]] = deque()
        self._read_fd, self._write_fd = make_pipe()
        hub.add(hub.READ, self._read_fd, self._ring, _do_nothing, _do_nothing)

    def call(self, function: Callable[[], None]) -> None:
        hub = self._hub()
        if hub is None:
            return
        if natives.get_thread_ident() == self._thread:
            hub.schedule_call_global(0, function)
        else:
            self._due.append(function)
            natives.write(self._write_fd, b"x")

    def _ring(self, *_args: Any) -> None:
        natives.read(self._read_fd, 4096)
        while self._due:
            self._due.popleft()()


_alarms: weakref.WeakKeyDictionary[Any, _Alarm] = weakref.WeakKeyDictionary()


def _alarm_of(hub: Any) -> _Alarm:
    alarm = _alarms.get(hub)
    if alarm is None:
        alarm = _alarms[hub] = _Alarm(hub)
    return alarm


#: By the modules that know the hubs of threads.
_KINDS: dict[str, Any] = {"gevent._hub_local": _GeventHub, "eventlet.hubs": _EventletHub}

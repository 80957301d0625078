"""An interrupt (Ctrl-C) waits until the engine is at rest.

Python runs the handler of a signal in the main thread, between any two instructions, and the usual one for SIGINT raises
`KeyboardInterrupt` there. In the midst of the rules that would leave them half applied; between taking a lock and noting so, it
would leave the lock taken for ever. And a caller who keeps a pool busy with short calls is in such places most of the time.

So what must not be left halfway is `held`: meanwhile an interrupt is only noted, and is passed on to the program's own handler
as soon as nothing can be torn any more: where the engine waits (`waiting`), and at the end. Code of the user's that the engine
runs is interrupted at once, for it may never end (`user_code`: tasks of a serial pool, the prompt of a debugger; callbacks:
`as_user_code`); that the exception is caught there does not make it undone. A second interrupt before the first was passed on
does not wait either: whoever presses twice wants out, even if the pool breaks.

Where greenlets share the main thread, each has a state of its own: one may be in the engine while another runs the program's
code. Which one is running is looked up when the state is needed. The program's own handler is back when the last has left the
engine. Handlers run in whichever greenlet runs at that moment.

Nothing is changed outside of the calls to a pool: ``signal.getsignal(SIGINT)`` is what the program has set. The handlers of
other signals run as ever; one that raises is no business of ours, and breaks a pool if it hits the wrong moment.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import weakref

# The functions of the module `signal` without its conversion to enums, which costs ten times as much as all the rest.
from _signal import getsignal, signal  # type: ignore[import-not-found, unused-ignore]
from collections.abc import Callable
from signal import SIGINT, default_int_handler
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from objproxy._worker import hubs, natives
from objproxy._worker.waits import make_sleeper

P = ParamSpec("P")
T = TypeVar("T")

_FREE, _HELD, _WAITING, _USER = range(4)

_modules = sys.modules


def _find_main() -> int | None:
    """Return the identifier of the only thread in which handlers run."""
    if threading.get_ident is natives.get_thread_ident:
        return threading.main_thread().ident
    return natives.get_thread_ident()  # patched: what is known of the main thread is a greenlet


_main: int | None = _find_main()
_state = _FREE  # of the main thread, as all that follows
_states: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()  # of its other greenlets, if they are not free
_greenlet: weakref.ref[Any] | None = None  # the one whose state is at hand
_n_guards = 0  # greenlets that are in the midst of what is held
_before: Callable[[int, FrameType | None], Any] = default_int_handler  # the program's own handler
_is_noted = False  # an interrupt has come and was not passed on
_raised: BaseException | None = None  # what the program's handler has raised in code of the user's


def _choose_state() -> None:
    """Bring the state of the running greenlet to hand; the caller is the main thread."""
    global _greenlet, _state
    module = _modules.get("greenlet")
    if module is None:
        return
    running, known = module.getcurrent(), None if _greenlet is None else _greenlet()
    if running is known:
        return
    if known is None and _state != _FREE:  # it was noted before there were greenlets: it is that of the first one
        known = running
        while known.parent is not None:
            known = known.parent
    if known is not None and _state != _FREE:
        _states[known] = _state
    _greenlet, _state = weakref.ref(running), _states.pop(running, _FREE)


def _before_switch() -> None:
    """Put the state of the running greenlet aside: others run now, in the midst of what it holds."""
    global _greenlet, _state
    if natives.get_thread_ident() == _main:
        _choose_state()
        running = None if _greenlet is None else _greenlet()
        if _state != _FREE and running is not None:
            _states[running] = _state
        _greenlet, _state = None, _FREE


hubs.before_switch = _before_switch


def held(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function that must not be left halfway because of an interrupt."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        global _before, _main, _n_guards, _state
        if _state == _HELD or natives.get_thread_ident() != _main:
            return function(*args, **kwargs)
        if "greenlet" in _modules:
            _choose_state()
        outer, handler = _state, getsignal(SIGINT)
        if outer == _HELD or not callable(handler):  # it ends the program, or does nothing
            return function(*args, **kwargs)
        _state = _HELD
        _n_guards += outer == _FREE
        try:
            if handler is not _note:
                _before = handler
                try:
                    signal(SIGINT, _note)
                except ValueError:  # Python is a part of another program, and runs handlers elsewhere or not at all
                    _main = None
            return function(*args, **kwargs)
        finally:
            if "greenlet" in _modules:
                _choose_state()
            try:
                _n_guards -= outer == _FREE
                if handler is _note or _n_guards:
                    _put_handler_back(handler, is_outermost=outer == _FREE)
                elif getsignal(SIGINT) is _note:
                    signal(SIGINT, handler)
            finally:  # from here on the program's handler may raise at any time
                _state = outer
            pass_on()

    return guarded


def _put_handler_back(handler: Any, *, is_outermost: bool) -> None:
    """Set the handler that was there before; where other greenlets are in the midst of something, the last of them does so."""
    if is_outermost and _n_guards:
        return
    if handler is _note and is_outermost:
        handler = _before
    if handler is not _note and getsignal(SIGINT) is _note:
        signal(SIGINT, handler)


def pass_on() -> None:
    """Pass on what was noted; to be called where nothing can be torn."""
    global _is_noted, _raised
    if (_is_noted or _raised is not None) and natives.get_thread_ident() == _main:
        error, _raised, _is_noted = _raised, None, False
        if error is not None:
            raise error
        _before(SIGINT, sys._getframe())


def _note(number: int, frame: FrameType | None) -> None:
    """Handle the signal SIGINT."""
    global _is_noted, _raised
    _choose_state()
    if _state == _HELD and not _is_noted:
        _is_noted = True
        return
    _is_noted = False
    try:
        _before(number, frame)
    except BaseException as exc:
        if _state in (_HELD, _USER):
            _raised = exc
        raise


class _Region:
    """A part of what is held in which an interrupt is passed on at once."""

    def __init__(self, state: int, *, remembers_errors: bool = False) -> None:
        self._within = state
        self._remembers_errors = remembers_errors

    def __enter__(self) -> None:
        global _raised, _state
        if _state == _HELD and natives.get_thread_ident() == _main:
            while _is_noted or _raised is not None:  # what came just before would wait as long as we do
                try:
                    pass_on()
                except BaseException as exc:
                    if self._within == _USER:
                        _raised = exc
                    raise
            _state = self._within  # handlers run after calls and at the end of a loop's body: so not between the test and this

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        global _state
        if "greenlet" in _modules and natives.get_thread_ident() == _main:
            _choose_state()
        if _state == self._within and natives.get_thread_ident() == _main:
            _state = _HELD
        if error is not None and self._remembers_errors and isinstance(error, Exception):
            _thrown[hubs.get_ident()] = error


class _Callback(_Region):
    """It must be called, even if an interrupt came just before."""

    def __enter__(self) -> None:
        global _state
        if _state == _HELD and natives.get_thread_ident() == _main:
            _state = self._within


_thrown: dict[int, Exception] = {}


def take_thrown() -> Exception | None:
    """Return the error that has ended this thread's last wait for events, if there was one; it is no defect of the engine."""
    return _thrown.pop(hubs.get_ident(), None)


#: Nothing happens in here but waiting; an interrupt loses nothing.
waiting = _Region(_WAITING)

#: The same for what back ends do in `wait`. An error that ends it comes from the handler of a signal, or from another greenlet:
#: the driver asks for it.
waiting_for_events = _Region(_WAITING, remembers_errors=True)

#: What the user's code does in here is caught, and the engine goes on; the interrupt is raised again when it is at rest.
user_code = _Region(_USER)

_callback = _Callback(_USER)


class Condition(threading.Condition):
    """A condition whose lock an interrupt does not leave taken for ever; it is a lock of the system, see `waits`.

    The methods of `threading.Condition` that ``with`` calls are written in Python, so that a handler may run, and raise, after
    the lock was taken, and before ``with`` knows. Here ``with`` gets the methods of the lock itself.
    """

    def __init__(self, lock: Any = None) -> None:
        super().__init__(natives.RLock() if lock is None else lock)

    @property
    def __enter__(self) -> Callable[[], bool]:
        return self._lock.__enter__  # type: ignore[attr-defined, no-any-return]

    @property
    def __exit__(self) -> Callable[..., None]:
        return self._lock.__exit__  # type: ignore[attr-defined, no-any-return]

    @held
    def wait(self, timeout: float | None = None) -> bool:
        """Wait until notified, or until `timeout` seconds have passed; whether notified."""
        waiter, is_notified = make_sleeper(), False
        self._waiters.append(waiter)  # type: ignore[attr-defined]
        state = self._release_save()  # type: ignore[attr-defined]
        try:
            with waiting:
                is_notified = waiter.acquire(timeout=-1 if timeout is None else max(0.0, timeout))
        finally:
            self._acquire_restore(state)  # type: ignore[attr-defined]
            if not is_notified:
                with contextlib.suppress(ValueError):
                    self._waiters.remove(waiter)  # type: ignore[attr-defined]
        return is_notified


def as_user_code(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a callback of the user's."""

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        with _callback:
            return function(*args, **kwargs)

    return called


def _forget_parent() -> None:
    """In a child that was forked meanwhile nothing is held."""
    global _greenlet, _is_noted, _main, _n_guards, _raised, _state
    _main = natives.get_thread_ident()
    if _state != _FREE and getsignal(SIGINT) is _note:
        signal(SIGINT, _before)
    _state, _is_noted, _raised = _FREE, False, None
    _states.clear()
    _greenlet, _n_guards = None, 0


os.register_at_fork(after_in_child=_forget_parent)

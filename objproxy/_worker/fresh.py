"""What code holds that cannot be copied, so that each process makes its own: locks, events, weak references, context variables.

Sentinels (Python 3.15) are of this kind too, in data as well: what counts is which object it is.

An object that code reaches by a name (a global, a class attribute, a closure) is one object in a process, however many messages
bring it: two functions that use one lock go on using one lock. It has a token for that.
"""

from __future__ import annotations

import builtins
import contextvars
import io
import itertools
import os
import queue
import re
import struct
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from typing import Any

from objproxy._worker import heritage
from objproxy._worker.logger_class import is_special, reduce_logger

#: Tokens of objects that were sent by value or have arrived, and the objects of tokens.
_tokens: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
_known: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()

#: The type of ``sentinel("MISSING")``; None before Python 3.15.
Sentinel: Any = getattr(builtins, "sentinel", None)

#: The same for objects that have no weak references and live as long as their modules.
_LASTING = (contextvars.ContextVar, Sentinel)
_lasting_tokens: dict[Any, str] = {}
_lasting: dict[str, Any] = {}

#: A copy of these would never do what the original does: it has no thread, and nobody sets its result.
_ALIVE = (threading.Thread, Executor, Future)


def token_of(value: Any) -> str:
    """Return the token of an object, the same in every process that has it."""
    if type(value) in _LASTING:
        token = _lasting_tokens.setdefault(value, os.urandom(16).hex())
        _lasting[token] = value
    else:
        token = _tokens.setdefault(value, os.urandom(16).hex())
        _known[token] = value
    return token


def known(token: str) -> Any:
    """Return the object of a token, or None if this process does not have it."""
    return _known.get(token, _lasting.get(token))


def remember(token: str, value: Any) -> Any:
    """Keep an object under a token, unless there is one; return the one that is kept."""
    if type(value) in _LASTING:
        kept = _lasting.setdefault(token, value)
        _lasting_tokens[kept] = token
    else:
        kept = _known.setdefault(token, value)
        _tokens[kept] = token
    return kept


def keep_one_of_each(values: Iterable[Any]) -> None:
    """Note what the names of some code stand for: of an object that each process makes, it makes one."""
    for value in values:
        if type(value) in _SHARED:
            token_of(value)


def reduce(value: Any) -> Any:
    """Reduce an object that a class or function takes along; NotImplemented if it goes in the usual way.

    Raises
    ------
    TypeError
        A copy would wait for ever.
    """
    kind = type(value)
    if kind in _SHARED:
        reduced, token = _SHARED[kind](value), _token_if_any(value)
        return reduced if token is None else (_take, (token, *reduced))
    if kind in _COPIED:
        return _COPIED[kind](value)
    return _reduce_by_base(value)


def _token_if_any(value: Any) -> str | None:
    return _lasting_tokens.get(value) if type(value) in _LASTING else _tokens.get(value)


def _take(token: str, make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Return the object of a token, made if this process does not have it."""
    found = known(token)
    return remember(token, make(*args)) if found is None else found


def reduce_sentinel(sentinel: Any) -> Any:
    """Reduce a sentinel that no worker can import: it is one object in each process, and comes home as the caller's."""
    return _take, (token_of(sentinel), _make_sentinel, (sentinel.__name__, sentinel.__module__, repr(sentinel)))


def _make_sentinel(name: str, module: str, text: str) -> Any:
    made = Sentinel(name, repr=text)
    made.__module__ = module
    return made


def _reduce_by_base(value: Any) -> Any:
    kind = type(value)  # `isinstance` asks for the `__class__` of a proxy, which may raise
    if issubclass(kind, threading.local):
        return kind, ()
    if is_special(kind):
        return reduce_logger(value)
    reduce = heritage.find_reducer(kind)
    if reduce is not None:
        return reduce(value)
    if issubclass(kind, _ALIVE):
        raise TypeError(f"cannot pickle {kind.__name__!r} object: a copy of it would have no thread")
    return NotImplemented


def _reduce_event(event: threading.Event) -> Any:
    return _make_event, (event.is_set(),)


def _make_event(is_set: bool) -> threading.Event:
    event = threading.Event()
    if is_set:
        event.set()
    return event


def _reduce_variable(variable: contextvars.ContextVar[Any]) -> Any:
    """Reduce a context variable to its name and its default, which shows itself where nothing was set."""
    try:
        return _make_variable, (variable.name, contextvars.Context().run(variable.get))
    except LookupError:
        return _make_variable, (variable.name,)


def _make_variable(name: str, *default: Any) -> contextvars.ContextVar[Any]:
    return contextvars.ContextVar(name, default=default[0]) if default else contextvars.ContextVar(name)


def _reduce_reference(reference: weakref.ref[Any]) -> Any:
    target = reference()
    return (_make_dead_reference, ()) if target is None else (weakref.ref, (target,))


def _make_dead_reference() -> weakref.ref[Any]:
    return weakref.ref(threading.Event())


def _reduce_weak_mapping(mapping: Any) -> Any:
    return type(mapping), (), None, None, iter(list(mapping.items()))


def _reduce_counter(counter: itertools.count[Any]) -> Any:
    """Reduce an endless counter, which Python 3.14 cannot pickle any more, to its next number and its step."""
    numbers = re.fullmatch(r"count\((-?\d+)(?:, (-?\d+))?\)", repr(counter))
    return NotImplemented if numbers is None else (itertools.count, (int(numbers[1]), int(numbers[2] or 1)))


def _reduce_text_stream(stream: io.TextIOWrapper) -> Any:
    return (getattr, (sys, "stdin")) if stream is sys.stdin else NotImplemented


#: Made anew in each process; where a name stands for one, once. By exact type.
_SHARED: dict[type, Callable[[Any], Any]] = {
    type(threading.Lock()): lambda _lock: (threading.Lock, ()),
    type(threading.RLock()): lambda _lock: (threading.RLock, ()),
    threading.Condition: lambda condition: (threading.Condition, (condition._lock,)),
    threading.Event: _reduce_event,
    threading.Semaphore: lambda semaphore: (threading.Semaphore, (semaphore._value,)),
    threading.BoundedSemaphore: lambda semaphore: (threading.BoundedSemaphore, (semaphore._initial_value,)),
    threading.Barrier: lambda barrier: (threading.Barrier, (barrier.parties, barrier._action, barrier._timeout)),
    threading.local: lambda _local: (threading.local, ()),
    contextvars.ContextVar: _reduce_variable,
    queue.SimpleQueue: lambda _queue: (queue.SimpleQueue, ()),
}

#: Copied, as lists are, in a way of their own. By exact type.
_COPIED: dict[type, Callable[[Any], Any]] = {
    weakref.ReferenceType: _reduce_reference,
    weakref.WeakKeyDictionary: _reduce_weak_mapping,
    weakref.WeakValueDictionary: _reduce_weak_mapping,
    struct.Struct: lambda layout: (struct.Struct, (layout.format,)),
    itertools.count: _reduce_counter,
    io.TextIOWrapper: _reduce_text_stream,
}

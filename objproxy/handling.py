"""Handle exceptions of any class: read and set their cause, notes, text and traceback without failing.

An exception of a user's may resist. A frozen dataclass refuses every assignment; ``__str__``, a property or ``__class__`` may
raise, exit, or lie; ``__notes__`` may be no list. None of that may change the outcome of another task or the fate of a worker.
So every other module reads and changes exceptions through these functions:

- cause and traceback are set in the slots of `BaseException`, which no subclass can close;
- a note that the exception does not take is left out;
- what the exception's own code raises is caught here, also ``SystemExit``. A Ctrl-C of the program is passed on.
"""

from __future__ import annotations

import functools
import logging
import traceback
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeGuard, TypeVar

__all__ = [
    "add_note",
    "block",
    "cause_of",
    "describe",
    "format_error",
    "is_a",
    "log_error",
    "matches",
    "pass_interrupt_on",
    "repr_of",
    "set_cause",
    "set_traceback",
    "short_name",
    "text_of",
    "traceback_of",
    "type_name",
]

P = ParamSpec("P")
T = TypeVar("T")

_CAUSE: Any = BaseException.__dict__["__cause__"]
_TRACEBACK: Any = BaseException.__dict__["__traceback__"]
_MODULE, _QUALNAME, _NAME = (type.__dict__[name] for name in ("__module__", "__qualname__", "__name__"))


def is_a(error: object, kinds: type[T] | tuple[type[T], ...]) -> TypeGuard[T]:
    """Return whether the type of `error` is one of `kinds`; what its ``__class__`` says is not asked."""
    return issubclass(type(error), kinds)


def matches(error: BaseException, kinds: Any) -> bool:
    """Return ``isinstance(error, kinds)`` for kinds of the user's; False where that raises."""
    try:
        return is_a(error, kinds) or isinstance(error, kinds)
    except BaseException as exc:
        pass_interrupt_on(exc)
        return False


def cause_of(error: BaseException) -> BaseException | None:
    """Return the cause of `error`."""
    cause: BaseException | None = _CAUSE.__get__(error)
    return cause


def traceback_of(error: BaseException) -> TracebackType | None:
    """Return the traceback of `error`."""
    trace: TracebackType | None = _TRACEBACK.__get__(error)
    return trace


def set_cause(error: BaseException, cause: BaseException | None) -> None:
    """Set the cause of `error`."""
    _CAUSE.__set__(error, cause)


def set_traceback(error: BaseException, trace: TracebackType | None) -> None:
    """Set the traceback of `error`; None removes it."""
    _TRACEBACK.__set__(error, trace)


def add_note(error: BaseException, note: str) -> None:
    """Add a note to `error` unless it has it already; an exception that takes no notes stays as it is."""
    try:
        notes = getattr(error, "__notes__", None)
        if notes is None:
            object.__setattr__(error, "__notes__", [note])  # also where its class forbids assignments
        elif isinstance(notes, list) and not any(type(other) is str and other == note for other in notes):
            list.append(notes, note)
    except BaseException as exc:
        pass_interrupt_on(exc)


def type_name(value: object) -> str:
    """Return the qualified name of the type of `value`, with its module; a metaclass is not asked."""
    kind = type(value)
    module, name = _MODULE.__get__(kind), _QUALNAME.__get__(kind)
    return f"{module}.{name}" if type(module) is str and module != "builtins" else str(name)


def short_name(value: object) -> str:
    """Return the name of the type of `value`, alone; a metaclass is not asked."""
    return str(_NAME.__get__(type(value)))


def text_of(error: BaseException) -> str:
    """Return ``str(error)``, or say that the exception does not give its text."""
    return repr_of(error, str)


def describe(error: BaseException) -> str:
    """Return the name of the exception's type and its text, for messages."""
    return f"{short_name(error)}: {text_of(error)}"


def repr_of(value: object, make: Callable[[Any], str] = repr) -> str:
    """Return ``make(value)``, a text of the user's object, or say that there is none."""
    try:
        return "".join((make(value),))  # a plain str, also where it was of a subclass
    except BaseException as exc:
        pass_interrupt_on(exc)
        return f"(cannot be shown: {short_name(exc)})"


def format_error(error: BaseException, trace: TracebackType | None = None) -> str:
    """Return the traceback of `error` as Python prints it; without causes and notes where these cannot be shown.

    Parameters
    ----------
    error : BaseException
        The exception.
    trace : traceback or None
        Its frames, if not all of them shall be shown.
    """
    trace = traceback_of(error) if trace is None else trace
    try:
        return "".join(traceback.format_exception(type(error), error, trace))
    except BaseException as exc:
        pass_interrupt_on(exc)
        frames = "".join(traceback.format_tb(trace))
        return f"Traceback (most recent call last):\n{frames}{type_name(error)}: {text_of(error)}\n"


def log_error(logger: logging.Logger, message: str, error: BaseException, *args: Any) -> None:
    """Log that `error` was caught, with its traceback, also where the handlers cannot show it."""
    try:
        logger.error(message, *args, exc_info=(type(error), error, traceback_of(error)))
    except BaseException as exc:
        pass_interrupt_on(exc)
        logger.error("%s\n%s", message % args, format_error(error))


def pass_interrupt_on(error: BaseException) -> None:
    """Raise a Ctrl-C again that has hit the caller itself, and not code of the user's that the caller has called."""
    trace = traceback_of(error)
    if type(error) is KeyboardInterrupt and trace is not None and trace.tb_next is None:
        raise error


class _Block(Generic[T]):
    """A context that a generator makes."""

    def __init__(self, steps: Generator[T, None, None]) -> None:
        self._steps = steps

    def __enter__(self) -> T:
        return next(self._steps)

    def __exit__(self, _kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        """Run the rest of the generator; `error` goes on as it came."""
        if error is None:
            next(self._steps, None)
            return
        try:
            self._steps.throw(error)
        except BaseException as exc:
            # A generator may not raise StopIteration: Python makes a RuntimeError of it.
            if exc is not error and not (is_a(exc, RuntimeError) and cause_of(exc) is error):
                raise
        set_traceback(error, trace)


def block(function: Callable[P, Generator[T, None, None]]) -> Callable[P, _Block[T]]:
    """Make a context manager of a generator function, as ``contextlib.contextmanager`` does.

    That one assigns the traceback of an error that passes through, which a frozen exception refuses.
    """

    @functools.wraps(function)
    def begin(*args: P.args, **kwargs: P.kwargs) -> _Block[T]:
        return _Block(function(*args, **kwargs))

    return begin

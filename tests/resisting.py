"""Exceptions that resist being handled: each refuses, raises, exits or lies in its own way."""

from __future__ import annotations

import builtins
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from objproxy import report_progress
from objproxy.ompr import RunningWorker


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    """Refuses every assignment, its traceback by Python code among them."""

    key: str


@dataclasses.dataclass(frozen=True)
class FrozenReducedError(Exception):
    """Frozen, and pickles in its own way."""

    key: str

    def __reduce__(self) -> Any:
        return FrozenReducedError, (self.key,)


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenSlotsError(Exception):
    """Frozen, with slots, made by keywords alone."""

    key: str


class TextRaisesError(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise ZeroDivisionError("no text")


class TextExitsError(Exception):
    """Ends the program that asks for its text, or for its repr."""

    def __str__(self) -> str:
        raise SystemExit(3)

    def __repr__(self) -> str:
        raise KeyboardInterrupt


class TextIsNoTextError(Exception):
    """Gives a number as its text."""

    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


class OddNotesError(Exception):
    """Has notes that are no list."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.__notes__ = 5  # type: ignore[assignment]


class NotesRaiseError(Exception):
    """Has notes that cannot be compared, and takes none."""

    class Note:
        def __eq__(self, other: object) -> bool:
            raise LookupError("not comparable")

        __hash__ = None  # type: ignore[assignment]

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.__notes__ = [self.Note()]  # type: ignore[list-item]

    def add_note(self, note: str) -> NoReturn:
        raise SystemExit(4)


class NoTracebackError(Exception):
    """Refuses a traceback, a cause and attributes."""

    def with_traceback(self, _trace: Any) -> NoReturn:
        raise SystemExit(5)

    @property
    def __cause__(self) -> NoReturn:  # type: ignore[override]
        raise LookupError("no cause")

    @property
    def __notes__(self) -> NoReturn:  # type: ignore[override]
        raise SystemExit(6)


class ArgsRaiseError(Exception):
    """Has ``args`` that raise."""

    @property
    def args(self) -> NoReturn:  # type: ignore[override]
        raise LookupError("no args")


class ReduceExitsError(Exception):
    """Exits when it is pickled."""

    def __reduce__(self) -> NoReturn:
        raise SystemExit(7)


class ReducesToTextError(Exception):
    """Is no exception any more when it was unpickled."""

    def __reduce__(self) -> Any:
        return str, ("no exception",)


class RebuiltElsewhereError(Exception):
    """Can be rebuilt in the process that has made it, and exits in every other."""

    def __init__(self, home: Any = None) -> None:
        super().__init__("elsewhere")
        self.home = home or os.getpid()

    def __reduce__(self) -> Any:
        return _rebuild_at_home, (self.home,)


def _rebuild_at_home(home: int) -> RebuiltElsewhereError:
    if os.getpid() != home:
        raise TextExitsError
    return RebuiltElsewhereError(home)


class ExitsElsewhereError(RebuiltElsewhereError):
    """Exits in every other process."""

    def __reduce__(self) -> Any:
        return _exit_unless_at_home, (self.home,)


def _exit_unless_at_home(home: int) -> RebuiltElsewhereError:
    if os.getpid() != home:
        raise SystemExit(8)
    return ExitsElsewhereError(home)


class StateExitsError(Exception):
    """Exits when its state is set."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.more = 1

    def __setstate__(self, _state: Any) -> NoReturn:
        raise SystemExit(9)


class ClassLiesError(Exception):
    """Raises where its class is asked for."""

    @property  # type: ignore[misc]
    def __class__(self) -> NoReturn:  # type: ignore[override]
        raise SystemExit(10)


class OddMeta(type):
    """A metaclass whose classes do not tell their names."""

    def __getattribute__(cls, name: str) -> Any:
        if name in ("__name__", "__qualname__", "__module__"):
            raise SystemExit(15)
        return super().__getattribute__(name)


class NamelessError(Exception, metaclass=OddMeta):
    """Its class has no name."""


class FalseError(Exception):
    """Can be neither compared, hashed, nor asked whether it is true."""

    def __bool__(self) -> NoReturn:
        raise SystemExit(11)

    def __eq__(self, other: object) -> NoReturn:
        raise SystemExit(12)

    def __hash__(self) -> NoReturn:
        raise SystemExit(13)


class ReadOnlyError(Exception):
    """Exits at every assignment."""

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise SystemExit(14)


class ResistingBottom(BaseException):
    """Is no `Exception`, and has no text."""

    def __str__(self) -> str:
        raise KeyboardInterrupt


def _group() -> BaseException:
    return ExceptionGroup("several", [FrozenError("a"), TextExitsError("b"), OddNotesError("c")])


#: How to make each of them.
RESISTING: dict[str, Callable[[], BaseException]] = {
    **{
        kind.__name__: (lambda kind=kind: kind("x"))
        for kind in (
            FrozenError,
            FrozenReducedError,
            TextRaisesError,
            TextExitsError,
            TextIsNoTextError,
            OddNotesError,
            NotesRaiseError,
            NoTracebackError,
            ArgsRaiseError,
            ReduceExitsError,
            ReducesToTextError,
            RebuiltElsewhereError,
            ExitsElsewhereError,
            StateExitsError,
            ClassLiesError,
            FalseError,
            ReadOnlyError,
            ResistingBottom,
        )
    },
    "FrozenSlotsError": lambda: FrozenSlotsError(key="x"),
    "NamelessError": lambda: NamelessError("x"),
    "ExceptionGroup": _group,
}


class FailsInParent:
    """A value that does what it is told when it is rebuilt in another process than that which has made it."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.home = os.getpid()

    def __reduce__(self) -> Any:
        return _fail_elsewhere, (self.how, self.home)


def _fail_elsewhere(how: str, home: int) -> FailsInParent:
    if os.getpid() != home:
        raise RESISTING[how]() if how in RESISTING else getattr(__import__("builtins"), how)("elsewhere")
    return FailsInParent(how)


class Report(int):
    """A number of a class of its own, which cannot be rebuilt elsewhere."""

    def __reduce__(self) -> Any:
        return _fail_elsewhere, ("TextExitsError", os.getpid())


def _make(how: str) -> BaseException:
    make: Callable[[], BaseException] = RESISTING.get(how) or getattr(builtins, how)
    return make()


class Resisting:
    """Its methods raise what resists; so does its constructor, on request."""

    def __init__(self, how: str | None = None) -> None:
        if how is not None:
            raise RESISTING[how]()

    def fail(self, how: str) -> Any:
        """Raise one of them."""
        raise _make(how)

    def fail_at(self, item: int, how: str) -> int:
        """Raise one of them at item 1."""
        if item == 1:
            raise _make(how)
        return item

    def give(self, how: str | None) -> Any:
        """Return what cannot be rebuilt in the program."""
        return "fine" if how is None else FailsInParent(how)

    def report(self, n: int) -> int:
        """Report and log with values of odd classes."""
        import logging

        report_progress(Report(n), Report(n))
        logging.getLogger("resisting").warning("said", extra={"odd": Report(n), "text": TextExitsError("x")})
        return n

    def echo(self, value: Any) -> Any:
        """Return what was given."""
        return value


def work(how: str | None) -> int:
    """Raise one of them, or return 1."""
    if how is not None:
        raise RESISTING[how]()
    return 1


def work_batch(hows: list[str | None]) -> list[int]:
    """Do so for each of a list."""
    return [work(how) for how in hows]


class Runner(RunningWorker):
    """Does so for OMPR."""

    def process(self, how: str | None) -> int:  # type: ignore[override]
        """Raise one of them, or return 1."""
        return work(how)


class Resistant:
    """Everything else that an object has raises one of them: its end, a generator, a property."""

    def __init__(self, how: str) -> None:
        self._how = how

    def rows(self) -> Iterator[int]:
        """Give one row."""
        yield 1
        raise RESISTING[self._how]()

    @property
    def size(self) -> int:
        """Have none."""
        raise RESISTING[self._how]()

    def close(self) -> None:
        """Fail."""
        raise RESISTING[self._how]()

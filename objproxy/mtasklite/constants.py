"""The words that mtasklite's options understand; plain strings."""

from __future__ import annotations

from typing import Any


class ArgumentPassing:
    """How an item becomes the arguments of a worker: whole, as positional, or as keyword arguments."""

    AS_SINGLE_ARG = "single_arg"
    AS_ARGS = "args"
    AS_KWARGS = "kwargs"


class ExceptionBehaviour:
    """What becomes of an error: yielded as a result, raised at once, or yielded and raised at the end."""

    IGNORE = "ignore"
    IMMEDIATE = "immediate"
    DEFERRED = "deferred"


class ArgumentError(ValueError, AssertionError):
    """An argument of `Pool` that makes no sense; programs written for mtasklite expect an ``AssertionError``."""


def check_argument_type(wanted: Any) -> str:
    """Return a word of `ArgumentPassing`; "direct" and None are what the package pqdm calls "single_arg".

    Raises
    ------
    ArgumentError
        There is no such word.
    """
    if wanted in ("direct", None):
        return ArgumentPassing.AS_SINGLE_ARG
    return _check("argument_type", wanted, ArgumentPassing)


def check_behaviour(behavior: Any, behaviour: Any) -> str:
    """Return a word of `ExceptionBehaviour`, from whichever of the two spellings was given.

    Raises
    ------
    ArgumentError
        There is no such word.
    """
    if behaviour is not None:
        return _check("exception_behaviour", behaviour, ExceptionBehaviour)
    return _check("exception_behavior", behavior, ExceptionBehaviour)


def _check(name: str, wanted: Any, words: type) -> str:
    known = [word for key, word in vars(words).items() if key.isupper()]
    if wanted not in known:
        raise ArgumentError(f"{name}={wanted!r}: expected one of {', '.join(map(repr, known))}")
    return str(wanted)

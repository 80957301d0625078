"""The names of three generations of OMPR: each is turned into the newest before anything else happens."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

#: Older spelling -> newest.
NEWEST = {
    "rw_class": "rww_class",
    "rw_init_kwargs": "rww_init_kwargs",
    "rw_lifetime": "rww_lifetime",
    "log_RWW_exception": "log_rww_exception",
    "raise_RWW_exception": "raise_rww_exception",
    "report_delay": "report_interval",
    "loglevel": "loglevel_subproc",
}

#: Spelling -> an option that it turns on. With `report_delay` came a logger that shows the reports; `report_interval` has none.
TURNS_ON = {"report_delay": "shows_reports"}


def accept_older_spellings(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function be called with names of older generations; two spellings of one parameter are a ``TypeError``."""
    names = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def translated(*args: P.args, **kwargs: P.kwargs) -> R:
        given = {name: f"the argument at position {at}" for at, name in enumerate(names[: len(args)])}
        newest: dict[str, Any] = {}
        for name, value in kwargs.items():
            target = NEWEST.get(name, name)
            if target in given and (name in NEWEST or given[target] in NEWEST):
                raise TypeError(f"{target!r} was given twice, as {name!r} and as {given[target]!r}; give one of them")
            given[target] = name
            newest[target] = value
            if name in TURNS_ON:
                newest.setdefault(TURNS_ON[name], True)
        return function(*args, **newest)

    return translated

"""The names and orders of OMPR's parameters through its generations: each call is turned into the newest."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
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

#: Number of positional parameters that all generations have in common: self, the class, its arguments, its life time.
_N_COMMON = 4

_FLAGS = ("ordered_results", "rerun_crashed", "log_rww_exception", "raise_rww_exception")

#: The parameters behind those, in the order of each generation, by their newest names.
_ORDERS = {
    "1.7.3": (
        *("rww_init_sync", "devices", "ordered_results", "task_timeout", "rerun_crashed", "log_rww_exception"),
        *("raise_rww_exception", "report_interval", "loglevel_worker", "loglevel_subproc"),
    ),
    "1.3.3 to 1.7.2": (
        *("rww_init_sync", "devices", "ordered_results", "task_timeout", "rerun_crashed", "log_rww_exception"),
        *("raise_rww_exception", "report_interval", "logger", "loglevel_subproc"),
    ),
    "1.3.1": (
        *("devices", "ordered_results", "task_timeout", "log_rww_exception", "raise_rww_exception"),
        *("report_interval", "logger", "loglevel_subproc"),
    ),
    "up to 1.3.0": (
        *("devices", "name", "ordered_results", "task_timeout", "log_rww_exception", "raise_rww_exception"),
        *("report_interval", "logger", "loglevel_subproc"),
    ),
}


def is_flag(value: Any) -> bool:
    """Tell whether a value is True or False: Python's, NumPy's, or 1 or 0."""
    return isinstance(value, bool) or type(value).__name__ in ("bool", "bool_") or (type(value) is int and value in (0, 1))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


#: What may stand in a position. ``rww_init_sync`` and ``devices`` exclude each other, and so do ``name`` and a flag.
_FITS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(_FLAGS, is_flag),
    "rww_init_sync": lambda value: is_flag(value) and type(value) is not int,
    "devices": lambda value: not isinstance(value, bool),
    "name": lambda value: value is None or isinstance(value, str),
    "task_timeout": lambda value: value is None or _is_number(value),
    "report_interval": lambda value: value is None or isinstance(value, str) or _is_number(value),
    "logger": lambda value: value is None or isinstance(value, (logging.Logger, logging.LoggerAdapter)),
    "loglevel_worker": lambda value: value is None or _is_number(value),
    "loglevel_subproc": _is_number,
}
#: Spelling -> an option that it turns on. With `report_delay` came a logger that shows the reports; `report_interval` has none.
TURNS_ON = {"report_delay": "shows_reports"}


def accept_older_spellings(function: Callable[P, R]) -> Callable[P, R]:
    """Let a constructor be called as in any generation of OMPR.

    Names of older generations are understood; two spellings of one parameter are a ``TypeError``. Positional arguments behind
    the third are taken in the order that their types fit; none is a ``TypeError``.
    """
    common = list(inspect.signature(function).parameters)[:_N_COMMON]

    @functools.wraps(function)
    def translated(*args: P.args, **kwargs: P.kwargs) -> R:
        newest = _by_name(args[_N_COMMON:])
        places = {name: f"the argument at position {at}" for at, name in enumerate([*common[: len(args)], *newest])}
        for name, value in kwargs.items():
            target = NEWEST.get(name, name)
            if target in places:
                raise TypeError(f"{target!r} was given twice, as {name!r} and as {places[target]!r}; give one of them")
            places[target] = name
            newest[target] = value
            if name in TURNS_ON:
                newest.setdefault(TURNS_ON[name], True)
        check_flags(newest)
        return function(*args[:_N_COMMON], **newest)  # type: ignore[arg-type]  # the same arguments in another form

    return translated


def _by_name(values: tuple[Any, ...]) -> dict[str, Any]:
    """Return the positional arguments behind the common ones by the names that their types fit."""
    for names in _ORDERS.values():
        if len(values) <= len(names) and all(_FITS[name](value) for name, value in zip(names, values, strict=False)):
            return dict(zip(names, values, strict=False))
    orders = "; ".join(f"{generation}: {', '.join(names)}" for generation, names in _ORDERS.items())
    raise TypeError(
        f"the arguments from position {_N_COMMON} on, {', '.join(map(repr, values))}, fit the order of no generation of OMPR "
        f"({orders}); give them by name"
    )


def check_flags(arguments: Mapping[str, Any]) -> None:
    """Check that the switches among some arguments are True or False.

    Raises
    ------
    TypeError
        One is something else.
    """
    for name in ("rww_init_sync", *_FLAGS):
        if not is_flag(arguments.get(name, False)):
            raise TypeError(f"{name}={arguments[name]!r}: expected True or False")

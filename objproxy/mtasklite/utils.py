"""Small helpers that programs written for mtasklite import."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from objproxy.inspecting import signature_of


def is_exception(result: object) -> bool:
    """Whether a result is an exception."""
    return isinstance(result, Exception)


def is_sized_iterator(input_iterable: object) -> bool:
    """Whether an iterable knows its length."""
    return hasattr(input_iterable, "__len__")


def current_function_name() -> str:
    """Return the name of the function that calls this."""
    return inspect.stack(0)[1].function


def divide_kwargs(kwargs: dict[str, Any], first_type: Callable[..., Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Share keywords out: those that `first_type` has a parameter for, and the others."""
    known = signature_of(first_type).parameters
    mine = {name: value for name, value in kwargs.items() if name in known}
    return mine, {name: value for name, value in kwargs.items() if name not in known}

"""Checks of values that several options share."""

from __future__ import annotations

from typing import Any


def check_count(name: str, value: Any) -> None:
    """Check that `value` is None or an int of at least 1."""
    if value is None:
        return
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}={value!r}: expected an int of at least 1, or None")
    if value < 1:
        raise ValueError(f"{name}={value!r}: expected an int of at least 1, or None")


def check_seconds(name: str, value: Any) -> None:
    """Check that `value` is None or a positive number of seconds."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}={value!r}: expected a number of seconds, or None for no limit")
    if not value > 0:
        raise ValueError(f"{name}={value!r}: expected a positive number of seconds, or None for no limit")

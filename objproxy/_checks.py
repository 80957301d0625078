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


def check_flag(name: str, value: Any) -> None:
    """Check that `value` is True or False, of Python or of NumPy."""
    if not isinstance(value, bool) and type(value).__name__ not in ("bool_", "bool"):
        raise TypeError(f"{name}={value!r}: expected True or False")


def check_whole(name: str, value: Any, meaning: str) -> None:
    """Check that `value` is an int, of Python or of NumPy."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}={value!r}: expected {meaning}")

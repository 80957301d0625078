"""Styles and options of progress bars, as MPIRE names them."""

from __future__ import annotations

import warnings
from typing import Any

__all__ = ["PROGRESS_BAR_DEFAULT_STYLE", "check_options", "find_style", "make_progress_bar"]

#: The style of a bar for which none is named; may be set.
PROGRESS_BAR_DEFAULT_STYLE = "std"

_STYLES = ("std", "rich", "notebook", "dashboard")

#: What a bar gets unless the caller says otherwise.
_DEFAULTS = {"dynamic_ncols": True, "mininterval": 0.1, "maxinterval": 0.5}


def find_style(style: str | None) -> str:
    """Return the style that a name, or None, stands for.

    Raises
    ------
    ValueError
        There is no such style.
    """
    found = PROGRESS_BAR_DEFAULT_STYLE if style is None else style
    if found not in _STYLES:
        raise ValueError(
            f'Invalid progress bar style: {style}. Use either None (=default), "std", "rich", "notebook" or "dashboard"'
        )
    return found


def check_options(options: dict[str, Any] | None) -> None:
    """Check the options of a bar.

    Raises
    ------
    TypeError
        They are no dict.

    Warns
    -----
    RuntimeWarning
        One of them is the pool's to choose.
    """
    if options is not None and not isinstance(options, dict):
        raise TypeError(f"progress_bar_options should be a dictionary; got {options!r}")
    if options and "total" in options:
        warnings.warn(
            "the option 'total' of a progress bar is overwritten; give iterable_len to say how many tasks there are",
            RuntimeWarning,
            stacklevel=6,
        )
    if options and "leave" in options:
        warnings.warn("the option 'leave' of a progress bar is overwritten", RuntimeWarning, stacklevel=6)


def make_progress_bar(wanted: bool, options: dict[str, Any] | None, style: str | None, total: int | None) -> Any:
    """Return what ``options(progress_bar=...)`` of a method shall be."""
    found = find_style(style)
    if not wanted or found == "dashboard":
        return False
    return {**_DEFAULTS, "desc": None, **(options or {}), "total": total, "leave": True, "style": found}

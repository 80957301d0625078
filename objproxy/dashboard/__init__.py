"""A live picture of the pools of running programs, in a browser: see ``docs/dashboard.md``.

::

    program (any number)                       dashboard process                    browser
    --------------------                       -----------------                    -------
    Observer: look at the pools                                                     page, script, style
    Publisher (a daemon thread) ── JSON ──────> server.py: takes frames in          (GET only, by a cookie)
       four times a second, over a Unix         board.py: what is known ── events ─> EventSource
       socket of this user alone                guard.py: who may see it

What is published goes one way: nothing that comes from the browser reaches a program, and a program that cannot publish goes on
as if there were no dashboard. Names are loaded when they are first used; only the dashboard process loads the web framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from objproxy.dashboard.control import (
        DashboardDetails,
        check_installed,
        connect_to_dashboard,
        shutdown_dashboard,
        start_dashboard,
    )

__all__ = ["DashboardDetails", "check_installed", "connect_to_dashboard", "shutdown_dashboard", "start_dashboard"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'objproxy.dashboard' has no attribute {name!r}")
    value = getattr(importlib.import_module("objproxy.dashboard.control"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

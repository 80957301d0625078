"""Back ends: how workers are started, spoken to and ended. The seam is in ``base``.

Importing this package loads only what starts the root nursery: a program's first pool starts it before everything else, and
what the pool is made of is loaded meanwhile. Each name loads what it needs when it is first used (PEP 562).
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from objproxy.backends import nurseries

if TYPE_CHECKING:
    from objproxy.backends.base import Backend, Capabilities, PoolContext, Recipe, WorkerInfo
    from objproxy.backends.choice import resolve
    from objproxy.backends.process import ProcessBackend
    from objproxy.backends.serial import SerialBackend
    from objproxy.backends.thread import ThreadBackend

_HOMES = {
    **dict.fromkeys(("Backend", "Capabilities", "PoolContext", "Recipe", "WorkerInfo"), "objproxy.backends.base"),
    "ProcessBackend": "objproxy.backends.process",
    "SerialBackend": "objproxy.backends.serial",
    "ThreadBackend": "objproxy.backends.thread",
    "resolve": "objproxy.backends.choice",
}

__all__ = [
    "Backend",
    "Capabilities",
    "PoolContext",
    "ProcessBackend",
    "Recipe",
    "SerialBackend",
    "ThreadBackend",
    "WorkerInfo",
    "resolve",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'objproxy.backends' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def chosen_name(backend: Any, *, separate_processes: bool) -> Any:
    """Return ``backend=``, or the name that stands for None: the variable OBJPROXY_BACKEND, else "process" or "thread"."""
    if backend is not None:
        return backend
    return os.environ.get("OBJPROXY_BACKEND") or ("process" if separate_processes else "thread")


def warm_up(backend: Any, *, separate_processes: bool, start_method: str | None) -> None:
    """Start what workers with these options will come from, if it takes long, without waiting for it."""
    is_forked = nurseries.settle_start_method(start_method) == "fork"
    if not is_forked and chosen_name(backend, separate_processes=separate_processes) == "process":
        nurseries.warm_up()

"""MPIRE's `WorkerPool` on `objproxy.ProxyPool`: change the import, keep the code.

Functions rather than classes, with worker state, shared objects, progress bars and insights. What differs from MPIRE is told in
``docs/mpire.md``. Names are loaded when they are first used, so that workers load what they need alone.
"""

from __future__ import annotations

import importlib
from multiprocessing import cpu_count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from objproxy.mpire.async_result import AsyncResult
    from objproxy.mpire.pool import WorkerPool

_HOMES = {"AsyncResult": "objproxy.mpire.async_result", "WorkerPool": "objproxy.mpire.pool"}

__all__ = ["AsyncResult", "WorkerPool", "cpu_count"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'objproxy.mpire' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Start methods, and the locks, events and values that belong to each."""

from __future__ import annotations

import multiprocessing
import platform
import threading
from typing import Any

__all__ = [
    "DEFAULT_START_METHOD",
    "FORK_AVAILABLE",
    "MP_CONTEXTS",
    "RUNNING_MACOS",
    "RUNNING_WINDOWS",
    "ThreadingContext",
    "find_context",
]

RUNNING_WINDOWS = platform.system() == "Windows"
RUNNING_MACOS = platform.system() == "Darwin"

#: Whether processes can be forked here.
FORK_AVAILABLE = "fork" in multiprocessing.get_all_start_methods()

DEFAULT_START_METHOD = "fork" if FORK_AVAILABLE else "spawn"


class ThreadingContext:
    """The names of a multiprocessing context for workers that are threads."""

    Barrier = threading.Barrier
    Condition = threading.Condition
    Event = threading.Event
    Lock = threading.Lock
    RLock = threading.RLock
    Semaphore = threading.Semaphore
    Thread = threading.Thread

    # Threads have no such things of their own; those of processes serve them as well.
    Array = staticmethod(multiprocessing.Array)
    JoinableQueue: Any = staticmethod(multiprocessing.JoinableQueue)
    Process = multiprocessing.Process
    Value = staticmethod(multiprocessing.Value)


MP_CONTEXTS: dict[str, Any] = {
    "mp": {
        "fork": multiprocessing.get_context("fork") if FORK_AVAILABLE else None,
        "forkserver": multiprocessing.get_context("forkserver") if FORK_AVAILABLE else None,
        "spawn": multiprocessing.get_context("spawn"),
    },
    "threading": ThreadingContext,
}


def find_context(start_method: str) -> Any:
    """Return the context of a start method.

    Raises
    ------
    ValueError
        There is no such start method here.
    """
    context = MP_CONTEXTS["threading"] if start_method == "threading" else MP_CONTEXTS["mp"].get(start_method)
    if context is None:
        raise ValueError(f"Unknown start method: {start_method!r}; expected 'fork', 'forkserver', 'spawn' or 'threading'")
    return context

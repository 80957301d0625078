"""Errors under MPIRE's names, and tracebacks without colours.

An exception of a task is raised in the caller as itself. One that cannot be rebuilt there is a `CannotPickleExceptionError`. A
worker that died is an `objproxy.WorkerDiedError`, which is a ``RuntimeError``.
"""

from __future__ import annotations

import re

from objproxy import RemoteError

__all__ = ["CannotPickleExceptionError", "remove_highlighting"]

#: Stands for an exception of a task that cannot be rebuilt in the caller; `objproxy.RemoteError` under its name here.
CannotPickleExceptionError = RemoteError

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def remove_highlighting(traceback_str: str) -> str:
    """Return a text without the escape sequences of a terminal's colours."""
    return _COLOURS.sub("", traceback_str)

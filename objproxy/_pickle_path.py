"""Find what in a value cannot be pickled, and the way to it: ``argument 'cfg' -> .model.hooks[0]._lock``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from objproxy._worker.parcel import pack
from objproxy._worker.wire import Operation
from objproxy.handling import repr_of, type_name

#: The search gives up after this time and names the deepest place it has found.
_SEARCH_SECONDS = 1.0
_MAX_DEPTH = 50


def find_culprit(value: Any, what: str) -> str:
    """Return the path from `what` to the innermost part that does not pickle; "" if every part does.

    Parameters
    ----------
    value : object
        What did not pickle.
    what : str
        Its name.
    """
    deadline = time.monotonic() + _SEARCH_SECONDS
    path, seen = "", set()
    for _ in range(_MAX_DEPTH):
        seen.add(id(value))
        for step, part in _parts(value):
            if id(part) not in seen and not _pickles(part):
                path, value = path + step, part
                break
        else:
            break
        if time.monotonic() > deadline:
            break
    return f"{what} -> {path} ({type_name(value)})" if path else f"{what} ({type_name(value)})"


def explain_operation(operation: Operation, _exc: Exception) -> str:
    """Return the path to the culprit in the arguments of a call."""
    if operation.verb == "map":
        n_args = len(operation.args) - len(operation.kwargs)
        names = [str(position) for position in range(n_args)] + [repr(name) for name in operation.kwargs]
        arguments = [(name, column[0]) for name, column in zip(names, operation.args, strict=True)]
    else:
        arguments = [(str(position), value) for position, value in enumerate(operation.args)]
        arguments += [(repr(name), value) for name, value in operation.kwargs.items()]
    for name, value in arguments:
        if not _pickles(value):
            return find_culprit(value, f"argument {name}")
    return ""


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a value with the step that leads to each."""
    if isinstance(value, dict):
        for key, part in list(value.items()):
            yield f"[{repr_of(key)}]", part
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, part in enumerate(value):
            yield f"[{index}]", part
    closure = getattr(value, "__closure__", None)
    if closure is not None:
        for name, cell in zip(value.__code__.co_freevars, closure, strict=False):
            yield f".<{name}>", cell.cell_contents
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict):
        for name, part in list(attributes.items()):
            yield f".{name}", part


def _pickles(value: Any) -> bool:
    try:
        pack(value, None)
    except Exception:
        return False
    return True

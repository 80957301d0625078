"""Find what in a value cannot be pickled, and the way to it.

For instance ``argument 'cfg' -> .model.hooks[0]._lock``, or ``class Model -> method 'load' -> global 'CONNECTION'``.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections import deque
from collections.abc import Iterator, Sequence
from types import FunctionType
from typing import Any, NamedTuple

from objproxy._worker.code_values import named_values
from objproxy._worker.parcel import pack
from objproxy._worker.wire import Operation
from objproxy.handling import repr_of, type_name

#: The search gives up after this time and names the place that it has come to.
_SEARCH_SECONDS = 1.0

#: Parts that are looked at of any one object.
_MAX_PARTS = 10_000


class _Place(NamedTuple):
    """A part that does not pickle.

    Attributes
    ----------
    path : str
        The way to it.
    value : object
        The part.
    is_of_code : bool
        Whether a class or function takes it along: its locks are made anew.
    """

    path: str
    value: Any
    is_of_code: bool


def find_culprit(value: Any, what: str) -> str:
    """Return the path from `what` to the nearest part that does not pickle though each of its own parts does.

    Parameters
    ----------
    value : object
        What did not pickle.
    what : str
        Its name.
    """
    deadline = time.monotonic() + _SEARCH_SECONDS
    seen = {id(value)}
    places = deque([_Place(what, value, False)])
    place = places[0]
    while places and time.monotonic() < deadline:
        place = places.popleft()
        bad = _bad_parts(place)
        if not bad:
            break  # classes and functions may refer to each other, so a place whose bad parts were seen is not the culprit
        places.extend(part for part in bad if id(part.value) not in seen)
        seen.update(id(part.value) for part in bad)
    return f"{place.path} ({type_name(place.value)})"


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
        if not _pickles(_Place("", value, False)):
            return find_culprit(value, f"argument {name}")
    return ""


def _bad_parts(place: _Place) -> list[_Place]:
    """Return the parts of a value that do not pickle, as far as it can be looked into: its attributes may raise anything."""
    bad: list[_Place] = []
    with contextlib.suppress(Exception):
        bad.extend(part for part in _parts(place) if not _pickles(part))
    return bad


def _parts(place: _Place) -> Iterator[_Place]:
    """Yield the parts of a value, and its class."""
    path, value, is_of_code = place
    for step, part in named_values(value):
        yield _Place(f"{path} -> {step}", part, True)
    if isinstance(value, (type, FunctionType)) or _refuses(value):
        return
    begin = path if "->" in path else f"{path} -> "
    for step, part in itertools.islice(itertools.chain(_items(value), _attributes(value)), _MAX_PARTS):
        yield _Place(f"{begin}{step}", part, is_of_code)
    yield _Place(f"{path} -> class {type(value).__name__!r}", type(value), False)


def _refuses(value: Any) -> bool:
    """Whether an object itself does not let itself be pickled, whatever it holds."""
    try:
        value.__reduce_ex__(5)
    except Exception:
        return True
    return False


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a container holds, with the step that leads to each."""
    if isinstance(value, dict):
        for key, part in list(value.items()):
            yield f"[{repr_of(key)}]", part
    elif isinstance(value, (list, tuple, set, frozenset)):
        names: Any = getattr(value, "_fields", None)  # of a named tuple
        for index, part in enumerate(value):
            yield f".{names[index]}" if type(names) is tuple else f"[{index}]", part
    elif isinstance(value, functools.partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of an object, and the object of a bound method."""
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict):
        for name, part in list(attributes.items()):
            yield f".{name}", part
    names = [name for kind in type(value).__mro__ for name in _slots(kind)]
    for name in (*names, "__self__", "__func__"):
        if (part := getattr(value, name, None)) is not None:
            yield f".{name}", part


def _slots(kind: type) -> Sequence[str]:
    slots = vars(kind).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def _pickles(place: _Place) -> bool:
    value = place.value
    try:
        pack((lambda: value) if place.is_of_code else value, None)  # what a function encloses goes as code's
    except Exception:
        return False
    return True

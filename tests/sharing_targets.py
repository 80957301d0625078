"""Methods that change what they are given, and objects that tell whether they are the same."""

from __future__ import annotations

import array
import collections
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from objproxy import current_worker


@dataclass
class Basket:
    """A plain object with a list in it."""

    things: list[Any] = field(default_factory=list)


class Keyed:
    """An object that is pickled in a way of its own."""

    def __init__(self) -> None:
        self.things: list[Any] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_keyed, (self.things,)


def _make_keyed(things: list[Any]) -> Keyed:
    keyed = Keyed()
    keyed.things = things
    return keyed


class Unreadable:
    """Can be pickled, and not be read."""

    def __init__(self, is_bad: bool) -> None:
        self.is_bad = is_bad
        self.link = [self]

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["is_bad"]:
            raise ValueError("cannot be read")
        self.__dict__.update(state)


def mark(value: Any) -> int:
    """Change a value; return how often that was done to it."""
    if isinstance(value, tuple):
        return mark(value[0])
    if isinstance(value, (Basket, Keyed)):
        return mark(value.things)
    if isinstance(value, np.ndarray):
        value.flat[0] += 1
        return int(value.flat[0])
    if isinstance(value, dict):
        value[len(value)] = None
    elif isinstance(value, set):
        value.add(len(value))
    elif isinstance(value, (bytearray, array.array)):
        value[0] += 1
        return int(value[0])
    else:
        value.append(None)
    return len(value)


def make_markable() -> dict[str, Any]:
    """Return one value of each kind that can be changed, unchanged yet."""
    ring: list[Any] = []
    ring.append(ring)
    return {
        "list": [],
        "dict": {},
        "set": set(),
        "deque": collections.deque(),
        "defaultdict": collections.defaultdict(list),
        "bytearray": bytearray(10),
        "large bytearray": bytearray(1 << 19),
        "array.array": array.array("q", [0] * 10),
        "object": Basket(),
        "object of its own": Keyed(),
        "in a tuple": ([],),
        "deep": (({"a": [1]},),),
        "long list": [[] for _ in range(1000)],
        "small ndarray": np.zeros(10),
        "ndarray": np.zeros(1 << 14),
        "large ndarray": np.zeros(1 << 17),
        "columns of an ndarray": np.zeros((1 << 10, 1 << 8))[:, ::2],
        "Fortran ndarray": np.zeros((1 << 9, 1 << 9), order="F"),
        "ndarray of objects": np.array([0, []], dtype=object),
    }


def fill_again(n_items: int, nbytes: int) -> Iterator[Any]:
    """Give one array again and again, with another first number each time."""
    array = np.zeros(nbytes // 8)
    for item in range(n_items):
        array[0] = item
        yield array


class Marker:
    """Changes what it is given."""

    def read_first(self, array: Any, _item: Any = None) -> float:
        return float(array[0])

    def mark(self, value: Any, _item: Any = None) -> int:
        return mark(value)

    def mark_second(self, _item: Any, value: Any) -> int:
        return mark(value)

    def mark_named(self, item: Any, *, value: Any = None) -> int:
        return mark(value)

    def mark_both(self, one: Any, other: Any) -> tuple[int, int]:
        return mark(one), mark(other)

    def mark_pair(self, pair: Any) -> tuple[int, int]:
        return mark(pair[0]), mark(pair[1])

    def are_same(self, one: Any, other: Any) -> bool:
        return one is other

    def total(self, array: Any, _item: int) -> float:
        return float(array.sum())

    def address(self, array: Any, _item: int) -> int:
        return int(array.__array_interface__["data"][0])

    def call(self, function: Any, item: Any) -> Any:
        return function(item)

    def look(self, item: Any) -> bool:
        return bool(item.link[0] is item)

    def grow(self, _item: int) -> list[int]:
        self.seen = getattr(self, "seen", [])
        self.seen.append(1)
        return self.seen

    def keep(self, value: Any, _item: int) -> None:
        self.kept = [*getattr(self, "kept", []), value]
        value.flat[0] += 1

    def read_kept(self) -> list[float]:
        return [float(value.flat[0]) for value in getattr(self, "kept", [])]

    def where(self) -> int:
        return current_worker().worker_id


class RowWriter:
    """Writes into arrays."""

    def write_row(self, array: Any, row: int) -> None:
        array[row] = row + 1

"""Whether the items of a map could share something that changes."""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import enum
import pathlib
import pickle
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objproxy._worker.items import Rows, pack_operation
from objproxy._worker.mutable import is_immutable, share_nothing
from objproxy._worker.wire import Constant, Operation
from sharing_targets import Basket, Keyed


class Colour(enum.Enum):
    RED = 1


class Point(NamedTuple):
    x: Any
    y: Any


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class OwnState(Slotted):
    __slots__ = ()

    def __getstate__(self) -> Any:
        return _registry, None


_registry: list[int] = []
_ONE: list[int] = []


CONSTANT: list[Any] = [1, "a", b"b", None, (1, ("a", None)), frozenset({(1, 2)}), len, pickle, Point, Colour.RED, range(3)]
CONSTANT += [decimal.Decimal(1), datetime.datetime(2026, 1, 1), pathlib.PurePosixPath("a"), np.float32(1), lambda: None]

CHANGING: list[Any] = [[], {}, set(), ([],), frozenset({Point(1, Slotted(1))}), bytearray(), np.zeros(1), Basket(), Keyed()]
CHANGING += [np.zeros(1, "i4,f8")[0], array.array("q"), collections.deque(), collections.OrderedDict(), (1, (2, (3, [])))]


@pytest.mark.parametrize("value", CONSTANT)
def test_what_never_changes(value: Any) -> None:
    assert is_immutable(value)
    assert share_nothing([[value] * 3])


@pytest.mark.parametrize("value", CHANGING)
def test_what_may_change(value: Any) -> None:
    assert not is_immutable(value)
    assert not share_nothing([[value] * 2])
    assert not share_nothing([[(value, 1), (value, 2)]])
    assert not share_nothing([[value], [value]])


@pytest.mark.parametrize(
    "items",
    [
        [[1], [2]],
        [{"a": [1]}, {"a": [2]}],
        [Basket([1]), Basket([2])],
        [Point(1, []), Point(2, [])],
        [Slotted([]), Slotted([]), 1, "a"],
        [np.zeros(2), np.zeros(2), bytearray(2)],
        [{1}, collections.defaultdict(list), collections.deque([1])],
    ],
)
def test_items_that_have_nothing_in_common(items: list[Any]) -> None:
    assert share_nothing([items])


@pytest.mark.parametrize(
    "items",
    [
        [_ONE, (_ONE,)],
        [_ONE, ((_ONE,),)],
        [{"a": _ONE}, {"b": _ONE}],
        [Basket(_ONE), [_ONE]],
        [Point(1, _ONE), Point(2, _ONE)],
        [Slotted(_ONE), Slotted(_ONE)],
        [Basket(Slotted([_ONE])), _ONE],
        [OwnState(1), OwnState(2)],
        [np.array([_ONE], dtype=object), _ONE],
    ],
)
def test_items_that_have_something_in_common(items: list[Any]) -> None:
    assert not share_nothing([items])


LEAVES = st.one_of(st.integers(), st.floats(allow_nan=False), st.text(max_size=5), st.none(), st.booleans())
POOL: list[Any] = [[], {}, [[1]], ([],), Basket([]), bytearray(b"x")]
PARTS = st.recursive(
    st.one_of(LEAVES, st.sampled_from(POOL)),
    lambda parts: st.one_of(st.lists(parts, max_size=3), st.tuples(parts, parts), st.dictionaries(st.text(max_size=2), parts)),
    max_leaves=6,
)


@given(st.lists(PARTS, min_size=2, max_size=6), st.one_of(LEAVES, st.sampled_from(POOL)))
def test_items_read_alone_are_equal_and_share_nothing(items: list[Any], constant: Any) -> None:
    rows = read(pack_operation(Operation("map", "work", (items, Constant(constant)), ()), None))
    assert [row[0] for row in rows] == items
    assert [row[1] for row in rows] == [constant] * len(items)
    owners: dict[int, int] = {}
    for number, row in enumerate(rows):
        for part in changing_parts(row):
            assert owners.setdefault(id(part), number) == number
    for row, item in zip(rows, items, strict=True):
        assert aliases((item, constant)) == aliases(row)


def read(packed: Any) -> Sequence[tuple[Any, ...]]:
    operation = Operation(*pickle.loads(packed))
    if type(operation.args) is Rows:
        return [tuple(row) for row in operation.args]
    return list(zip(*operation.args, strict=False))


def changing_parts(value: Any) -> list[Any]:
    """Return every part that can change, each as often as it is met."""
    if isinstance(value, (list, tuple)):
        found = [part for element in value for part in changing_parts(element)]
        return found if isinstance(value, tuple) else [value, *found]
    if isinstance(value, dict):
        return [value, *changing_parts(list(value.values()))[1:]]
    if isinstance(value, Basket):
        return [value, *changing_parts(value.things)]
    return [value] if isinstance(value, bytearray) else []


def aliases(value: Any) -> list[int]:
    """Return for each changing part which one of those before it is the same object."""
    ids = [id(part) for part in changing_parts(value)]
    return [ids.index(number) for number in ids]

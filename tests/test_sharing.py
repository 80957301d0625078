"""Each item of a map sees its arguments as the caller has them, whatever chunk it lies in."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import sharing_targets
from objproxy import ProxyPool, SharedArray
from sharing_targets import Basket, Marker, Unreadable, make_markable

KINDS = list(make_markable())
CHUNKSIZES = [None, 1, 3, 12]


@pytest.fixture(scope="module", params=["memory", "files"])
def pool(request: pytest.FixtureRequest) -> Iterator[ProxyPool[Marker]]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "files":
            patch.setenv("OBJPROXY_PORTABLE", "1")
        with ProxyPool(Marker, worker_count=2) as pool:
            yield pool


def first_mark(kind: str) -> int:
    """Return what marking a value gives the first time."""
    return sharing_targets.mark(make_markable()[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunksize", CHUNKSIZES)
def test_a_constant_is_unchanged_for_each_item(pool: ProxyPool[Marker], kind: str, chunksize: int | None) -> None:
    value = make_markable()[kind]
    expected = [first_mark(kind)] * 12
    assert pool.mark.options(chunksize=chunksize).map(itertools.repeat(value), range(12)) == expected
    assert pool.mark_second.options(chunksize=chunksize).map(map(Basket, range(12)), itertools.repeat(value)) == expected
    assert pool.mark_named.options(chunksize=chunksize).map(range(12), value=itertools.repeat(value)) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_in_many_items_is_unchanged_for_each(pool: ProxyPool[Marker], kind: str) -> None:
    value = make_markable()[kind]
    expected = [first_mark(kind)] * 12
    mark = pool.mark.options(chunksize=6)
    assert mark.map([value] * 12) == expected
    assert mark.map([(value, i) for i in range(12)]) == expected
    assert list(mark.imap(itertools.repeat(value, 12))) == expected
    assert list(mark.imap_unordered([value] * 12)) == expected
    with mark.stream() as stream:
        stream.put([value] * 12)
        stream.end()
        assert list(stream) == expected


@pytest.mark.parametrize("chunksize", CHUNKSIZES)
@pytest.mark.parametrize("nbytes", [8, 1 << 20])
def test_a_buffer_that_an_iterator_fills_anew_is_seen_as_it_was(
    pool: ProxyPool[Marker], chunksize: int | None, nbytes: int
) -> None:
    def items() -> Iterator[Any]:
        return sharing_targets.fill_again(8, nbytes)

    read = pool.read_first.options(chunksize=chunksize)
    assert read.map(items()) == list(range(8))
    assert read.map(items(), range(8)) == list(range(8))
    assert list(read.imap(items())) == list(range(8))
    assert sorted(read.imap_unordered(items())) == list(range(8))
    assert list(pool.read_first(items(), map_args=True, synchronize=True)) == list(range(8))


def test_an_object_at_different_depths_is_unchanged_for_each_item(pool: ProxyPool[Marker]) -> None:
    part: list[Any] = []
    items = [part, (part,), ((part,),), Basket(part), (Basket(part), 1), part]
    assert pool.mark.options(chunksize=6).map(items) == [1] * 6


def test_an_object_in_two_columns_is_unchanged_for_each_item(pool: ProxyPool[Marker]) -> None:
    one, other = [[], []], [[], []]
    assert pool.mark_both.options(chunksize=2).map([one[0], one[1]], [one[1], other[0]]) == [(1, 1), (1, 1)]


@pytest.mark.parametrize("value", [[], {}, Basket(), np.zeros(3), np.zeros(1 << 17), sharing_targets.Keyed()])
def test_an_object_that_an_item_has_twice_stays_one(pool: ProxyPool[Marker], value: Any) -> None:
    same = pool.are_same.options(chunksize=6)
    assert same.map([value] * 6, [value] * 6) == [True] * 6
    assert same.map(itertools.repeat(value), [value] * 6) == [True] * 6
    assert same.map(itertools.repeat(value), itertools.repeat(value, 6)) == [True] * 6
    marks = pool.mark_pair.options(chunksize=6).map([(value, value)] * 6)
    assert marks == [(1, 2)] * 6
    assert pool.mark_pair.options(chunksize=6).map([[value, value] for _ in range(6)]) == [(1, 2)] * 6


def test_two_constants_that_are_one_object_stay_one(pool: ProxyPool[Marker]) -> None:
    class Same(Marker):
        def compare(self, one: Any, other: Any, _item: int) -> bool:
            return one is other

    value: list[Any] = []
    with ProxyPool(Same, worker_count=1) as same:
        assert same.compare.map(itertools.repeat(value), itertools.repeat(value), range(6)) == [True] * 6


def test_an_item_that_refers_to_itself_does_so_in_the_worker(pool: ProxyPool[Marker]) -> None:
    assert pool.look.options(chunksize=6).map([Unreadable(False) for _ in range(6)]) == [True] * 6


def test_an_item_that_cannot_be_read_fails_alone(pool: ProxyPool[Marker]) -> None:
    items = [Unreadable(i == 3) for i in range(8)]
    got = pool.look.options(chunksize=8, on_error="return").map(items)
    assert [repr(value) for value in got] == ["True"] * 3 + ["ValueError('cannot be read')"] + ["True"] * 4


@pytest.mark.parametrize("n_items", [2, 50])
def test_a_large_array_of_many_items_crosses_once(pool: ProxyPool[Marker], n_items: int) -> None:
    array = np.ones(1 << 21)
    before = sum(arena_bytes(pool))
    total = pool.total.options(chunksize=n_items)
    assert total.map(itertools.repeat(array), range(n_items)) == [float(1 << 21)] * n_items
    assert total.map([array] * n_items, map(Unreadable, [False] * n_items)) == [float(1 << 21)] * n_items
    assert sum(arena_bytes(pool)) - before <= 2.5 * array.nbytes


def arena_bytes(pool: ProxyPool[Any]) -> list[int]:
    """Return the bytes of memory that the arguments of a pool hold."""
    return [object.__getattribute__(pool, "_core").driver.backend._arena.held]


def test_arrays_that_an_object_keeps_are_its_own(pool: ProxyPool[Marker]) -> None:
    array = np.zeros(1 << 17)
    pool.keep.options(chunksize=5).map(itertools.repeat(array), range(10))
    kept = [value for values in pool.read_kept.broadcast() for value in values]
    assert kept == [1.0] * 10
    pool.mark.map([np.full(1 << 17, 7.0) for _ in range(20)])  # other arrays of this size
    assert [value for values in pool.read_kept.broadcast() for value in values] == kept
    assert array[0] == 0


def test_functions_and_classes_by_value_cross_once(pool: ProxyPool[Marker]) -> None:
    class Local:
        def __init__(self, item: int) -> None:
            self.item = item
            self.things: list[int] = []

        def __reduce__(self) -> Any:
            return Local, (self.item,)

    def double(item: Any) -> Any:
        item.things.append(item.item)
        return 2 * item.item, len(item.things), isinstance(item, Local)

    items = [Local(i) for i in range(20)]
    expected = [(2 * i, 1, True) for i in range(20)]
    assert pool.call.options(chunksize=10).map(itertools.repeat(double), items) == expected
    assert pool.call.options(chunksize=10).map([double] * 20, items) == expected


def test_what_is_shared_on_purpose_stays_shared(pool: ProxyPool[Marker]) -> None:
    with SharedArray.zeros(4) as shared, pool.put([]) as handle:
        pool.mark.options(chunksize=5).map(itertools.repeat(shared), [Basket() for _ in range(10)])
        assert shared.array[0] == 10
        marks = pool.mark.options(chunksize=5).map(itertools.repeat(handle), range(10))
        assert sorted(marks) != [1] * 10
        assert pool.mark.options(chunksize=5).map([shared] * 10) == pytest.approx(range(11, 21), abs=10)
        assert shared.array[0] == 20


def test_a_result_that_grows_crosses_as_it_was(pool: ProxyPool[Marker]) -> None:
    with ProxyPool(Marker, worker_count=1) as one:
        assert [len(value) for value in one.grow.options(chunksize=6).map(range(6))] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "items",
    [
        [1, 2, []] + [3] * 9,
        ["a", "b", "c", [[]], "d", "e"],
        [(1,), (2,), ([],), (3,), (4,)],
        [{"a": 1}, {"a": {}}, {"a": 3}],
        [1.5, np.float64(2), None, True],
        ["x" * 5000] * 20,
        [("x" * 5000, i) for i in range(20)],
        [frozenset({1}), range(3), slice(1), int, len],
        [[1, 2], {3}, (4,), bytearray(b"5"), b"6"],
    ],
)
def test_items_of_mixed_types_arrive_as_they_are(pool: ProxyPool[Marker], items: list[Any]) -> None:
    with ProxyPool(Echo, worker_count=1) as echo:
        assert echo.echo.options(chunksize=len(items)).map(items) == items
        assert [type(value) for value in echo.echo.options(chunksize=len(items)).map(items)] == list(map(type, items))


class Echo:
    """Gives back what it gets."""

    def echo(self, value: Any) -> Any:
        return value

"""ObjectProxyPool's names: arrays that are wrapped, and iterables with a length."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from objproxy import SharedArrayWrapper, iterlen, lenrepeat, lenzip

ENDLESS: dict[str, Callable[[], Iterable[Any]]] = {
    "repeat": lambda: itertools.repeat("x"),
    "count": itertools.count,
    "cycle": lambda: itertools.cycle([7]),
    "lenzip": lambda: lenzip(itertools.count()),
}


@pytest.mark.parametrize(
    ("given", "dtype", "expected"),
    [
        ([0, 0, 0], "f8", [0.0, 0.0, 0.0]),
        ((1, 2), "f8", [1.0, 2.0]),
        (range(3), "f8", [0.0, 1.0, 2.0]),
        ([True, False], "f8", [1.0, 0.0]),
        (5, "f8", 5.0),
        ([[1], [2]], "f8", [[1.0], [2.0]]),
        ([Fraction(1, 2), 2**70], "f8", [0.5, 2.0**70]),
        (["1.5"], "f8", [1.5]),
        ([np.float32(0.5)], "f8", [0.5]),
        (np.arange(3).view(np.recarray), "f8", [0.0, 1.0, 2.0]),
        (np.arange(3), "i8", [0, 1, 2]),
        (np.array(["ab"]), "<U2", ["ab"]),
        ([1, 2j], "c16", [1, 2j]),
        ([np.datetime64(1, "s")], "M8[s]", [datetime.datetime(1970, 1, 1, 0, 0, 1)]),
    ],
)
def test_a_wrapper_makes_floats_of_what_is_no_array(given: Any, dtype: str, expected: Any) -> None:
    with SharedArrayWrapper(given) as wrapper:
        assert wrapper.dtype == np.dtype(dtype)
        assert wrapper.array.tolist() == expected


def test_lenzip_is_zip_with_a_length() -> None:
    zipped = lenzip(range(5), "abc")
    assert len(zipped) == 3
    assert list(zipped) == list(zipped) == [(0, "a"), (1, "b"), (2, "c")]
    assert (zipped[1], zipped[-1], zipped[1:]) == ((1, "b"), (2, "c"), [(1, "b"), (2, "c")])
    assert list(lenzip(iter([1, 2]), [3, 4])) == [(1, 3), (2, 4)]
    unsized = lenzip((i for i in range(4)), range(9))
    assert len(unsized) == 4
    assert list(unsized) == [(i, i) for i in range(4)]
    with pytest.raises(IndexError):
        zipped[3]
    with pytest.raises(ValueError, match="at least one"):
        lenzip()


def test_lenzip_reads_what_has_no_length_only_when_it_is_asked_for() -> None:
    seen: list[int] = []
    zipped = lenzip((seen.append(i) or i for i in range(3)), range(3))  # type: ignore[func-returns-value]
    assert seen == []
    assert len(zipped) == 3
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("kind", ENDLESS)
def test_lenzip_reads_nothing_endless_for_its_length(kind: str) -> None:
    endless = ENDLESS[kind]
    assert len(lenzip(endless(), range(10**12))) == 10**12
    for zipped in (lenzip(endless(), range(4)), lenzip(iter(range(4)), endless()), lenzip(range(9), endless(), iter(range(4)))):
        assert len(zipped) == 4
        expected = next(iter(endless()))
        assert expected in zipped[0]
        assert expected in next(iter(zipped))
        assert list(zipped) == list(zipped) == [zipped[at] for at in range(4)]


@pytest.mark.parametrize("kind", ENDLESS)
def test_lenzip_of_nothing_but_endless_ones_has_no_length(kind: str) -> None:
    zipped = lenzip(ENDLESS[kind](), itertools.repeat(1))
    with pytest.raises(TypeError, match="endless"):
        len(zipped)
    with pytest.raises(TypeError, match="endless"):
        zipped[0]
    assert len(list(itertools.islice(zipped, 5))) == 5


def test_lenzip_reads_iterators_no_further_than_the_shortest() -> None:
    seen: list[int] = []
    items = (seen.append(i) or i for i in itertools.count())  # type: ignore[func-returns-value]
    zipped = lenzip(items, iter("abc"), itertools.repeat(0, 9))
    assert len(zipped) == 3
    assert len(seen) <= 4
    assert list(zipped) == [(0, "a", 0), (1, "b", 0), (2, "c", 0)]
    assert len(lenzip(itertools.repeat(0, 2), iter("abc"))) == 2
    assert len(lenzip(iter(()), itertools.repeat(0))) == len(lenzip(iter(()), range(3))) == 0


def test_lenzip_gives_the_items_and_not_what_stands_under_their_numbers() -> None:
    zipped = lenzip({1: "one", 0: "zero"}, {5})
    assert zipped[0] == next(iter(zipped)) == (1, 5)


def test_iterlen_is_the_length_and_reads_nothing() -> None:
    assert iterlen(range(4)) == iterlen(lenzip(range(4), "abcde")) == iterlen(lenrepeat(0, 4)) == 4
    iterator = iter([1, 2])
    with pytest.raises(TypeError, match="no length: make a list"):
        iterlen(iterator)
    with pytest.raises(TypeError, match="no length: it is endless"):
        iterlen(itertools.repeat(1))
    assert list(iterator) == [1, 2]

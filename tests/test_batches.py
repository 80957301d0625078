"""How one argument is chosen and cut, and how what was computed of batches is reduced."""

from __future__ import annotations

import array
import collections
import functools
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objproxy import reductions
from objproxy.batches import Hints, is_splittable, split
from objproxy.reductions import ReductionComposition, combine_batches
from optional import need

#: A busy machine makes no example wrong; nor is it news that drawing many takes long there.
fewer = settings(max_examples=60)


class Frame:
    """What a pandas frame is to a splitter: rows by place under `iloc`, rows by label under `[]`."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, label: Any) -> Any:
        raise KeyError(label)

    @property
    def iloc(self) -> list[Any]:
        return self.rows


@fewer
@given(st.integers(0, 100), st.integers(1, 20))
def test_batches_are_balanced_and_no_more_than_asked_for(n_items: int, n_batches: int) -> None:
    batches = split(list(range(n_items)), n_batches)
    sizes = [len(batch) for batch in batches]
    assert [item for batch in batches for item in batch] == list(range(n_items))
    assert len(batches) == min(n_items, n_batches)
    assert not sizes or (max(sizes) - min(sizes) <= 1 and min(sizes) >= 1)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ([1, 2, 3], [[1, 2], [3]]),
        ((1, 2, 3), [(1, 2), (3,)]),
        (range(3), [range(2), range(2, 3)]),
        ("abc", ["ab", "c"]),
        (b"abc", [b"ab", b"c"]),
        (array.array("i", [1, 2, 3]), [array.array("i", [1, 2]), array.array("i", [3])]),
        (collections.deque([1, 2, 3]), [[1, 2], [3]]),
        (Frame([1, 2, 3]), [[1, 2], [3]]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_batches_are_of_the_kind_of_what_is_cut(data: Any, expected: list[Any]) -> None:
    assert split(data, 2) == expected


def test_frames_are_cut_by_rows_whatever_their_labels() -> None:
    pandas = need("pandas")  # slow to load, and needed here alone

    frame = pandas.DataFrame({"x": [1, 2, 3]}, index=[2, 0, 1])
    batches = split(frame, 2)
    assert [list(batch["x"]) for batch in batches] == [[1, 2], [3]]
    assert pandas.concat(batches).equals(frame)
    assert [list(batch) for batch in split(frame["x"], 3)] == [[1], [2], [3]]

    def total(rate: float, data: pandas.DataFrame) -> float:
        return rate

    assert Hints(total).batched_arg() == "data"


def test_arrays_are_cut_along_their_first_axis() -> None:
    table = np.arange(10).reshape(5, 2)
    upper, lower = split(table, 2)
    assert upper.shape == (3, 2)
    assert (np.concatenate([upper, lower]) == table).all()


@pytest.mark.parametrize("data", [7, None, {1, 2}, {1: 2}, iter([1]), np.array(3)], ids=repr)
def test_what_has_no_order_is_refused_in_words(data: Any) -> None:
    assert not is_splittable(data)
    with pytest.raises(TypeError, match="cannot be cut into batches; expected a list"):
        split(data, 2)


def no_hints(first, second):
    pass


def some_hints(first, second: list[int]):
    pass


def old_hints(first: int, second: typing.List[int]) -> typing.List[int]:  # noqa: UP006 - what is tested
    return []


def new_hints(first: int, second: list[int]) -> list[int]:
    return []


def bare_hints(first: int, second: list) -> list:  # type: ignore[type-arg]
    return []


def optional_hints(first: str, second: list[int] | None = None) -> set[int]:
    return set()


def old_optional_hints(first: str, second: typing.Optional[typing.List[int]] = None) -> None:  # noqa: UP006, UP045
    pass


def sequence_hints(first: str, second: Sequence[int]) -> Mapping[str, int]:
    return {}


def array_hints(first: float, second: np.ndarray) -> str:
    return ""


def annotated_hints(first: float, second: typing.Annotated[list[int], "sorted"]) -> typing.Counter[str]:
    return collections.Counter()


def half_known_hints(first: Unknown, second: list[Unknown]) -> list[Unknown]:  # type: ignore[name-defined]  # noqa: F821
    return []


class Scorer:
    def score(self, samples):
        pass


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (no_hints, "first"),
        (some_hints, "first"),
        (old_hints, "second"),
        (new_hints, "second"),
        (bare_hints, "second"),
        (optional_hints, "second"),
        (old_optional_hints, "second"),
        (sequence_hints, "second"),
        (array_hints, "second"),
        (annotated_hints, "second"),
        (half_known_hints, "second"),
        (functools.partial(new_hints, 1), "second"),
        (Scorer.score, "samples"),
        (Scorer().score, "samples"),
        (max, "data"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_the_batched_argument_is_found_by_hints_or_is_the_first(function: Callable[..., Any], expected: str) -> None:
    assert Hints(function).batched_arg() == expected


def test_a_hint_that_is_not_known_may_be_that_of_a_sequence() -> None:
    class Samples(list[int]):
        pass

    def score(rate: float, samples: Samples) -> Samples:
        return samples

    assert Hints(score).batched_arg() == "samples"
    assert Hints(score).reduction() is None


def test_a_sequence_goes_before_what_may_be_one() -> None:
    def score(rate: Any, samples: list[int]) -> None:
        pass

    assert Hints(score).batched_arg() == "samples"
    assert Hints(reductions.sum_reduction).batched_arg() == "results"


def test_a_function_that_takes_anything_batches_its_first_argument() -> None:
    assert Hints(lambda *args, **kwargs: None).batched_arg() == "data"


def test_hints_without_a_sequence_are_refused_in_words() -> None:
    def scale(first: int, second: str) -> int:
        return first

    with pytest.raises(ValueError, match=r"no parameter of .*scale.* has the type hint of a list.*batched_arg="):
        Hints(scale).batched_arg()


def test_a_function_without_parameters_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="has no parameters, so there is nothing to batch"):
        Hints(lambda: 1).batched_arg()


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (old_hints, reductions.flatten_reduction),
        (new_hints, reductions.flatten_reduction),
        (bare_hints, reductions.flatten_reduction),
        (half_known_hints, reductions.flatten_reduction),
        (optional_hints, reductions.set_union_reduction),
        (sequence_hints, reductions.dict_merge_reduction),
        (array_hints, reductions.string_concatenation_reduction),
        (annotated_hints, reductions.histogram_reduction),
        (old_optional_hints, None),
        (no_hints, None),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_the_reduction_is_found_by_the_hint_of_what_is_returned(function: Callable[..., Any], expected: Any) -> None:
    assert Hints(function).reduction() is expected


NUMBERS = st.integers(-1000, 1000)
LISTS = st.lists(NUMBERS, max_size=4)

#: Every reduction with items that it can take; exact numbers, because sums of floats depend on the order.
CASES: dict[str, st.SearchStrategy[Any]] = {
    "flatten_reduction": LISTS,
    "set_union_reduction": st.sets(NUMBERS, max_size=4),
    "dict_merge_reduction": st.dictionaries(st.integers(0, 5), NUMBERS, max_size=4),
    "sum_reduction": NUMBERS,
    "average_reduction": st.fractions(),
    "histogram_reduction": st.integers(0, 5),
    "product_reduction": NUMBERS,
    "string_concatenation_reduction": st.text(max_size=4),
    "bitwise_and_reduction": NUMBERS,
    "bitwise_or_reduction": NUMBERS,
    "min_reduction": NUMBERS,
    "max_reduction": NUMBERS,
}


def test_every_reduction_has_a_case() -> None:
    others = {"ReductionComposition", "combine_batches"}
    assert set(reductions.__all__) - others == set(CASES)


@pytest.mark.parametrize("name", CASES)
@fewer
@given(data=st.data(), n_batches=st.integers(1, 9))
def test_reducing_batches_is_reducing_all_items(name: str, data: st.DataObject, n_batches: int) -> None:
    reduction = getattr(reductions, name)
    items = data.draw(st.lists(CASES[name], min_size=1, max_size=30))
    batches = split(items, n_batches)
    combined = combine_batches(reduction, [reduction(batch) for batch in batches], [len(batch) for batch in batches])
    assert combined == reduction(items)
    assert type(combined) is type(reduction(items))


@fewer
@given(st.lists(LISTS, max_size=20), st.integers(1, 9))
def test_a_composition_over_batches_is_that_over_all_items(items: list[list[int]], n_batches: int) -> None:
    pipeline = ReductionComposition([reductions.flatten_reduction, reductions.histogram_reduction])
    batches = split(items, n_batches)
    flat = [reductions.flatten_reduction(batch) for batch in batches]
    assert combine_batches(pipeline, flat, [len(batch) for batch in batches]) == pipeline(items)


def test_a_composition_that_begins_with_an_average_weighs_it() -> None:
    pipeline = ReductionComposition([reductions.average_reduction, math.floor])
    assert combine_batches(pipeline, [Fraction(2), Fraction(5)], [3, 1]) == 2


def test_averages_of_arrays_are_weighted() -> None:
    assert combine_batches(reductions.average_reduction, [np.array([2.0, 4.0]), np.array([5.0, 8.0])], [3, 1]).tolist() == [
        2.75,
        5.0,
    ]


def test_counters_are_added_and_stay_counters() -> None:
    combined = combine_batches(reductions.histogram_reduction, [collections.Counter("ab"), collections.Counter("b")], [2, 1])
    assert combined == collections.Counter("abb")
    assert type(combined) is collections.Counter


def test_single_values_of_batches_are_counted() -> None:
    assert combine_batches(reductions.histogram_reduction, ["spam", "ham", "spam"], [4, 4, 3]) == {"spam": 2, "ham": 1}


def test_a_histogram_of_lists_is_refused_in_words() -> None:
    with pytest.raises(TypeError, match=r"for lists of values use ReductionComposition\(\[flatten_reduction"):
        combine_batches(reductions.histogram_reduction, [[1, 2], [2]], [2, 1])


def test_a_reduction_that_cannot_be_hashed_is_applied() -> None:
    class Total:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, results: list[int]) -> int:
            return sum(results)

    assert combine_batches(Total(), [1, 2], [1, 1]) == 3


def test_a_composition_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert ReductionComposition([reductions.flatten_reduction, len])([[1], [2, 3]]) == 3
    assert capsys.readouterr() == ("", "")

import doctest
import math
import operator
import pickle
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objproxy import reductions
from objproxy.reductions import (
    ReductionComposition,
    average_reduction,
    bitwise_and_reduction,
    bitwise_or_reduction,
    dict_merge_reduction,
    flatten_reduction,
    histogram_reduction,
    max_reduction,
    min_reduction,
    product_reduction,
    set_union_reduction,
    string_concatenation_reduction,
    sum_reduction,
)

integers = st.lists(st.integers())
some_integers = st.lists(st.integers(), min_size=1)


def name_of(reduction: Callable[..., Any]) -> str:
    return reduction.__name__


@given(st.lists(st.lists(st.integers())))
def test_flatten_joins_in_order(results: list[list[int]]) -> None:
    assert flatten_reduction(results) == [item for part in results for item in part]


def test_flatten_goes_one_level_deep() -> None:
    assert flatten_reduction([[[1], [2]], [[3]]]) == [[1], [2], [3]]


@given(st.lists(st.sets(st.integers())))
def test_set_union_is_the_union(results: list[set[int]]) -> None:
    assert set_union_reduction(results) == set().union(*results)


@given(st.lists(st.dictionaries(st.integers(0, 5), st.integers())))
def test_dict_merge_keeps_the_last_value_of_a_key(results: list[dict[int, int]]) -> None:
    expected: dict[int, int] = {}
    for part in results:
        expected = {**expected, **part}

    assert dict_merge_reduction(results) == expected


@given(integers)
def test_sum_is_the_sum(results: list[int]) -> None:
    assert sum_reduction(results) == sum(results)


@given(integers)
def test_product_is_the_product(results: list[int]) -> None:
    assert product_reduction(results) == reduce(operator.mul, results, 1)


@given(st.lists(st.fractions(), min_size=1))
def test_average_is_the_mean(results: list[Fraction]) -> None:
    assert average_reduction(results) * len(results) == sum(results)


@given(st.lists(st.text(max_size=2)))
def test_histogram_counts_each_value(results: list[str]) -> None:
    counts = histogram_reduction(results)
    assert type(counts) is dict
    assert counts == Counter(results)


@given(st.lists(st.text()))
def test_string_concatenation_joins(results: list[str]) -> None:
    joined = ""
    for part in results:
        joined += part

    assert string_concatenation_reduction(results) == joined


@given(some_integers)
def test_bitwise_reductions_combine_every_bit(results: list[int]) -> None:
    assert bitwise_and_reduction(results) == reduce(operator.and_, results)
    assert bitwise_or_reduction(results) == reduce(operator.or_, results)


@given(some_integers)
def test_min_and_max_are_the_ends_of_the_sorted_results(results: list[int]) -> None:
    assert min_reduction(results) == sorted(results)[0]
    assert max_reduction(results) == sorted(results)[-1]


@pytest.mark.parametrize(
    ("reduction", "neutral"),
    [
        (flatten_reduction, []),
        (set_union_reduction, set()),
        (dict_merge_reduction, {}),
        (sum_reduction, 0),
        (product_reduction, 1),
        (histogram_reduction, {}),
        (string_concatenation_reduction, ""),
    ],
    ids=lambda value: name_of(value) if callable(value) else "",
)
def test_no_results_give_the_neutral_element(reduction: Callable[..., Any], neutral: object) -> None:
    reduced = reduction([])
    assert reduced == neutral
    assert type(reduced) is type(neutral)


@pytest.mark.parametrize(
    "reduction",
    [average_reduction, bitwise_and_reduction, bitwise_or_reduction, min_reduction, max_reduction],
    ids=name_of,
)
def test_no_results_are_an_error_where_there_is_no_neutral_element(reduction: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="of no results"):
        reduction([])


def test_arrays_are_reduced_by_element_and_not_changed() -> None:
    results = [np.array([1, 2]), np.array([3, 6])]
    assert sum_reduction(results).tolist() == [4, 8]
    assert average_reduction(results).tolist() == [2.0, 4.0]
    assert product_reduction(results).tolist() == [3, 12]
    assert bitwise_or_reduction(results).tolist() == [3, 6]
    assert [result.tolist() for result in results] == [[1, 2], [3, 6]]


def test_merging_changes_none_of_the_results() -> None:
    mappings = [{1: "a"}, {1: "b"}]
    sets = [{1}, {2}]
    dict_merge_reduction(mappings)
    set_union_reduction(sets)
    assert mappings == [{1: "a"}, {1: "b"}]
    assert sets == [{1}, {2}]


def test_composition_applies_its_stages_from_left_to_right(capsys: pytest.CaptureFixture[str]) -> None:
    composition = ReductionComposition([flatten_reduction, sum_reduction, math.sqrt])
    assert composition([[4, 5], [7]]) == 4.0
    assert capsys.readouterr() == ("", "")


def test_composition_of_nothing_returns_the_results() -> None:
    results = [1, 2]
    assert ReductionComposition()(results) is results


def test_composition_refuses_what_cannot_be_called() -> None:
    with pytest.raises(TypeError, match="'sum'"):
        ReductionComposition(["sum"])  # type: ignore[list-item]


def test_composition_names_its_stages_and_survives_pickling() -> None:
    composition = pickle.loads(pickle.dumps(ReductionComposition([flatten_reduction, sum_reduction])))
    assert repr(composition) == "ReductionComposition([flatten_reduction, sum_reduction])"
    assert composition([[1], [2]]) == 3


@pytest.mark.parametrize("name", reductions.__all__)
def test_every_reduction_survives_pickling(name: str) -> None:
    public = getattr(reductions, name)
    assert pickle.loads(pickle.dumps(public)) is public


def test_public_names_are_sorted() -> None:
    assert reductions.__all__ == sorted(reductions.__all__)


def test_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(reductions).failed == 0

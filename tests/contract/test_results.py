"""``stack_results``: what the caller gets for what the methods returned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objproxy import ProxyPool
from objproxy.results import stack
from targets import VALUES, Model
from ways import MakePool

#: Kinds that are stacked: dtype and shape of one value.
STACKED: dict[str, tuple[Any, tuple[int, ...]]] = {
    "int": (np.int64, ()),
    "float": (np.float64, ()),
    "bool": (np.bool_, ()),
    "complex": (np.complex128, ()),
    "numpy float32": (np.float32, ()),
    "numpy bool": (np.bool_, ()),
    "array": (np.int16, (2, 3)),
    "0-d array": (np.int64, ()),
    "empty array": (np.float64, (0, 4)),
    "big-endian array": (np.dtype(">f8"), (3,)),
    "object array": (object, (2,)),
    "record array": (np.dtype([("a", "i4"), ("b", "f8")]), (1,)),
    "text array": (np.dtype("<U2"), (2,)),
}

#: Kinds of which one array would change a value.
KEPT = sorted(set(VALUES) - set(STACKED))


@pytest.mark.parametrize("kind", STACKED)
@pytest.mark.parametrize("is_map", [True, False], ids=["map", "broadcast"])
def test_numbers_and_arrays_of_one_shape_and_type_are_stacked(shared_pool: ProxyPool[Model], kind: str, is_map: bool) -> None:
    dtype, shape = STACKED[kind]
    if is_map:
        results = shared_pool.make([kind] * 3, index=[0, 10, 20], map_args=True, synchronize=True)
        expected = [VALUES[kind](11 * i) for i in range(3)]
    else:
        results = shared_pool.make(kind)
        expected = [VALUES[kind](i) for i in range(3)]
    assert type(results) is np.ndarray
    assert results.dtype == dtype
    assert results.shape == (3, *shape)
    for result, value in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, value)


@pytest.mark.parametrize("kind", KEPT)
def test_anything_else_is_an_array_of_objects_with_no_value_changed(shared_pool: ProxyPool[Model], kind: str) -> None:
    results = shared_pool.make(kind)
    assert results.dtype == object
    assert results.shape == (3,)
    for i, result in enumerate(results):
        expected = VALUES[kind](i)
        assert type(result) is type(expected)
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("kind", sorted(VALUES))
def test_a_list_on_request_untouched(shared_pool: ProxyPool[Model], kind: str) -> None:
    results = shared_pool.make([kind] * 4, map_args=True, stack_results=False, synchronize=True)
    assert type(results) is list
    assert [type(result) for result in results] == [type(VALUES[kind](i % 3)) for i in range(4)]


def test_a_callable_is_applied_to_the_list(shared_pool: ProxyPool[Model]) -> None:
    seen: list[Any] = []
    assert shared_pool.score(range(4), map_args=True, stack_results=seen.extend) is None
    assert seen == [0, 2, 4, 6]
    assert shared_pool.score(range(4), map_args=True, stack_results=tuple) == (0, 2, 4, 6)
    assert all(type(value) is int for value in seen)


@pytest.mark.parametrize("wanted", [None, 1, "yes"])
def test_a_stack_results_of_another_kind_is_refused(shared_pool: ProxyPool[Model], wanted: Any) -> None:
    with pytest.raises(TypeError, match="stack_results="):
        shared_pool.score(range(3), map_args=True, stack_results=wanted)


def test_one_result_of_one_worker_is_stacked_too(make_pool: MakePool) -> None:
    pool = make_pool(worker_count=1)
    assert pool.who().tolist() == [0]
    assert pool.make("array").shape == (1, 2, 3)


def test_results_are_writable_and_the_callers_own(shared_pool: ProxyPool[Model]) -> None:
    results = shared_pool.score(range(10_000), map_args=True)
    results += 1
    assert results[:3].tolist() == [1, 3, 5]


def test_a_map_whose_results_change_their_type_keeps_each(shared_pool: ProxyPool[Model]) -> None:
    values = [0, 1, 2.5, 3, None, 4.5, 2**70, -1, True, "text", np.int8(3), [1]] * 30
    results = shared_pool.echo.map(values)
    assert results == values
    assert [type(result) for result in results] == [type(value) for value in values]


@given(
    st.lists(st.integers(), min_size=1)
    | st.lists(st.floats(allow_nan=False), min_size=1)
    | st.lists(st.booleans(), min_size=1)
    | st.lists(st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.none(), st.text()), min_size=1)
)
def test_stacking_never_changes_a_value(values: list[Any]) -> None:
    stacked = stack(values)
    assert stacked.tolist() == values
    assert [type(value) for value in stacked.tolist()] == [type(value) for value in values]

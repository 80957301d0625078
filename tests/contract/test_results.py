"""``stack_results``: what the caller gets for what the methods returned."""

from __future__ import annotations

import collections
import math
from array import array
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objproxy import ProxyPool
from objproxy.results import shape_results, stack
from targets import Model
from values import VALUES
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

#: Numbers of several types: the type that holds each of them exactly.
EXACT: dict[str, Any] = {"int or float": np.float64, "float or numpy float": np.float64}

#: Rows: dtype and shape of the values of three calls.
ROWS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "tuple": (np.int64, (3, 2)),
    "list of one": (np.int64, (3, 1)),
    "tuple or list": (np.float64, (3, 2)),
    "tuple of rows": (np.float64, (3, 2, 2)),
    "tuple of arrays": (np.float64, (3, 2, 4)),
}

#: Rows that hold more than numbers: shape.
ROWS_OF_OBJECTS: dict[str, tuple[int, int]] = {
    "tuple with a text": (3, 2),
    "tuple with a bool": (3, 2),
    "tuple with a big int": (3, 2),
    "tuple with an array": (3, 2),
    "tuple with an empty list": (3, 1),
}

#: Kinds of which one array would change a value.
KEPT = sorted(set(VALUES) - set(STACKED) - set(EXACT) - set(ROWS) - set(ROWS_OF_OBJECTS))

#: One value of each of NumPy's types of numbers, and of Python's.
NUMBERS = [
    *(kind(3) for kind in (int, float, complex, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32)),
    *(kind(3) for kind in (np.uint64, np.float16, np.float32, np.float64, np.longdouble, np.complex64, np.complex128)),
    *(np.iinfo(kind).max for kind in (np.int32, np.uint32)),
    *(np.iinfo(kind).dtype.type(np.iinfo(kind).max) for kind in (np.int8, np.int16, np.int32, np.int64)),
    *(np.iinfo(kind).dtype.type(np.iinfo(kind).max) for kind in (np.uint8, np.uint16, np.uint32, np.uint64)),
    *(np.iinfo(kind).dtype.type(np.iinfo(kind).min) for kind in (np.int8, np.int16, np.int32, np.int64)),
    *(-1, 2**53, 2**53 + 1, -(2**53) - 1, 2**62 + 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1),
    *(0.1, -0.0, 1e300, math.inf, -math.inf, 5e-324, np.float32(0.1), np.float16(0.1), np.longdouble(1) / 3),
    *(1j, 0.1 + 0.2j, np.complex64(0.1), np.clongdouble(1) / 3),
]


def exactly(value: Any) -> Any:
    """Return what a number is, in a form in which unlike numbers are unlike."""
    if isinstance(value, (complex, np.complexfloating)):
        return exactly(value.real), exactly(value.imag)
    if isinstance(value, (int, np.integer)):
        return Fraction(int(value)), 0
    if not np.isfinite(value):
        return (str(value),)
    return Fraction(*value.as_integer_ratio()), 0


def as_complex(value: Any, *, is_complex: bool) -> Any:
    """Return `exactly` the number, as one with an imaginary part if it is among such."""
    is_already = isinstance(value, (complex, np.complexfloating))
    return exactly(value) if is_already or not is_complex else (exactly(value), (Fraction(0), 0))


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


@pytest.mark.parametrize("kind", EXACT)
def test_numbers_of_several_types_become_the_type_that_holds_each(shared_pool: ProxyPool[Model], kind: str) -> None:
    results = shared_pool.make(kind)
    assert results.dtype == EXACT[kind]
    assert results.tolist() == [VALUES[kind](i) for i in range(3)]


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("is_map", [True, False], ids=["map", "broadcast"])
def test_tuples_and_lists_of_one_length_are_rows(shared_pool: ProxyPool[Model], kind: str, is_map: bool) -> None:
    dtype, shape = ROWS[kind]
    results = shared_pool.make([kind] * 3, map_args=True, synchronize=True) if is_map else shared_pool.make(kind)
    assert results.dtype == dtype
    assert results.shape == shape
    for i, row in enumerate(results):
        for cell, value in zip(row, VALUES[kind](i), strict=True):
            np.testing.assert_array_equal(cell, value)


@pytest.mark.parametrize("kind", ROWS_OF_OBJECTS)
def test_rows_of_anything_keep_every_value_and_type(shared_pool: ProxyPool[Model], kind: str) -> None:
    results = shared_pool.make(kind)
    assert results.dtype == object
    assert results.shape == ROWS_OF_OBJECTS[kind]
    for i, row in enumerate(results):
        for cell, value in zip(row, VALUES[kind](i), strict=True):
            assert type(cell) is type(value)
            np.testing.assert_array_equal(cell, value)


def test_columns_of_rows_can_be_counted_with(shared_pool: ProxyPool[Model]) -> None:
    places = shared_pool.place(range(6), map_args=True, synchronize=True)
    assert places.sum(axis=0).tolist() == [15, 6]
    assert (places[:, 0] == np.arange(6)).all()
    assert (places * 2)[2].tolist() == [4, 4]


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


def test_chunks_of_ints_and_chunks_of_floats_become_floats(shared_pool: ProxyPool[Model]) -> None:
    values = [*range(50), *(0.5 + i for i in range(50)), *range(50)]
    results = shared_pool.echo(values, map_args=True, chunksize=10)
    assert results.dtype == np.float64
    assert results.tolist() == values
    values[3] = 2**53 + 1
    results = shared_pool.echo(values, map_args=True, chunksize=10)
    assert results.dtype == object
    assert results.tolist() == values
    assert [type(value) for value in results] == [type(value) for value in values]
    values[60] = None
    assert shared_pool.echo(values, map_args=True, chunksize=10).tolist() == values


@given(
    st.lists(
        st.lists(st.integers(-(2**63), 2**63 - 1)) | st.lists(st.floats(allow_nan=False)) | st.lists(st.none()), min_size=1
    )
)
def test_pieces_of_results_are_stacked_as_one_list(chunks: list[list[Any]]) -> None:
    codes = {int: "q", float: "d"}
    pieces = [array(codes[type(chunk[0])], chunk) if chunk and chunk[0] is not None else chunk for chunk in chunks]
    values = [value for chunk in chunks for value in chunk]
    found, expected = shape_results(pieces, True), stack(values)
    assert found.dtype == expected.dtype
    assert found.tolist() == expected.tolist() == values


@given(
    st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=5)
    | st.lists(st.integers() | st.floats(allow_nan=False), min_size=1)
)
def test_stacking_never_changes_a_number(values: list[Any]) -> None:
    stacked = stack(values)
    assert stacked.shape == (len(values),)
    if stacked.dtype == object:
        assert [type(value) for value in stacked] == [type(value) for value in values]
        integers = [int(value) for value in values if isinstance(value, (int, np.integer))]
        assert any(abs(value) > 2**53 for value in integers)
        return
    is_complex = stacked.dtype.kind == "c"
    assert [exactly(value) for value in stacked] == [as_complex(value, is_complex=is_complex) for value in values]


@given(
    st.lists(st.booleans(), min_size=1)
    | st.lists(st.one_of(st.booleans(), st.none(), st.text()), min_size=1)
    | st.lists(st.one_of(st.booleans(), st.integers()), min_size=1)
)
def test_stacking_never_changes_what_is_no_number(values: list[Any]) -> None:
    stacked = stack(values)
    assert stacked.tolist() == values
    assert [type(value) for value in stacked.tolist()] == [type(value) for value in values]


LEAVES = st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.none(), st.text(max_size=2))
ROW = st.lists(LEAVES, max_size=3) | st.tuples(LEAVES, LEAVES)
ROW_OF_ROWS = st.lists(ROW, max_size=3) | st.tuples(ROW, ROW)
NESTS = LEAVES | ROW | ROW_OF_ROWS | st.lists(ROW_OF_ROWS, max_size=2)


@given(st.lists(NESTS, min_size=1, max_size=4))
def test_stacking_never_changes_what_is_in_rows(values: list[Any]) -> None:
    def as_lists(value: Any) -> Any:
        return [as_lists(inner) for inner in value] if isinstance(value, (list, tuple)) else value

    assert as_lists(stack(values).tolist()) == as_lists(values)


def test_rows_that_hold_themselves_are_objects() -> None:
    row: list[Any] = []
    row += [row, row]
    stacked = stack([row, row])
    assert stacked.shape == (2, 2)
    assert stacked.dtype == object


def test_a_named_tuple_keeps_its_names() -> None:
    point = collections.namedtuple("point", "x y")
    stacked = stack([point(1, 2), point(3, 4)])
    assert stacked.shape == (2,)
    assert stacked[1].y == 4


@pytest.mark.parametrize("values", [[True, 1], [True, 0.5], [np.bool_(1), 1], [1, None], [np.float64(1), "a"]])
def test_numbers_among_others_are_objects(values: list[Any]) -> None:
    assert [type(value) for value in stack(values)] == [type(value) for value in values]
    rows = stack([values, tuple(values)])
    assert rows.shape == (2, 2)
    assert [type(value) for value in rows[1]] == [type(value) for value in values]


def test_durations_of_one_unit_are_stacked() -> None:
    seconds = [np.timedelta64(1, "s"), np.timedelta64(5, "s")]
    assert stack(seconds).dtype == np.dtype("m8[s]")
    assert stack([*seconds, np.timedelta64(1, "Y")]).dtype == object

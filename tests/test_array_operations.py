"""A shared array is indexed, and calculated with, as an array is."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator

import numpy as np
import pytest

import sharing_targets
from objproxy import ProxyPool, SharedArray, SharedArrayWrapper


@pytest.fixture(params=[SharedArray, SharedArrayWrapper])
def shared(request: pytest.FixtureRequest) -> Iterator[SharedArray]:
    with request.param(np.arange(6.0).reshape(3, 2)) as made:
        yield made


def test_an_index_gives_elements_and_views(shared: SharedArray) -> None:
    assert shared[1, 0] == 2.0
    assert shared[0].tolist() == [0.0, 1.0]
    assert shared[shared > 3].tolist() == [4.0, 5.0]
    shared[1:3] = 5
    shared[0][1] = 7  # a view is shared too
    assert shared.array.tolist() == [[0, 7], [5, 5], [5, 5]]
    shared[2] = shared[0]
    assert shared.array[2].tolist() == [0, 7]


def test_it_has_a_length_is_iterated_and_searched(shared: SharedArray) -> None:
    assert len(shared) == 3
    assert [row.tolist() for row in shared] == [[0, 1], [2, 3], [4, 5]]
    assert 4.0 in shared
    assert 9.0 not in shared


BINARY = [operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow, divmod]
COMPARISONS = [operator.lt, operator.le, operator.eq, operator.ne, operator.gt, operator.ge]


@pytest.mark.parametrize("operation", [*BINARY, *COMPARISONS])
def test_operators_give_what_they_give_for_arrays(operation: object, shared: SharedArray) -> None:
    assert callable(operation)
    array = shared.array.copy() + 1
    shared += 1
    for other in (2, 2.5, array, [1, 2]):
        for result, expected in (
            (operation(shared, other), operation(array, other)),
            (operation(other, shared), operation(other, array)),
        ):
            assert type(result) is type(expected)
            np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(operation(shared, shared), operation(array, array))


def test_operators_of_integers_and_matrices() -> None:
    with SharedArray(np.arange(4).reshape(2, 2)) as shared:
        array = shared.array.copy()
        np.testing.assert_array_equal(shared @ shared, array @ array)
        np.testing.assert_array_equal([[1, 2]] @ shared, [[1, 2]] @ array)
        np.testing.assert_array_equal((shared << 1 | 1) & 6 ^ 3, (array << 1 | 1) & 6 ^ 3)
        np.testing.assert_array_equal([-shared, +shared, abs(shared), ~shared], [-array, +array, abs(array), ~array])
    with SharedArray(np.array(3)) as number:
        assert (int(number), float(number), complex(number), bool(number)) == (3, 3.0, 3 + 0j, True)
        assert list(range(5))[number] == 3


def test_it_is_changed_in_place(shared: SharedArray) -> None:
    same = shared
    shared += 1
    shared *= 2
    shared -= np.ones(2)
    assert shared is same
    assert shared.array.tolist() == [[1, 3], [5, 7], [9, 11]]
    array = np.zeros((3, 2))
    array += shared
    assert array.tolist() == shared.array.tolist()


def test_universal_functions_take_it_and_write_into_it(shared: SharedArray) -> None:
    assert np.add(shared, 1, out=shared) is shared
    assert shared[0, 0] == 1
    assert type(np.sqrt(shared)) is np.ndarray
    parts, wholes = np.modf(shared / 2, out=(shared, None))
    assert parts is shared
    assert wholes[2, 1] == 3.0
    assert np.add.reduce(shared, axis=None) == shared.array.sum()
    np.add.at(shared, (0, 0), 10)
    assert shared[0, 0] == 10.5
    assert np.sum(shared) == np.concatenate([shared, shared]).sum() / 2


def test_methods_and_attributes_are_those_of_the_array(shared: SharedArray) -> None:
    assert shared.sum() == 15
    assert (shared.ndim, shared.size, shared.T.shape) == (2, 6, (2, 3))
    shared.fill(3)
    assert shared.mean(axis=0).tolist() == [3, 3]
    with pytest.raises(AttributeError, match="has no attribute 'no_such_thing'"):
        _ = shared.no_such_thing


def test_it_is_a_key_by_itself(shared: SharedArray) -> None:
    assert {shared: 1}[shared] == 1


@pytest.mark.parametrize(
    "use", [lambda s: s[0], lambda s: s + 1, lambda s: s.sum(), lambda s: len(s), lambda s: list(s), np.sqrt]
)
def test_use_after_close_says_so(use: object, shared: SharedArray) -> None:
    assert callable(use)
    shared.close()
    with pytest.raises(ValueError, match="is closed"):
        use(shared)
    with pytest.raises(ValueError, match="is closed"):
        shared[0] = 1


@pytest.mark.parametrize("backend", ["process", "serial"])
def test_a_call_shares_it_whole_and_its_rows_are_no_items(backend: str) -> None:
    with ProxyPool(sharing_targets.RowWriter, worker_count=2, backend=backend) as pool, SharedArray.zeros((3, 2)) as shared:
        pool.write_row(itertools.repeat(shared), range(3), map_args=True)
        assert shared[:, 0].tolist() == [1, 2, 3]
        with pytest.raises(TypeError, match=r"itertools\.repeat"):
            pool.write_row(shared, range(3), map_args=True)

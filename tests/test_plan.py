"""From a call to its tasks."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objproxy._engine.payload import Payload
from objproxy._engine.plan import ItemSource, encode_items, n_items
from objproxy._worker.outcome import Failure
from objproxy._worker.wire import Operation


def make_source(*args: Any, **kwargs: Any) -> ItemSource:
    return ItemSource("work", args, kwargs)


def pull_all(source: ItemSource, size: int) -> list[tuple[Any, ...]]:
    """Return the arguments of every item, the positional ones first."""
    rows: list[tuple[Any, ...]] = []
    while (payload := source.pull(size)) is not None:
        assert 1 <= n_items(payload) <= size
        rows += zip(*payload.operation.args, strict=True)
    return rows


# ---- pulling -------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers()), min_size=1, max_size=4), st.integers(1, 7))
def test_iterables_are_zipped_to_the_shortest(columns: list[list[int]], size: int) -> None:
    assert pull_all(make_source(*columns), size) == list(zip(*columns, strict=False))


def test_keywords_are_the_last_columns() -> None:
    source = make_source([1, 2], by=[3, 4])
    payload = source.pull(2)
    assert payload is not None
    assert [list(column) for column in payload.operation.args] == [[1, 2], [3, 4]]
    assert payload.operation.kwargs == ("by",)


def test_nothing_is_pulled_before_it_is_asked_for() -> None:
    pulled: list[int] = []

    def items() -> Iterator[int]:
        for item in itertools.count():
            pulled.append(item)
            yield item

    source = make_source(items())
    assert pulled == []
    source.pull(3)
    assert pulled == [0, 1, 2]


def test_a_string_is_an_iterable_of_its_characters() -> None:
    assert pull_all(make_source("ab"), 5) == [("a",), ("b",)]


def test_an_old_sequence_can_be_iterated() -> None:
    class Old:
        def __getitem__(self, index: int) -> int:
            if index > 2:
                raise IndexError
            return index

    assert pull_all(make_source(Old()), 2) == [(0,), (1,), (2,)]


def test_an_endless_repeat_crosses_once_with_each_message() -> None:
    source = make_source(itertools.repeat("same"), range(100), itertools.repeat("too"))
    payload = source.pull(60)
    assert payload is not None
    first, items, last = payload.operation.args
    assert (first.value, items, last.value) == ("same", [*range(60)], "too")
    assert n_items(payload) == 60

    part = payload.slice(10, 13)
    assert list(zip(*part.operation.args, strict=False)) == [("same", i, "too") for i in (10, 11, 12)]
    assert len(pickle.dumps(payload.operation)) < 400


def test_a_repeat_that_ends_is_like_any_other_iterable() -> None:
    assert pull_all(make_source(itertools.repeat(0, 3), range(9)), 2) == [(0, 0), (0, 1), (0, 2)]


# ---- how many there are --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "total"),
    [
        (([1, 2, 3],), 3),
        (([1, 2, 3], range(2)), 2),
        (([1, 2, 3], itertools.repeat(0)), 3),
        ((range(9), itertools.repeat(0, 4)), 4),
        ((iter([1, 2]),), 2),
        ((itertools.repeat(0),), None),
        (((x for x in range(3)),), None),
        ((itertools.count(), [1, 2]), 2),
    ],
)
def test_the_number_of_items_is_told_where_it_is_known(columns: Any, total: int | None) -> None:
    assert make_source(*columns).total == total


def test_a_length_that_raises_is_not_known() -> None:
    class Endless:
        def __len__(self) -> int:
            raise NotImplementedError("endless")

        def __iter__(self) -> Iterator[int]:
            return iter(range(3))

    source = make_source(Endless())
    assert source.total is None
    assert len(pull_all(source, 2)) == 3


def test_what_is_left_is_counted() -> None:
    source = make_source(range(10))
    source.pull(4)
    assert source.n_left == 6
    assert source.n_pulled == 4


def test_an_iterable_that_is_shorter_than_it_said_just_ends() -> None:
    class Boaster:
        def __length_hint__(self) -> int:
            return 10

        def __iter__(self) -> Iterator[int]:
            return iter(range(3))

    source = make_source(Boaster())
    assert len(pull_all(source, 2)) == 3
    assert source.is_exhausted


# ---- what goes wrong -----------------------------------------------------------------------------------------------


def test_a_map_needs_an_iterable() -> None:
    with pytest.raises(TypeError, match="at least one iterable"):
        make_source()


def test_a_constant_in_place_of_an_iterable_names_the_way_out() -> None:
    with pytest.raises(TypeError, match=r"argument 1 is a int.*itertools\.repeat"):
        make_source([1], 5)
    with pytest.raises(TypeError, match="argument 'by' is a float"):
        make_source([1], by=0.5)


def test_items_before_an_error_are_good() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("the third")

    source = make_source(items())
    payload = source.pull(5)
    assert payload is not None
    assert list(payload.operation.args[0]) == [1, 2]
    assert source.is_exhausted
    assert isinstance(source.error, ValueError)
    assert source.pull(5) is None


def test_an_interrupt_while_pulling_reaches_the_caller() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_source(items()).pull(5)


def test_closing_closes_a_generator() -> None:
    closed = []

    def items() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.append(True)

    source = make_source(items())
    source.pull(2)
    source.close()
    assert closed
    assert source.pull(1) is None


def test_closing_leaves_other_iterators_alone() -> None:
    iterator = iter([1, 2, 3])
    source = make_source(iterator)
    source.pull(1)
    source.close()
    assert next(iterator) == 2


# ---- encoding ------------------------------------------------------------------------------------------------------


def encode(operation: Operation) -> list[Any]:
    if any(value == "bad" for column in operation.args for value in column):
        raise TypeError("cannot pickle it")
    return [list(column) for column in operation.args]


def fail(offset: int, exc: Exception) -> BaseException:
    return ValueError(offset, str(exc))


def make_payload(*values: Any) -> Payload:
    return Payload(Operation("map", "work", (list(values),), ()))


def test_items_are_encoded_together() -> None:
    [part] = encode_items(make_payload(1, 2, 3), encode, fail)
    assert isinstance(part, Payload)
    assert part.data == [[1, 2, 3]]


def test_one_bad_item_costs_nobody_else() -> None:
    parts = encode_items(make_payload(1, "bad", 3), encode, fail)
    assert [part.data if isinstance(part, Payload) else part.error.args for part in parts] == [
        [[1]],
        (1, "cannot pickle it"),
        [[3]],
    ]


def test_a_single_bad_item_is_a_failure() -> None:
    [part] = encode_items(make_payload("bad"), encode, fail)
    assert isinstance(part, Failure)


# ---- cutting -------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(), min_size=1), st.data())
def test_a_slice_of_a_slice_holds_the_right_items(values: list[int], data: st.DataObject) -> None:
    payload, expected = make_payload(*values), values
    for _ in range(3):
        start = data.draw(st.integers(0, len(expected)))
        stop = data.draw(st.integers(start, len(expected)))
        payload, expected = payload.slice(start, stop), expected[start:stop]
        if data.draw(st.booleans()):
            assert list(payload.operation.args[0]) == expected
    assert list(payload.operation.args[0]) == expected
    assert payload.data is None


def test_cutting_copies_nothing_before_the_part_is_asked_for() -> None:
    class Column(list[int]):
        n_slices = 0

        def __getitem__(self, index: Any) -> Any:
            type(self).n_slices += isinstance(index, slice)
            return super().__getitem__(index)

    payload = Payload(Operation("map", "work", (Column(range(100)),), ()))
    for n_left in range(99, 49, -1):
        payload = payload.slice(1, n_left + 1)
    assert Column.n_slices == 0
    assert payload.operation.args[0] == list(range(50, 100))
    assert payload.operation is payload.operation
    assert Column.n_slices == 1

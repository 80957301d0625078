"""Shared arrays: one memory that all instances and the caller read and write, and that no view outlives."""

from __future__ import annotations

import gc
import itertools
import os
import pickle
import signal
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from objproxy import (
    ArgumentPickleError,
    ProxyPool,
    SharedArray,
    SharedArrayWrapper,
    Unpacker,
    WorkerDiedError,
    lenrepeat,
    unpack,
)
from objproxy._worker.arena import Arena
from objproxy.backends.plane import program_plane
from ways import MakePool, Way

DTYPES = ["f8", ">f8", "<i2", "?", "c16", "M8[ns]", "m8[D]", "S5", "<U4", "u1", [("a", "<i4"), ("b", ">f8", (2,))], "V3"]
SHAPES: list[Any] = [(), (0,), (3, 0, 2), 5, (7,), (4, 5), (2, 3, 4), (2, 3, 2, 2), (1, 2, 3, 2, 2), (70_000,)]


class Painter:
    """An object that reads and writes arrays."""

    def __init__(self, canvas: Any = None) -> None:
        self.canvas = canvas
        self.kept: list[Any] = []

    def kind_of(self, array: Any) -> tuple[Any, ...]:
        return type(array), array.dtype, array.shape, array.flags.f_contiguous, array.flags.c_contiguous, array.flags.writeable

    def fill(self, array: Any, row: int, value: Any = None) -> None:
        array[row] = row if value is None else value

    def fill_all(self, array: Any, value: Any) -> None:
        array[...] = value

    def read(self, array: Any, index: Any = ...) -> Any:
        return np.array(array[index])

    def paint_canvas(self, row: int) -> None:
        self.canvas[row] = row

    def paint_deep(self, value: Any) -> bool:
        value["arrays"][0][1] = 6
        return type(value["arrays"][0]) is np.ndarray and type(value["arrays"]) is list

    def keep(self, array: Any) -> None:
        self.kept.append(array[2:4])

    def write_kept(self, value: float) -> list[float]:
        self.kept[0][...] = value
        return [float(x) for x in self.kept[0]]

    def read_kept(self) -> Any:
        return np.array(self.kept[0])

    def unpacked_sum(self, array: Any) -> float:
        with Unpacker(array) as inner:
            return float(inner.sum()) + float(unpack(array).sum())

    def fill_and_die(self, array: Any) -> None:
        array[...] = 9
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()


@pytest.fixture(scope="module")
def pool(way: Way) -> Iterator[ProxyPool[Painter]]:
    with ProxyPool(Painter, worker_count=2, **way.options) as opened:
        yield opened


def filled(shape: Any, dtype: Any) -> Any:
    array = np.zeros(shape, dtype)
    raw = array.reshape(-1).view("u1")
    if array.dtype.kind not in "bUV" or array.dtype.names:
        raw[...] = np.arange(raw.size) % 60
    elif array.dtype.kind == "b":
        raw[...] = np.arange(raw.size) % 2
    return array


# ---- in one process -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_arrays_of_all_kinds_are_made(dtype: Any, shape: Any, order: Any) -> None:
    source = np.array(filled(shape, dtype), order=order)
    with SharedArray.zeros(shape, dtype, order=order) as zeros:
        expected = np.zeros(shape, dtype, order=order)
        for name in ("shape", "dtype", "nbytes"):
            assert getattr(zeros, name) == getattr(zeros.array, name) == getattr(expected, name)
        assert (zeros.array.flags.c_contiguous, zeros.array.flags.f_contiguous) == (
            expected.flags.c_contiguous,
            expected.flags.f_contiguous,
        )
        np.testing.assert_array_equal(zeros.array, expected)
    with SharedArray(source) as copy:
        np.testing.assert_array_equal(copy.array, source)
        assert (copy.dtype, copy.shape) == (source.dtype, source.shape)
        assert copy.array.flags.f_contiguous == source.flags.f_contiguous
        assert copy.array.flags.c_contiguous == source.flags.c_contiguous
    with SharedArray.empty(shape, dtype, order=order) as empty:
        empty.array[...] = source
        np.testing.assert_array_equal(empty.array, source)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zeros_are_zero_also_in_memory_that_was_used(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Arena, "trim_if_free", lambda _arena: None)  # so that memory is kept, as where other objects hold some
    with SharedArray.empty(400_000, "u1") as used:
        used.array[...] = 0xFF
    del used
    zeros = SharedArray.zeros((400_000 // np.dtype(dtype).itemsize,), dtype)
    assert not zeros._is_fresh
    assert not zeros.array.view("u1").any()
    zeros.close()
    monkeypatch.undo()
    program_plane().arena.trim_if_free()


def test_full_takes_the_type_of_its_value_unless_one_is_given() -> None:
    with (
        SharedArray.full((2, 3), 7) as ints,
        SharedArray.full(4, 1.5, dtype="f4") as floats,
        SharedArray.full(2, "ab") as texts,
    ):
        assert (ints.dtype, ints.array.tolist()) == (np.dtype(int), [[7] * 3] * 2)
        assert (floats.dtype, floats.array.tolist()) == (np.dtype("f4"), [1.5] * 4)
        assert (texts.dtype, texts.array.tolist()) == (np.dtype("U2"), ["ab"] * 2)


def test_a_shared_array_is_a_copy_that_numpy_reads_without_another() -> None:
    source = np.arange(10.0)
    with SharedArray(source) as shared:
        shared.array[0] = 5
        assert source[0] == 0
        assert shared.array is shared.array
        assert np.may_share_memory(np.asarray(shared), shared.array)
        assert not np.may_share_memory(np.array(shared), shared.array)
        assert np.asarray(shared, dtype="i4").dtype == np.dtype("i4")
        assert float(np.sum(shared)) == 50.0
        assert len(shared) == 10
    with SharedArray([[1, 2], [3, 4]]) as listed:
        assert listed.array.tolist() == [[1, 2], [3, 4]]
    with SharedArray(source[::-2]) as strided:
        assert strided.array.tolist() == source[::-2].tolist()


def test_a_view_is_safe_after_close_and_other_arrays_do_not_touch_it() -> None:
    shared = SharedArray(np.arange(100_000.0))
    view = shared.array[10:20]
    shared.close()
    shared.close()
    assert shared.is_closed
    for _ in range(5):
        with SharedArray.full(100_000, -1.0):
            pass
    assert view.tolist() == list(range(10, 20))
    view[...] = 3
    del shared
    gc.collect()
    assert view.tolist() == [3] * 10


def test_a_closed_array_says_so() -> None:
    shared = SharedArray.zeros(3)
    shared.close()
    with pytest.raises(ValueError, match="closed"):
        shared.array  # noqa: B018
    with pytest.raises(ValueError, match="closed"):
        np.asarray(shared)
    assert "closed" in repr(shared)
    assert (shared.shape, shared.dtype, shared.nbytes) == ((3,), np.dtype(float), 24)


@pytest.mark.parametrize(
    ("source", "advice"),
    [
        (np.array([1, None]), "ordinary arguments"),
        (np.zeros(3, [("a", "O"), ("b", "i4")]), "ordinary arguments"),
        (np.ma.masked_array([1, 2], mask=[True, False]), r"SharedArray\(a.data\)"),
        ([object()], "ordinary arguments"),
    ],
    ids=["objects", "a field of objects", "masked", "a list of objects"],
)
def test_what_cannot_be_shared_is_refused_with_advice(source: Any, advice: str) -> None:
    with pytest.raises(TypeError, match=advice):
        SharedArray(source)


def test_empty_arrays_of_objects_are_refused_too() -> None:
    for make in (SharedArray.zeros, SharedArray.empty):
        with pytest.raises(TypeError, match="Python objects"):
            make(3, object)
    with pytest.raises(TypeError, match="Python objects"):
        SharedArray.full(3, None)


@pytest.mark.parametrize("shape", [-1, (2, -3), "ab", 1.5, None])
def test_shapes_that_make_no_sense_are_refused(shape: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        SharedArray.zeros(shape)
    with pytest.raises(ValueError, match="order='X'"):
        SharedArray.zeros(3, order="X")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [SharedArray, SharedArrayWrapper])
def test_a_shared_array_is_no_pickle(kind: Any) -> None:
    with kind(np.zeros(3)) as shared:
        for value in (shared, [shared], {"a": shared}):
            with pytest.raises(TypeError, match=r"calls of a pool.*\.array"):
                pickle.dumps(value)


# ---- in pools -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(), (0,), (4, 5), (2, 3, 2, 2)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_method_gets_an_ndarray_of_the_same_kind(pool: ProxyPool[Painter], dtype: Any, shape: Any, order: Any) -> None:
    source = np.array(filled(shape, dtype), order=order)
    with SharedArray(source) as shared:
        flags = shared.array.flags
        kinds = pool.kind_of.broadcast(shared)
        assert kinds == [(np.ndarray, source.dtype, source.shape, flags.f_contiguous, flags.c_contiguous, True)] * 2
        np.testing.assert_array_equal(pool[1].read(shared), source)


def test_what_anybody_writes_everybody_sees(pool: ProxyPool[Painter]) -> None:
    with SharedArray.zeros((6, 1000)) as shared:
        pool.fill(itertools.repeat(shared), range(6), map_args=True)
        assert shared.array[:, -1].tolist() == [0, 1, 2, 3, 4, 5]
        pool[0].fill(shared, 2, 22.5)
        assert pool[1].read(shared, (2, 500)) == 22.5
        shared.array[3] = 33
        assert pool.read(shared, (3, 0)).tolist() == [33, 33]


def test_shared_arrays_deep_in_containers_arrive_as_ndarrays(pool: ProxyPool[Painter]) -> None:
    with SharedArray.zeros(5) as shared, SharedArray.zeros(5) as other:
        assert pool.paint_deep.broadcast({"arrays": [shared], "more": (shared, {"x": other})}) == [True, True]
        assert shared.array[1] == 6
        assert pool.paint_deep.map([{"arrays": [other]}] * 5) == [True] * 5
        assert other.array[1] == 6
        assert pool.fill.submit(array=other, row=0, value=4).result(60) is None
        assert other.array[0] == 4


def test_one_or_many_shared_arrays_in_many_items(pool: ProxyPool[Painter]) -> None:
    arrays = [SharedArray.full(1000, float(i)) for i in range(30)]
    assert pool.read(arrays, itertools.repeat(5), map_args=True).tolist() == list(range(30))
    pool.fill_all(arrays * 10, [270 + i for i in range(30)] * 10, map_args=True)
    assert [int(shared.array[3]) for shared in arrays] == [270 + i for i in range(30)]
    assert list(pool.read.imap(arrays, itertools.repeat(0))) == [270 + i for i in range(30)]
    for shared in arrays:
        shared.close()


def test_a_shared_array_can_be_an_argument_of_constructors_and_an_attribute(make_pool: MakePool) -> None:
    with SharedArray.zeros((4, 3)) as shared, SharedArray.zeros((4, 3)) as second:
        pool = make_pool(Painter, init_args=(shared,))
        pool.paint_canvas(range(4), map_args=True)
        assert shared.array[:, 0].tolist() == [0, 1, 2, 3]
        pool.canvas = second
        pool[1].paint_canvas(3)
        assert second.array[3].tolist() == [3] * 3


def test_one_shared_array_serves_several_pools(make_pool: MakePool) -> None:
    with SharedArray.zeros(5) as shared:
        first, second = make_pool(Painter), make_pool(Painter)
        first.fill(shared, 1)
        second.fill(shared, 2)
        first.close()
        second.fill(shared, 3)
        assert shared.array.tolist() == [0, 1, 2, 3, 0]


def test_what_an_object_keeps_is_shared_with_it_after_close_too(make_pool: MakePool) -> None:
    pool = make_pool(Painter, worker_count=1)
    shared = SharedArray.zeros(100_000)
    view = shared.array[:5]
    pool[0].keep(shared)
    shared.close()
    for i in range(5):
        with SharedArray.full(100_000, float(i)) as other:
            pool[0].fill(other, 0)
    assert pool[0].write_kept(8.0) == [8.0, 8.0]
    assert view.tolist() == [0, 0, 8, 8, 0]
    view[2] = 1
    assert pool[0].read_kept().tolist() == [1, 8]


def test_views_are_readable_when_the_pool_is_gone(make_pool: MakePool) -> None:
    pool = make_pool(Painter)
    shared = SharedArray.zeros(100_000)
    pool[0].fill_all(shared, 4)
    pool.close()
    assert (shared.array == 4).all()
    view = shared.array
    shared.close()
    assert (view == 4).all()


@pytest.mark.processes
def test_what_a_worker_wrote_before_it_died_stays_and_its_successor_sees_it(make_pool: MakePool) -> None:
    pool = make_pool(Painter)
    with SharedArray.zeros(100_000) as shared:
        pool[0].fill(shared, 0)
        with pytest.raises(WorkerDiedError):
            pool[0].fill_and_die(shared)
        assert (shared.array == 9).all()
        assert pool.read(shared, 7).tolist() == [9, 9]
        pool[0].fill(shared, 1)
        assert pool[1].read(shared, 1) == 1


def test_the_text_of_a_value_is_one_word_in_a_list_of_arguments(pool: ProxyPool[Painter]) -> None:
    """Also of one that was closed before somebody looked: faces cut their first argument off at the comma."""
    value = pool.put(1)
    texts = [repr(value)]
    value.close()
    texts.append(repr(value))
    assert [text.count(",") for text in texts] == [0, 0]
    assert "closed" in texts[1]


@pytest.mark.parametrize("kind", [SharedArray, SharedArrayWrapper])
def test_a_closed_array_is_refused_and_the_pool_goes_on(pool: ProxyPool[Painter], kind: Any) -> None:
    shared = kind(np.zeros(5))
    pool.fill(shared, 1)
    shared.close()
    for call in (pool.read, pool[0].read, pool.read.submit):
        with pytest.raises((ValueError, TypeError), match="closed"):
            call(shared)
    with pytest.raises((ValueError, TypeError), match="closed"):
        pool.paint_deep({"arrays": [shared]})
    with kind(np.zeros(5)) as other:
        pool.fill(other, 1)
        assert other.array[1] == 1


def test_a_call_that_was_made_before_the_array_was_closed_is_carried_out(pool: ProxyPool[Painter]) -> None:
    shared = SharedArray.zeros(5)
    futures = [pool.read.submit(shared, 0) for _ in range(20)]
    shared.close()
    assert [float(future.result(60)) for future in futures] == [0.0] * 20


# ---- ObjectProxyPool's names ----------------------------------------------------------------------------------------------


def test_the_old_wrapper_has_its_old_attributes(pool: ProxyPool[Painter]) -> None:
    with SharedArrayWrapper(np.arange(6, dtype="i4").reshape(2, 3)) as wrapper:
        assert (wrapper.shape, wrapper.dtype) == ((2, 3), np.dtype("i4"))
        assert isinstance(wrapper.name, str)
        assert wrapper.data.nbytes == 24
        assert wrapper.array.tolist() == [[0, 1, 2], [3, 4, 5]]
        assert pool.unpacked_sum(wrapper.remoteArray).tolist() == [30.0, 30.0]
        assert pool.unpacked_sum(wrapper).tolist() == [30.0, 30.0]
        pool[0].fill(wrapper.remoteArray, 1)
        assert wrapper.array[1].tolist() == [1, 1, 1]
        with SharedArrayWrapper([1, 2]) as other:
            assert other.name != wrapper.name
    assert wrapper.array is None
    assert wrapper.data is None
    wrapper.close()


def test_an_empty_array_can_be_wrapped() -> None:
    with SharedArrayWrapper(np.empty((0, 3))) as wrapper:
        assert wrapper.array.shape == (0, 3)


def test_unpacking_gives_the_array_of_whatever_it_is() -> None:
    plain = np.arange(3.0)
    with Unpacker(plain) as got:
        assert got is plain
    assert unpack(plain) is plain
    assert unpack("text") == "text"
    with SharedArrayWrapper(plain) as wrapper:
        with Unpacker(wrapper.remoteArray) as got:
            assert got is wrapper.array
        assert unpack(wrapper.remoteArray) is wrapper.array
        assert wrapper.array.tolist() == [0, 1, 2]


def test_a_float_that_a_method_writes_into_a_wrapped_list_is_not_cut(pool: ProxyPool[Painter]) -> None:
    with SharedArrayWrapper([0, 0, 0]) as wrapper:
        pool.fill(lenrepeat(wrapper.remoteArray, 3), range(3), [0.5, 1.5, 2.5], map_args=True)
        assert wrapper.array.tolist() == [0.5, 1.5, 2.5]


def test_lenrepeat_is_repeat_with_a_length(pool: ProxyPool[Painter]) -> None:
    repeated = lenrepeat("x", 4)
    assert (len(repeated), list(repeated), repeated[3], repeated[1:3]) == (4, ["x"] * 4, "x", ["x"] * 2)
    assert len(lenrepeat("x", 0)) == 0
    with pytest.raises(IndexError):
        repeated[4]
    with pytest.raises(TypeError, match="number of items"):
        lenrepeat("x", 1.5)  # type: ignore[arg-type]
    with SharedArrayWrapper(np.zeros(4)) as wrapper:
        pool.fill(lenrepeat(wrapper.remoteArray, 4), range(4), map_args=True)
        assert wrapper.array.tolist() == [0, 1, 2, 3]


@pytest.mark.processes
def test_what_cannot_be_pickled_is_named_and_not_the_shared_array_beside_it(make_pool: MakePool) -> None:
    pool = make_pool()
    with SharedArray.zeros(3) as shared, pytest.raises(ArgumentPickleError, match=r"\[1\]"):
        pool[0].echo([shared, threading.Lock()])


def test_a_list_that_holds_itself_and_a_shared_array_is_no_endless_way(make_pool: MakePool) -> None:
    pool = make_pool()
    with SharedArray.full(3, 7) as shared:
        value: list[Any] = [shared]
        value.append(value)
        assert pool[0].echo(value)[0].tolist() == [7, 7, 7]

"""Arrays and other large values as arguments and results: equal, whole, and copies, at any size and depth."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pickle
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from objproxy import ArgumentPickleError, ProxyPool, WorkerDiedError, backends, shared
from objproxy.backends import plane as planes
from objproxy.backends.plane import ProgramPlane
from optional import need
from targets import poll_until
from ways import MakePool, Way

#: In the pickle, copied through shared memory, mapped, and much larger than any journal or channel.
SIZES = [1 << 10, 100_000, 1 << 20]
VERY_LARGE = 8 << 20


@dataclasses.dataclass
class Sample:
    """What users put arrays into."""

    name: str
    data: Any
    more: dict[str, Any]


pytestmark = pytest.mark.not_spawn


class Column:
    """Gives its buffer out of band, as the columns of data frames do."""

    def __init__(self, buffer: Any) -> None:
        self.buffer = buffer

    def __reduce_ex__(self, _protocol: Any) -> Any:
        return Column, (pickle.PickleBuffer(self.buffer),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Column) and bytes(self.buffer) == bytes(other.buffer)

    __hash__ = None  # type: ignore[assignment]


class Archive:
    """An object with arrays in its state."""

    def __init__(self, *arrays: Any, **more: Any) -> None:
        self.kept: list[Any] = list(arrays)
        self.more = more

    def echo(self, value: Any) -> Any:
        return value

    def echo_all(self, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    def keep(self, value: Any) -> int:
        self.kept.append(value)
        return len(self.kept)

    def slice_of(self, index: int, start: int, stop: int) -> Any:
        return self.kept[index][start:stop]

    def sums(self) -> list[float]:
        return [float(np.sum(array)) for array in self.kept]

    def sums_of_more(self) -> dict[str, float]:
        return {name: float(np.sum(array)) for name, array in self.more.items()}

    def make(self, number: int, nbytes: int) -> Any:
        return np.full(nbytes // 8, number, dtype="f8")

    def total(self, value: Any) -> float:
        return float(np.sum(value))

    def negate(self, array: Any) -> Any:
        np.negative(array, out=array)
        return array

    def add_in_place(self, first: Any, second: Any) -> tuple[float, float]:
        first += 1
        return float(first.sum()), float(second.sum())

    def flags(self, value: Any) -> list[bool]:
        return [array.flags.writeable for array in find_arrays(value)]

    def try_to_write(self, array: Any) -> str:
        try:
            array[...] = array[...]
        except ValueError as exc:
            return str(exc)
        return "written"

    def same_object(self, first: Any, second: Any) -> bool:
        return first is second

    def remember_identity(self, value: Any) -> bool:
        """Whether this is the object that the last call was given."""
        is_same = bool(self.kept) and self.kept[-1] is value
        self.kept.append(value)
        return is_same

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()


def find_arrays(value: Any) -> list[Any]:
    """Return the arrays in nested containers."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    elif isinstance(value, Sample):
        value = [value.data, value.more]
    return [array for part in value for array in find_arrays(part)] if isinstance(value, (list, tuple)) else []


def ramp(nbytes: int, start: int = 0) -> Any:
    return np.arange(start, start + nbytes // 8, dtype="f8")


def check_equal(got: Any, sent: Any) -> None:
    assert type(got) is type(sent)
    if isinstance(sent, np.ndarray):
        assert (got.dtype, got.shape) == (sent.dtype, sent.shape)
        np.testing.assert_array_equal(got, sent)
    elif isinstance(sent, (list, tuple)):
        assert len(got) == len(sent)
        for one, other in zip(got, sent, strict=True):
            check_equal(one, other)
    elif isinstance(sent, dict):
        assert list(got) == list(sent)
        check_equal(list(got.values()), list(sent.values()))
    elif isinstance(sent, Sample):
        check_equal((got.name, got.data, got.more), (sent.name, sent.data, sent.more))
    else:
        assert got == sent


@pytest.fixture(scope="module", autouse=True)
def own_plane(way: Way) -> Iterator[ProgramPlane | None]:
    """Give a way that sets variables shared memory that heeds them: the program's own may have been made before."""
    if not way.environ:
        yield None
        return
    with pytest.MonkeyPatch.context() as patch:
        for name, value in way.environ:
            patch.setenv(name, value)
        plane = ProgramPlane()
        assert plane.segments.prefix
        for module in (backends.process, shared, planes):
            patch.setattr(module, "program_plane", lambda: plane)
        yield plane
    plane.segments.close()


@pytest.fixture(scope="module")
def long_lived_pool(way: Way, own_plane: ProgramPlane | None) -> Iterator[ProxyPool[Archive] | None]:
    if way.environ:
        yield None
        return
    with ProxyPool(Archive, worker_count=2, **way.options) as opened:
        # As long as it keeps this, the thread that looks for cold memory lives, and no test seems to leave it behind.
        opened.keep(ramp(400_000))
        yield opened


@pytest.fixture
def pool(way: Way, long_lived_pool: ProxyPool[Archive] | None) -> Iterator[ProxyPool[Archive]]:
    """Give a pool for a test that leaves it as it was; where memory has names, one of its own, so that none seem left over."""
    if long_lived_pool is not None:
        yield long_lived_pool
        return
    with ProxyPool(Archive, worker_count=2, **way.options) as opened:
        yield opened


# ---- there and back -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [*SIZES, VERY_LARGE])
def test_an_array_arrives_and_returns_equal(pool: ProxyPool[Archive], nbytes: int) -> None:
    array = ramp(nbytes)
    check_equal(pool[0].echo(array), array)
    assert pool.total(array).tolist() == [array.sum()] * 2
    check_equal(pool.echo(array), np.stack([array, array]))


@pytest.mark.parametrize("nbytes", [*SIZES, VERY_LARGE])
def test_arrays_at_any_depth(pool: ProxyPool[Archive], nbytes: int) -> None:
    array = ramp(nbytes)
    value = [array, {"a": (array + 1, "text", {"b": [array + 2, None]})}, Sample("s", array.reshape(2, -1), {"c": [array * 2]})]
    check_equal(pool[1].echo(value), value)
    args, kwargs = pool[0].echo_all(1, array, *value, key=array + 5, other={"x": array[::2]})
    check_equal(args, (1, array, *value))
    check_equal(kwargs, {"key": array + 5, "other": {"x": array[::2]}})


@pytest.mark.parametrize("nbytes", SIZES)
def test_arrays_as_items_of_a_map(pool: ProxyPool[Archive], nbytes: int) -> None:
    n_items = 20
    arrays = [ramp(nbytes, i) for i in range(n_items)]
    check_equal(pool.echo.map(arrays), arrays)
    check_equal(pool.echo(arrays, map_args=True), np.stack(arrays))
    assert pool.total.map(arrays) == [array.sum() for array in arrays]
    check_equal(list(pool.echo.options(buffersize=3).imap(iter(arrays))), arrays)
    check_equal(
        pool.echo.options(chunksize=5).map([[array, {"i": i}] for i, array in enumerate(arrays)])[7], [arrays[7], {"i": 7}]
    )


@pytest.mark.parametrize("nbytes", SIZES)
def test_one_array_for_every_item_of_a_map(pool: ProxyPool[Archive], nbytes: int) -> None:
    array = ramp(nbytes)
    results = pool.echo_all(itertools.repeat(array), range(10), map_args=True, stack_results=False)
    for i, (args, _) in enumerate(results):
        check_equal(args, (array, i))


@pytest.mark.parametrize("nbytes", SIZES)
def test_arrays_through_futures_and_lazy_maps(pool: ProxyPool[Archive], nbytes: int) -> None:
    arrays = [ramp(nbytes, i) for i in range(6)]
    futures = [pool.echo.submit([array]) for array in arrays]
    for future, array in zip(futures, arrays, strict=True):
        check_equal(future.result(60), [array])
    for got, array in zip(pool.echo.imap(arrays), arrays, strict=True):
        check_equal(got, array)
    assert sorted(got[0] for got in pool.echo.options(buffersize=2).imap_unordered(arrays)) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("nbytes", SIZES)
def test_arrays_as_arguments_of_constructors(make_pool: MakePool, nbytes: int) -> None:
    array = ramp(nbytes)
    pool = make_pool(Archive, init_args=(array, array + 1), init_kwargs={"weights": array * 2})
    assert pool.sums().tolist() == [[array.sum(), (array + 1).sum()]] * 2
    assert pool.sums_of_more.broadcast() == [{"weights": (array * 2).sum()}] * 2
    each = make_pool(Archive, init_args_each=[(array + 2,), (array + 3,)])
    assert each.sums().tolist() == [[(array + 2).sum()], [(array + 3).sum()]]


@pytest.mark.parametrize("nbytes", SIZES)
def test_arrays_as_attributes(make_pool: MakePool, nbytes: int) -> None:
    pool = make_pool(Archive)
    array = ramp(nbytes)
    pool.more = array
    check_equal(pool.more, np.stack([array, array]))
    pool[1].more = array + 1
    check_equal(pool[1].more, array + 1)
    check_equal(pool[0].more, array)


@pytest.mark.parametrize("size", [10, 70_000, 200_000, 5_000_000])
@pytest.mark.parametrize("kind", ["bytes", "bytearray", "str", "wide str"])
def test_large_bytes_and_texts(pool: ProxyPool[Archive], kind: str, size: int) -> None:
    body = os.urandom(10) * (size // 10)
    value: Any = {"bytes": body, "bytearray": bytearray(body), "str": body.hex(), "wide str": "aé€😀\n" * (size // 5)}[kind]
    check_equal(pool[0].echo(value), value)
    check_equal(pool[1].echo([value, {"a": (value[1:], ramp(100_000))}]), [value, {"a": (value[1:], ramp(100_000))}])
    check_equal(pool.echo.map([value, 1, [value]]), [value, 1, [value]])


@pytest.mark.parametrize("size", [100, 100_000, 1_000_000])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_objects_that_give_buffers(pool: ProxyPool[Archive], kind: Any, size: int) -> None:
    columns = [Column(kind(os.urandom(size))) for _ in range(3)]
    assert pool[0].echo(columns) == columns
    assert pool.echo.map(columns) == columns


@pytest.mark.parametrize("n_rows", [10, 100_000])
def test_frames_of_pandas(pool: ProxyPool[Archive], n_rows: int) -> None:
    pandas = need("pandas")  # slow to load, and needed here alone

    frame = pandas.DataFrame({"x": np.arange(n_rows) / 2, "n": np.arange(n_rows), "text": [f"t{i % 7}" for i in range(n_rows)]})
    for got in (pool[0].echo({"deep": [frame]})["deep"][0], pool.echo.map([frame])[0]):
        pandas.testing.assert_frame_equal(got, frame)
        got["x"] += 1  # it is the caller's own
    with pool.put(frame) as handle:
        pandas.testing.assert_frame_equal(pool[1].echo(handle), frame)


@pytest.mark.parametrize("dtype", [">f8", "<i2", "M8[us]", "S7", "<U5", "?", "c16", [("a", "<i4"), ("b", ">f4", (2,))]])
@pytest.mark.parametrize("n_items", [6, 60_000])
def test_dtypes_and_orders_are_kept(pool: ProxyPool[Archive], dtype: Any, n_items: int) -> None:
    array = np.zeros((n_items // 2, 2), dtype)
    array.view("u1").reshape(n_items, -1)[:, 0] = np.arange(n_items) % 2
    for sent in (array, np.asfortranarray(array), array.T, array[:, ::-1], array[1], np.broadcast_to(array[0, 0], (n_items,))):
        got = pool[0].echo([sent])[0]
        check_equal(got, sent)
        if sent.flags.f_contiguous:
            assert got.flags.f_contiguous


# ---- copies ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", SIZES)
def test_one_array_twice(pool: ProxyPool[Archive], nbytes: int) -> None:
    array = ramp(nbytes)
    check_equal(pool[0].echo_all(array, array)[0], (array, array))
    assert pool[0].same_object(array, array)


# ---- memory is not used again too early -----------------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [100_000, 400_000])
def test_what_an_object_keeps_is_its_own_however_much_passes(make_pool: MakePool, nbytes: int) -> None:
    pool = make_pool(Archive)
    for i in range(10):
        pool.keep(ramp(nbytes, i))
    for i in range(100):
        pool[i % 2].total(ramp(nbytes, -i))
    pool.total.map([ramp(nbytes, -5)] * 50)
    check_equal(pool[0].slice_of(3, 10, 20), np.arange(13.0, 23.0))
    check_equal(pool[1].slice_of(9, 0, None), ramp(nbytes, 9))
    assert pool.sums().tolist() == [[ramp(nbytes, i).sum() for i in range(10)]] * 2


@pytest.mark.parametrize("nbytes", [100_000, 400_000])
def test_results_that_the_caller_keeps_stay_however_many_come(pool: ProxyPool[Archive], nbytes: int) -> None:
    kept = [pool[i % 2].make(i, nbytes)[5:] for i in range(50)]
    kept += pool.make.map(range(50, 100), [nbytes] * 50)
    for i in range(200):
        pool[i % 2].make(-i, nbytes)
    for i, array in enumerate(kept):
        assert (array == i).all()


def test_a_result_that_is_sent_on_arrives(pool: ProxyPool[Archive]) -> None:
    array = ramp(1 << 20)
    for _ in range(10):
        array = pool[0].echo(pool[1].echo([array])[0])
    check_equal(array, ramp(1 << 20))


def test_an_error_of_one_item_does_not_hurt_the_arrays_of_others(pool: ProxyPool[Archive]) -> None:
    items = [ramp(400_000), {"no": "array"}, ramp(400_000, 3), ramp(8, 3)]
    outcomes = pool.total.options(on_error="return").map(items)
    assert [type(outcome) for outcome in outcomes] == [float, TypeError, float, float]
    assert outcomes[2] == ramp(400_000, 3).sum()


# ---- put ------------------------------------------------------------------------------------------------------------------

FORMS = {
    "plain": lambda array: array,
    "strided": lambda array: array[::2],
    "reversed": lambda array: array[::-1],
    "Fortran": lambda array: np.asfortranarray(array.reshape(2, -1)),
    "transposed": lambda array: array.reshape(2, 2, -1).transpose(1, 2, 0),
    "broadcast": lambda array: np.broadcast_to(array, (2, *array.shape)),  # nobody may write it here either
    "dates": lambda array: array.astype("M8[s]"),
    "big-endian": lambda array: array.astype(">f8"),
    "structured": lambda array: array.view([("a", "f4"), ("b", "i4")]),
    "text": lambda array: array.astype("S6"),
    "0-d": lambda array: np.array(array[3]),
    "empty": lambda array: array[:0],
    "read-only": lambda array: np.frombuffer(array.tobytes()),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("nbytes", SIZES)
def test_what_was_put_arrives_equal_and_read_only(pool: ProxyPool[Archive], form: str, nbytes: int) -> None:
    array = FORMS[form](ramp(nbytes))
    value = [array, {"deep": (array, Sample("s", array, {"x": [array]}))}]
    with pool.put(value) as handle:
        check_equal(pool[0].echo(handle), value)
        assert pool.flags.broadcast(handle) == [[False] * 4] * 2
    with pool.put(array) as handle:
        check_equal(pool.echo.broadcast(handle), [array] * 2)
        assert all("read-only" in answer for answer in pool.try_to_write.broadcast(handle))
    if form not in ("broadcast", "read-only"):
        array[...] = array  # the caller's own can still be written


class Tagged(np.ndarray):
    """A subclass, which NumPy pickles in its own way."""


@pytest.mark.parametrize("nbytes", SIZES)
@pytest.mark.parametrize("kind", ["masked", "subclass", "objects"])
def test_arrays_that_numpy_pickles_in_its_own_way_arrive_read_only_too(
    pool: ProxyPool[Archive], kind: str, nbytes: int
) -> None:
    plain = ramp(nbytes)
    array = {
        "masked": lambda: np.ma.masked_array(plain, mask=plain > 3),
        "subclass": lambda: plain.view(Tagged),
        "objects": lambda: plain[:50].astype(object),
    }[kind]()
    with pool.put(array) as handle:
        assert all("read-only" in answer for answer in pool.try_to_write.broadcast(handle))
    with pool.put({"deep": [array]}) as handle:
        assert (pool[0].echo(handle)["deep"][0] == array).all()
    array[...] = array  # the caller's own can still be written


@pytest.mark.parametrize("nbytes", [*SIZES, VERY_LARGE])
def test_what_was_put_is_a_copy_made_at_that_moment(pool: ProxyPool[Archive], nbytes: int) -> None:
    array = ramp(nbytes)
    with pool.put({"a": array}) as handle:
        array[...] = -1
        check_equal(pool[0].echo(handle), {"a": ramp(nbytes)})
        check_equal(pool[1].echo([handle, 3]), [{"a": ramp(nbytes)}, 3])


@pytest.mark.parametrize("value", [5, "text", b"x" * 300_000, {"a": [1, 2]}, None, Sample("s", 1, {})], ids=type)
def test_anything_can_be_put(pool: ProxyPool[Archive], value: Any) -> None:
    with pool.put(value) as handle:
        assert pool.echo.broadcast(handle) == [value] * 2
        assert pool.echo.map([handle, 1, handle]) == [value, 1, value]


def test_what_was_put_can_be_named_often_and_anywhere(pool: ProxyPool[Archive]) -> None:
    with pool.put(ramp(400_000)) as handle:
        total = ramp(400_000).sum()
        assert pool.total([handle] * 20, map_args=True).tolist() == [total] * 20
        assert pool.total(itertools.repeat(handle, 7), map_args=True).tolist() == [total] * 7
        args, kwargs = pool[0].echo_all(handle, [handle, {"a": handle}], key=handle)
        for array in find_arrays([args, kwargs]):
            check_equal(array, ramp(400_000))
        assert len(find_arrays([args, kwargs])) == 4
        assert pool.total.submit(handle).result(60) == total
        assert list(pool.total.imap([handle] * 3)) == [total] * 3


def test_what_was_put_is_opened_once_in_a_worker(make_pool: MakePool) -> None:
    pool = make_pool(Archive, worker_count=1)
    with pool.put([1, ramp(400_000)]) as handle:
        assert [pool[0].remember_identity(handle) for _ in range(3)] == [False, True, True]


def test_one_handle_serves_several_pools(make_pool: MakePool) -> None:
    first, second = make_pool(Archive), make_pool(Archive)
    handle = first.put(ramp(400_000))
    total = ramp(400_000).sum()
    assert first.total(handle).tolist() == [total] * 2
    assert second.total(handle).tolist() == [total] * 2
    first.close()
    assert second.total(handle).tolist() == [total] * 2
    handle.close()


@pytest.mark.parametrize("nbytes", SIZES)
def test_a_handle_can_be_an_argument_of_constructors(make_pool: MakePool, pool: ProxyPool[Archive], nbytes: int) -> None:
    with pool.put(ramp(nbytes)) as handle:
        other = make_pool(Archive, init_args=(handle,), init_kwargs={"x": handle})
        assert other.sums().tolist() == [[ramp(nbytes).sum()]] * 2


@pytest.mark.parametrize("nbytes", SIZES)
def test_a_closed_handle_is_refused_in_words(pool: ProxyPool[Archive], nbytes: int) -> None:
    handle = pool.put(ramp(nbytes))
    pool.total(handle)
    handle.close()
    handle.close()
    assert handle.is_closed
    for call in (pool.total, pool[0].total, pool.total.submit):
        with pytest.raises((ValueError, ArgumentPickleError), match=r"closed|cannot be sent any more"):
            call(handle)
    with pytest.raises((ValueError, ArgumentPickleError), match=r"closed|cannot be sent any more"):
        pool.total.map([handle])
    with pool.put(3) as other:
        assert pool.echo.broadcast(other) == [3, 3]


@pytest.mark.parametrize("nbytes", SIZES)
def test_what_an_object_keeps_of_a_handle_stays_when_that_is_closed(make_pool: MakePool, nbytes: int) -> None:
    pool = make_pool(Archive)
    handle = pool.put(ramp(nbytes))
    pool.keep(handle)
    handle.close()
    for i in range(20):
        pool.total(ramp(nbytes, i))
    with pool.put(ramp(nbytes, 5)) as other:
        assert pool.total(other).tolist() == [ramp(nbytes, 5).sum()] * 2
        assert pool.sums().tolist() == [[ramp(nbytes).sum()]] * 2


def test_a_handle_is_no_pickle(pool: ProxyPool[Archive]) -> None:
    with pool.put(ramp(400_000)) as handle, pytest.raises(TypeError, match=r"pool\.put"):
        pickle.dumps(handle)


# ---- only where workers are processes; last, so that pools of one way serve all tests before -------------------------------


@pytest.mark.processes
@pytest.mark.parametrize("is_writable", [True, False])
@pytest.mark.parametrize("nbytes", SIZES)
def test_a_method_may_write_into_its_argument_and_the_caller_sees_nothing(
    pool: ProxyPool[Archive], nbytes: int, is_writable: bool
) -> None:
    array = ramp(nbytes, 1)
    array.flags.writeable = is_writable
    for _ in range(3):  # also where memory is used again
        check_equal(pool.negate.broadcast(array), [-array] * 2)
        check_equal(pool.negate.map([array] * 4), [-array] * 4)
    check_equal(array, ramp(nbytes, 1))
    assert pool[0].flags([array, {"a": (array,)}, Sample("s", array[1:], {"b": array[::2]})]) == [True] * 4


@pytest.mark.processes
@pytest.mark.parametrize("nbytes", [*SIZES, VERY_LARGE])
def test_results_are_the_callers_own(make_pool: MakePool, nbytes: int) -> None:
    pool = make_pool(Archive, init_args=(ramp(nbytes),))
    for _ in range(3):
        got = pool[0].slice_of(0, 0, nbytes)
        assert got.flags.writeable
        check_equal(got, ramp(nbytes))
        got[...] = -1
    assert pool.sums().tolist() == [[ramp(nbytes).sum()]] * 2


@pytest.mark.processes
@pytest.mark.parametrize("nbytes", SIZES)
def test_overlapping_views_are_arrays_of_their_own(pool: ProxyPool[Archive], nbytes: int) -> None:
    array = ramp(nbytes)
    first, second = array[:-10], array[10:]
    assert pool[0].add_in_place(first, second) == (first.sum() + first.size, second.sum())


@pytest.mark.processes
def test_results_stay_when_their_worker_dies_and_when_the_pool_ends(make_pool: MakePool) -> None:
    pool = make_pool(Archive)
    results = [pool[0].make(i, 400_000) for i in range(5)]
    with pytest.raises(WorkerDiedError):
        pool[0].die()
    results += [pool[0].make(i, 400_000) for i in range(5, 10)]
    pool.close()
    for i, array in enumerate(results):
        assert (array == i).all()
        array[...] = 3


@pytest.mark.processes
@pytest.mark.parametrize("nbytes", SIZES)
def test_a_replaced_worker_opens_what_was_put_again(make_pool: MakePool, nbytes: int) -> None:
    pool = make_pool(Archive)
    with pool.put(ramp(nbytes)) as handle:
        pool.keep(handle)
        for _ in range(2):
            with pytest.raises(WorkerDiedError):
                pool[0].die()
            assert pool.total(handle).tolist() == [ramp(nbytes).sum()] * 2


@pytest.mark.processes
def test_a_handle_that_is_dropped_gives_its_memory_back(make_pool: MakePool) -> None:
    pool = make_pool(Archive)
    arena = shared.program_plane().arena

    def held() -> int:
        arena.trim(0.0)
        return arena.held

    before = held()
    handle = pool.put(ramp(VERY_LARGE))
    assert pool.total(handle).tolist() == [ramp(VERY_LARGE).sum()] * 2
    assert held() - before >= VERY_LARGE
    del handle
    poll_until(lambda: pool.total(1).any() and held() <= before)

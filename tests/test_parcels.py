"""Parcels: whatever is packed comes out equal and the receiver's own, and when it is dropped its memory is back.

Lender and borrower live in one process here, wired as a pool and its worker are. The thresholds are set so low that small
values take every path: in the pickle, copied, mapped, as a piece of the stream, as the whole stream.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from objproxy import SharedMemoryFullError
from objproxy._worker import loans, parcel
from objproxy._worker.arena import Arena
from objproxy._worker.loans import TABLE_BYTES, Borrower, LoanTable, Part, unpack_parts
from objproxy._worker.parcel import Parcel, pack, unpack
from objproxy._worker.segments import RANGE, MemorySegments, NamedSegments

KINDS = [MemorySegments, NamedSegments]

#: (INLINE_MAX, MAP_MIN, _ONE_OBJECT): as they are, and so that nearly everything leaves the pickle.
AS_THEY_ARE = (parcel.INLINE_MAX, loans.MAP_MIN, parcel._ONE_OBJECT)
ALL_COPIED, ALL_MAPPED, TINY = (64, 1 << 40, 300), (64, 1, 300), (16, 256, 16)


class Passage:
    """From a lender to a borrower, as between a program and a worker."""

    def __init__(self, kind: type[Any], limit: int | None = None) -> None:
        self.segments = kind()
        self.segments.make(0, TABLE_BYTES)
        self.arena = Arena(self.segments, RANGE, limit)
        self.table = LoanTable(self.segments.map(0, TABLE_BYTES, is_shared=True))
        self.borrower = Borrower(self.segments, self.segments.map(0, TABLE_BYTES, is_shared=True))
        self.parts: list[Part] = []

    def pack(self, value: Any) -> bytes | Parcel:
        return pack(value, self.arena)

    def send(self, value: Any, *, is_frozen: bool = False) -> Any:
        packed = pack(value, self.arena, is_frozen=True) if is_frozen else self.pack(value)
        if isinstance(packed, bytes):
            self.parts = []
            return unpack(packed, [], None)
        stream = packed.stream
        self.parts = unpack_parts(b"".join(part.packed() for part in packed.lend(self.table)))
        del packed  # the lender forgets it when it is sent
        return unpack(stream, self.parts, self.borrower)

    def check_that_all_is_back(self) -> None:
        assert self.arena.trim(0.0) == 0
        assert self.arena.held == 0
        assert self.borrower.live == {}
        assert not any(memoryview(self.borrower._words))


@contextlib.contextmanager
def open_passage(kind: type[Any], thresholds: tuple[int, int, int] = AS_THEY_ARE, **options: Any) -> Iterator[Passage]:
    with pytest.MonkeyPatch.context() as patch:
        for (module, name), value in zip(
            [(parcel, "INLINE_MAX"), (loans, "MAP_MIN"), (parcel, "_ONE_OBJECT")], thresholds, strict=True
        ):
            patch.setattr(module, name, value)
        passage = Passage(kind, **options)
        try:
            yield passage
        finally:
            passage.segments.close()


@pytest.fixture(params=KINDS, ids=["memory", "named"])
def passage(request: pytest.FixtureRequest) -> Iterator[Passage]:
    with open_passage(request.param) as made:
        yield made


# ---- values ---------------------------------------------------------------------------------------------------------------


class Matrix(np.ndarray):
    """A subclass, which NumPy pickles in its own way."""


class Buffered:
    """Gives its bytes out of band, as tables and columns of other libraries do."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, _protocol: Any) -> Any:
        return Buffered, (pickle.PickleBuffer(self.data),)


@dataclasses.dataclass
class Record:
    name: str
    body: Any


class Unbuildable:
    """Raises when it is unpickled."""

    def __reduce__(self) -> Any:
        return _raise, ()


def _raise() -> None:
    raise LookupError("cannot be rebuilt")


PAIR = np.dtype([("a", "<i4"), ("b", ">f8", (2,)), ("c", "S3")])
DTYPES = [
    *("?", "i1", "u2", "<i4", ">i4", "<i8", "f2", "<f4", ">f8", "<f8", "c8", ">c16", "g"),
    *("<U3", ">U2", "S5", "V6", "M8[ns]", ">M8[D]", "m8[s]", PAIR, np.dtype([("x", "i1"), ("y", PAIR)], align=True)),
]
LAYOUTS = ["C", "F", "reversed", "strided", "permuted", "inner", "broadcast"]


def fill(shape: tuple[int, ...], dtype: Any, salt: int) -> np.ndarray:
    """Return an array in which neighbours differ."""
    dtype = np.dtype(dtype)
    if dtype.names:
        made = np.zeros(shape, dtype)
        for number, name in enumerate(dtype.names):
            made[name] = fill(made[name].shape, made[name].dtype, salt + number)
        return made
    numbers = (np.arange(int(np.prod(shape)), dtype="i8") * 37 + salt) % 101
    return (numbers.astype("S6").view(dtype) if dtype.kind == "V" else numbers.astype(dtype)).reshape(shape)


def lay_out(shape: tuple[int, ...], dtype: Any, layout: str, salt: int) -> np.ndarray:
    """Return an array of a shape whose memory looks as `layout` says."""
    if layout == "F":
        return np.array(fill(shape, dtype, salt), order="F")
    if layout == "C" or not shape:
        return fill(shape, dtype, salt)
    if layout == "broadcast":
        return np.broadcast_to(fill((1, *shape[1:]), dtype, salt), shape)
    if layout == "permuted":
        return fill(shape[1:] + shape[:1], dtype, salt).transpose((len(shape) - 1, *range(len(shape) - 1)))
    if layout == "strided":
        return fill(tuple(2 * n for n in shape), dtype, salt)[tuple(slice(None, None, 2) for _ in shape)]
    if layout == "inner":
        return fill(tuple(n + 2 for n in shape), dtype, salt)[tuple(slice(1, -1) for _ in shape)]
    return fill(shape, dtype, salt)[tuple(slice(None, None, -1) for _ in shape)]


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    shape = tuple(draw(st.lists(st.integers(0, 7) | st.just(40), max_size=5)))
    assume(np.prod(shape) <= 3000)
    made = lay_out(shape, draw(st.sampled_from(DTYPES)), draw(st.sampled_from(LAYOUTS)), draw(st.integers(0, 100)))
    if made.flags.writeable and draw(st.booleans()):
        made.flags.writeable = False
    return made


blobs = st.builds(
    lambda kind, size: kind(size),
    st.sampled_from([lambda n: b"\0x" * n, lambda n: bytearray(b"ab") * n, lambda n: "aé€" * n, lambda n: "z" * n]),
    st.sampled_from([0, 1, 9, 40, 200, 40_000, 140_000]),
)
leaves = (
    arrays() | blobs | st.builds(Buffered, st.builds(bytearray, st.sampled_from([0, 20, 5000]))) | st.integers() | st.none()
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.builds(Record, st.text(max_size=5), inner)
    ),
    max_leaves=8,
)


def check_same(got: Any, sent: Any) -> None:
    """Check that a value has arrived: equal in all that one can ask of it, and the receiver's to write."""
    assert type(got) is type(sent)
    if isinstance(sent, np.ndarray):
        check_same_array(got, sent)
    elif isinstance(sent, (list, tuple)):
        assert len(got) == len(sent)
        for one, other in zip(got, sent, strict=True):
            check_same(one, other)
    elif isinstance(sent, dict):
        assert list(got) == list(sent)
        for key in sent:
            check_same(got[key], sent[key])
    elif isinstance(sent, Record):
        assert got.name == sent.name
        check_same(got.body, sent.body)
    elif isinstance(sent, Buffered):
        assert bytes(got.data) == bytes(sent.data)
    else:
        assert got == sent


def check_same_array(got: np.ndarray, sent: np.ndarray) -> None:
    assert got.dtype == sent.dtype, f"{sent.dtype} of strides {sent.strides} has become {got.dtype}"
    assert got.shape == sent.shape
    np.testing.assert_array_equal(got, sent)
    if sent.flags.c_contiguous:
        assert got.flags.c_contiguous
    elif sent.flags.f_contiguous:
        assert got.flags.f_contiguous
    assert got.flags.writeable
    assert not np.may_share_memory(got, sent)
    before = sent.copy()
    got[...] = np.zeros((), got.dtype)
    np.testing.assert_array_equal(sent, before)


# ---- properties -----------------------------------------------------------------------------------------------------------

settle = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


@pytest.mark.parametrize("thresholds", [TINY, ALL_COPIED, ALL_MAPPED, AS_THEY_ARE], ids=["tiny", "copied", "mapped", "real"])
@pytest.mark.parametrize("kind", KINDS)
@settings(settle, max_examples=60)
@given(value=values)
@example(value=[np.broadcast_to(np.float64(3), (50, 50)), b"x" * 200_000, fill((300, 300), "f8", 1)])
@example(value={"a": bytearray(200_000), "b": [fill((9,) * 5, ">f8", 2)[::2]], "c": "é" * 100_000})
def test_a_value_arrives_equal_and_its_memory_comes_back(kind: type[Any], thresholds: tuple[int, int, int], value: Any) -> None:
    with open_passage(kind, thresholds) as passage:
        got = passage.send([value, "end"])
        assert got[1] == "end"
        check_same(got[0], value)
        del got
        passage.check_that_all_is_back()


@pytest.mark.parametrize("kind", KINDS)
@settings(settle, max_examples=60)
@given(value=arrays(), thresholds=st.sampled_from([TINY, ALL_COPIED, ALL_MAPPED, AS_THEY_ARE]))
def test_a_frozen_value_arrives_equal_and_read_only(kind: type[Any], thresholds: tuple[int, int, int], value: Any) -> None:
    with open_passage(kind, thresholds) as passage:
        got = passage.send({"deep": [value]}, is_frozen=True)["deep"][0]
        assert (got.dtype, got.shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(got, value)
        assert not got.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            got.flags.writeable = True
        del got
        passage.check_that_all_is_back()


@pytest.mark.parametrize("thresholds", [TINY, ALL_MAPPED, AS_THEY_ARE], ids=["tiny", "mapped", "real"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("nbytes", [1 << 10, (1 << 16) - 8, 1 << 16, (1 << 16) + 8, 1 << 17, (1 << 18) - 8, 1 << 18, 1 << 20])
def test_arrays_around_every_threshold(
    passage: Passage, nbytes: int, order: Any, thresholds: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parcel, "INLINE_MAX", thresholds[0])
    monkeypatch.setattr(loans, "MAP_MIN", thresholds[1])
    for is_writable in (True, False):
        sent = np.array(fill((nbytes // 16, 2), "f8", 5), order=order)
        sent.flags.writeable = is_writable
        got = passage.send(sent)
        assert (got.flags.c_contiguous, got.flags.f_contiguous) == (sent.flags.c_contiguous, sent.flags.f_contiguous)
        check_same(got, sent)
        if not thresholds[0] - 500 < nbytes <= thresholds[0]:  # the rest of the pickle counts too
            assert bool(passage.parts) == (nbytes > thresholds[0])
        del got
        passage.check_that_all_is_back()


# ---- kinds of arrays ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_items", [10, 20_000, 200_000])
def test_subclasses_keep_their_type(passage: Passage, n_items: int) -> None:
    sent = fill((n_items,), "f8", 1).view(Matrix)
    got = passage.send([sent])[0]
    check_same(got, sent)


@pytest.mark.parametrize("n_items", [10, 20_000, 200_000])
def test_a_masked_array_keeps_its_mask(passage: Passage, n_items: int) -> None:
    sent = np.ma.masked_array(fill((n_items,), "f8", 1), mask=np.arange(n_items) % 3 == 0, fill_value=-5)
    got = passage.send(sent)
    np.testing.assert_array_equal(got.mask, sent.mask)
    np.testing.assert_array_equal(got.compressed(), sent.compressed())
    assert got.fill_value == -5
    got[0] = 4
    assert not got.mask[0]
    assert sent.mask[0]


@pytest.mark.parametrize("n_items", [10, 20_000])
def test_arrays_of_objects_hold_equal_objects(passage: Passage, n_items: int) -> None:
    sent = np.array([("text", i) for i in range(n_items)] + [None], dtype=object)
    got = passage.send({"a": sent})["a"]
    assert got.dtype == object
    assert got.tolist() == sent.tolist()
    got[0] = 1
    assert sent[0] == ("text", 0)


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
@pytest.mark.parametrize("n_items", [10, 100_000])
def test_a_mapped_file_arrives_as_a_copy(passage: Passage, tmp_path: Path, mode: Any, n_items: int) -> None:
    fill((n_items,), "<i4", 3).tofile(tmp_path / "data")
    sent = np.memmap(tmp_path / "data", "<i4", mode=mode)
    got = passage.send(sent)
    np.testing.assert_array_equal(got, sent)
    got[...] = 0
    np.testing.assert_array_equal(np.fromfile(tmp_path / "data", "<i4"), fill((n_items,), "<i4", 3))


@pytest.mark.parametrize("size", [100, 100_000, 1_000_000])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_buffers_of_other_classes_leave_the_pickle(passage: Passage, size: int, kind: type[Any]) -> None:
    sent = Buffered(kind(fill((size,), "u1", 7).tobytes()))
    got = passage.send([sent, sent])
    assert bytes(got[0].data) == bytes(sent.data)
    assert got[0] is got[1]
    assert len(passage.parts) == (1 if size > parcel.INLINE_MAX else 0)


@pytest.mark.parametrize("size", [10, 80_000, 140_000, 5_000_000])
@pytest.mark.parametrize(
    "make", [lambda n: b"ab" * n, lambda n: bytearray(b"ab") * n, lambda n: "aü" * n], ids=["bytes", "bytearray", "str"]
)
def test_large_bytes_and_texts_at_any_depth(passage: Passage, make: Any, size: int) -> None:
    sent = make(size)
    for value in (sent, [sent], {"k": (1, sent, np.arange(9), make(size + 1))}, Record("r", [[sent], sent])):
        check_same(passage.send(value), value)
    passage.check_that_all_is_back()


# ---- streams --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_before", [65_400, 65_500, 65_519, 65_520, 65_521, 65_522, 65_523, 65_524, 65_525, 65_530])
def test_the_largest_frame_a_pickler_writes_is_taken_apart_rightly(passage: Passage, n_before: int) -> None:
    """A frame is closed when it has 64 KiB, and one object of nearly as much may be its last: then it is over 128 KiB."""
    value = [
        "a" * n_before,
        "b" * 65_535,
        "c" * 300_000,
        fill((40_000,), "f8", 1),
        b"d" * 65_535,
        b"e" * 65_535,
        b"f" * 400_000,
    ]
    check_same(passage.send(value), value)
    passage.check_that_all_is_back()


@pytest.mark.parametrize("step", [61, 4096, 100_000, 1 << 20, -1])
@pytest.mark.parametrize("by_read", [True, False], ids=["read", "readinto"])
def test_the_stream_gives_as_much_as_is_asked_for(passage: Passage, step: int, by_read: bool) -> None:
    """An unpickler may take a large object in steps, as that of Python 3.15 does, and a step may reach into what is next."""
    texts = [b"a" * 1000, "b" * 200_000, bytearray(b"c" * 140_000), "d", b"e" * (3_000_000 if step > 4096 else 0)]
    value = [types.SimpleNamespace(text=text) for text in texts]  # of objects texts are not written first
    packed = passage.pack(value)
    assert isinstance(packed, Parcel)
    parts = unpack_parts(b"".join(part.packed() for part in packed.lend(passage.table)))
    stream = parcel._PiecedStream(packed.stream, parts, passage.borrower)
    del packed
    read = b"".join(_pieces_of(stream, step, by_read=by_read))
    assert pickle.loads(read) == value
    assert (stream.read(5), stream.readinto(bytearray(5)), parts) == (b"", 0, [])
    passage.check_that_all_is_back()


def _pieces_of(stream: Any, step: int, *, by_read: bool) -> Iterator[bytes]:
    """Read a stream to its end."""
    if by_read:
        yield from iter(lambda: stream.read(step), b"")
        return
    buffer = bytearray(step if step > 0 else 10_000_000)
    while n_read := stream.readinto(buffer):
        yield bytes(buffer[:n_read])


def test_a_piece_that_was_read_in_part_is_given_back_once(passage: Passage) -> None:
    packed = passage.pack(["a" * 300_000, "b" * 300_000])
    assert isinstance(packed, Parcel)
    parts = unpack_parts(b"".join(part.packed() for part in packed.lend(passage.table)))
    slots: list[int] = []
    give_back = passage.borrower.give_back
    passage.borrower.give_back = lambda slot: (slots.append(slot), give_back(slot))[1]  # type: ignore[method-assign]
    stream = packed.stream[:-1] + b"?"  # no opcode
    del packed
    with pytest.raises(pickle.UnpicklingError):
        unpack(stream, parts, passage.borrower)
    assert sorted(slots) == sorted(part.slot for part in parts)
    passage.check_that_all_is_back()


def test_a_long_pickle_without_large_objects_travels_as_a_whole(passage: Passage) -> None:
    value = [(i, str(i)) for i in range(50_000)]
    assert passage.send(value) == value
    assert [part.position for part in passage.parts] == [loans.WHOLE]
    passage.check_that_all_is_back()


def test_a_long_pickle_with_a_large_array_travels_whole_and_beside(passage: Passage) -> None:
    value = [[(i, str(i)) for i in range(50_000)], fill((100_000,), "f8", 0)]
    check_same(passage.send(value), value)
    assert {part.position for part in passage.parts} == {loans.WHOLE, loans.BESIDE}
    passage.check_that_all_is_back()


@pytest.mark.parametrize("n_more", [-1, 0, 1, 500])
def test_more_buffers_than_one_message_may_have(passage: Passage, n_more: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel, "INLINE_MAX", 256)
    if isinstance(passage.segments, NamedSegments):  # a file for each is slow
        monkeypatch.setattr(parcel, "MAX_BUFFERS", 100)
    value = [fill((100,), "<i4", i) for i in range(parcel.MAX_BUFFERS + n_more)]
    got = passage.send(value)
    assert sum(part.position == loans.BESIDE for part in passage.parts) == min(len(value), parcel.MAX_BUFFERS)
    for one, other in zip(got, value, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.flags.writeable
    del got, one
    passage.check_that_all_is_back()


def test_more_large_texts_than_one_message_may_have(passage: Passage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel, "_ONE_OBJECT", 1 << 10)
    monkeypatch.setattr(parcel, "MAX_BUFFERS", 16)
    value = [b"%05d" % i * 14_000 for i in range(100)]
    assert passage.send(value) == value
    assert len(passage.parts) <= 33
    passage.check_that_all_is_back()


def test_one_array_named_twice_arrives_as_one(passage: Passage) -> None:
    array = fill((100_000,), "f8", 0)
    first, second = passage.send((array, array))
    assert first is second
    assert len(passage.parts) == 1


def test_overlapping_views_arrive_as_arrays_of_their_own(passage: Passage) -> None:
    array = fill((100_000,), "f8", 0)
    first, second = passage.send((array[:80_000], array[20_000:]))
    np.testing.assert_array_equal(first, array[:80_000])
    np.testing.assert_array_equal(second, array[20_000:])
    first[...] = -1
    np.testing.assert_array_equal(second, array[20_000:])


# ---- memory ---------------------------------------------------------------------------------------------------------------


def test_a_segment_is_used_again_when_its_array_is_gone_and_not_before(passage: Passage) -> None:
    array = fill((100_000,), "f8", 0)
    kept = passage.send(array)[50:60]  # a small view of a large array
    first = passage.parts
    other = passage.send(array + 1)
    assert passage.parts[0].offset != first[0].offset
    np.testing.assert_array_equal(kept, array[50:60])
    del kept
    again = passage.send(array + 2)
    assert passage.parts[0].offset == first[0].offset
    np.testing.assert_array_equal(other, array + 1)
    np.testing.assert_array_equal(again, array + 2)


def test_an_unpickling_that_raises_gives_every_loan_back(passage: Passage) -> None:
    large = fill((100_000,), "f8", 0), fill((20_000,), "f8", 0), b"x" * 300_000, bytearray(300_000)
    for value in ([Unbuildable(), *large], [*large, Unbuildable()], [large[0], large[2], Unbuildable(), large[1], large[3]]):
        with pytest.raises(LookupError, match="cannot be rebuilt"):
            passage.send(value)
        assert len(passage.parts) == 4
        passage.check_that_all_is_back()


def test_a_pickling_that_raises_keeps_no_memory(passage: Passage) -> None:
    with pytest.raises(TypeError, match="generator"):
        passage.send([fill((100_000,), "f8", 0), b"x" * 300_000, (i for i in range(3))])
    passage.check_that_all_is_back()


def test_a_value_that_does_not_fit_keeps_no_memory() -> None:
    with open_passage(MemorySegments, limit=1 << 20) as passage:
        with pytest.raises(SharedMemoryFullError):
            passage.send([fill((100_000,), "f8", 0), fill((100_000,), "f8", 1)])
        passage.check_that_all_is_back()
        check_same(passage.send(fill((100_000,), "f8", 0)), fill((100_000,), "f8", 0))


def test_what_cannot_be_mapped_is_copied(passage: Passage, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = fill((100_000,), "f8", 0)
    real_map = passage.segments.map

    def map_shared_only(offset: int, nbytes: int, *, is_shared: bool, is_full: bool = False) -> Any:
        if not is_shared:
            raise OSError(12, "Cannot allocate memory")
        return real_map(offset, nbytes, is_shared=is_shared, is_full=is_full)

    monkeypatch.setattr(passage.segments, "map", map_shared_only)
    got = passage.send(sent)
    assert passage.borrower.live == {}
    passage.check_that_all_is_back()
    check_same(got, sent)


def test_a_parcel_can_be_lent_to_several(passage: Passage) -> None:
    """A broadcast fills memory once; it is free when the last receiver is done."""
    sent = fill((100_000,), "f8", 0)
    packed = passage.pack(sent)
    assert isinstance(packed, Parcel)
    got = [unpack(packed.stream, packed.lend(passage.table), passage.borrower) for _ in range(3)]
    stream = packed.stream
    assert stream
    del packed
    got[0][...] = 7
    np.testing.assert_array_equal(got[2], sent)
    held = passage.arena.held
    del got[1:]
    passage.arena.trim(0.0)
    assert passage.arena.held == held
    got.clear()
    passage.check_that_all_is_back()


# ---- by value -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_items", [3, 100_000])
@pytest.mark.parametrize("text", ["", "t" * 200_000])
def test_what_lives_in_main_goes_by_value(passage: Passage, monkeypatch: pytest.MonkeyPatch, n_items: int, text: str) -> None:
    class Point:
        def __init__(self, array: Any) -> None:
            self.array = array

    Point.__module__, Point.__qualname__ = "__main__", "Point"
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "Point", Point, raising=False)
    packed = passage.pack((Point(fill((n_items,), "f8", 1)), text))
    monkeypatch.delattr(main, "Point")  # by name it could not be found any more
    parts = [] if isinstance(packed, bytes) else packed.lend(passage.table)
    got, got_text = unpack(packed if isinstance(packed, bytes) else packed.stream, parts, passage.borrower)
    np.testing.assert_array_equal(got.array, fill((n_items,), "f8", 1))
    assert got_text == text


def test_functions_without_a_name_go_by_value_with_their_arrays(passage: Passage) -> None:
    array = fill((100_000,), "f8", 1)
    got = passage.send({"f": lambda i: array[i], "array": array})
    assert got["f"](77) == array[77]
    np.testing.assert_array_equal(got["array"], array)
    del got


def test_without_an_arena_everything_stays_in_the_pickle() -> None:
    value = [fill((100_000,), "f8", 1), b"x" * 300_000, np.broadcast_to(np.float64(3), (500, 500))]
    packed = pack(value, None)
    assert isinstance(packed, bytes)
    check_same(unpack(packed, [], None), value)

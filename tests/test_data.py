"""What people have arrives as what it was, with its memory beside the pickle."""

from __future__ import annotations

import gc
import pickle
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import data_targets
from data_targets import DATA, Echo, N, Receiver, Signal, Unannounced, make_signal
from objproxy import ProxyPool, register_buffers
from objproxy._worker import arrow, reducers, texts
from objproxy._worker.parcel import Packing, Parcel, pack_in_one_way
from objproxy._worker.segments import MemorySegments
from objproxy.results import stack
from optional import need
from test_parcels import Passage, open_passage

pytestmark = pytest.mark.filterwarnings("ignore:Sparse", "ignore:TypedStorage")

ALL = [(library, name) for library in DATA for name in DATA[library]]


@pytest.fixture
def passage() -> Iterator[Passage]:
    with open_passage(MemorySegments) as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def polars_has_its_descriptors() -> None:
    """It opens some when it first makes or reads a table, and keeps them."""
    if "polars" in data_targets.LIBRARIES:
        pickle.loads(pickle.dumps(data_targets.make("polars", "frame")))


@pytest.fixture(scope="module")
def pool() -> Iterator[Any]:
    with ProxyPool(Echo, worker_count=1) as made:
        yield made


@pytest.fixture(autouse=True)
def registry_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reducers, "_registered", dict(reducers._registered))
    monkeypatch.setattr(reducers, "_kept", None)


def check_same(got: Any, sent: Any) -> None:
    assert type(got) is type(sent)
    library = type(sent).__module__.partition(".")[0]
    {"torch": _check_tensor, "polars": _check_table, "PIL": _check_image}.get(library, _check_array)(got, sent)


def _check_array(got: Any, sent: Any) -> None:
    assert (got.dtype, got.shape) == (sent.dtype, sent.shape)
    if sent.flags.f_contiguous:
        assert got.flags.f_contiguous
    np.testing.assert_array_equal(np.ma.getdata(got), np.ma.getdata(sent))
    if isinstance(sent, np.ma.MaskedArray):
        assert (got.mask is np.ma.nomask) == (sent.mask is np.ma.nomask)
        np.testing.assert_array_equal(got.mask, sent.mask)
        assert got.hardmask == sent.hardmask
        assert got.fill_value == sent.fill_value
    for attribute in ("unit", "label", "wrap_angle"):
        if attribute != "label" or isinstance(sent, data_targets.Remembering):
            assert getattr(got, attribute, None) == getattr(sent, attribute, None)
    got[0] = got[1]  # it is the receiver's to write


def _check_tensor(got: Any, sent: Any) -> None:
    import torch

    assert (got.dtype, got.shape, got.layout, got.requires_grad) == (sent.dtype, sent.shape, sent.layout, sent.requires_grad)
    assert torch.equal(got.to_dense() if got.layout is not torch.strided else got, sent.to_dense() if sent.is_sparse else sent)
    if got.ndim and len(got) > 1 and got.layout is torch.strided and got.stride(0) and not got.requires_grad:
        got[0] = got[1]


def _check_table(got: Any, sent: Any) -> None:
    assert got.equals(sent, null_equal=True)
    if hasattr(sent, "schema"):
        assert got.schema == sent.schema
        if got.height:
            got[0, "number"] = 99
            assert got["number"][0] == 99
            assert sent["number"][0] != 99
    else:
        assert (got.name, got.dtype) == (sent.name, sent.dtype)


def _check_image(got: Any, sent: Any) -> None:
    assert (got.mode, got.size, got.info, got.getpalette()) == (sent.mode, sent.size, sent.info, sent.getpalette())
    pixels = sent.tobytes()
    assert got.tobytes() == pixels
    colour = (5,) * len(sent.getbands()) if len(sent.getbands()) > 1 else 5
    got.putpixel((0, 0), colour)
    assert got.getpixel((0, 0)) == colour
    assert sent.tobytes() == pixels


@pytest.mark.parametrize(("library", "name"), ALL)
def test_it_arrives_as_it_was_in_any_container(library: str, name: str, passage: Passage) -> None:
    need(library)
    sent = data_targets.make(library, name)
    one, (two, _) = passage.send([sent, (sent, {"other": lambda: sent})])
    assert one is two
    check_same(one, sent)
    del one, two, _
    gc.collect()
    passage.check_that_all_is_back()
    assert not arrow._given


LARGE = [
    *[(library, name) for library, name in ALL if name not in ("remembering", "expanded", "empty", "scalar", "empty frame")],
]


@pytest.mark.parametrize(("library", "name"), [pair for pair in LARGE if pair != ("PIL", "image 1")])
def test_its_memory_does_not_go_through_the_pickle(library: str, name: str, passage: Passage) -> None:
    need(library)
    if name in ("image LA", "sparse"):
        pytest.skip("it has a way of its own, or is small")
    packed = passage.pack(data_targets.make(library, name))
    assert isinstance(packed, Parcel)
    assert len(packed.stream) < 100_000


@pytest.mark.parametrize("library", ["numpy", "torch", "polars", "PIL"])
def test_arguments_and_results_cross_as_they_are(library: str, pool: Any) -> None:
    need(library)
    for name in DATA[library]:
        made = data_targets.make(library, name)
        check_same(pool[0].back(made), made)
    names = list(DATA[library])[:2]
    results = pool.make.map([library] * 2, names)
    for name, result in zip(names, results, strict=True):
        check_same(result, data_targets.make(library, name))
    for result in pool[0].stream(library, names[0], 2):
        check_same(result, data_targets.make(library, names[0]))


@pytest.mark.parametrize("library", DATA)
def test_constructors_and_put_take_it(library: str) -> None:
    need(library)
    made = data_targets.make(library, next(iter(DATA[library])))
    with ProxyPool(Echo, init_args=(made,), worker_count=1) as pool, pool.put(made) as handle:
        check_same(pool[0].own(), made)
        check_same(pool[0].back(handle), made)
        check_same(pool[0].back([made])[0], made)


def test_no_library_is_loaded_for_it(pool: Any) -> None:
    with ProxyPool(data_targets.Echo, worker_count=1) as fresh:
        fresh.back(["text" * N, b"x" * N, np.ones(N)])
        assert fresh[0].loaded(["torch", "polars", "PIL", "astropy"]) == []


# ---- tensors ---------------------------------------------------------------------------------------------------------------


def test_a_small_view_leaves_its_storage_behind(passage: Passage) -> None:
    torch = need("torch")
    large = torch.ones(1_000_000)
    packed = passage.pack([large[:10], large[::1000], torch.nn.Parameter(large[5:9])])
    assert isinstance(packed, bytes)
    assert len(packed) < 10_000


def test_a_module_keeps_what_its_parameters_share(passage: Passage) -> None:
    torch = need("torch")
    first, second = torch.nn.Linear(200, 200), torch.nn.Linear(200, 200)
    second.weight = first.weight
    got = passage.send(torch.nn.Sequential(first, second))
    assert got[0].weight is got[1].weight
    assert torch.equal(got[1].bias, second.bias)


def test_same_shape_tensors_are_stacked(pool: Any) -> None:
    torch = need("torch")
    tensors = [torch.full((2, 3), float(i)) for i in range(4)]
    stacked = pool.back(tensors, map_args=True)
    assert type(stacked) is torch.Tensor
    assert all(torch.equal(stacked[i], tensor) for i, tensor in enumerate(tensors))
    assert stack([torch.tensor(i) for i in range(3)]).tolist() == [0, 1, 2]
    assert stack([(torch.ones(2), torch.zeros(2))] * 3).shape == (3, 2, 2)


def test_other_tensors_stay_what_they_are() -> None:
    torch = need("torch")
    ones = torch.ones(2)
    for results in ([ones, torch.ones(3)], [ones, ones.int()], [torch.nn.Parameter(ones)] * 2, [ones, np.ones(2)], [ones, 1]):
        stacked = stack(results)
        assert stacked.dtype == object
        assert all(got is sent for got, sent in zip(stacked, results, strict=True))


def test_subclasses_of_arrays_are_not_stacked() -> None:
    for kind in ("masked", "matrix", "records", "labelled"):
        results = [data_targets.make("numpy", kind)] * 2
        assert all(got is sent for got, sent in zip(stack(results), results, strict=True))


# ---- text ------------------------------------------------------------------------------------------------------------------

LETTERS = ("x", "é", "Ж", "𝄞", "\ud800\udc00", b"x", bytearray(1))
TEXTS = [letter * 200_000 for letter in LETTERS]


@pytest.mark.parametrize("has_functions", [True, False], ids=["CPython", "elsewhere"])
@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text[:1]))
def test_large_text_arrives(text: Any, has_functions: bool, passage: Passage, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_functions:
        monkeypatch.setattr(texts, "_functions", None)
    got, (again, other, _) = passage.send([text, ({"text": text}["text"], text[1:], lambda: 0)])
    assert type(got) is type(text)
    assert got is again
    assert got == text
    assert other == text[1:]
    if type(got) is bytearray:
        got += b"more"
        got[0] = 7
        assert len(got) == len(text) + 4
    else:
        assert {got: 1}[text] == 1


def test_text_is_found_beside_what_holds_itself(passage: Passage) -> None:
    loop: list[Any] = ["x" * 200_000]
    loop.append(loop)
    got = passage.send(loop)
    assert got[1] is got
    assert got[0] == loop[0]


def test_text_that_is_not_found_arrives_too(passage: Passage) -> None:
    deep: Any = "x" * 200_000
    for _ in range(20):
        deep = [deep, Signal]
    assert passage.send(deep) == deep
    many = ["y" * 200_000, *map(str, range(5000))]
    assert passage.send(many) == many


# ---- the registry ----------------------------------------------------------------------------------------------------------


def test_a_registered_type_has_its_memory_beside_the_pickle(passage: Passage) -> None:
    packed = passage.pack([Signal(np.arange(N * 1.0))])
    assert isinstance(packed, Parcel)
    (got,) = passage.send([Signal(np.arange(N * 1.0))])
    assert got.way == "registered"
    got.samples[0] = 3


@pytest.mark.parametrize("method", ["forkserver", "fork", "spawn"])
@pytest.mark.parametrize("kind", [Signal, Unannounced])
def test_what_is_registered_holds_in_workers(method: str, kind: type[Signal]) -> None:
    """`Unannounced` is registered here alone, with a function that goes by value; the pool tells its workers."""
    if kind is Unannounced:
        register_buffers(Unannounced, lambda signal: (_make_unannounced, (pickle.PickleBuffer(signal.samples),)))
    with ProxyPool(Receiver, worker_count=1, start_method=method) as pool:
        way, got = pool[0].receive(kind(np.arange(N * 1.0)))
        assert (way, got.way, got.samples[-1]) == ("registered", "registered", N)
        assert pool[0].send(kind).way == "registered"
        items = pool.receive([kind(np.ones(3)) for _ in range(4)], map_args=True, stack_results=False)
        assert [(way, got.way) for way, got in items] == [("registered", "registered")] * 4


def _make_unannounced(memory: Any) -> Any:
    return Unannounced(np.frombuffer(memory), "registered")


def test_a_type_that_only_its_reducer_can_pickle_may_be_raised() -> None:
    with ProxyPool(_Failing, worker_count=1) as pool, pytest.raises(LookupError) as caught:
        pool[0].fail()
    assert caught.value.args[0].way == "registered"


class _Locked(Signal):
    """Cannot be pickled without its reducer."""

    def __reduce__(self) -> Any:
        raise TypeError("no")


class _Failing:
    def fail(self) -> None:
        register_buffers(_Locked, lambda locked: (make_signal, (pickle.PickleBuffer(locked.samples),)))
        raise LookupError(_Locked(np.ones(3)))


def test_registering_again_replaces() -> None:
    register_buffers(Signal, lambda signal: (Signal, (signal.samples, "again")))
    with open_passage(MemorySegments) as passage:
        assert passage.send(Signal(np.ones(3))).way == "again"


@pytest.mark.parametrize(
    ("kind", "reduce", "message"), [(3, len, "expected a type"), (str, len, "own way"), (type, len, "own way")]
)
def test_what_cannot_be_registered_is_refused(kind: Any, reduce: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        register_buffers(kind, reduce)
    with pytest.raises(TypeError, match="expected a function"):
        register_buffers(Signal, 3)  # type: ignore[arg-type]


def test_copyreg_comes_before_what_is_known_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    import copyreg

    monkeypatch.setitem(copyreg.dispatch_table, np.matrix, lambda _matrix: (str, ("mine",)))
    reducers._known.clear()
    with open_passage(MemorySegments) as passage:
        assert passage.send(np.ones((1, 1)).view(np.matrix)) == "mine"
        assert passage.send([np.ones((1, 1)).view(np.matrix), lambda: 0])[0] == "mine"
    reducers._known.clear()
    assert sys.modules["copyreg"] is copyreg


def test_no_class_is_kept_alive_by_what_is_known_of_its_type(passage: Passage) -> None:
    kind = type("Passing", (Signal,), {})
    passage.send([kind(np.ones(3)), lambda: 0])
    with pytest.raises(pickle.PicklingError):  # it has no name
        pack_in_one_way([kind(1)], None, Packing([], is_frozen=False), by_value=False)
    assert kind not in reducers.usual_reducers()

"""Objects with much memory, of many libraries, and what workers do with them."""

from __future__ import annotations

import functools
import importlib.util
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from objproxy import register_buffers

#: Of numbers: more than the size from which memory leaves the pickle.
N = 70_000
N_ROWS = 16_000


def _torch(make: Callable[[Any], Any]) -> Callable[[], Any]:
    def call() -> Any:
        import torch

        return make(torch)

    return call


@functools.cache
def _frame() -> Any:
    import datetime

    import polars as pl

    data = {
        "number": np.arange(N_ROWS),
        "some": [None if i % 7 == 0 else i / 2 for i in range(N_ROWS)],
        "text": [f"row {i} " * (i % 4) for i in range(N_ROWS)],
        "flag": [i % 3 == 0 for i in range(N_ROWS)],
        "list": [[i, i + 1] for i in range(N_ROWS)],
    }
    day = pl.lit(datetime.datetime(2020, 2, 3, 4)).dt.replace_time_zone("Europe/Vienna")
    kind = pl.Series(["a", "b"] * (N_ROWS // 2), dtype=pl.Enum(["b", "a"]))
    return pl.DataFrame(data).with_columns(day=day, kind=kind, group=pl.col("text").cast(pl.Categorical))


def _quantity(unit: str, kind: str = "Quantity") -> Callable[[], Any]:
    def call() -> Any:
        from astropy import coordinates, units

        return (getattr(units, kind, None) or getattr(coordinates, kind))(np.arange(N) % 360.0, unit)

    return call


def _image(mode: str) -> Callable[[], Any]:
    def call() -> Any:
        from PIL import Image

        image = Image.fromarray(np.arange(300 * 400 * 3, dtype="u1").reshape(300, 400, 3)).convert("L").convert(mode)
        image.info["dpi"] = (72, 72)
        return image

    return call


def _png() -> Any:
    from PIL import Image

    file = io.BytesIO()
    _image("RGB")().save(file, "PNG")
    return Image.open(file)


class Labelled(np.ndarray):
    """Leaves pickling to ``ndarray``."""

    def __array_finalize__(self, other: Any) -> None:
        self.label = getattr(other, "label", "none")


class Remembering(np.ndarray):
    """Pickles its label too, as NumPy's documentation shows."""

    def __array_finalize__(self, other: Any) -> None:
        self.label = getattr(other, "label", "none")

    def __reduce__(self) -> Any:
        make, args, state = super().__reduce__()  # type: ignore[misc]
        return make, args, (*state, self.label)

    def __setstate__(self, state: Any) -> None:
        self.label = state[-1]
        super().__setstate__(state[:-1])


def _remembering() -> Any:
    made = np.arange(N * 1.0).view(Remembering)
    made.label = "mine"
    return made


def _masked(**options: Any) -> Any:
    return np.ma.masked_array(np.arange(N * 1.0), np.arange(N) % 2 == 0, **options)


def _records() -> Any:
    made = np.rec.array(np.zeros(N, [("a", "f8"), ("b", "i4")]))
    made.b = np.arange(N)
    return made


#: What to make, by the library that it needs.
DATA: dict[str, dict[str, Callable[[], Any]]] = {
    "numpy": {
        "matrix": lambda: np.arange(N * 2.0).reshape(N, 2).view(np.matrix).T,
        "records": _records,
        "masked": _masked,
        "masked, hard, with a fill value": lambda: _masked(hard_mask=True, fill_value=7.0),
        "masked, no mask": lambda: np.ma.masked_array(np.arange(N * 1.0)),
        "masked, strided": lambda: _masked()[::2],
        "masked records": lambda: np.ma.masked_array(np.zeros(N, [("a", "f8"), ("b", "i4")]), mask=[(0, 1)] * N),
        "labelled": lambda: np.arange(N * 1.0).reshape(2, N // 2).T.view(Labelled),
        "labelled dates": lambda: np.arange(N).astype("M8[s]").view(Labelled),
        "labelled, big-endian": lambda: np.arange(N).astype(">i8").view(Labelled),
        "remembering": _remembering,
    },
    "torch": {
        "tensor": _torch(lambda torch: torch.arange(N * 1.0)),
        "bfloat16": _torch(lambda torch: torch.arange(N * 1.0).to(torch.bfloat16)),
        "bool": _torch(lambda torch: torch.arange(2 * N) % 3 == 0),
        "with gradient": _torch(lambda torch: torch.arange(N * 1.0, requires_grad=True)),
        "parameter": _torch(lambda torch: torch.nn.Parameter(torch.arange(N * 1.0))),
        "transposed": _torch(lambda torch: torch.arange(N * 2.0).reshape(N, 2).t()),
        "expanded": _torch(lambda torch: torch.ones(1).expand(N)),
        "part": _torch(lambda torch: torch.arange(N * 2.0)[::2]),
        "conjugate": _torch(lambda torch: torch.arange(N * 1.0).to(torch.complex64).conj()),
        "sparse": _torch(lambda torch: torch.eye(N // 100).to_sparse()),
        "empty": _torch(lambda torch: torch.ones(0, 3)),
        "scalar": _torch(lambda torch: torch.tensor(3)),
    },
    "polars": {
        "frame": lambda: _frame().clone(),
        "series": lambda: _frame()["some"],
        "series of text, a part": lambda: _frame()["text"][1003:],
        "frame in pieces": lambda: __import__("polars").concat([_frame(), _frame()], rechunk=False),
        "empty frame": lambda: _frame().clear(),
    },
    "astropy": {
        "quantity": _quantity("m / s"),
        "strided quantity": lambda: _quantity("km")()[::2],
        "longitude": _quantity("deg", "Longitude"),
    },
    "PIL": {**{f"image {mode}": _image(mode) for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "F", "LA")}, "file": _png},
}


def make(library: str, name: str) -> Any:
    """Make one of them."""
    return DATA[library][name]()


LIBRARIES = [library for library in DATA if importlib.util.find_spec(library) is not None]


class Echo:
    """Gives back what it gets, and makes what it is asked for."""

    def __init__(self, value: Any = None) -> None:
        self._value = value

    def back(self, value: Any) -> Any:
        return value

    def own(self) -> Any:
        return self._value

    def make(self, library: str, name: str) -> Any:
        return make(library, name)

    def stream(self, library: str, name: str, count: int) -> Iterator[Any]:
        for _ in range(count):
            yield make(library, name)

    def loaded(self, names: list[str]) -> list[str]:
        import sys

        return [name for name in names if name in sys.modules]


class Signal:
    """Has memory that pickles know nothing of; its reducer is registered here."""

    def __init__(self, samples: Any, way: str = "made") -> None:
        self.samples = samples
        self.way = way


class Unannounced(Signal):
    """The same; the program alone registers its reducer."""


def make_signal(memory: Any) -> Signal:
    return Signal(np.frombuffer(memory), "registered")


def reduce_signal(signal: Signal) -> Any:
    return make_signal, (pickle.PickleBuffer(signal.samples),)


register_buffers(Signal, reduce_signal)


class Receiver:
    """Tells how signals came, and makes some."""

    def receive(self, signal: Signal) -> tuple[str, Signal]:
        return signal.way, type(signal)(signal.samples + 1)

    def send(self, kind: type[Signal]) -> Signal:
        return kind(np.arange(N * 1.0))

    def fail_with(self, signal: Signal) -> None:
        raise LookupError(signal)

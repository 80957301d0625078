"""Measure what 64 MB cost by the type that they are of, as argument and as result, beside a plain array.

Command: ``python -m benchmarks.data_types``

One caller sends an object to one worker, which answers None; or calls a method that returns an object that the worker has. All
types that are installed take turns, so that a disturbance spoils none alone. What arrives must be of the type that was sent.
The second contender is the same pool with each type pickled in its own way, as a plain pool of processes does. Of the values
the table shows the mean over all types; the line below it shows each as a multiple of the array, and the milliseconds.
"""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable
from typing import Any

from benchmarks._command import run_script
from benchmarks._lane import check
from benchmarks._model import OURS, Contender, Experiment, Outcomes, Target
from benchmarks._steady import time_in_turns

_OWN_WAYS = "objproxy, each type in its own way"


def _array(nbytes: int) -> Any:
    import numpy as np

    return np.arange(nbytes // 8, dtype=float)


def _series_of_text(nbytes: int) -> Any:
    import polars

    return polars.Series("text", [f"the row of number {number}" for number in range(nbytes // 40)])


def _frame(nbytes: int) -> Any:
    import polars

    return polars.DataFrame({"a": _array(nbytes // 2), "b": _array(nbytes // 2)})


def _pandas(nbytes: int) -> Any:
    import pandas

    return pandas.DataFrame({"a": _array(nbytes // 2), "b": _array(nbytes // 2)})


def _pandas_text(nbytes: int) -> Any:
    import pandas

    return pandas.Series([f"the row of number {number}" for number in range(nbytes // 40)])


def _arrow(nbytes: int) -> Any:
    import pyarrow

    return pyarrow.table({"a": _array(nbytes // 2), "b": _array(nbytes // 2)})


def _tensor(nbytes: int) -> Any:
    import torch

    return torch.arange(nbytes // 8, dtype=torch.float64)


def _masked(nbytes: int) -> Any:
    import numpy as np

    return np.ma.masked_array(_array(nbytes * 8 // 9), mask=_array(nbytes * 8 // 9) < 9)


def _matrix(nbytes: int) -> Any:
    import numpy as np

    return _array(nbytes).reshape(-1, 8).view(np.matrix)


def _records(nbytes: int) -> Any:
    import numpy as np

    return np.zeros(nbytes // 16, [("a", "f8"), ("b", "i8")]).view(np.recarray)


def _quantity(nbytes: int) -> Any:
    from astropy import units

    return units.Quantity(_array(nbytes), "m", copy=False)


def _image(mode: str) -> Callable[[int], Any]:
    def make(nbytes: int) -> Any:
        from PIL import Image

        return Image.new(mode, (nbytes // 4 // 1000, 1000), 5)

    return make


def _sparse(nbytes: int) -> Any:
    import numpy as np
    import scipy.sparse

    numbers = np.arange(nbytes // 16)
    return scipy.sparse.csr_matrix((numbers * 1.0, (numbers // 1000, numbers)))


def _xarray(nbytes: int) -> Any:
    import xarray

    return xarray.DataArray(_array(nbytes), dims="x", name="a")


#: What is sent: by its name, the module that it needs, and how it is made.
KINDS: dict[str, tuple[str, Callable[[int], Any]]] = {
    "array": ("numpy", _array),
    "masked array": ("numpy", _masked),
    "matrix": ("numpy", _matrix),
    "records": ("numpy", _records),
    "tensor": ("torch", _tensor),
    "polars frame": ("polars", _frame),
    "polars text": ("polars", _series_of_text),
    "pandas frame": ("pandas", _pandas),
    "pandas text": ("pandas", _pandas_text),
    "Arrow table": ("pyarrow", _arrow),
    "quantity": ("astropy", _quantity),
    "image RGB": ("PIL", _image("RGB")),
    "image L": ("PIL", lambda nbytes: _image("L")(4 * nbytes)),
    "SciPy sparse": ("scipy", _sparse),
    "xarray": ("xarray", _xarray),
    "str": ("numpy", lambda nbytes: "x" * nbytes),
    "str, Latin": ("numpy", lambda nbytes: "é" * nbytes),
    "str, Cyrillic": ("numpy", lambda nbytes: "Ж" * (nbytes // 2)),
    "bytes": ("numpy", bytes),
    "bytearray": ("numpy", bytearray),
}


def use_own_ways() -> None:
    """Let each type be pickled in its own way, in this process."""
    from objproxy._worker import reducers, texts

    reducers._HOMES.clear()
    texts.LARGE_MIN = 1 << 62


class Keeper:
    """Takes objects, and returns those that it has."""

    def __init__(self, nbytes: int, has_own_ways: bool) -> None:
        self._nbytes = nbytes
        self._kept: dict[str, Any] = {}
        if has_own_ways:
            use_own_ways()

    def take(self, _value: Any) -> None:
        """Do nothing."""

    def give(self, name: str) -> Any:
        """Return an object of a kind."""
        if name not in self._kept:
            self._kept[name] = KINDS[name][1](self._nbytes)
        return self._kept[name]


def time_arguments(ways: str, n_bytes: int, n_calls: int) -> tuple[list[float], dict[str, Any]]:
    """Return the mean over all kinds of the seconds of a call with an argument, and both figures of each."""
    return _time_kinds(ways, n_bytes, n_calls, is_result=False)


def time_results(ways: str, n_bytes: int, n_calls: int) -> tuple[list[float], dict[str, Any]]:
    """Return the mean over all kinds of the seconds of a call with a result, and both figures of each."""
    return _time_kinds(ways, n_bytes, n_calls, is_result=True)


def _time_kinds(ways: str, n_bytes: int, n_calls: int, *, is_result: bool) -> tuple[list[float], dict[str, Any]]:
    from objproxy import ProxyPool

    has_own_ways = ways != OURS
    if has_own_ways:
        use_own_ways()
    names = [name for name, (module, _) in KINDS.items() if importlib.util.find_spec(module) is not None]
    with ProxyPool(Keeper, init_args=(n_bytes, has_own_ways), worker_count=1) as pool:
        give, take = pool[0].give, pool[0].take
        values = {name: KINDS[name][1](n_bytes) for name in names}

        def call(name: str) -> Callable[[], None]:
            if is_result:
                return lambda: check(type(give(name)) is type(values[name]), name)
            return lambda: check(take(values[name]) is None, name)

        actions = {name: call(name) for name in names}
        time_in_turns(actions, 2)
        seconds = time_in_turns(actions, n_calls)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    x_array = {name: value / medians["array"] for name, value in medians.items()}
    return [statistics.fmean(medians.values())], {"x_array": x_array, "seconds": medians}


#: What the target is for; text has to be copied once more, since an object of its type lies in memory of its own.
_WITHIN = ("masked array", "matrix", "records", "tensor", "polars frame", "quantity")


def _worst(outcomes: Outcomes) -> float:
    ratios = outcomes.curve(OURS, "x_array")
    return max(ratios[name] for name in _WITHIN if name in ratios)


def _describe(outcomes: Outcomes) -> str:
    parts = []
    for contender in (OURS, _OWN_WAYS):
        ratios, seconds = (outcomes.curve(contender, fact) for fact in ("x_array", "seconds"))
        listed = ", ".join(f"{name} {ratios[name]:.1f} ({1e3 * seconds[name]:.0f} ms)" for name in ratios)
        parts.append(f"{contender}, x array: {listed}")
    return "\n".join(parts)


def _experiment(name: str, title: str, function: Callable[..., Any]) -> Experiment:
    return Experiment(
        name,
        title,
        "ms",
        tuple(Contender(ways, function, {"ways": ways}, is_peer=False) for ways in (OURS, _OWN_WAYS)),
        (Target("at most 1.5 x an array (worst of tensor, polars frame, NumPy's subclasses, quantity)", 1.5, _worst, "x"),),
        sizes={"n_bytes": 64_000_000, "n_calls": 15},
        quick_sizes={"n_bytes": 1_000_000, "n_calls": 2},
        rounds=3,
        timeout=300.0,
        describe=_describe,
    )


EXPERIMENTS = (
    _experiment("data_argument", "64 MB of each type as argument, one worker (mean over the types)", time_arguments),
    _experiment("data_result", "64 MB of each type as result, one worker (mean over the types)", time_results),
)

if __name__ == "__main__":
    run_script("data_types", __doc__, EXPERIMENTS)

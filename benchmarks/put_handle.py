"""Measure what it costs to pass again what was shipped once: an array of 64 MB, by its handle.

Command: ``python -m benchmarks.put_handle``

The worker's method answers with the first element. The yardstick is the same method called with a tuple of one
number, in turn with the others in the same lane. The contenders are what Ray (`ray.put`), Dask (`Client.scatter`) and
joblib (a file that workers map) have for values that are used by many calls.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import _work
from benchmarks._clusters import open_dask, open_ray
from benchmarks._command import run_script
from benchmarks._lane import check
from benchmarks._model import Experiment, contenders_of, multiple_of
from benchmarks._steady import time_in_turns

#: How to call `first` in one worker, and the array's handle.
_Handle = tuple[Callable[[Any], float], Any]

#: Parts that the calls are timed in, so that a disturbance spoils one part and not the median.
_N_PARTS = 10


def time_handle(library: str, n_bytes: int, n_calls: int) -> tuple[list[float], dict[str, float]]:
    """Return seconds of calls with a handle, and those of empty calls; some of both go before, unmeasured."""
    import numpy as np

    array = np.full(n_bytes // 8, 3.0)
    with _OPENERS[library](array) as (call, handle):
        actions = {
            "empty": lambda: check(call((2.0,)) == 2.0, library),
            "handle": lambda: check(call(handle) == 3.0, library),
        }
        time_in_turns(actions, max(n_calls // 5, 2))
        seconds = time_in_turns(actions, n_calls)
    empty = statistics.median(seconds["empty"])
    values = [statistics.median(seconds["handle"][part::_N_PARTS]) for part in range(min(_N_PARTS, n_calls))]
    return values, {"empty_us": empty * 1e6, "empty_s": empty, "x_empty": statistics.median(values) / empty}


@contextmanager
def _open_objproxy(array: Any) -> Iterator[_Handle]:
    from objproxy import ProxyPool

    with ProxyPool(_work.Worker, worker_count=1) as pool:
        yield lambda x: pool[0].first(x), pool.put(array)


@contextmanager
def _open_joblib(array: Any) -> Iterator[_Handle]:
    import joblib

    with tempfile.TemporaryDirectory() as folder, joblib.Parallel(n_jobs=2) as parallel:
        path = Path(folder, "array")
        joblib.dump(array, path)
        first = joblib.delayed(_work.first)
        yield lambda x: parallel([first(x)])[0], joblib.load(path, mmap_mode="r")


@contextmanager
def _open_ray(array: Any) -> Iterator[_Handle]:
    with open_ray(1) as ray:
        actor = ray.remote(_work.Worker).remote()
        yield lambda x: ray.get(actor.first.remote(x)), ray.put(array)


@contextmanager
def _open_dask(array: Any) -> Iterator[_Handle]:
    with open_dask(1) as client:
        handle = client.scatter(array, hash=False)
        yield lambda x: client.submit(_work.first, x, pure=False).result(), handle


_OPENERS: dict[str, Callable[[Any], AbstractContextManager[_Handle]]] = {
    "objproxy": _open_objproxy,
    "joblib": _open_joblib,
    "Ray": _open_ray,
    "Dask": _open_dask,
}

EXPERIMENTS = (
    Experiment(
        "put_handle",
        "An array of 64 MB by its handle, used again",
        "us",
        contenders_of(_OPENERS, time_handle),
        (multiple_of("empty_s", 2.0, "at most 2 x an empty call"),),
        sizes={"n_bytes": 64_000_000, "n_calls": 300},
        quick_sizes={"n_bytes": 4_000_000, "n_calls": 50},
        rounds=5,
    ),
)

if __name__ == "__main__":
    run_script("put_handle", __doc__, EXPERIMENTS)

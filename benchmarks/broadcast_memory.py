"""Measure how much memory it takes to send an array of 1 GB to two workers that read all of it.

Command: ``python -m benchmarks.broadcast_memory``

The program and all its descendants (servers and workers too) are watched every few milliseconds while they do it: the
value is the largest sum of their proportional set sizes, less what it was just before, when the caller had the array
and the workers were up and had carried out a small broadcast. Each worker answers with the sum of the array. If less
than ten times the array's size is available, a smaller array is sent; the facts tell its size.
"""

from __future__ import annotations

from benchmarks._callers import OPENERS
from benchmarks._command import run_script
from benchmarks._lane import check
from benchmarks._machine import available_nbytes
from benchmarks._memory import MemoryWatch
from benchmarks._model import Experiment, contenders_of, multiple_of

_N_WORKERS = 2

#: Some systems hold the array this many times at once, pickles and buffers included.
_MOST_COPIES = 10

_CONTENDERS = ("objproxy", "multiprocessing.Pool", "ProcessPoolExecutor", "loky", "joblib", "objectproxypool", "Ray", "Dask")


def measure_broadcast(library: str, n_bytes: int, available: int) -> tuple[list[float], dict[str, float]]:
    """Return the bytes that a broadcast takes at most, and those of the array."""
    import numpy as np

    array = np.ones(min(n_bytes, available // _MOST_COPIES) // 8)
    with MemoryWatch() as watch, OPENERS[library]("total", _N_WORKERS) as caller:
        check(list(caller.broadcast(np.ones(10))) == [10.0] * _N_WORKERS, library)
        watch.begin()
        totals = list(caller.broadcast(array))
        extra = watch.end()
    check(totals == [float(array.size)] * _N_WORKERS, totals)
    return [float(extra)], {"payload": array.nbytes, "x_payload": extra / array.nbytes}


EXPERIMENTS = (
    Experiment(
        "broadcast_memory",
        "Memory that a broadcast of 1 GB to two workers takes",
        "MB",
        contenders_of(_CONTENDERS, measure_broadcast),
        (multiple_of("payload", 1.2, "at most 1.2 x the array"),),
        sizes={"n_bytes": 1_000_000_000},
        quick_sizes={"n_bytes": 64_000_000},
        rounds=3,
        timeout=180.0,
        calibrate=lambda: {"available": available_nbytes()},
    ),
)

if __name__ == "__main__":
    run_script("broadcast_memory", __doc__, EXPERIMENTS)

"""Measure how long 100,000 items take that cost nothing themselves.

Command: ``python -m benchmarks.tiny_items``

Three tables. *Own chunking*: each system chooses its chunks; those that do not (`ProcessPoolExecutor`, loky, pebble)
get the size that `multiprocessing.Pool.map` would choose, as their documents recommend for long lists. *First map*:
the same, but the first map of a new pool, which has had one call per worker before. *chunksize=1*: each item is
handed out alone; how many then travel in one message is the system's own business.
"""

from __future__ import annotations

import time

from benchmarks._command import run_script
from benchmarks._lane import check
from benchmarks._libraries import LIBRARIES, ONE_BY_ONE, Library, Mapper, pool_chunksize
from benchmarks._model import Experiment, contenders_of, ratio


def time_map(library: str, n_items: int, n_workers: int, n_maps: int) -> list[float]:
    """Return seconds of each of `n_maps` maps, after one unmeasured."""
    system = LIBRARIES[library]
    with system.open(n_workers) as run:
        chunksize = _own_chunksize(system, n_items, n_workers)
        _time_once(run, n_items, chunksize)
        return [_time_once(run, n_items, chunksize) for _ in range(n_maps)]


def time_first_map(library: str, n_items: int, n_workers: int) -> list[float]:
    """Return seconds of the first map of a new pool."""
    system = LIBRARIES[library]
    with system.open(n_workers) as run:
        _time_once(run, n_workers, None)
        return [_time_once(run, n_items, _own_chunksize(system, n_items, n_workers))]


def time_single_items(library: str, n_items: int, n_workers: int) -> list[float]:
    """Return seconds of a map with ``chunksize=1``, after an unmeasured one of a twentieth of the items."""
    with LIBRARIES[library].open(n_workers) as run:
        _time_once(run, max(n_items // 20, n_workers), 1)
        return [_time_once(run, n_items, 1)]


def _own_chunksize(system: Library, n_items: int, n_workers: int) -> int | None:
    return None if system.chunks_itself else pool_chunksize(n_items, n_workers)


def _time_once(run: Mapper, n_items: int, chunksize: int | None) -> float:
    items = list(range(n_items))
    began = time.perf_counter()
    results = run("inc", items, chunksize)
    ended = time.perf_counter()
    check(list(results) == list(range(1, n_items + 1)), results)
    return ended - began


_SINGLE = [name for name, library in LIBRARIES.items() if library.takes_chunksize or name in ONE_BY_ONE]

EXPERIMENTS = (
    Experiment(
        "own_chunking",
        "Tiny items, own chunking",
        "ms",
        contenders_of(LIBRARIES, time_map),
        (ratio("multiprocessing.Pool", 1.0, "no slower than multiprocessing.Pool.map"),),
        sizes={"n_items": 100_000, "n_workers": 2, "n_maps": 3},
        quick_sizes={"n_items": 1000, "n_workers": 2, "n_maps": 1},
    ),
    Experiment(
        "first_map",
        "Tiny items, first map of a pool",
        "ms",
        contenders_of([name for name in LIBRARIES if name not in ONE_BY_ONE], time_first_map),
        (ratio("multiprocessing.Pool", 1.0, "no slower than multiprocessing.Pool.map"),),
        sizes={"n_items": 100_000, "n_workers": 2},
        quick_sizes={"n_items": 1000, "n_workers": 2},
        rounds=7,
    ),
    Experiment(
        "chunksize_1",
        "Tiny items, chunksize=1",
        "s",
        contenders_of(_SINGLE, time_single_items),
        (ratio("multiprocessing.Pool", 0.5, "at most 0.5 x multiprocessing.Pool.map(chunksize=1)"),),
        sizes={"n_items": 100_000, "n_workers": 2},
        quick_sizes={"n_items": 400, "n_workers": 2},
        rounds=3,
    ),
)

if __name__ == "__main__":
    run_script("tiny_items", __doc__, EXPERIMENTS)

"""Measure `objproxy.mpire` against MPIRE: the same program, with the import changed.

Command: ``python -m benchmarks.mpire_face``

Small questions first: *tiny_items* (100,000 items, default chunks, workers that stay), *tiny_items_cold* (the same with workers
for this map alone), *chunk_size_1* (5,000 items), *apply* (one task there and back), *whole_pool* (a pool of two, a map of ten
items, and its end), *large_argument* (64 MB of NumPy by `apply`). Then the three kinds of work that MPIRE was published with
(see `benchmarks.mpire_three`), each with 1, 2 and 4 workers.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks import _mpire_work as work
from benchmarks import _work
from benchmarks._command import run_script
from benchmarks._lane import check
from benchmarks._model import OURS, Experiment, contenders_of, ratio
from benchmarks._mpire_lanes import Mpire

PEER = "mpire"
_MODULES = {OURS: "objproxy.mpire", PEER: "mpire"}
_LIBRARIES = tuple(_MODULES)


def _load(library: str) -> Any:
    return importlib.import_module(_MODULES[library]).WorkerPool


def _timed(action: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = action()
    return time.perf_counter() - began, result


def time_tiny_items(library: str, n_items: int, n_maps: int, keep_alive: int, chunk_size: int) -> list[float]:
    """Return seconds of each of `n_maps` maps, after one unmeasured; `chunk_size` 0 is the default."""
    items, expected = list(range(n_items)), list(range(1, n_items + 1))
    with _load(library)(2, keep_alive=bool(keep_alive)) as pool:

        def run() -> Any:
            return pool.map(_work.inc, items, chunk_size=chunk_size or None)

        check(run() == expected, library)
        answers = [_timed(run) for _ in range(n_maps)]
        check(all(result == expected for _, result in answers), library)
    return [seconds for seconds, _ in answers]


def time_apply(library: str, n_calls: int) -> list[float]:
    """Return seconds per call for each of ten parts of `n_calls` calls, after a fifth as many."""
    with _load(library)(2) as pool:

        def run(n: int) -> float:
            seconds, results = _timed(lambda: [pool.apply(_work.inc, (x,)) for x in range(n)])
            check(results == list(range(1, n + 1)), library)
            return seconds / n

        run(n_calls // 5)
        return [run(n_calls // 10) for _ in range(10)]


def time_whole_pool(library: str, n_pools: int) -> list[float]:
    """Return seconds from making a pool of two to its end, with a map of ten items between, after one unmeasured."""
    pool_of = _load(library)

    def run() -> Any:
        with pool_of(2) as pool:
            return pool.map(_work.inc, range(10))

    answers = [_timed(run) for _ in range(n_pools + 1)][1:]
    check(all(result == list(range(1, 11)) for _, result in answers), library)
    return [seconds for seconds, _ in answers]


def time_large_argument(library: str, n_bytes: int, n_calls: int) -> list[float]:
    """Return seconds of calls with a large array, which changes before each, after three unmeasured."""
    import numpy as np

    array = np.ones(n_bytes // 8)
    seconds = []
    with _load(library)(1) as pool:
        for _ in range(n_calls + 3):
            array[0] += 1.0
            time_taken, result = _timed(lambda: pool.apply(_work.first, (array,)))
            check(result == array[0], library)
            seconds.append(time_taken)
    return seconds[3:]


def time_published(library: str, kind: str, n_workers: int, n_trials: int, is_quick: int) -> list[float]:
    """Return seconds of each of several runs of one of the three published kinds of work."""
    lane = Mpire(n_workers, _MODULES[library])
    run, is_right = _PUBLISHED[kind](lane, bool(is_quick))
    answers = [_timed(lambda: list(run())) for _ in range(n_trials)]
    check(all(is_right(result) for _, result in answers), library)
    return [seconds for seconds, _ in answers]


_Work = tuple[Callable[[], Iterable[Any]], Callable[[list[Any]], bool]]


def _numerical(lane: Mpire, is_quick: bool) -> _Work:
    image, filters = work.make_image(200 if is_quick else 2000), work.make_filters(4 if is_quick else 16)
    return lambda: lane.filter_images(image, filters), lambda results: work.are_filtered(results, filters)


def _stateful(lane: Mpire, is_quick: bool) -> _Work:
    documents = work.make_documents(10 if is_quick else 200, 1000)
    return lambda: lane.count_prefixes(documents), lambda parts: work.have_counted(parts, documents)


def _initialisation(lane: Mpire, is_quick: bool) -> _Work:
    sizes = (1000, 1000) if is_quick else (5_000_000, 500_000)
    n_runs, n_items = (2, 4) if is_quick else (20, 10)
    expected = work.Model(*sizes).evaluate(0)
    return (
        lambda: lane.evaluate_models(sizes, n_runs, n_items),
        lambda runs: len(runs) == n_runs and all(work.are_evaluated(run, expected) for run in runs),
    )


_PUBLISHED = {"numerical": _numerical, "stateful": _stateful, "initialisation": _initialisation}


def _tiny(
    name: str, title: str, limit: float, n_items: int, *, keep_alive: int, chunk_size: int, unit: str = "ms"
) -> Experiment:
    sizes = {"n_items": n_items, "n_maps": 5, "keep_alive": keep_alive, "chunk_size": chunk_size}
    contenders = contenders_of(_LIBRARIES, time_tiny_items)
    quick = {**sizes, "n_items": 200, "n_maps": 1}
    return Experiment(name, title, unit, contenders, (ratio(PEER, limit),), sizes=sizes, quick_sizes=quick, rounds=3)


EXPERIMENTS = (
    _tiny("tiny_items", "map of 100,000 tiny items, workers stay", 1 / 10, 100_000, keep_alive=1, chunk_size=0),
    _tiny("tiny_items_cold", "map of 100,000 tiny items, workers for it alone", 1 / 10, 100_000, keep_alive=0, chunk_size=0),
    _tiny("chunk_size_1", "map of 5,000 tiny items, chunk_size=1", 1 / 5, 5000, keep_alive=1, chunk_size=1),
    Experiment(
        "apply",
        "apply, there and back",
        "us",
        contenders_of(_LIBRARIES, time_apply),
        (ratio(PEER, 1 / 4),),
        sizes={"n_calls": 2000},
        quick_sizes={"n_calls": 50},
        rounds=5,
    ),
    Experiment(
        "whole_pool",
        "A pool of two, a map of ten items, its end",
        "ms",
        contenders_of(_LIBRARIES, time_whole_pool),
        (ratio(PEER, 1 / 4),),
        sizes={"n_pools": 7},
        quick_sizes={"n_pools": 1},
        rounds=5,
    ),
    Experiment(
        "large_argument",
        "64 MB of NumPy by apply",
        "ms",
        contenders_of(_LIBRARIES, time_large_argument),
        (ratio(PEER, 1 / 10),),
        sizes={"n_bytes": 64_000_000, "n_calls": 9},
        quick_sizes={"n_bytes": 4_000_000, "n_calls": 1},
        rounds=3,
    ),
    *(
        Experiment(
            f"{kind}_{n_workers}",
            f"MPIRE's own: {kind}, {n_workers} workers",
            "s",
            tuple(
                type(each)(each.name, each.function, {**each.arguments, "kind": kind}, each.is_peer)
                for each in contenders_of(_LIBRARIES, time_published)
            ),
            (ratio(PEER, 1.0, "faster"),),
            sizes={"n_workers": n_workers, "n_trials": 3, "is_quick": 0},
            quick_sizes={"n_workers": n_workers, "n_trials": 1, "is_quick": 1},
            rounds=2,
            timeout=120.0,
        )
        for kind in _PUBLISHED
        for n_workers in (1, 2, 4)
    ),
)

if __name__ == "__main__":
    run_script("mpire_face", __doc__, EXPERIMENTS)

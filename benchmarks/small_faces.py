"""Measure `objproxy.mtasklite` and `objproxy.workercontext` against the libraries whose names they have.

Command: ``python -m benchmarks.small_faces``

Three tables. *Stream*: 100,000 items that cost nothing, in order, through a `Pool` of two workers with its own options; a new
pool for each value, whose start is not counted. *Batches*: a function over a list of 10,000,000 ints, with
`flatten_reduction`; `multiprocessing.Pool` maps the function of one int over the list, or, as *by halves*, the function of a
list over its two halves. *Memory*: how much the caller, or any worker, grows over 1,000,000 streamed items of 1 KB, whichever
grows most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from benchmarks import _work
from benchmarks._command import run_script
from benchmarks._lane import check
from benchmarks._model import OURS, Contender, Experiment, Target, contenders_of, ratio
from benchmarks.lazy_memory import make_item, resident_nbytes

_N_WORKERS = 2


def time_stream(library: str, n_items: int, n_trials: int) -> list[float]:
    """Return seconds to stream items that cost nothing."""
    seconds = []
    for _ in range(n_trials):
        with _pool_class(library)(_work.inc, _N_WORKERS) as pool:
            began = time.perf_counter()
            results = list(pool(range(n_items)))
            seconds.append(time.perf_counter() - began)
        check(results == list(range(1, n_items + 1)), results)
    return seconds


def _pool_class(library: str) -> Any:
    if library == OURS:
        from objproxy.mtasklite import Pool
    else:
        from mtasklite import Pool
    return Pool


def time_batches(library: str, n_items: int, n_trials: int) -> list[float]:
    """Return seconds to map a list of ints by batches."""
    items = list(range(n_items))
    seconds = []
    with _BATCHERS[library]() as run:
        run(items[:_N_WORKERS])
        for _ in range(n_trials):
            began = time.perf_counter()
            results = run(items)
            seconds.append(time.perf_counter() - began)
            check(len(results) == n_items and results[0] == 1 and results[-1] == n_items, library)
            del results  # else the next trial would meet less memory
    return seconds


@contextmanager
def _open_face() -> Iterator[Callable[[Sequence[int]], list[int]]]:
    from objproxy.workercontext import MultiWorker
    from objproxy.workercontext.reductions import flatten_reduction

    with MultiWorker(_work.Batch.inc, _N_WORKERS, reduction=flatten_reduction) as run:
        yield run


@contextmanager
def _open_peer() -> Iterator[Callable[[Sequence[int]], list[int]]]:
    from workercontext import MultiWorker
    from workercontext.reductions import flatten_reduction

    with MultiWorker(_work.Batch.inc, _N_WORKERS, batched_arg="xs", reduction=flatten_reduction) as run:
        yield run


@contextmanager
def _open_pool() -> Iterator[Callable[[Sequence[int]], list[int]]]:
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(_N_WORKERS) as pool:
        yield lambda items: pool.map(_work.inc, items)


@contextmanager
def _open_pool_by_halves() -> Iterator[Callable[[Sequence[int]], list[int]]]:
    import multiprocessing

    def run(items: Sequence[int]) -> list[int]:
        middle = len(items) // 2
        first, second = pool.map(_work.Batch.inc, [items[:middle], items[middle:]])
        return [*first, *second]

    with multiprocessing.get_context("fork").Pool(_N_WORKERS) as pool:
        yield run


_BATCHERS: dict[str, Any] = {
    OURS: _open_face,
    "MultiWorker": _open_peer,
    "multiprocessing.Pool": _open_pool,
    "Pool by halves": _open_pool_by_halves,
}


class GrowthWatch:
    """The largest growth of this process and its children since each was first looked at."""

    def __init__(self) -> None:
        self._first: dict[int, int] = {}
        self.growth: dict[int, int] = {}

    def look(self) -> None:
        """Note the memory of every process; one that ends meanwhile, as those that start workers may, is left out."""
        import psutil

        this = psutil.Process()
        now = {this.pid: resident_nbytes()}
        for child in this.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                now[child.pid] = child.memory_info().rss
        for pid, nbytes in now.items():
            self.growth[pid] = max(self.growth.get(pid, 0), nbytes - self._first.setdefault(pid, nbytes))


def measure_stream(library: str, n_items: int) -> tuple[list[float], dict[str, Any]]:
    """Return the growth of the process that grows most, in bytes, and seconds, as a fact."""
    watch = GrowthWatch()
    began = time.perf_counter()
    with _pool_class(library)(_work.echo, _N_WORKERS) as pool:
        n_results = _consume(pool(make_item(i) for i in range(n_items)), watch, n_items // 100)
    check(n_results == n_items, n_results)
    return [float(max(watch.growth.values()))], {"seconds": time.perf_counter() - began}


def _consume(results: Iterable[bytes], watch: GrowthWatch, n_before: int) -> int:
    n_results = 0
    for i, result in enumerate(results):
        check(result == make_item(i), i)
        n_results += 1
        if i >= n_before and i % n_before == 0:
            watch.look()
    return n_results


EXPERIMENTS = (
    Experiment(
        "stream",
        "100,000 tiny items through mtasklite's Pool, in order",
        "ms",
        contenders_of((OURS, "mtasklite"), time_stream),
        (ratio("mtasklite", 1 / 20, "at least 20 times faster than mtasklite"),),
        sizes={"n_items": 100_000, "n_trials": 2},
        quick_sizes={"n_items": 1000, "n_trials": 1},
        rounds=5,
    ),
    Experiment(
        "batches",
        "10,000,000 ints by batches, flattened",
        "s",
        contenders_of(_BATCHERS, time_batches),
        (
            ratio("MultiWorker", 1.0, "faster than workercontext"),
            ratio("multiprocessing.Pool", 1.0, "no slower than multiprocessing.Pool.map"),
        ),
        sizes={"n_items": 10_000_000, "n_trials": 2},
        quick_sizes={"n_items": 10_000, "n_trials": 1},
        rounds=5,
    ),
    Experiment(
        "stream_memory",
        "Growth of caller or worker over streamed items of 1 KB",
        "MB",
        (Contender(OURS, measure_stream, {"library": OURS}, is_peer=False),),
        (Target("flat within 20 MB", 20.0, lambda outcomes: outcomes.figure(OURS) * 1e-6, "MB"),),
        sizes={"n_items": 1_000_000},
        quick_sizes={"n_items": 2000},
        rounds=1,
        timeout=150.0,
    ),
)

if __name__ == "__main__":
    run_script("small_faces", __doc__, EXPERIMENTS)

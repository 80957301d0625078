"""Measure how much the caller's memory grows over 1,000,000 items of 1 KB that are made and consumed one by one.

Command: ``python -m benchmarks.lazy_memory``

A generator makes the items, each worker sends its item back, the caller looks at each result and drops it. The growth
is the largest resident memory of the caller after the first hundredth of the items, less what it was before. A system
that reads its whole input first, or keeps results that nobody has asked for, grows with the number of items; it is
stopped at 500 MB. Peers that chunk nothing in their lazy map get ``chunksize=100``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from benchmarks import _work
from benchmarks._command import run_script
from benchmarks._lane import check
from benchmarks._model import OURS, Experiment, Target, contenders_of

#: ``lazy(items)`` gives the results of `benchmarks._work.echo`, in order, as they come.
LazyMap = Callable[[Iterable[bytes]], Iterable[bytes]]

_N_WORKERS = 2
_NBYTES = 1024
_CHUNKSIZE = 100
_MAX_GROWTH = 500_000_000
_PAGE = os.sysconf("SC_PAGE_SIZE")


class TooMuchMemoryError(Exception):
    """The caller's memory has grown beyond what is worth waiting for."""


class MemoryWatch:
    """The caller's resident memory, looked at as items are made and as they are consumed.

    Parameters
    ----------
    n_before : int
        Items consumed until the memory counts as what it was before.
    """

    def __init__(self, n_before: int) -> None:
        self._n_before = n_before
        self._before = resident_nbytes()
        self._largest = self._before
        self.n_made = 0
        self.n_consumed = 0

    @property
    def growth(self) -> int:
        """Largest memory less what it was before, in bytes."""
        return max(self._largest - self._before, 0)

    def look(self) -> None:
        """Note the memory.

        Raises
        ------
        TooMuchMemoryError
            It has grown too much.
        """
        now = resident_nbytes()
        self._largest = max(self._largest, now)
        if self.n_consumed <= self._n_before and self.n_made <= 2 * self._n_before:
            self._before = self._largest = now
        if self.growth > _MAX_GROWTH:
            raise TooMuchMemoryError


def resident_nbytes() -> int:
    """Return this process's resident memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * _PAGE


def make_items(n_items: int, watch: MemoryWatch) -> Iterator[bytes]:
    """Yield items of 1 KB that are all different."""
    for i in range(n_items):
        watch.n_made += 1
        if i % 1000 == 0:
            watch.look()
        yield make_item(i)


def make_item(i: int) -> bytes:
    """Return the item of that number."""
    return i.to_bytes(8, "little") * (_NBYTES // 8)


def measure_growth(library: str, n_items: int) -> tuple[list[float], dict[str, Any]]:
    """Return the growth in bytes, and seconds, as a fact."""
    watch = MemoryWatch(max(n_items // 100, 100))
    began = time.perf_counter()
    facts: dict[str, Any] = {}
    try:
        with _OPENERS[library]() as lazy:
            _consume(lazy(make_items(n_items, watch)), watch)
        check(watch.n_consumed == n_items, watch.n_consumed)
    except TooMuchMemoryError:
        facts["stopped_at_item"] = watch.n_consumed
    return [float(watch.growth)], {**facts, "seconds": time.perf_counter() - began}


def _consume(results: Iterable[bytes], watch: MemoryWatch) -> None:
    for i, result in enumerate(results):
        watch.n_consumed += 1
        check(result == make_item(i), i)
        if i % 1000 == 0:
            watch.look()


@contextmanager
def _open_objproxy() -> Iterator[LazyMap]:
    from objproxy import ProxyPool

    with ProxyPool(_work.Worker, worker_count=_N_WORKERS) as pool:
        yield lambda items: pool.echo.imap(items)


@contextmanager
def _open_pool() -> Iterator[LazyMap]:
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(_N_WORKERS) as pool:
        yield lambda items: pool.imap(_work.echo, items, _CHUNKSIZE)


@contextmanager
def _open_executor() -> Iterator[LazyMap]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(_N_WORKERS, mp_context=multiprocessing.get_context("fork")) as executor:
        yield lambda items: executor.map(_work.echo, items, chunksize=_CHUNKSIZE)


@contextmanager
def _open_loky() -> Iterator[LazyMap]:
    from loky import get_reusable_executor

    executor = get_reusable_executor(max_workers=_N_WORKERS)
    yield lambda items: executor.map(_work.echo, items, chunksize=_CHUNKSIZE)


@contextmanager
def _open_joblib() -> Iterator[LazyMap]:
    from joblib import Parallel, delayed

    yield lambda items: Parallel(n_jobs=_N_WORKERS, return_as="generator")(delayed(_work.echo)(item) for item in items)


@contextmanager
def _open_pebble() -> Iterator[LazyMap]:
    from pebble import ProcessPool

    with ProcessPool(max_workers=_N_WORKERS) as pool:
        yield lambda items: pool.map(_work.echo, items, chunksize=_CHUNKSIZE).result()


@contextmanager
def _open_mpire() -> Iterator[LazyMap]:
    from mpire import WorkerPool

    with WorkerPool(n_jobs=_N_WORKERS) as pool:
        yield lambda items: pool.imap(_work.echo, items, chunk_size=_CHUNKSIZE)


@contextmanager
def _open_mtasklite() -> Iterator[LazyMap]:
    from mtasklite import Pool

    with Pool(_work.echo, _N_WORKERS) as pool:
        yield pool


_OPENERS: dict[str, Callable[[], AbstractContextManager[LazyMap]]] = {
    "objproxy": _open_objproxy,
    "multiprocessing.Pool": _open_pool,
    "ProcessPoolExecutor": _open_executor,
    "loky": _open_loky,
    "joblib": _open_joblib,
    "pebble": _open_pebble,
    "mpire": _open_mpire,
    "mtasklite": _open_mtasklite,
}

EXPERIMENTS = (
    Experiment(
        "lazy_memory",
        "Caller's memory over lazy items of 1 KB",
        "MB",
        contenders_of(_OPENERS, measure_growth),
        (Target("flat within 20 MB", 20.0, lambda outcomes: outcomes.figure(OURS) * 1e-6, "MB"),),
        sizes={"n_items": 1_000_000},
        quick_sizes={"n_items": 2000},
        rounds=1,
        timeout=150.0,
    ),
)

if __name__ == "__main__":
    run_script("lazy_memory", __doc__, EXPERIMENTS)

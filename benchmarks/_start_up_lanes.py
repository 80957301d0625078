"""What `benchmarks.start_up` measures: import a library, make a pool of two, get the first answer.

This module imports as little as it can, so that each library pays for its own imports.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks import _work
from benchmarks._lane import check

_N_WORKERS = 2


def time_cold(library: str) -> list[float]:
    """Return seconds from a fresh interpreter to the first answer: import, pool, call."""
    return [_time_one(_OPENERS[library])]


def time_warm(library: str) -> list[float]:
    """Return seconds from nothing to the first answer of a program's second pool; the first is closed by then."""
    _time_one(_OPENERS[library])
    return [_time_one(_OPENERS[library])]


def _time_one(opener: Callable[[], Any]) -> float:
    began = time.perf_counter()
    with opener() as call:
        result = call(1)
        ended = time.perf_counter()
    check(result == 2, result)
    return ended - began


@contextmanager
def _open_objproxy() -> Iterator[Callable[[int], Any]]:
    from objproxy import ProxyPool

    with ProxyPool(_work.Worker, worker_count=_N_WORKERS) as pool:
        yield lambda x: pool[0].inc(x)


@contextmanager
def _open_pool(method: str) -> Iterator[Callable[[int], Any]]:
    import multiprocessing

    with multiprocessing.get_context(method).Pool(_N_WORKERS) as pool:
        yield lambda x: pool.apply(_work.inc, (x,))


@contextmanager
def _open_executor() -> Iterator[Callable[[int], Any]]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(_N_WORKERS, mp_context=multiprocessing.get_context("fork")) as executor:
        yield lambda x: executor.submit(_work.inc, x).result()


@contextmanager
def _open_loky() -> Iterator[Callable[[int], Any]]:
    from loky import ProcessPoolExecutor

    with ProcessPoolExecutor(_N_WORKERS) as executor:
        yield lambda x: executor.submit(_work.inc, x).result()


@contextmanager
def _open_joblib() -> Iterator[Callable[[int], Any]]:
    from joblib import Parallel, delayed

    with Parallel(n_jobs=_N_WORKERS) as parallel:
        yield lambda x: parallel([delayed(_work.inc)(x)])[0]


@contextmanager
def _open_pebble() -> Iterator[Callable[[int], Any]]:
    from pebble import ProcessPool

    with ProcessPool(max_workers=_N_WORKERS) as pool:
        yield lambda x: pool.schedule(_work.inc, args=(x,)).result()


@contextmanager
def _open_mpire() -> Iterator[Callable[[int], Any]]:
    from mpire import WorkerPool

    with WorkerPool(n_jobs=_N_WORKERS) as pool:
        yield lambda x: pool.apply(_work.inc, x)
        pool.stop_and_join()


@contextmanager
def _open_objectproxypool() -> Iterator[Callable[[int], Any]]:
    from objectproxypool import ProxyPool

    with ProxyPool(_work.Worker, _N_WORKERS, separate_processes=True) as pool:
        yield lambda x: pool.inc(x)[0]


@contextmanager
def _open_mtasklite() -> Iterator[Callable[[int], Any]]:
    from mtasklite import Pool

    with Pool(_work.inc, _N_WORKERS) as pool:
        yield lambda x: next(iter(list(pool([x]))))


@contextmanager
def _open_multiworker() -> Iterator[Callable[[int], Any]]:
    from workercontext import MultiWorker

    with MultiWorker(_work.Batch.inc, _N_WORKERS, "xs") as run:
        yield lambda x: run([x])[0][0]


_OPENERS: dict[str, Callable[[], Any]] = {
    "objproxy": _open_objproxy,
    "multiprocessing.Pool, fork": lambda: _open_pool("fork"),
    "multiprocessing.Pool, forkserver": lambda: _open_pool("forkserver"),
    "multiprocessing.Pool, spawn": lambda: _open_pool("spawn"),
    "ProcessPoolExecutor": _open_executor,
    "loky": _open_loky,
    "joblib": _open_joblib,
    "pebble": _open_pebble,
    "mpire": _open_mpire,
    "objectproxypool": _open_objectproxypool,
    "mtasklite": _open_mtasklite,
    "MultiWorker": _open_multiworker,
}

LIBRARIES = tuple(_OPENERS)

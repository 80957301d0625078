"""Measure how fast several workers fill one shared array of 256 MB and sum it up.

Command: ``python -m benchmarks.shared_fill``

A pass fills every block of rows with the products of two vectors, a block for each task, and then sums every block;
each pass has another factor, and each sum is checked. This is as fast as the memory is. The yardstick are threads that
do the same to an ordinary array in one process: NumPy releases the interpreter's lock. All systems use the same array
in all passes; the first ones go unmeasured.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import Any

from benchmarks._command import run_script
from benchmarks._lane import check
from benchmarks._model import OURS, Contender, Experiment, ratio

_THREADS = "threads"

#: Values are whole and small, so that sums are exact in any order.
_MODULUS = 7

_N_WARM_UPS = 2

#: ``run(name, starts, factor)``: the results of `fill` or `reduce` over blocks that begin at these rows.
_Run = Callable[[str, range, int], Any]


@lru_cache
def _row(n_columns: int) -> Any:
    import numpy as np

    return np.arange(n_columns, dtype=float) % _MODULUS


def fill(array: Any, start: int, n_rows: int, factor: int) -> float:
    """Fill a block of rows; return its first number."""
    import numpy as np

    block = array[start : start + n_rows]
    np.multiply(_row(array.shape[1]), float(factor), out=block)
    return float(block[0, 0])


def reduce(array: Any, start: int, n_rows: int, factor: int) -> float:
    """Return the sum of a block of rows."""
    return float(array[start : start + n_rows].sum())


class Worker:
    """The functions above as methods."""

    def fill(self, array: Any, start: int, n_rows: int, factor: int) -> float:
        """Fill a block of rows."""
        return fill(array, start, n_rows, factor)

    def reduce(self, array: Any, start: int, n_rows: int, factor: int) -> float:
        """Return the sum of a block of rows."""
        return reduce(array, start, n_rows, factor)


class UnpackingWorker:
    """The same for ObjectProxyPool, whose methods unpack what they get themselves."""

    def fill(self, array: Any, start: int, n_rows: int, factor: int) -> float:
        """Fill a block of rows."""
        from objectproxypool import Unpacker

        with Unpacker(array) as unpacked:
            return fill(unpacked, start, n_rows, factor)

    def reduce(self, array: Any, start: int, n_rows: int, factor: int) -> float:
        """Return the sum of a block of rows."""
        from objectproxypool import Unpacker

        with Unpacker(array) as unpacked:
            return reduce(unpacked, start, n_rows, factor)


def time_passes(library: str, n_bytes: int, n_blocks: int, n_workers: int, n_passes: int) -> list[float]:
    """Return seconds of each pass: fill all blocks, sum all blocks."""
    n_columns = 4096
    n_rows = n_bytes // 8 // n_columns
    starts = range(0, n_rows, n_rows // n_blocks)
    expected = float(_row(n_columns).sum()) * n_rows
    seconds = []
    with _OPENERS[library]((n_rows, n_columns), n_rows // n_blocks, n_workers) as run:
        for factor in range(1, _N_WARM_UPS + n_passes + 1):
            began = time.perf_counter()
            run("fill", starts, factor)
            sums = run("reduce", starts, factor)
            seconds.append(time.perf_counter() - began)
            check(sum(sums) == expected * factor, library)
    return seconds[_N_WARM_UPS:]


@contextmanager
def _open_objproxy(shape: tuple[int, int], n_rows: int, n_workers: int) -> Iterator[_Run]:
    from objproxy import ProxyPool, SharedArray

    with SharedArray.empty(shape) as shared, ProxyPool(Worker, worker_count=n_workers) as pool:
        same = itertools.repeat

        def run(name: str, starts: range, factor: int) -> Any:
            return getattr(pool, name)(same(shared), starts, same(n_rows), same(factor), map_args=True)

        yield run


@contextmanager
def _open_threads(shape: tuple[int, int], n_rows: int, n_workers: int) -> Iterator[_Run]:
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    array = np.empty(shape)
    with ThreadPoolExecutor(n_workers) as threads:
        yield lambda name, starts, factor: list(
            threads.map(lambda start: _FUNCTIONS[name](array, start, n_rows, factor), starts)
        )


#: A worker's view of the shared memory, and what keeps it.
_attached: list[Any] = []


def _attach(name: str, shape: tuple[int, int]) -> None:
    from multiprocessing.shared_memory import SharedMemory

    import numpy as np

    memory = SharedMemory(name)
    _attached[:] = [np.ndarray(shape, float, memory.buf), memory]


def _on_attached(name: str, start: int, n_rows: int, factor: int) -> float:
    return _FUNCTIONS[name](_attached[0], start, n_rows, factor)


@contextmanager
def _open_pool(shape: tuple[int, int], n_rows: int, n_workers: int) -> Iterator[_Run]:
    import multiprocessing
    from multiprocessing.shared_memory import SharedMemory

    memory = SharedMemory(create=True, size=8 * shape[0] * shape[1])
    try:
        with multiprocessing.get_context("fork").Pool(n_workers, _attach, (memory.name, shape)) as pool:
            yield lambda name, starts, factor: pool.starmap(_on_attached, [(name, start, n_rows, factor) for start in starts])
    finally:
        memory.close()
        memory.unlink()


@contextmanager
def _open_objectproxypool(shape: tuple[int, int], n_rows: int, n_workers: int) -> Iterator[_Run]:
    import numpy as np
    from objectproxypool import ProxyPool, SharedArrayWrapper

    with (
        SharedArrayWrapper(np.zeros(shape)) as shared,
        ProxyPool(UnpackingWorker, n_workers, separate_processes=True) as pool,
    ):

        def run(name: str, starts: range, factor: int) -> Any:
            n = len(starts)
            return getattr(pool, name)([shared.remoteArray] * n, starts, [n_rows] * n, [factor] * n, map_args=True)

        yield run


def _on_shared(array: Any, name: str, start: int, n_rows: int, factor: int) -> float:
    return _FUNCTIONS[name](array, start, n_rows, factor)


@contextmanager
def _open_mpire(shape: tuple[int, int], n_rows: int, n_workers: int) -> Iterator[_Run]:
    from multiprocessing import RawArray

    import numpy as np

    from mpire import WorkerPool

    array = np.frombuffer(RawArray("d", shape[0] * shape[1])).reshape(shape)
    with WorkerPool(n_jobs=n_workers, shared_objects=array, start_method="fork", keep_alive=True) as pool:
        yield lambda name, starts, factor: pool.map(
            _on_shared, [(name, start, n_rows, factor) for start in starts], concatenate_numpy_output=False
        )


_FUNCTIONS = {"fill": fill, "reduce": reduce}

_OPENERS: dict[str, Callable[[tuple[int, int], int, int], AbstractContextManager[_Run]]] = {
    OURS: _open_objproxy,
    "multiprocessing.Pool": _open_pool,
    "objectproxypool": _open_objectproxypool,
    "mpire": _open_mpire,
    _THREADS: _open_threads,
}

EXPERIMENTS = (
    Experiment(
        "shared_fill",
        "A shared array of 256 MB filled and summed, 4 workers",
        "ms",
        tuple(Contender(name, time_passes, {"library": name}, is_peer=name not in (OURS, _THREADS)) for name in _OPENERS),
        (ratio(_THREADS, 1.3, "at most 1.3 x threads on an ordinary array"),),
        sizes={"n_bytes": 1 << 28, "n_blocks": 64, "n_workers": 4, "n_passes": 9},
        quick_sizes={"n_bytes": 1 << 24, "n_blocks": 16, "n_workers": 2, "n_passes": 2},
        rounds=5,
    ),
)

if __name__ == "__main__":
    run_script("shared_fill", __doc__, EXPERIMENTS)

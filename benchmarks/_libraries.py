"""Each system's own way to map a function, or a method, over a list: a pool that is made once and used many times.

An opener is a context manager that gives a `Mapper`. Libraries are imported inside it, so that one that is not
installed is reported as such and costs the others nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks import _work

#: ``mapper(name, items, chunksize)``: the results of `name` of `benchmarks._work` over the items, in their order.
Mapper = Callable[[str, Sequence[Any], int | None], Any]

#: Chunks that `multiprocessing.Pool.map` makes for each worker.
_CHUNKS_PER_WORKER = 4


@dataclass(frozen=True)
class Library:
    """How one system maps.

    Parameters
    ----------
    name : str
        As in the tables.
    open : callable
        ``open(n_workers)`` gives a context manager of a `Mapper`.
    chunks_itself : bool
        Whether it chooses a chunk size for a long list. If not, its documents recommend to give one.
    takes_chunksize : bool
        Whether a chunk size can be given.
    """

    name: str
    open: Callable[[int], AbstractContextManager[Mapper]]
    chunks_itself: bool = True
    takes_chunksize: bool = True


def pool_chunksize(n_items: int, n_workers: int) -> int:
    """Return the chunk size of `multiprocessing.Pool.map` for a list."""
    return -(-n_items // (n_workers * _CHUNKS_PER_WORKER))


@contextmanager
def _open_objproxy(n_workers: int) -> Iterator[Mapper]:
    from objproxy import ProxyPool

    with ProxyPool(_work.Worker, worker_count=n_workers) as pool:
        yield lambda name, items, chunksize: getattr(pool, name)(items, map_args=True, chunksize=chunksize)


@contextmanager
def _open_pool(n_workers: int) -> Iterator[Mapper]:
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(n_workers) as pool:
        yield lambda name, items, chunksize: pool.map(getattr(_work, name), items, chunksize)


@contextmanager
def _open_executor(n_workers: int) -> Iterator[Mapper]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(n_workers, mp_context=multiprocessing.get_context("fork")) as executor:
        yield lambda name, items, chunksize: list(executor.map(getattr(_work, name), items, chunksize=chunksize or 1))


@contextmanager
def _open_loky(n_workers: int) -> Iterator[Mapper]:
    from loky import get_reusable_executor

    executor = get_reusable_executor(max_workers=n_workers)
    yield lambda name, items, chunksize: list(executor.map(getattr(_work, name), items, chunksize=chunksize or 1))
    executor.shutdown()


@contextmanager
def _open_joblib(n_workers: int) -> Iterator[Mapper]:
    from joblib import Parallel, delayed

    with Parallel(n_jobs=n_workers) as parallel:

        def run(name: str, items: Sequence[Any], chunksize: int | None) -> list[Any]:
            parallel.batch_size = chunksize or "auto"
            return parallel(delayed(getattr(_work, name))(item) for item in items)

        yield run


@contextmanager
def _open_pebble(n_workers: int) -> Iterator[Mapper]:
    from pebble import ProcessPool

    with ProcessPool(max_workers=n_workers) as pool:
        yield lambda name, items, chunksize: list(pool.map(getattr(_work, name), items, chunksize=chunksize or 1).result())


@contextmanager
def _open_mpire(n_workers: int) -> Iterator[Mapper]:
    from mpire import WorkerPool

    with WorkerPool(n_jobs=n_workers, keep_alive=True) as pool:
        yield lambda name, items, chunksize: pool.map(getattr(_work, name), items, chunk_size=chunksize)


@contextmanager
def _open_objectproxypool(n_workers: int) -> Iterator[Mapper]:
    from objectproxypool import ProxyPool

    with ProxyPool(_work.Worker, n_workers, separate_processes=True) as pool:
        yield lambda name, items, chunksize: getattr(pool, name)(items, map_args=True, chunksize=chunksize)


@contextmanager
def _open_mtasklite(n_workers: int) -> Iterator[Mapper]:
    from mtasklite import Pool

    def run(name: str, items: Sequence[Any], chunksize: int | None) -> list[Any]:
        with Pool(getattr(_work, name), n_workers) as pool:  # such a pool can be used once
            return list(pool(items))

    yield run


@contextmanager
def _open_multiworker(n_workers: int) -> Iterator[Mapper]:
    from workercontext import parallelise, reductions

    functions: dict[str, Any] = {}

    def run(name: str, items: Sequence[Any], chunksize: int | None) -> list[Any]:
        if name not in functions:
            batch = getattr(_work.Batch, name)
            functions[name] = parallelise(batch, n_workers, "xs", False, reductions.flatten_reduction)
        return functions[name](items)

    yield run


@contextmanager
def _open_ompr(n_workers: int) -> Iterator[Mapper]:
    from ompr.runner import OMPRunner, RunningWorker

    class Runner(RunningWorker):
        def process(self, name: str, item: Any) -> Any:
            return getattr(_work, name)(item)

    runner = OMPRunner(Runner, devices=[None] * n_workers)

    def run(name: str, items: Sequence[Any], chunksize: int | None) -> list[Any]:
        runner.process([{"name": name, "item": item} for item in items])
        return runner.get_all_results()

    yield run
    runner.exit()


#: All systems, ours first. Those that chunk nothing send each item in a message of its own.
LIBRARIES = {
    library.name: library
    for library in (
        Library("objproxy", _open_objproxy),
        Library("multiprocessing.Pool", _open_pool),
        Library("ProcessPoolExecutor", _open_executor, chunks_itself=False),
        Library("loky", _open_loky, chunks_itself=False),
        Library("joblib", _open_joblib),
        Library("pebble", _open_pebble, chunks_itself=False),
        Library("mpire", _open_mpire),
        Library("objectproxypool", _open_objectproxypool),
        Library("mtasklite", _open_mtasklite, takes_chunksize=False),
        Library("MultiWorker", _open_multiworker, takes_chunksize=False),
        Library("ompr", _open_ompr, takes_chunksize=False),
    )
}

#: Those that send each item alone even without a chunk size.
ONE_BY_ONE = ("mtasklite", "ompr")

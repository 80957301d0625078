"""Each library as its own documents use it: a pool of two workers, opened, asked, left.

An opener is a context manager that gives a `Session`. Libraries are imported inside it, so that one that is not installed is
reported as such and costs the others nothing.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.faults import _tasks
from benchmarks.faults._tasks import Order

N_WORKERS = 2

#: Seconds that a constructor may take, where a library takes such a limit.
INIT_TIMEOUT = 1.0

#: The name of what all others are compared with.
OURS = "objproxy"

Orders = Sequence[Order]


@dataclass(frozen=True)
class Session:
    """How an open pool is asked.

    Parameters
    ----------
    map : callable
        ``map(orders)`` gives all results in order.
    limited : callable or None
        ``limited(orders, seconds)``: the same with a time limit for each task; None: the library has no such thing.
    lazy : callable or None
        ``lazy(orders)`` gives the results one by one, from any iterable; None: it takes lists only.
    """

    map: Callable[[Orders], Any]
    limited: Callable[[Orders, float], Any] | None = None
    lazy: Callable[[Iterable[Order]], Iterable[Any]] | None = None


Opener = Callable[[str, str], AbstractContextManager[Session]]


@contextmanager
def _open_objproxy(kind: str, folder: str) -> Iterator[Session]:
    from objproxy import ProxyPool

    timeout = INIT_TIMEOUT if kind == "sleep" else None
    with ProxyPool(_tasks.Holder, worker_count=N_WORKERS, init_args=(kind, folder), init_timeout=timeout) as pool:
        yield Session(
            pool.run.map,
            lambda orders, seconds: pool.run.options(timeout=seconds).map(orders),
            pool.run.imap,
        )


@contextmanager
def _open_objectproxypool(kind: str, folder: str) -> Iterator[Session]:
    from objectproxypool import ProxyPool

    with ProxyPool(_tasks.Holder, N_WORKERS, init_args=(kind, folder), separate_processes=True) as pool:
        yield Session(
            lambda orders: list(pool.run(orders, map_args=True, chunksize=1)),
            lazy=lambda orders: pool.run(orders, map_args=True),
        )


def _ompr_opener(*, rerun_crashed: bool) -> Opener:
    @contextmanager
    def open_ompr(kind: str, folder: str) -> Iterator[Session]:
        from ompr.runner import OMPRunner, RunningWorker

        class Runner(RunningWorker):
            def __init__(self) -> None:
                super().__init__()
                _tasks.construct(kind, folder)

            def process(self, order: Order) -> Any:
                return _tasks.run(order)

        runners: list[OMPRunner] = []

        def ask(orders: Orders, seconds: float | None = None) -> Any:
            if not runners:  # a runner's limit is given when it is made
                limit = None if seconds is None else int(seconds)
                runners.append(OMPRunner(Runner, devices=[None] * N_WORKERS, task_timeout=limit, rerun_crashed=rerun_crashed))
            runners[0].process([{"order": order} for order in orders])
            return runners[0].get_all_results()

        yield Session(ask, ask)
        runners[0].exit()

    return open_ompr


@contextmanager
def _open_mpire(kind: str, folder: str) -> Iterator[Session]:
    from mpire import WorkerPool

    options: dict[str, Any] = {"chunk_size": 1}
    if kind:
        options |= {"worker_init": lambda: _tasks.construct(kind, folder), "worker_init_timeout": INIT_TIMEOUT}
    with WorkerPool(n_jobs=N_WORKERS, keep_alive=True) as pool:
        yield Session(
            lambda orders: pool.map(_tasks.run, [(order,) for order in orders], **options),
            lambda orders, seconds: pool.map(_tasks.run, [(order,) for order in orders], task_timeout=seconds, **options),
            lambda orders: pool.imap(_tasks.run, ((order,) for order in orders), iterable_len=None),
        )


@contextmanager
def _open_mtasklite(kind: str, folder: str) -> Iterator[Session]:
    from mtasklite import Pool, delayed_init

    def make() -> Any:  # such a pool can be used once
        worker = delayed_init(_tasks.Holder)(kind, folder) if kind else _tasks.run
        return Pool(worker, N_WORKERS)

    def ask(orders: Orders) -> Any:
        with make() as pool:
            return list(pool(orders))

    def ask_lazily(orders: Iterable[Order]) -> Iterable[Any]:
        with make() as pool:
            yield from pool(orders)

    yield Session(ask, lazy=ask_lazily)


@contextmanager
def _open_workercontext(_kind: str, _folder: str) -> Iterator[Session]:
    from workercontext import MultiWorker

    with MultiWorker(_tasks.run_batch, N_WORKERS, "orders") as ask:
        yield Session(lambda orders: [result for part in ask(list(orders)) for result in part])


@contextmanager
def _open_pool(kind: str, folder: str) -> Iterator[Session]:
    def ask_with_limit(orders: Orders, seconds: float) -> Any:
        results = [pool.apply_async(_tasks.run, (order,)) for order in orders]
        return [result.get(timeout=seconds) for result in results]

    with multiprocessing.Pool(N_WORKERS, _tasks.construct, (kind, folder)) as pool:
        yield Session(
            lambda orders: pool.map(_tasks.run, orders, chunksize=1),
            ask_with_limit,
            lambda orders: pool.imap(_tasks.run, orders),
        )


@contextmanager
def _open_executor(kind: str, folder: str) -> Iterator[Session]:
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(N_WORKERS, initializer=_tasks.construct, initargs=(kind, folder)) as executor:
        yield _session_of(lambda: executor)


@contextmanager
def _open_loky(kind: str, folder: str) -> Iterator[Session]:
    from loky import get_reusable_executor

    def get() -> Any:  # asked for anew for each call, it is replaced when it is broken
        return get_reusable_executor(max_workers=N_WORKERS, initializer=_tasks.construct, initargs=(kind, folder))

    yield _session_of(get)
    get().shutdown()


def _session_of(get_executor: Callable[[], Any]) -> Session:
    def ask_with_limit(orders: Orders, seconds: float) -> Any:
        executor = get_executor()
        futures = [executor.submit(_tasks.run, order) for order in orders]
        return [future.result(timeout=seconds) for future in futures]

    return Session(
        lambda orders: list(get_executor().map(_tasks.run, orders)),
        ask_with_limit,
        lambda orders: get_executor().map(_tasks.run, orders),
    )


@contextmanager
def _open_pebble(kind: str, folder: str) -> Iterator[Session]:
    from pebble import ProcessPool

    with ProcessPool(max_workers=N_WORKERS, initializer=_tasks.construct, initargs=(kind, folder)) as pool:
        yield Session(
            lambda orders: list(pool.map(_tasks.run, orders).result()),
            lambda orders, seconds: list(pool.map(_tasks.run, orders, timeout=seconds).result()),
            lambda orders: pool.map(_tasks.run, orders).result(),
        )


#: All libraries, ours first, then the five that users come from, then what is common.
OPENERS: dict[str, Opener] = {
    OURS: _open_objproxy,
    "objectproxypool": _open_objectproxypool,
    "ompr": _ompr_opener(rerun_crashed=True),
    "ompr, rerun_crashed=False": _ompr_opener(rerun_crashed=False),
    "mpire": _open_mpire,
    "mtasklite": _open_mtasklite,
    "workercontext": _open_workercontext,
    "multiprocessing.Pool": _open_pool,
    "concurrent.futures": _open_executor,
    "loky": _open_loky,
    "pebble": _open_pebble,
}

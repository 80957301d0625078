"""Each system's own way to call something in one worker, and in all of them, with an array.

An opener is a context manager that gives a `Caller`. Libraries are imported inside it. Systems that hand a task to
whichever worker is free have no broadcast: there, each worker is a pool of its own, which gets the call at the same
time as the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple

from benchmarks import _work
from benchmarks._clusters import open_dask, open_ray, worker_addresses


class Caller(NamedTuple):
    """How a system calls.

    Attributes
    ----------
    call : callable
        ``call(x)`` gives the result of one worker.
    broadcast : callable
        ``broadcast(x)`` gives the results of all workers.
    """

    call: Callable[[Any], Any]
    broadcast: Callable[[Any], list[Any]]


#: ``opener(name, n_workers)``: the function `name` of `benchmarks._work` is called in so many workers.
Opener = Callable[[str, int], AbstractContextManager[Caller]]

#: ``submit(x)`` gives a function that waits for the result.
Submit = Callable[[Any], Callable[[], Any]]


def _caller_of(submits: list[Submit]) -> Caller:
    """Return the caller of workers of which each takes its calls alone."""

    def broadcast(x: Any) -> list[Any]:
        waits = [submit(x) for submit in submits]
        return [wait() for wait in waits]

    return Caller(lambda x: submits[0](x)(), broadcast)


@contextmanager
def _open_objproxy(name: str, n_workers: int) -> Iterator[Caller]:
    from objproxy import ProxyPool

    with ProxyPool(_work.Worker, worker_count=n_workers) as pool:
        yield Caller(lambda x: getattr(pool[0], name)(x), lambda x: list(getattr(pool, name)(x)))


@contextmanager
def _open_pools(name: str, n_workers: int) -> Iterator[Caller]:
    import multiprocessing

    function = getattr(_work, name)
    with ExitStack() as stack:
        pools = [stack.enter_context(multiprocessing.get_context("fork").Pool(1)) for _ in range(n_workers)]
        yield _caller_of([lambda x, pool=pool: pool.apply_async(function, (x,)).get for pool in pools])


@contextmanager
def _open_managers(name: str, n_workers: int) -> Iterator[Caller]:
    from concurrent.futures import ThreadPoolExecutor
    from multiprocessing.managers import BaseManager

    class Manager(BaseManager):
        pass

    Manager.register("Worker", _work.Worker)
    with ExitStack() as stack:
        managers = [stack.enter_context(Manager()) for _ in range(n_workers)]
        methods = [getattr(manager.Worker(), name) for manager in managers]  # type: ignore[attr-defined]
        threads = stack.enter_context(ThreadPoolExecutor(n_workers))  # a proxy's call blocks
        yield Caller(methods[0], lambda x: list(threads.map(lambda method: method(x), methods)))


@contextmanager
def _open_executors(name: str, n_workers: int) -> Iterator[Caller]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("fork")
    function = getattr(_work, name)
    with ExitStack() as stack:
        executors = [stack.enter_context(ProcessPoolExecutor(1, mp_context=context)) for _ in range(n_workers)]
        yield _caller_of([lambda x, executor=executor: executor.submit(function, x).result for executor in executors])


@contextmanager
def _open_loky(name: str, n_workers: int) -> Iterator[Caller]:
    from loky import ProcessPoolExecutor

    function = getattr(_work, name)
    with ExitStack() as stack:
        executors = [stack.enter_context(ProcessPoolExecutor(1)) for _ in range(n_workers)]
        yield _caller_of([lambda x, executor=executor: executor.submit(function, x).result for executor in executors])


@contextmanager
def _open_joblib(name: str, n_workers: int) -> Iterator[Caller]:
    from joblib import Parallel, delayed

    function = delayed(getattr(_work, name))
    with Parallel(n_jobs=max(n_workers, 2)) as parallel:  # one job would run in the caller's process
        yield Caller(lambda x: parallel([function(x)])[0], lambda x: parallel(function(x) for _ in range(n_workers)))


@contextmanager
def _open_pebble(name: str, n_workers: int) -> Iterator[Caller]:
    from pebble import ProcessPool

    function = getattr(_work, name)
    with ExitStack() as stack:
        pools = [stack.enter_context(ProcessPool(max_workers=1)) for _ in range(n_workers)]
        yield _caller_of([lambda x, pool=pool: pool.schedule(function, args=(x,)).result for pool in pools])


@contextmanager
def _open_mpire(name: str, n_workers: int) -> Iterator[Caller]:
    from mpire import WorkerPool

    function = getattr(_work, name)
    with ExitStack() as stack:
        pools = [stack.enter_context(WorkerPool(n_jobs=1, keep_alive=True)) for _ in range(n_workers)]
        yield _caller_of([lambda x, pool=pool: pool.apply_async(function, (x,)).get for pool in pools])
        for pool in pools:
            pool.stop_and_join()


@contextmanager
def _open_objectproxypool(name: str, n_workers: int) -> Iterator[Caller]:
    from objectproxypool import ProxyPool

    with ProxyPool(_work.Worker, n_workers, separate_processes=True) as pool:
        method = getattr(pool, name)
        yield Caller(lambda x: method(x)[0], lambda x: list(method(x)))


@contextmanager
def _open_mtasklite(name: str, n_workers: int) -> Iterator[Caller]:
    from mtasklite import Pool

    function = getattr(_work, name)

    def run(xs: list[Any]) -> list[Any]:
        with Pool(function, max(len(xs), 2)) as pool:  # can be used once; with one job it would run in the caller's process
            return list(pool(xs))

    yield Caller(lambda x: run([x])[0], lambda x: run([x] * n_workers))


@contextmanager
def _open_multiworker(name: str, n_workers: int) -> Iterator[Caller]:
    from workercontext import MultiWorker

    with MultiWorker(getattr(_work.Batch, name), n_workers, "xs") as run:
        yield Caller(lambda x: run([x])[0][0], lambda x: [result for part in run([x] * n_workers) for result in part])


@contextmanager
def _open_ray(name: str, n_workers: int) -> Iterator[Caller]:
    with open_ray(n_workers) as ray:
        actors = [ray.remote(_work.Worker).remote() for _ in range(n_workers)]
        methods = [getattr(actor, name) for actor in actors]

        def broadcast(x: Any) -> list[Any]:
            reference = ray.put(x)  # once for all actors
            return ray.get([method.remote(reference) for method in methods])

        yield Caller(lambda x: ray.get(methods[0].remote(x)), broadcast)


@contextmanager
def _open_dask(name: str, n_workers: int) -> Iterator[Caller]:
    with open_dask(n_workers) as client:
        actor = client.submit(_work.Worker, actor=True).result()
        addresses = worker_addresses(client)
        function = getattr(_work, name)

        def broadcast(x: Any) -> list[Any]:
            scattered = client.scatter(x, broadcast=True, hash=False)
            futures = [client.submit(function, scattered, workers=[address], pure=False) for address in addresses]
            return client.gather(futures)

        yield Caller(lambda x: getattr(actor, name)(x).result(), broadcast)


#: All systems, ours first.
OPENERS: dict[str, Opener] = {
    "objproxy": _open_objproxy,
    "multiprocessing.Pool": _open_pools,
    "multiprocessing.managers": _open_managers,
    "ProcessPoolExecutor": _open_executors,
    "loky": _open_loky,
    "joblib": _open_joblib,
    "pebble": _open_pebble,
    "mpire": _open_mpire,
    "objectproxypool": _open_objectproxypool,
    "mtasklite": _open_mtasklite,
    "MultiWorker": _open_multiworker,
    "Ray": _open_ray,
    "Dask": _open_dask,
}

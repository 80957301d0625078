"""How each system does the work of `benchmarks.mpire_three`: a class of three methods for each.

Everything from making the pool to its end is timed, but a cluster's own start and end are not. Workers that outlive a
trial (Dask's, and joblib's) are given its number, so that they begin with nothing.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, Protocol

from benchmarks import _mpire_work as work
from benchmarks._clusters import open_dask, open_ray, worker_addresses

#: Entries of a model's table and size of its data.
Sizes = tuple[int, int]


class Lane(Protocol):
    """What each system has to do."""

    def filter_images(self, image: Any, filters: Sequence[Any]) -> Iterable[Any]:
        """Return the filtered images, in order."""

    def count_prefixes(self, documents: Sequence[list[bytes]]) -> Iterable[tuple[int, set[bytes]]]:
        """Return what the counter of each worker has found."""

    def evaluate_models(self, sizes: Sizes, n_runs: int, n_items: int) -> Iterable[list[Any]]:
        """Yield the answers of each run, in any order, with the same models in all runs."""


class Serial:
    """One after the other, in this process."""

    def __init__(self, _n_workers: int) -> None: ...

    def filter_images(self, image: Any, filters: Sequence[Any]) -> Iterable[Any]:
        return [work.process_image(image, kernel) for kernel in filters]

    def count_prefixes(self, documents: Sequence[list[bytes]]) -> Iterable[tuple[int, set[bytes]]]:
        counter = work.PrefixCount()
        for document in documents:
            counter.add_document(document)
        return [counter.get_popular()]

    def evaluate_models(self, sizes: Sizes, n_runs: int, n_items: int) -> Iterator[list[Any]]:
        model = work.Model(*sizes)
        for _ in range(n_runs):
            yield [model.evaluate(index) for index in range(n_items)]


class ObjProxy:
    """One live object in each worker."""

    def __init__(self, n_workers: int) -> None:
        self._n_workers = n_workers

    def _open(self, kind: type, *args: Any) -> Any:
        from objproxy import ProxyPool

        return ProxyPool(kind, worker_count=self._n_workers, init_args=args)

    def filter_images(self, image: Any, filters: Sequence[Any]) -> Iterable[Any]:
        with self._open(work.ImageFilter) as pool, pool.put(image) as shipped:
            return pool.process.map(itertools.repeat(shipped), filters)

    def count_prefixes(self, documents: Sequence[list[bytes]]) -> Iterable[tuple[int, set[bytes]]]:
        with self._open(work.PrefixCount) as pool:
            pool.add_document.map(documents)
            return pool.get_popular.broadcast()

    def evaluate_models(self, sizes: Sizes, n_runs: int, n_items: int) -> Iterator[list[Any]]:
        with self._open(work.Model, *sizes) as pool:
            for _ in range(n_runs):
                yield list(pool.evaluate.imap_unordered(range(n_items)))


#: Numbers of trials.
_trials = itertools.count()

#: What `_begin` leaves to the tasks of a worker.
_begun: list[Any] = []


def _begin(kind: Any, *args: Any) -> None:
    _begun[:] = [kind(*args)]


def _keep(value: Any) -> Any:
    return value


def _process(kernel: Any) -> Any:
    return work.process_image(_begun[0], kernel)


def _add_document(document: list[bytes]) -> None:
    _begun[0].add_document(document)


def _get_popular() -> tuple[int, set[bytes]]:
    popular: tuple[int, set[bytes]] = _begun[0].get_popular()
    return popular


def _evaluate(index: int) -> Any:
    return _begun[0].evaluate(index)


def _count_on_each(workers: Sequence[Any], documents: Sequence[list[bytes]]) -> list[tuple[int, set[bytes]]]:
    """Let workers that are pools of their own count: each gets the next document when it is free.

    ``worker(function, *args)`` runs a function there and waits for its result.
    """
    from concurrent.futures import ThreadPoolExecutor

    rest = iter(documents)  # threads share it; the interpreter lock guards `next`

    def feed(worker: Any) -> tuple[int, set[bytes]]:
        for document in rest:
            worker(_add_document, document)
        popular: tuple[int, set[bytes]] = worker(_get_popular)
        return popular

    with ThreadPoolExecutor(len(workers)) as threads:
        return list(threads.map(feed, workers))


class Pool:
    """`multiprocessing.Pool`, forked; objects are made by its initializer."""

    def __init__(self, n_workers: int) -> None:
        self._n_workers = n_workers

    def _open(self, n_workers: int, *args: Any) -> Any:
        import multiprocessing

        return multiprocessing.get_context("fork").Pool(n_workers, _begin, args)

    def filter_images(self, image: Any, filters: Sequence[Any]) -> Iterable[Any]:
        with self._open(self._n_workers, _keep, image) as pool:
            return list(pool.imap(_process, filters))

    def count_prefixes(self, documents: Sequence[list[bytes]]) -> Iterable[tuple[int, set[bytes]]]:
        # A pool cannot ask each of its workers for its state: so each worker is a pool.
        with ExitStack() as stack:
            pools = [stack.enter_context(self._open(1, work.PrefixCount)) for _ in range(self._n_workers)]
            workers = [lambda function, *args, pool=pool: pool.apply(function, args) for pool in pools]
            return _count_on_each(workers, documents)

    def evaluate_models(self, sizes: Sizes, n_runs: int, n_items: int) -> Iterator[list[Any]]:
        with self._open(self._n_workers, work.Model, *sizes) as pool:
            for _ in range(n_runs):
                yield list(pool.imap_unordered(_evaluate, range(n_items)))


class Executor:
    """`concurrent.futures.ProcessPoolExecutor`, forked; objects are made by its initializer."""

    def __init__(self, n_workers: int) -> None:
        self._n_workers = n_workers

    def _open(self, n_workers: int, *args: Any) -> Any:
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        context = multiprocessing.get_context("fork")
        return ProcessPoolExecutor(n_workers, mp_context=context, initializer=_begin, initargs=args)

    def filter_images(self, image: Any, filters: Sequence[Any]) -> Iterable[Any]:
        with self._open(self._n_workers, _keep, image) as executor:
            return list(executor.map(_process, filters))

    def count_prefixes(self, documents: Sequence[list[bytes]]) -> Iterable[tuple[int, set[bytes]]]:
        with ExitStack() as stack:  # as for a pool
            executors = [stack.enter_context(self._open(1, work.PrefixCount)) for _ in range(self._n_workers)]
            workers = [lambda function, *args, each=each: each.submit(function, *args).result() for each in executors]
            return _count_on_each(workers, documents)

    def evaluate_models(self, sizes: Sizes, n_runs: int, n_items: int) -> Iterator[list[Any]]:
        with self._open(self._n_workers, work.Model, *sizes) as executor:
            for _ in range(n_runs):
                yield list(executor.map(_evaluate, range(n_items)))


class Joblib:
    """`joblib.Parallel`: it maps a large argument into its workers itself, and has no state but a manager's."""

    def __init__(self, n_workers: int) -> None:
        self._n_workers = n_workers

    def _open(self) -> Any:
        from joblib import Parallel

        return Parallel(n_jobs=self._n_workers)

    def filter_images(self, image: Any, filters: Sequence[Any]) -> Iterable[Any]:
        from joblib import delayed

        with self._open() as parallel:
            results: list[Any] = parallel(delayed(work.process_image)(image, kernel) for kernel in filters)
        return results

    def count_prefixes(self, documents: Sequence[list[bytes]]) -> Iterable[tuple[int, set[bytes]]]:
        from multiprocessing.managers import BaseManager

        from joblib import delayed

        class Manager(BaseManager):
            pass

        Manager.register("PrefixCount", work.PrefixCount)
        with ExitStack() as stack:
            managers = [stack.enter_context(Manager()) for _ in range(self._n_workers)]
            counters = [manager.PrefixCount() for manager in managers]  # type: ignore[attr-defined]
            parallel = stack.enter_context(self._open())
            pairs = zip(itertools.cycle(counters), documents, strict=False)
            parallel(delayed(work.add_document_to)(counter, document) for counter, document in pairs)
            return [counter.get_popular() for counter in counters]

    def evaluate_models(self, sizes: Sizes, n_runs: int, n_items: int) -> Iterator[list[Any]]:
        from joblib import delayed

        with self._open() as parallel:
            trial = next(_trials)
            for _ in range(n_runs):
                yield parallel(delayed(work.evaluate)(trial, *sizes, index) for index in range(n_items))


def _begin_state(worker_state: dict[str, Any], kind: Any, *args: Any) -> None:
    worker_state["object"] = kind(*args)


def _process_shared(image: Any, kernel: Any) -> Any:
    return work.process_image(image, kernel)


def _add_to_state(worker_state: dict[str, Any], document: list[bytes]) -> None:
    worker_state["object"].add_document(document)


def _popular_of_state(worker_state: dict[str, Any]) -> Any:
    return worker_state["object"].get_popular()


def _evaluate_state(worker_state: dict[str, Any], index: int) -> Any:
    return worker_state["object"].evaluate(index)


class Mpire:
    """MPIRE, or a module that stands in for it: shared objects by fork, worker state, exit results."""

    def __init__(self, n_workers: int, module: str = "mpire") -> None:
        self._n_workers = n_workers
        self._module = module

    def _open(self, **options: Any) -> Any:
        return importlib.import_module(self._module).WorkerPool(self._n_workers, **options)

    def filter_images(self, image: Any, filters: Sequence[Any]) -> Iterable[Any]:
        with self._open(shared_objects=image, start_method="fork") as pool:
            return list(pool.imap(_process_shared, [(kernel,) for kernel in filters]))

    def count_prefixes(self, documents: Sequence[list[bytes]]) -> Iterable[tuple[int, set[bytes]]]:
        with self._open(use_worker_state=True, start_method="fork") as pool:
            pool.map_unordered(
                _add_to_state,
                [(document,) for document in documents],
                worker_init=partial(_begin_state, kind=work.PrefixCount),
                worker_exit=_popular_of_state,
            )
            results: list[tuple[int, set[bytes]]] = pool.get_exit_results()
        return results

    def evaluate_models(self, sizes: Sizes, n_runs: int, n_items: int) -> Iterator[list[Any]]:
        begin = partial(_begin_state, kind=partial(work.Model, *sizes))
        with self._open(use_worker_state=True, keep_alive=True) as pool:
            for _ in range(n_runs):
                yield list(pool.imap_unordered(_evaluate_state, range(n_items), worker_init=begin))


class Ray:
    """Ray: tasks with an object of the store, and pools of actors."""

    def __init__(self, n_workers: int, ray: Any) -> None:
        self._n_workers = n_workers
        self._ray = ray

    def _actors(self, kind: Any, *args: Any) -> list[Any]:
        return [self._ray.remote(kind).remote(*args) for _ in range(self._n_workers)]

    def filter_images(self, image: Any, filters: Sequence[Any]) -> Iterable[Any]:
        process, reference = self._ray.remote(work.process_image), self._ray.put(image)
        results: list[Any] = self._ray.get([process.remote(reference, kernel) for kernel in filters])
        return results

    def count_prefixes(self, documents: Sequence[list[bytes]]) -> Iterable[tuple[int, set[bytes]]]:
        from ray.util import ActorPool

        actors = self._actors(work.PrefixCount)
        list(ActorPool(actors).map_unordered(lambda actor, document: actor.add_document.remote(document), documents))
        results: list[tuple[int, set[bytes]]] = self._ray.get([actor.get_popular.remote() for actor in actors])
        return results

    def evaluate_models(self, sizes: Sizes, n_runs: int, n_items: int) -> Iterator[list[Any]]:
        from ray.util import ActorPool

        pool = ActorPool(self._actors(work.Model, *sizes))
        for _ in range(n_runs):
            yield list(pool.map_unordered(lambda actor, index: actor.evaluate.remote(index), range(n_items)))


class Dask:
    """Dask: scattered data, and one object in each worker's process."""

    def __init__(self, n_workers: int, client: Any) -> None:
        self._client = client

    def filter_images(self, image: Any, filters: Sequence[Any]) -> Iterable[Any]:
        scattered = self._client.scatter(image, broadcast=True, hash=False)
        futures = [self._client.submit(work.process_image, scattered, kernel, pure=False) for kernel in filters]
        results: list[Any] = self._client.gather(futures)
        return results

    def count_prefixes(self, documents: Sequence[list[bytes]]) -> Iterable[tuple[int, set[bytes]]]:
        trial, submit = next(_trials), self._client.submit
        self._client.gather([submit(work.add_document, trial, document, pure=False) for document in documents])
        addresses = worker_addresses(self._client)
        futures = [submit(work.get_popular, trial, workers=[address], pure=False) for address in addresses]
        results: list[tuple[int, set[bytes]]] = self._client.gather(futures)
        return results

    def evaluate_models(self, sizes: Sizes, n_runs: int, n_items: int) -> Iterator[list[Any]]:
        trial, submit = next(_trials), self._client.submit
        for _ in range(n_runs):
            futures = [submit(work.evaluate, trial, *sizes, index, pure=False) for index in range(n_items)]
            yield self._client.gather(futures)


@contextmanager
def _open_ray(n_workers: int) -> Iterator[Lane]:
    with open_ray(n_workers) as ray:
        yield Ray(n_workers, ray)


@contextmanager
def _open_dask(n_workers: int) -> Iterator[Lane]:
    with open_dask(n_workers) as client:
        yield Dask(n_workers, client)


_POOLS = {
    "objproxy": ObjProxy,
    "multiprocessing.Pool": Pool,
    "ProcessPoolExecutor": Executor,
    "joblib": Joblib,
    "mpire": Mpire,
    "serial": Serial,
}

#: What is started before the work is timed.
CLUSTERS = {"Ray": _open_ray, "Dask": _open_dask}

#: All systems, ours first.
LIBRARIES = (*_POOLS, *CLUSTERS)


def open_lane(library: str, n_workers: int) -> AbstractContextManager[Lane]:
    """Return a context manager of a system that can do the work; a cluster runs when it is entered."""
    if library in CLUSTERS:
        return CLUSTERS[library](n_workers)
    return nullcontext(_POOLS[library](n_workers))

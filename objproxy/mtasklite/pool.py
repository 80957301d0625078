"""`Pool`: any iterable through workers that each have a function, or an object, of their own."""

from __future__ import annotations

import contextlib
import inspect
import weakref
from collections.abc import Iterable, Iterator, Sized
from typing import Any, NoReturn, Self

from objproxy import (
    NotSupportedError,
    PoolBrokenError,
    PoolClosedError,
    ProxyPool,
    RemoteTraceback,
    TaskTimeoutError,
    WorkerInitError,
)
from objproxy.handling import cause_of, is_a, set_traceback
from objproxy.mtasklite.constants import (
    ArgumentError,
    ArgumentPassing,
    ExceptionBehaviour,
    check_argument_type,
    check_behaviour,
)
from objproxy.mtasklite.delayed_init import Delayed, ShellObject
from objproxy.mtasklite.streaming import Inline, Input, Pace, Seat

#: Most items of a batch for each worker, however fast they are taken.
_MAX_ITEMS_PER_WORKER = 1024

#: What the errors of lost workers recommend.
_ADVICE = (
    "The worker is replaced. With exception_behavior='ignore' such errors are results and the other items go on; with "
    "'deferred' they are raised at the end"
)

#: Deaths of one worker within so many seconds after which it is given up. Items that kill are the items' fault.
_MAX_RESTARTS = (100, 5.0)


class Pool:
    """Workers through which iterables are streamed, lazily.

    Parameters
    ----------
    worker_or_worker_arr : callable, ShellObject, or list of them
        A function, a partial, anything callable, or an object of a `delayed_init` class; a list has one for each worker.
    n_jobs : int or None
        Number of workers; with a list None, or its length. One worker runs inline: in the calling thread, item by item.
    argument_type : str
        How an item is passed on, see `ArgumentPassing`; "direct" is "single_arg".
    exception_behavior : str
        What becomes of an error, see `ExceptionBehaviour`. `exception_behaviour` is the same.
    bounded : bool
        True: at most one batch is pulled ahead of the consumer. False: the whole input is read before the first result.
    chunk_size : int or None
        Items in a batch. Default: as many as workers; or, of tiny items, as many as the consumer takes in twenty milliseconds,
        but at most 1,024 for each worker and a fourth of what it has taken.
    chunk_prefill_ratio : int or None
        Batches that are pulled ahead if `is_unordered`, 2 by default.
    is_unordered : bool
        Give results as they come.
    use_threads : bool
        Threads in place of processes; each has its own object of a `delayed_init` class.
    task_timeout : float or None
        Seconds for one item; past them its error is `objproxy.TaskTimeoutError` and its worker is replaced.
    join_timeout : float or None
        Seconds that leaving the ``with`` block waits for what runs.

    Attributes
    ----------
    exited : bool
        Whether a ``with`` block was left.
    num_workers : int
        Number of workers.

    Raises
    ------
    ArgumentError
        The workers or options make no sense; nothing was started.
    Exception
        What the constructor of a delayed worker raised, once, as itself; no worker is left.
    objproxy.NotSupportedError
        A `task_timeout` with threads, which nobody can end.

    Notes
    -----
    A worker that dies is replaced, with a new object, and its item's error is `objproxy.WorkerDiedError`. A pool may be used
    again; its workers end with the ``with`` block, or when nobody holds the pool or any of its results.

    Examples
    --------
    >>> with Pool(abs, n_jobs=2) as pool:
    ...     list(pool([-1, 2, -3]))
    [1, 2, 3]
    """

    def __init__(
        self,
        worker_or_worker_arr: Any,
        n_jobs: int | None = None,
        argument_type: str | None = ArgumentPassing.AS_SINGLE_ARG,
        exception_behavior: str = ExceptionBehaviour.IMMEDIATE,
        bounded: bool = True,
        chunk_size: int | None = None,
        chunk_prefill_ratio: int | None = None,
        is_unordered: bool = False,
        use_threads: bool = False,
        task_timeout: float | None = None,
        join_timeout: float | None = None,
        *,
        exception_behaviour: str | None = None,
    ) -> None:
        workers = _list_workers(worker_or_worker_arr, n_jobs)
        if task_timeout is not None and use_threads:
            raise NotSupportedError(f"task_timeout={task_timeout!r} needs workers that are processes; leave use_threads out")
        self.exited = False
        self.num_workers = len(workers)
        self.argument_type = check_argument_type(argument_type)
        self.exception_behavior = check_behaviour(exception_behavior, exception_behaviour)
        self.bounded = bounded
        self.chunk_size = None if chunk_size is None else max(int(chunk_size), 1)
        self.chunk_prefill_ratio = 2 if chunk_prefill_ratio is None else max(int(chunk_prefill_ratio), 1)
        self.is_unordered = is_unordered
        self.use_threads = use_threads
        self.task_timeout = task_timeout
        self.join_timeout = join_timeout
        self._results: weakref.WeakSet[WorkerPoolResultGenerator] = weakref.WeakSet()
        self._workers: ProxyPool[Seat] | None = None
        if len(workers) == 1 and task_timeout is None and not _is_coroutine(workers[0]):
            self._inline = getattr(Seat(workers[0]), self.argument_type)
        else:
            self._workers = _start(workers, "thread" if use_threads else "process")
            self._method = getattr(self._workers, self.argument_type).options(
                timeout=task_timeout, label=_label_of(workers), advice=_ADVICE
            )

    @property
    def is_remote(self) -> bool:
        """Whether the workers are processes or threads; False if there is one, inline."""
        return self._workers is not None

    def __call__(self, input_iterable: Iterable[Any]) -> WorkerPoolResultGenerator:
        """Stream an iterable through the workers; nothing is pulled yet.

        Returns
        -------
        WorkerPoolResultGenerator
            The results, one at a time, in the order of the items unless `is_unordered`.
        """
        results = WorkerPoolResultGenerator(self, input_iterable)
        self._results.add(results)
        return results

    def _stream(self, items: Iterable[Any]) -> tuple[Any, Pace]:
        """Return the bare results and their pace, for `WorkerPoolResultGenerator`; an item's error is raised in its turn."""
        n_batches = self.chunk_prefill_ratio if self.is_unordered else 1
        least = (self.chunk_size or self.num_workers) * n_batches
        pace = Pace(least, least if self.chunk_size else _MAX_ITEMS_PER_WORKER * self.num_workers)
        if self._workers is None:
            return Inline(self._inline, items), pace
        if not self.bounded:
            stream = self._method.stream(ordered=not self.is_unordered)  # a thread feeds the workers while nobody takes results
            stream.put(list(items))
            stream.end()
            return stream, pace
        method = self._method.options(buffersize=pace.batch_size)
        return (method.imap_unordered if self.is_unordered else method.imap)(items), pace

    def close(self) -> None:
        """Forget what has not run, wait for what runs (`join_timeout` seconds at most), and end the workers."""
        for results in list(self._results):
            results.close()
        if self._workers is not None:
            with contextlib.suppress(TaskTimeoutError):  # what a worker still does in the background is given up without a word
                self._workers.close(self.join_timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        """Close."""
        self.close()
        self.exited = True


class WorkerPoolResultGenerator(Iterator[Any]):
    """The results of one input, one at a time; an iterator and a context manager, whose end closes the pool.

    Parameters
    ----------
    parent_obj : Pool
        Where the workers are.
    input_iterable : iterable
        The items; if it knows its length, ``len()`` of this is the same.
    """

    def __init__(self, parent_obj: Pool, input_iterable: Iterable[Any]) -> None:
        self.parent_obj = parent_obj
        self._length = len(input_iterable) if isinstance(input_iterable, Sized) else None
        self._deferred: list[Exception] = []
        self._input = Input(input_iterable)
        self._results, self._pace = parent_obj._stream(iter(self._input))

    def __len__(self) -> int:
        """Return the number of items.

        Raises
        ------
        TypeError
            The input does not know it.
        """
        if self._length is None:
            raise TypeError("the number of results is not known, since the input has no length")
        return self._length

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        self._pace.n_consumed += 1
        try:
            return next(self._results)
        except StopIteration:
            self._end()
        except (Exception, SystemExit) as exc:
            return self._settle(exc)

    def _end(self) -> NoReturn:
        errors, self._deferred = self._deferred, []
        if errors:
            raise Exception(*errors)
        raise StopIteration

    def _settle(self, error: Exception | SystemExit) -> Exception:
        """Raise an error, or return it as a result."""
        try:
            is_final = self._input.has_raised(error) or is_a(error, (PoolBrokenError, PoolClosedError))
            if not is_final and self.parent_obj.is_remote:
                error = _clean(error)
            behaviour = self.parent_obj.exception_behavior
            if is_final or behaviour == ExceptionBehaviour.IMMEDIATE or not is_a(error, Exception):
                self.close()
                raise error
            if behaviour == ExceptionBehaviour.DEFERRED:
                self._deferred.append(error)
            return error
        finally:
            del error  # else it and this frame hold each other, and the workers, until garbage is collected

    def close(self) -> None:
        """Forget what has not run; the next ``next()`` ends the iteration."""
        self._deferred.clear()
        self._results.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close the pool."""
        self.close()
        self.parent_obj.__exit__(*exc_info)


def _clean(error: Exception | SystemExit) -> Exception | SystemExit:
    """Return an error without the frames of the engine; ``sys.exit()`` in a worker shall not end this program."""
    cause = cause_of(error)
    if is_a(error, SystemExit) and is_a(cause, RemoteTraceback):
        error = RuntimeError(f"the worker called sys.exit({error.code!r})")
        error.__cause__ = cause
    set_traceback(error, None)
    return error


def _label_of(workers: list[Any]) -> Any:
    """Return what names the workers in errors: their function, or their class."""
    found = [worker.object_class if isinstance(worker, ShellObject) else worker for worker in workers]
    return found[0] if all(each is found[0] for each in found) else "the worker"


def _is_coroutine(worker: Any) -> bool:
    """Whether a worker has to be awaited, which is done where it has an event loop."""
    kind = worker.object_class if isinstance(worker, ShellObject) else type(worker)
    return inspect.iscoroutinefunction(worker) or inspect.iscoroutinefunction(getattr(kind, "__call__", None))  # noqa: B004


def _start(workers: list[Any], backend: str) -> ProxyPool[Seat]:
    """Start one worker for each; the error of a constructor is raised as itself."""
    try:
        return ProxyPool(
            Seat,
            init_args_each=[(worker,) for worker in workers],
            backend=backend,
            start_method="fork-if-safe",  # as quick as mtasklite's own forks
            max_restarts=_MAX_RESTARTS,
            warn_unclosed=False,
        )
    except WorkerInitError as exc:
        cause = exc.__cause__
        if is_a(cause, Exception) and not is_a(cause, RemoteTraceback):
            raise cause from cause_of(cause)
        raise


def _list_workers(given: Any, n_jobs: int | None) -> list[Any]:
    """Return one worker for each job."""
    if isinstance(given, (list, tuple)):
        workers = list(given)
        if not workers:
            raise ArgumentError("the list of workers is empty; expected at least one")
        if n_jobs is not None and n_jobs != len(workers):
            raise ArgumentError(f"n_jobs={n_jobs!r} for a list of {len(workers)} workers; leave n_jobs out, or make them equal")
    else:
        if n_jobs is None:
            raise ArgumentError("n_jobs is needed for a single worker; or give a list with one worker for each job")
        workers = [given] * max(int(n_jobs), 1)
    for worker in workers:
        if isinstance(worker, Delayed):
            raise ArgumentError(f"{worker.__name__} is a delayed class; give an object of it: {worker.__name__}(...)")
        if not callable(worker):
            raise ArgumentError(f"{worker!r} is no worker; expected a function, or an object that can be called")
    return workers

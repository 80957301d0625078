"""`MultiWorker` and its relatives, over `objproxy.parallelise`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from objproxy import ParallelCall, ParallelFunction, ProxyPool
from objproxy.inspecting import signature_of

Reduction = Callable[[list[Any]], Any]
Combine = Callable[[list[Any], list[int]], Any]

#: As quick as workercontext's own forks.
_START_METHOD = "fork-if-safe"


class MultiWorker:
    """A context in which a function of a list runs on batches of that list, in several processes.

    Parameters
    ----------
    function : callable
        Takes a batch of one of its arguments; a lambda or a closure will do.
    n_processes : int
        Workers, and most batches of a call; their lengths differ by at most one.
    batched_arg : str or None
        The argument to batch: any sequence, array, data frame or range. Default: if all arguments have type hints the first
        that is a sequence's, else the first.
    verbose : bool
        Print how each call is shared out.
    reduction : callable or None
        Makes one value of the list of the batches' results; None gives that list.
    combine : callable or None
        ``combine(results, sizes)`` in place of a reduction; gets the lengths of the batches too.

    Raises
    ------
    TypeError, ValueError
        An option that makes no sense; in a call, an argument that cannot be batched.

    Notes
    -----
    If a worker dies, the call raises `objproxy.WorkerDiedError`, and the next call finds the worker replaced.

    Examples
    --------
    >>> from objproxy.workercontext.reductions import flatten_reduction
    >>> def double(numbers):
    ...     return [2 * number for number in numbers]
    >>> with MultiWorker(double, 2, reduction=flatten_reduction) as fast_double:
    ...     fast_double([1, 2, 3])
    [2, 4, 6]
    """

    def __init__(
        self,
        function: Callable[..., Any],
        n_processes: int,
        batched_arg: str | None = None,
        verbose: bool = False,
        reduction: Reduction | None = None,
        *,
        combine: Combine | None = None,
    ) -> None:
        if n_processes is None:
            raise TypeError("n_processes=None: expected the number of processes")
        self.function = function
        self.n_processes = n_processes
        self._parallel = ParallelFunction(
            function,
            worker_count=n_processes,
            batched_arg=batched_arg,
            reduction=reduction,
            combine=combine,
            verbose=verbose,
            start_method=_START_METHOD,
        )

    @property
    def pool(self) -> ProxyPool[Any]:
        """The workers."""
        return self._parallel.pool

    @property
    def batched_arg(self) -> str:
        """The name of the argument that is batched."""
        return self._parallel.batched_arg

    @staticmethod
    def batchify(lst: Sequence[Any], chunk_size: int) -> list[Sequence[Any]]:
        """Cut a sequence into pieces of `chunk_size` items; the last may be shorter."""
        return [lst[i : i + chunk_size] for i in range(0, len(lst), chunk_size)]

    def __enter__(self) -> Callable[..., Any]:
        return self._parallel

    def __exit__(self, *exc_info: Any) -> None:
        """Finish and end the workers; left by an exception, end what runs."""
        self._parallel.__exit__(*exc_info)


class MultiWorkerAsync(MultiWorker):
    """A context in which calls return at once, and whose end waits for all of them.

    Parameters
    ----------
    function, n_processes, batched_arg, verbose
        As for `MultiWorker`.
    return_container : list or None
        At the end of the block the result of each batch of each call is appended, in order.
    reduction, combine : callable or None
        As for `MultiWorker`; then one value is appended for each call.

    Raises
    ------
    Exception
        At the end of the block: what the function raised first, in the order of the calls. The results of the calls before
        are in the container.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        n_processes: int,
        batched_arg: str | None = None,
        verbose: bool = False,
        return_container: list[Any] | None = None,
        *,
        reduction: Reduction | None = None,
        combine: Combine | None = None,
    ) -> None:
        super().__init__(function, n_processes, batched_arg, verbose, reduction, combine=combine)
        self.return_container = return_container
        self._is_reduced = reduction is not None or combine is not None
        self._calls: list[ParallelCall] = []

    def __enter__(self) -> Callable[..., None]:
        return self._start

    def _start(self, *args: Any, **kwargs: Any) -> None:
        self._calls.append(self._parallel.submit(*args, **kwargs))

    def __exit__(self, *exc_info: Any) -> None:
        """Wait for every call and collect the results; left by an exception, end what runs."""
        calls, self._calls = self._calls, []
        try:
            if exc_info[0] is None:
                self._collect(calls)
        finally:
            super().__exit__(*exc_info)

    def _collect(self, calls: list[ParallelCall]) -> None:
        for call in calls:
            result = call.result()
            if self.return_container is not None:
                self.return_container.extend([result] if self._is_reduced else result)


#: Batches that `parallelise_async` started and that have not ended: their workers must live even if nobody holds the function.
_RUNNING: set[Future[Any]] = set()


class AsyncFunction:
    """A function that returns at once; made by `parallelise_async`.

    Parameters
    ----------
    parallel : ParallelFunction
        What runs.
    """

    def __init__(self, parallel: ParallelFunction) -> None:
        self._parallel = parallel
        self._calls: list[ParallelCall] = []

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Start the function on batches of its batched argument; what it returns is dropped."""
        self._calls = [call for call in self._calls if not call.done()]
        call = self._parallel.submit(*args, **kwargs)
        self._calls.append(call)
        for future in call.futures:
            _RUNNING.add(future)
            future.add_done_callback(_RUNNING.discard)

    def wait(self) -> None:
        """Wait until the calls that run have ended; raise the first error of theirs."""
        calls, self._calls = self._calls, []
        for call in calls:
            call.result()

    def close(self) -> None:
        """Finish what runs and end the workers."""
        self._parallel.close()


def parallelise(
    function: Callable[..., Any],
    n_processes: int,
    batched_arg: str | None = None,
    verbose: bool = False,
    reduction: Reduction | None = None,
    *,
    combine: Combine | None = None,
) -> ParallelFunction:
    """Return `function` as one that runs on batches in several processes; the arguments are those of `MultiWorker`.

    Notes
    -----
    Its processes end with its ``close()``, or when nobody holds it any more.
    """
    return MultiWorker(function, n_processes, batched_arg, verbose, reduction, combine=combine)._parallel


def auto_parallelise(function: Callable[..., Any], *, verbose: bool = False) -> ParallelFunction:
    """Parallelise by type hints alone: one process for each usable CPU, and the reduction that suits what `function` returns.

    Parameters
    ----------
    function : callable
        With type hints. Lists that it returns are joined, sets united, mappings merged, Counters added, strings joined; of
        anything else the list of the batches' results is given.
    verbose : bool
        Print how each call is shared out.

    Raises
    ------
    ValueError
        There are no type hints, or none of what it returns.
    """
    signature = signature_of(function)
    hints = [parameter.annotation for parameter in signature.parameters.values()]
    is_told = signature.return_annotation is not signature.empty
    if not is_told and all(hint is signature.empty for hint in hints):
        raise ValueError(
            f"auto_parallelise chooses by type hints, and {function!r} has none; use parallelise(function, n, ...)"
        )
    if not is_told:
        raise ValueError(f"{function!r} has no type hint of what it returns, by which auto_parallelise chooses the reduction")
    return ParallelFunction(function, reduction="auto", verbose=verbose, start_method=_START_METHOD)


def parallelise_async(
    function: Callable[..., Any], n_processes: int, batched_arg: str | None = None, verbose: bool = False
) -> AsyncFunction:
    """Return `function` as one that starts on batches in several processes and returns None at once.

    Notes
    -----
    What was started is finished even if nobody holds the returned function; the end of the program ends it. ``wait()`` of the
    returned function waits, and raises what went wrong.
    """
    return AsyncFunction(MultiWorker(function, n_processes, batched_arg, verbose)._parallel)

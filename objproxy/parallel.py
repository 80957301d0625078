"""`parallelise`: cut one argument of a function into batches, one for each worker, and reduce the results."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_futures
from typing import Any, Self, overload

from objproxy._checks import check_count
from objproxy._worker.waits import make_patient_lock
from objproxy.batches import Hints, Reduction, split
from objproxy.proxy import ProxyPool
from objproxy.reductions import combine_batches

Combine = Callable[[list[Any], list[int]], Any]

#: What the errors of lost workers recommend.
_ADVICE = "The worker is replaced and the other batches are not lost; call the function again if it may run twice"


class _Runner:
    """What lives in a worker: the function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._function(*args, **kwargs)


class ParallelFunction:
    """A function that runs on batches of one of its arguments, in several workers at a time; made by `parallelise`.

    Parameters
    ----------
    function : callable
        Anything that takes a batch: a function, a lambda, a closure, a bound method.
    worker_count : int or None
        Workers, and most batches of a call. Default: the CPUs that this process may use.
    batched_arg : str or None
        The parameter to batch. Default: if all parameters have type hints the first whose hint is that of a sequence, array or
        data frame; else the first.
    reduction : callable, "auto" or None
        Makes one value of the list of results; `objproxy.reductions.combine_batches` tells how averages and histograms are
        made right. "auto" chooses by the type hint of what the function returns: lists are joined, sets united, mappings
        merged, Counters added, strings joined. None, or nothing known: the list of results.
    combine : callable or None
        ``combine(results, sizes)``, in place of a reduction, for a value that needs the number of items in each batch.
    verbose : bool
        Print which parameter is batched, and how.
    **pool_options
        Options of `ProxyPool`, such as ``backend="thread"`` or ``threads_per_worker=2``.

    Raises
    ------
    TypeError, ValueError
        An option that makes no sense.

    Notes
    -----
    The workers are started by the first call and stay until `close`, the end of a ``with`` block, or until nobody holds the
    function any more. Several threads may call it. If a worker dies, the call raises `WorkerDiedError`, and the next one
    finds the worker replaced.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        worker_count: int | None = None,
        batched_arg: str | None = None,
        reduction: Reduction | str | None = "auto",
        combine: Combine | None = None,
        verbose: bool = False,
        **pool_options: Any,  # each has its own type, which ProxyPool checks
    ) -> None:
        if not callable(function):
            raise TypeError(f"parallelise needs a function; got {function!r}")
        check_count("worker_count", worker_count)
        _check_reduction(reduction, combine)
        hints = Hints(function)
        if batched_arg is not None:
            hints.check_arg(batched_arg)
        self._function = function
        self._worker_count = worker_count
        self._hints = hints
        self._batched_arg = batched_arg
        self._combine_with_sizes = combine
        self._verbose = verbose
        self._pool_options = pool_options
        self._wanted_reduction = reduction
        self._reduction = hints.reduction() if isinstance(reduction, str) else reduction
        self._lock = make_patient_lock()  # two first calls at one time must not make two pools
        self._pool: ProxyPool[_Runner] | None = None
        functools.update_wrapper(self, function, updated=())

    @functools.cached_property
    def batched_arg(self) -> str:
        """The name of the parameter that is batched."""
        return self._batched_arg or self._hints.batched_arg()

    @property
    def pool(self) -> ProxyPool[_Runner]:
        """The workers, which this starts if need be."""
        with self._lock:
            if self._pool is None:
                options = {"warn_unclosed": False, **self._pool_options}  # it is over when nobody holds the function
                self._pool = ProxyPool(_Runner, worker_count=self._worker_count, init_args=(self._function,), **options)
            return self._pool

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the function on batches of its batched argument.

        Returns
        -------
        object
            The reduced results; without a reduction the list of them, one for each batch, in order. Empty input is one empty
            batch, so that the value is that of the function itself; without a reduction it is the empty list.
        """
        calls, sizes = self._cut(args, kwargs)
        if not calls:
            return []
        run = self._run().options(chunksize=1)
        return self._combine(run.map(*zip(*calls, strict=True)), sizes)

    def submit(self, /, *args: Any, **kwargs: Any) -> ParallelCall:
        """Run the function on batches of its batched argument, without waiting.

        Returns
        -------
        ParallelCall
            Its ``result()`` is what the call itself would have returned.
        """
        calls, sizes = self._cut(args, kwargs)
        run = self._run()
        return ParallelCall([run.submit(*call) for call in calls], lambda results: self._combine(results, sizes))

    def _run(self) -> Any:
        """Return the method that runs a batch; errors name the function."""
        return self.pool.run.options(label=self._function, advice=_ADVICE)

    def _combine(self, results: list[Any], sizes: list[int]) -> Any:
        if self._combine_with_sizes is not None:
            return self._combine_with_sizes(results, sizes)
        return results if self._reduction is None else combine_batches(self._reduction, results, sizes)

    def _cut(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[tuple[Any, Any]], list[int]]:
        """Return the arguments of the call for each batch, and the sizes of the batches."""
        name = self.batched_arg
        bound = self._hints.signature.bind(*args, **kwargs)
        extra = bound.arguments.get(self._hints.extra, {})
        values = extra if name in extra else bound.arguments
        data = values[name] if name in values else self._default(name)
        batches = split(data, self._worker_count or len(self.pool))
        if not batches and (self._reduction or self._combine_with_sizes):
            batches = [data]
        sizes = list(map(len, batches))
        if self._verbose:
            self._tell(name, sizes)
        calls = []
        for batch in batches:
            values[name] = batch
            calls.append((bound.args, dict(bound.kwargs)))
        return calls, sizes

    def _default(self, name: str) -> Any:
        """Return what a call that does not give the batched argument means."""
        parameter = self._hints.signature.parameters.get(name)
        if parameter is None or parameter.default is parameter.empty:
            raise TypeError(f"{self._hints.name}() was called without its batched argument {name!r}")
        return parameter.default

    def _tell(self, name: str, sizes: Sequence[int]) -> None:
        lengths = " or ".join(map(str, sorted(set(sizes)))) or "0"
        print(f"{self._hints.name}: {len(sizes)} workers share parameter {name!r}, batches of {lengths} items")  # noqa: T201

    def close(self) -> None:
        """End the workers; what runs is finished. The next call starts new ones."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_exc_info: object) -> None:
        """Close; left by an exception, end what runs."""
        if exc_type is not None and self._pool is not None:
            self._pool.kill()
        self.close()

    def __get__(self, instance: object, _owner: type | None = None) -> Any:
        """Bind as a function does, so that methods can be decorated."""
        return self if instance is None else types.MethodType(self, instance)

    def __reduce__(self) -> Any:
        """Cross to another process without the workers."""
        options = {
            "worker_count": self._worker_count,
            "batched_arg": self._batched_arg,
            "reduction": self._wanted_reduction,
            "combine": self._combine_with_sizes,
            "verbose": self._verbose,
            **self._pool_options,
        }
        return _rebuild, (self._function, options)

    def __repr__(self) -> str:
        return f"<ParallelFunction {self._hints.name}{self._hints.signature}>"


class ParallelCall:
    """A call of a `ParallelFunction` that nobody has waited for yet.

    Parameters
    ----------
    futures : list of concurrent.futures.Future
        One for each batch, in order.
    combine : callable
        Makes the value of the list of results.
    """

    def __init__(self, futures: list[Future[Any]], combine: Callable[[list[Any]], Any]) -> None:
        self.futures = futures
        self._combine = combine

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the value of the call.

        Parameters
        ----------
        timeout : float or None
            Seconds for all batches; past them `TimeoutError` is raised, and one may ask again.

        Raises
        ------
        Exception
            What the function raised for the first batch that failed.
        """
        if wait_for_futures(self.futures, timeout).not_done:
            raise TimeoutError(f"{len(self.futures)} batches were not done in {timeout} s; nothing is lost, ask again")
        return self._combine([future.result() for future in self.futures])

    def done(self) -> bool:
        """Whether every batch has ended."""
        return all(future.done() for future in self.futures)


def _rebuild(function: Callable[..., Any], options: dict[str, Any]) -> ParallelFunction:
    return ParallelFunction(function, **options)


def _check_reduction(reduction: Any, combine: Any) -> None:
    if isinstance(reduction, str) and reduction != "auto":
        raise ValueError(f"reduction={reduction!r}: expected a function of the list of results, 'auto' or None")
    if reduction is not None and reduction != "auto" and not callable(reduction):
        raise TypeError(f"reduction={reduction!r}: expected a function of the list of results, 'auto' or None")
    if combine is None:
        return
    if not callable(combine):
        raise TypeError(f"combine={combine!r}: expected a function of (results, sizes)")
    if callable(reduction):
        raise ValueError("reduction= and combine= both make the value of the results; give one of them")


@overload
def parallelise(function: Callable[..., Any], /, **options: Any) -> ParallelFunction: ...
@overload
def parallelise(function: None = None, /, **options: Any) -> Callable[[Callable[..., Any]], ParallelFunction]: ...
def parallelise(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Run a function on batches of one of its arguments, in several workers at a time; a function and a decorator.

    Parameters
    ----------
    function : callable
        Takes a batch. Left out, this gives a decorator.
    **options
        As for `ParallelFunction`: `worker_count`, `batched_arg`, `reduction`, `combine`, `verbose`, and options of `ProxyPool`.

    Returns
    -------
    ParallelFunction
        Called like the function.

    Examples
    --------
    >>> @parallelise(worker_count=2)
    ... def squares(numbers: list[int]) -> list[int]:
    ...     return [number * number for number in numbers]
    >>> squares([1, 2, 3])
    [1, 4, 9]
    >>> with parallelise(sum, worker_count=2, reduction=sum) as total:
    ...     total(range(1001))
    500500
    >>> squares.close()
    """
    if function is None:
        return functools.partial(ParallelFunction, **options)
    return ParallelFunction(function, **options)

"""`pqdm`: a `Pool` with a progress bar."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

from objproxy.mtasklite.constants import ArgumentPassing, ExceptionBehaviour
from objproxy.mtasklite.pool import Pool, WorkerPoolResultGenerator
from objproxy.mtasklite.utils import divide_kwargs

_MISSING: Any = object()


class CustomContextManager(Iterator[Any]):
    """Results and their bar; an iterator, and a context manager whose end closes bar and workers.

    Parameters
    ----------
    tqdm_obj : tqdm
        The bar, over `pool_obj`.
    pool_obj : WorkerPoolResultGenerator
        The results; ``pool_obj.parent_obj`` is the `Pool`.
    """

    def __init__(self, tqdm_obj: Any, pool_obj: WorkerPoolResultGenerator) -> None:
        self.tqdm_obj = tqdm_obj
        self.pool_obj = pool_obj
        self._results: Iterator[Any] | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self._results is None:
            self._results = iter(self.tqdm_obj)
        try:
            return next(self._results)
        except BaseException:  # also the end: nobody else holds the workers
            self.close()
            raise

    def __len__(self) -> int:
        """Return the number of items, if the input knows it."""
        return len(self.pool_obj)

    def close(self) -> None:
        """Forget what has not run, close the bar and end the workers."""
        self.tqdm_obj.close()
        self.pool_obj.parent_obj.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close."""
        self.tqdm_obj.close()
        self.pool_obj.__exit__(*exc_info)


def pqdm(
    input_iterable: Iterable[Any] = _MISSING,
    worker_or_worker_arr: Any = _MISSING,
    n_jobs: int | None = None,
    argument_type: str | None = ArgumentPassing.AS_SINGLE_ARG,
    bounded: bool = True,
    exception_behaviour: str = ExceptionBehaviour.IGNORE,
    use_threads: bool = False,
    tqdm_class: Callable[..., Any] | None = None,
    *,
    array: Iterable[Any] = _MISSING,
    function: Any = _MISSING,
    exception_behavior: str | None = None,
    as_list: bool = False,
    **kwargs: Any,  # options of Pool, and of tqdm, which have their own types
) -> Any:
    """Stream an iterable through workers, with a progress bar.

    Parameters
    ----------
    input_iterable : iterable
        The items. The package pqdm calls them `array`.
    worker_or_worker_arr
        As for `Pool`. The package pqdm knows one `function`.
    n_jobs, argument_type, bounded, use_threads
        As for `Pool`.
    exception_behaviour : str
        As for `Pool`, but "ignore" by default: errors are among the results. `exception_behavior` is the same.
    tqdm_class : callable or None
        Makes the bar; default: ``tqdm.auto.tqdm``.
    as_list : bool
        Return a list of all results, as the package pqdm does.
    **kwargs
        Further options of `Pool` (`chunk_size`, `task_timeout`, ...); all others are options of the bar (`desc`, `total`, ...).

    Returns
    -------
    CustomContextManager or list
        An iterator over the results, with attributes `tqdm_obj` and `pool_obj`.

    Raises
    ------
    TypeError
        The items or the workers are missing, or given by both names.
    Exception
        What `Pool` or the bar raises; no worker is left.

    Examples
    --------
    >>> from objproxy.mtasklite.threads import pqdm
    >>> pqdm([-1, 2], abs, n_jobs=2, as_list=True, disable=True)
    [1, 2]
    """
    items = _one_of("input_iterable", input_iterable, "array", array)
    workers = _one_of("worker_or_worker_arr", worker_or_worker_arr, "function", function)
    pool_options, tqdm_options = divide_kwargs(kwargs, Pool)
    if sys.stderr is None and tqdm_class is None and tqdm_options.get("file") is None:
        tqdm_options["disable"] = True  # the program has closed it, and tqdm would fail
    results = Pool(
        workers,
        n_jobs,
        argument_type=argument_type,
        bounded=bounded,
        use_threads=use_threads,
        exception_behavior=exception_behavior or exception_behaviour,
        **pool_options,
    )(items)
    try:
        bar = (tqdm_class or _default_bar())(results, **tqdm_options)
    except BaseException:  # an option that the bar does not know
        results.parent_obj.close()
        raise
    combined = CustomContextManager(bar, results)
    return list(combined) if as_list else combined


def _one_of(name: str, value: Any, other_name: str, other: Any) -> Any:
    """Return what was given by one of two names."""
    if (value is _MISSING) == (other is _MISSING):
        raise TypeError(f"pqdm() needs either {name} or {other_name}, which are the same")
    return other if value is _MISSING else value


def _default_bar() -> Any:
    from tqdm.auto import tqdm  # it looks for a notebook

    return tqdm

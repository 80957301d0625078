"""Chunks, single arguments, and other small tools."""

from __future__ import annotations

import itertools
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

__all__ = [
    "TimeIt",
    "apply_numpy_chunking",
    "chunk_tasks",
    "format_seconds",
    "get_n_chunks",
    "make_single_arguments",
    "set_cpu_affinity",
]

#: Chunks for each worker where nothing is said.
CHUNKS_PER_JOB = 64


def is_array(value: Any) -> bool:
    """Whether a value is an array of NumPy, which is not loaded for the question."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def length_of(iterable: Any, iterable_len: int | None = None) -> int | None:
    """Return how many items there are; None if that cannot be known."""
    if iterable_len is not None:
        return iterable_len
    try:
        return len(iterable)
    except (TypeError, OverflowError):  # it has none; it is longer than an int of the machine can tell
        return None


def make_single_arguments(iterable_of_args: Iterable[Any], generator: bool = True) -> Iterator[tuple[Any]] | list[tuple[Any]]:
    """Make each item one argument, whatever it is.

    Parameters
    ----------
    iterable_of_args : iterable
        The items.
    generator : bool
        Return a generator, not a list.
    """
    singles = ((item,) for item in iterable_of_args)
    return singles if generator else list(singles)


def _chunk_size(n_tasks: int | None, chunk_size: float | None, n_splits: int | None) -> float:
    if chunk_size is not None:
        return chunk_size
    if n_splits is None:
        raise ValueError("chunk_size and n_splits are both None; give one of them")
    if n_tasks is None:
        raise ValueError("n_splits needs to know how many tasks there are; give iterable_len or chunk_size")
    return max(1.0, n_tasks / n_splits)


def _sizes(chunk_size: float) -> Iterator[int]:
    """Yield the sizes of chunks: of 2.5 tasks every second one has 3, so that the sum is right after each."""
    sent = 0
    for number in itertools.count(1):
        size = math.ceil(number * chunk_size - 1e-9) - sent
        sent += size
        yield size


def chunk_tasks(
    iterable_of_args: Iterable[Any],
    iterable_len: int | None = None,
    chunk_size: float | None = None,
    n_splits: int | None = None,
) -> Iterator[Any]:
    """Cut items into chunks: tuples, or slices of an array.

    Parameters
    ----------
    iterable_of_args : iterable
        The items.
    iterable_len : int or None
        How many of them, if they do not tell, or if not all.
    chunk_size : float or None
        Items of a chunk; sizes that are no whole number take turns.
    n_splits : int or None
        Number of chunks, if there is no `chunk_size`.

    Raises
    ------
    ValueError
        Both are None, or `n_splits` needs a length that is not known.
    """
    n_tasks = length_of(iterable_of_args, iterable_len)
    return _chunks(iterable_of_args, n_tasks, _chunk_size(n_tasks, chunk_size, n_splits))


def _chunks(iterable: Any, n_tasks: int | None, chunk_size: float) -> Iterator[Any]:
    start = 0
    items = None if is_array(iterable) else iter(iterable)
    for size in _sizes(chunk_size):
        stop = start + size if n_tasks is None else min(start + size, n_tasks)
        chunk = iterable[start:stop] if items is None else tuple(itertools.islice(items, stop - start))
        if not len(chunk):
            return
        yield chunk
        start = stop


def get_n_chunks(
    iterable_of_args: Iterable[Any],
    iterable_len: int | None = None,
    chunk_size: float | None = None,
    n_splits: int | None = None,
    n_jobs: int | None = None,
) -> int:
    """Return how many chunks there will be; the length must be known."""
    n_tasks = length_of(iterable_of_args, iterable_len)
    if n_tasks is None:
        raise ValueError("the number of chunks needs to know how many tasks there are; give iterable_len")
    if chunk_size is None and n_splits is None:
        n_splits = (n_jobs or os.cpu_count() or 1) * CHUNKS_PER_JOB
    return math.ceil(n_tasks / _chunk_size(n_tasks, chunk_size, n_splits) - 1e-9)


def apply_numpy_chunking(
    iterable_of_args: Any,
    iterable_len: int | None = None,
    chunk_size: float | None = None,
    n_splits: int | None = None,
    n_jobs: int | None = None,
) -> tuple[Iterator[Any], int, int, None]:
    """Cut an array into chunks, each of which is one task.

    Returns
    -------
    tuple
        The chunks, their number, and the `chunk_size` (1) and `n_splits` (None) to map them with.
    """
    n_chunks = get_n_chunks(iterable_of_args, iterable_len, chunk_size, n_splits, n_jobs)
    if chunk_size is None and n_splits is None:
        n_splits = (n_jobs or os.cpu_count() or 1) * CHUNKS_PER_JOB
    return chunk_tasks(iterable_of_args, iterable_len, chunk_size, n_splits), n_chunks, 1, None


def format_seconds(seconds: float | None, with_milliseconds: bool) -> str:
    """Return a time as ``H:MM:SS``, or ``H:MM:SS.mmm``; "" for None."""
    if seconds is None:
        return ""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    minutes, second = divmod(whole, 60)
    hour, minute = divmod(minutes, 60)
    text = f"{hour}:{minute:02d}:{second:02d}"
    return f"{text}.{milliseconds:03d}" if with_milliseconds else text


def set_cpu_affinity(pid: int, mask: list[int]) -> None:
    """Pin a process to processors, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(pid, mask)


class TimeIt:
    """Adds the time that a block takes to an entry of an array.

    Parameters
    ----------
    cum_time_array : sequence of float or None
        Where the time is added, in seconds; None does nothing.
    array_idx : int
        Which entry.
    max_time_array : list or None
        A list of (seconds, text), shortest first: the longest times so far, of which the shortest gives way.
    format_args_func : callable or None
        Gives the text.
    """

    def __init__(
        self,
        cum_time_array: Any,
        array_idx: int,
        max_time_array: list[tuple[float, Any]] | None = None,
        format_args_func: Callable[[], Any] | None = None,
    ) -> None:
        self.cum_time_array = cum_time_array
        self.array_idx = array_idx
        self.max_time_array = max_time_array
        self.format_args_func = format_args_func
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.time()

    def __exit__(self, *_exc_info: object) -> None:
        seconds = time.time() - self._began
        if self.cum_time_array is not None:
            self.cum_time_array[self.array_idx] += seconds
        longest = self.max_time_array
        if longest and seconds > longest[0][0]:
            longest[0] = (seconds, self.format_args_func() if self.format_args_func is not None else None)
            longest.sort(key=lambda entry: entry[0])

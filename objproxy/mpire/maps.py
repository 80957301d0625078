"""One map of a `WorkerPool`: its items, its chunks, its results."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

from objproxy.mpire.checks import Functions, MapParams
from objproxy.mpire.session import Session
from objproxy.mpire.tqdm_utils import make_progress_bar
from objproxy.mpire.utils import CHUNKS_PER_JOB, chunk_tasks, get_n_chunks, is_array, length_of
from objproxy.progress import Progress

#: Chunks on their way for each worker, where chunks go to the workers in turn.
_CHUNKS_AHEAD = 3


class CountedItems(Iterator[Any]):
    """As many items of an iterable as were announced.

    Parameters
    ----------
    items : iterable
        The items.
    n_items : int
        How many there shall be; more are not looked at.
    """

    def __init__(self, items: Iterable[Any], n_items: int) -> None:
        self._items = iter(items)
        self._n_items = n_items
        self._n_taken = 0

    def __length_hint__(self) -> int:
        return self._n_items - self._n_taken

    def __next__(self) -> Any:
        if self._n_taken >= self._n_items:
            raise StopIteration
        item = next(self._items)
        self._n_taken += 1
        return item

    def check(self) -> None:
        """Raise ValueError if there were fewer."""
        if self._n_taken < self._n_items:
            raise ValueError(f"iterable_len={self._n_items}, but the iterable ended after {self._n_taken} items")


class MapRun:
    """One map.

    Parameters
    ----------
    session : Session
        The workers.
    handle : object
        What stands for the function.
    functions : Functions
        The function, and time limits.
    params : MapParams
        Everything else.
    is_pinned : bool
        Whether chunk i goes to worker ``i % n``.
    """

    def __init__(self, session: Session, handle: Any, functions: Functions, params: MapParams, *, is_pinned: bool) -> None:
        self._session = session
        self._handle = handle
        self._function = functions.func
        self._params = params
        self._is_pinned = is_pinned
        self._timeout = session.limit_of(functions.task_timeout)
        self._items, self._n_items, self._chunksize = self._cut(params)

    def _cut(self, params: MapParams) -> tuple[Iterable[Any], int | None, int | None]:
        """Return the items, how many they are, and how many travel together; a piece of an array is one item."""
        iterable, n_splits = params.iterable_of_args, params.n_splits
        if is_array(iterable):
            if params.chunk_size is None and n_splits is None:
                n_splits = CHUNKS_PER_JOB * self._session.n_workers
            pieces = iterable, params.iterable_len, params.chunk_size, n_splits
            n_pieces = get_n_chunks(*pieces)
            return CountedItems(chunk_tasks(*pieces), n_pieces), n_pieces, 1
        n_items = length_of(iterable, params.iterable_len)
        items = iterable if params.iterable_len is None else CountedItems(iterable, params.iterable_len)
        if params.chunk_size is not None:
            return items, n_items, int(params.chunk_size)
        if n_splits is not None and n_items:
            return items, n_items, math.ceil(n_items / n_splits)
        return items, n_items, None

    def collect(self) -> list[Any]:
        """Return all results, in the order of the items."""
        if self._is_pinned or self._params.max_tasks_active is not None:
            return list(self.iterate(is_ordered=True))
        results = self._session.unpack_all(self._method().map(itertools.repeat(self._handle), self._items))
        self._check_length()
        return results

    def iterate(self, *, is_ordered: bool) -> Iterator[Any]:
        """Yield the results, in the order of the items or as they come."""
        if self._is_pinned:
            yield from self._iterate_pinned()
        else:
            method = self._method()
            lazily = method.imap if is_ordered else method.imap_unordered
            unpack = self._session.unpack
            with lazily(itertools.repeat(self._handle), self._items) as results:
                for result in results:
                    yield unpack(result)
        self._check_length()

    def _check_length(self) -> None:
        if isinstance(self._items, CountedItems):
            self._items.check()

    def _progress_bar(self) -> Any:
        params = self._params
        return make_progress_bar(params.progress_bar, params.progress_bar_options, params.progress_bar_style, self._n_items)

    def _method(self) -> Any:
        return self._session.method(
            self._function,
            timeout=self._timeout,
            chunksize=self._chunksize,
            buffersize=self._params.max_tasks_active,
            progress_bar=self._progress_bar(),
        )

    def _iterate_pinned(self) -> Iterator[Any]:
        n_workers, limit = self._session.n_workers, self._params.max_tasks_active
        size = float(self._params.chunk_size or self._chunksize or 0) or max(
            1, (self._n_items or 0) / (CHUNKS_PER_JOB * n_workers)
        )
        if self._timeout is not None:
            size = 1  # the clock is that of one task
        window = _CHUNKS_AHEAD * n_workers
        if limit is not None:
            size = min(size, limit)
            window = min(window, max(1, int(limit // size)))
        chunks = chunk_tasks(self._items, None, 1 if self._chunksize == 1 else size)
        with Progress(self._progress_bar(), self._n_items, "") as progress:
            for results in self._session.in_turn(self._function, self._handle, chunks, window, self._timeout):
                progress.update(len(results))
                yield from self._session.unpack_all(results)


def concatenate(results: list[Any]) -> Any:
    """Join results that are arrays into one array."""
    if not results or not is_array(results[0]):
        return results
    import numpy as np

    return np.concatenate(results)

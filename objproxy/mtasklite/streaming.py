"""The parts of a stream: what sits in a worker, what goes in, how far ahead, and the stream of one worker that is none."""

from __future__ import annotations

import time
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from objproxy.handling import set_traceback, traceback_of
from objproxy.mtasklite.delayed_init import ShellObject

#: Tiny items are pulled by the batch, so that sending them does not cost more than doing them. A batch is what the consumer
#: takes in so many seconds, at most this share of what was consumed in all: who takes three items does not find a thousand of
#: them gone.
_MOMENT = 0.02
_SHARE_OF_CONSUMED = 4

#: Of items that take workers less than this, so large a share of the most is a batch at any pace.
_TINY_SECONDS = 20e-6
_TINY_SHARE = 8


class Seat:
    """What lives in a worker of ours: one of the user's workers, and how items are passed to it."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker.build() if isinstance(worker, ShellObject) else worker
        if not callable(self._worker):
            raise TypeError(f"the objects of {type(self._worker).__name__} are not callable; a worker needs __call__(item)")

    def single_arg(self, item: Any) -> Any:
        """Pass an item whole."""
        return self._worker(item)

    def args(self, item: Any) -> Any:
        """Pass an item as positional arguments."""
        return self._worker(*item)

    def kwargs(self, item: Any) -> Any:
        """Pass an item as keyword arguments."""
        return self._worker(**item)


class Pace:
    """How fast a consumer takes results, and so how many are worth having ahead of it.

    Parameters
    ----------
    least, most : int
        Bounds of a batch.
    """

    def __init__(self, least: int, most: int) -> None:
        self.n_consumed = 0
        self._least = least
        self._most = most
        self._size = least
        self._n_before = 0
        self._since = time.perf_counter()

    def batch_size(self, item_seconds: float | None = None) -> int:
        """Return how many items may be ahead now; `item_seconds` is what workers take for one."""
        now = time.perf_counter()
        seconds = now - self._since
        if seconds > _MOMENT:
            self._size = int((self.n_consumed - self._n_before) * _MOMENT / seconds)
            self._n_before, self._since = self.n_consumed, now
        # Where a processor is long waited for, no pace would show what could be had with more on the way.
        tiny = self._most // _TINY_SHARE if item_seconds is not None and item_seconds < _TINY_SECONDS else 0
        return max(self._least, min(max(self._size, tiny), self._most, self.n_consumed // _SHARE_OF_CONSUMED))


class Input:
    """The items of an input, and its own error, which is no item's; apart from the results, which thus are in no cycle."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = items
        self._error: Exception | None = None
        self._frames: types.TracebackType | None = None

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._items
        except Exception as exc:
            self._error, self._frames = exc, traceback_of(exc)
            raise

    def has_raised(self, error: BaseException) -> bool:
        """Whether an error is the input's own; if so, it is left with the frames of the input alone, and forgotten here."""
        if error is not self._error:
            return False
        set_traceback(error, self._frames)
        self._error = self._frames = None
        return True


class Inline(Iterator[Any]):
    """The results of one worker that is no process and no thread: each item when it is asked for."""

    def __init__(self, call: Callable[[Any], Any], items: Iterable[Any]) -> None:
        self._call = call
        self._items = iter(items)

    def __next__(self) -> Any:
        item = next(self._items)
        try:
            return self._call(item)
        except StopIteration as exc:
            raise RuntimeError("the worker raised StopIteration") from exc

    def close(self) -> None:
        """Forget what has not run."""
        self._items = iter(())

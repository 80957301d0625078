"""What a stream feeds from: the items that were put, and the map that pulls them."""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from objproxy._engine.calls import Arrival
from objproxy._engine.mapping import MapRun
from objproxy._engine.messages import Failure
from objproxy._engine.payload import Payload
from objproxy._worker.wire import Operation


class InputError(NamedTuple):
    """Stands in the queue where an iterator raised."""

    error: BaseException


class FailedItem(NamedTuple):
    """A failure in place of a result, with all that is known of it."""

    position: int
    item: Any
    error: BaseException
    worker_id: int | None


class TaskQueue:
    """The items that were put and are not yet on their way; a `Source` that may have none now and some later.

    Parameters
    ----------
    method : str
        Name of the method.
    """

    def __init__(self, method: str) -> None:
        self.method = method
        self.n_pulled = 0
        self.error: BaseException | None = None
        self.is_exhausted = False
        self.is_open_ended = False  # iterators are waiting to be read, nobody knows how many items they have
        self.items: deque[Any] = deque()
        self.n_errors = 0  # those of the items that are an `InputError`

    @property
    def n_left(self) -> int | None:
        """Items still to come; None while there are iterators to be read."""
        return None if self.is_open_ended else len(self.items)

    def pull(self, n_items: int) -> Payload | None:
        """Take at most `n_items` items; None if there are none now."""
        take = self.items.popleft
        chunk = [take() for _ in range(min(n_items, self._n_before_error()))]
        if not chunk:
            return None
        self.n_pulled += len(chunk)
        return Payload(Operation("map", self.method, (chunk,), ()))

    def _n_before_error(self) -> int:
        """Return how many items may travel together: an error of an iterator goes alone, and nowhere."""
        if not self.n_errors:
            return len(self.items)
        at = next(at for at, item in enumerate(self.items) if type(item) is InputError)
        self.n_errors -= at == 0
        return at or 1

    def close(self) -> None:
        """Forget the items."""
        self.is_exhausted = True
        self.items.clear()


class StreamRun(MapRun):
    """A map over a `TaskQueue`; it keeps the items that are on their way, for the errors of those that fail."""

    source: TaskQueue

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Chunks on their way by their first item; `_starts` are its keys, ascending. One thread appends while another takes
        # out: each step is one that the interpreter does not divide, and what is appended is not taken out before it is sent.
        self._sent: dict[int, tuple[Sequence[Any], int]] = {}
        self._starts: list[int] = []
        self._is_stopped = False

    @property
    def has_work(self) -> bool:
        """Whether there is an arrival to wait for, or to take."""
        return not self._is_stopped and bool(self.call.outstanding or self.call.inbox or self._early)

    def now(self) -> float:
        """Return the time of the back end."""
        return self._driver.backend.now()

    def check_usable(self) -> None:
        """Raise the error that says why the pool cannot be used, if it cannot."""
        self._driver.check_usable()

    def wait(self, deadline: float | None = None) -> bool:
        """Wait until something can be taken or nothing is on its way; False if the deadline came first."""
        call = self.call
        return self._driver.wait_until(
            lambda: bool(call.inbox or self._early) or not call.outstanding or self._is_stopped, deadline, call
        )

    def stop(self, *, and_running: bool = False) -> None:
        """Forget what has no outcome yet, and let nobody wait for it."""
        self._is_stopped = True
        super().stop(and_running=and_running)
        self._driver.nudge(self.call)

    def forget_parent(self) -> None:
        """Wait for nothing any more, in a forked child."""
        self._is_stopped = True
        self.source.items.clear()

    def n_wanted(self, n_kept: int) -> int:
        """Return how many more items the workers could use now."""
        return max(0, super()._size_now(n_kept) - len(self.source.items))

    def _size_now(self, n_kept: int) -> int:
        """Hold a chunk back that is not full while every worker has something to do: more may be put meanwhile."""
        if not self.source.items:
            return 0
        size = super()._size_now(n_kept)
        is_full = len(self.source.items) >= size
        return size if is_full or self.call.outstanding < 2 * self._n_workers else 0

    def _submit(self, start: int, payload: Payload) -> None:
        items = payload.operation.args[0]
        self._sent[start] = items, len(items)
        self._starts.append(start)
        if type(items[0]) is InputError:
            self._early.append(Arrival(start, [Failure(items[0].error)], True, None))
        else:
            super()._submit(start, payload)
        if self._early:
            self._driver.nudge(self.call)

    def settle(self, arrival: Arrival) -> Sequence[Any]:
        """Note that items have their outcomes, and return them; their chunk is forgotten with its last one."""
        at = bisect.bisect_right(self._starts, arrival.start) - 1
        start = self._starts[at]
        items, n_left = self._sent[start]
        n_left -= len(arrival.outcomes)
        if n_left:
            self._sent[start] = items, n_left
        else:
            del self._starts[at], self._sent[start]
        offset = arrival.start - start
        return items[offset : offset + len(arrival.outcomes)] if arrival.has_failures else ()

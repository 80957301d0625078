"""A map as it runs: pull items, keep the workers fed, take the outcomes in, in order or as they come.

The caller's thread does all of it: it pulls from the user's iterables (outside of every lock, since they are the user's code
and may use the same pool), hands batches in, and waits. How much is pulled ahead is the product of two bounds: what the workers
can use, and what the caller allows (`buffersize`).
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from objproxy._engine import failures, plan
from objproxy._engine.calls import Arrival, Call
from objproxy._engine.chunks import ChunkSizer
from objproxy._engine.concurrency import MAX_CONCURRENCY
from objproxy._engine.driver import Driver
from objproxy._engine.messages import Batch, Failure
from objproxy._engine.payload import Payload
from objproxy._engine.turns import Turns
from objproxy._worker.outcome import StreamHandle
from objproxy.handling import is_a

#: Batches for each worker that are worth having outside of the source beside those that run: one ahead, one in the queue.
_BATCHES_AHEAD = 2

#: A consumer that stays away longer than this between two items gets the engine turned in the background.
_SLOW_CONSUMER_SECONDS = 0.001

#: The largest chunk of a lazy map: its consumer waits for whole chunks.
_MAX_LAZY_CHUNK = 1024


class MapRun:
    """One map, from its first item to its last outcome.

    Parameters
    ----------
    driver : Driver
        The engine.
    call : Call
        With a `ChunkSizer`.
    source : Source
        The items; it may have none now and some later.
    n_workers : int
        Workers that share the items.
    buffersize : int, callable or None
        Most items pulled and not yet yielded, or what tells it for the mean seconds of an item; None for no bound but what the
        workers can use.
    explain : callable
        ``explain(operation, exc)`` gives the path to what cannot be pickled, for errors.
    """

    def __init__(
        self,
        driver: Driver,
        call: Call,
        source: plan.Source,
        n_workers: int,
        *,
        buffersize: int | Callable[[float | None], int] | None = None,
        is_lazy: bool = False,
        explain: Callable[[Any, Exception], str] = lambda _operation, _exc: "",
    ) -> None:
        assert call.sizer is not None
        self.call = call
        self.source = source
        self._driver = driver
        self._sizer: ChunkSizer = call.sizer
        self._n_workers = n_workers
        self._n_batches = n_workers * (_BATCHES_AHEAD + min(max(call.concurrency, 1), MAX_CONCURRENCY))
        self._buffersize = buffersize
        self._is_lazy = is_lazy
        self._explain = explain
        self._early: list[Arrival] = []  # items that could not be sent

    @property
    def is_finished(self) -> bool:
        """Whether every outcome has arrived and was taken."""
        return self.source.is_exhausted and not (self.call.outstanding or self.call.inbox or self._early)

    def feed(self, n_kept: int = 0) -> None:
        """Pull and submit as much as is good now; `n_kept` items have been taken and not yielded."""
        while not self.source.is_exhausted:
            size = self._size_now(n_kept)
            if size < 1:
                return
            start = self.source.n_pulled
            payload = self.source.pull(size)
            if payload is None:
                return
            self._submit(start, payload)

    def _size_now(self, n_kept: int) -> int:
        size = self._sizer.next_size(self.source.n_left)
        if self._is_lazy:
            size = min(size, _MAX_LAZY_CHUNK)
        pending = self.call.outstanding
        if pending and pending + size > self._n_batches * size:
            return 0
        if self._buffersize is None:
            return size
        bound = self._buffersize(self._sizer.seconds_per_item) if callable(self._buffersize) else self._buffersize
        fair = max(1, bound // (2 * self._n_workers))
        return min(size, fair, bound - pending - n_kept - self._n_unread())

    def _n_unread(self) -> int:
        return sum(len(arrival.outcomes) for arrival in (*self.call.inbox, *self._early))

    def _submit(self, start: int, payload: Payload) -> None:
        def fail(offset: int, exc: Exception) -> BaseException:
            item = payload.slice(offset, offset + 1).operation
            return failures.argument(self.call.method, lambda: self._explain(item, exc), exc, start + offset)

        parts = plan.encode_items(payload, self._driver.backend.encode, fail)
        batches: list[Batch] = []
        for part in parts:
            if isinstance(part, Failure):
                self._early.append(Arrival(start, [part], True, None))
                start += 1
            else:
                count = plan.n_items(part)
                batches.append(Batch(self.call, start, count, part))
                start += count
        if batches:
            self._driver.submit(batches)

    def take(self) -> list[Arrival]:
        """Take what has arrived."""
        early = self._early[:]  # as in `Call.take`: another thread may be appending
        del self._early[: len(early)]
        return early + self.call.take()

    def wait(self, deadline: float | None = None) -> bool:
        """Wait until something has arrived or nothing is on its way; False if the deadline came first."""
        return bool(self._early) or self._driver.wait_for(self.call, deadline)

    def drive_in_background(self) -> None:
        """See that the engine is turned while the consumer is busy elsewhere."""
        self._driver.drive_in_background(self.call)

    def stop(self, *, and_running: bool = False) -> None:
        """Forget what has no outcome yet, and close the source."""
        self._driver.cancel(self.call, and_running=and_running)
        self.source.close()

    def forget(self) -> None:
        """Do so because nobody holds the results any more; this may be called anywhere, see `Driver.forget`."""
        self._driver.forget(self.call)
        self.source.close()


def collect(run: MapRun, on_arrival: Callable[[Arrival], None]) -> list[Sequence[Any]]:
    """Run a map to its end and return the outcomes in order, as consecutive pieces.

    Parameters
    ----------
    run : MapRun
        The map.
    on_arrival : callable
        Called with each `Arrival`; what it raises ends the map.
    """
    pieces: dict[int, Sequence[Any]] = {}
    arrival: Arrival | None = None
    try:
        run.feed()
        while not run.is_finished:
            run.wait()
            for arrival in run.take():
                pieces[arrival.start] = arrival.outcomes
                on_arrival(arrival)
            run.feed()
    except BaseException as exc:
        # An exit or a Ctrl-C of the caller ends what runs. The error of a task does not, though it may be of the same type.
        run.stop(and_running=not is_a(exc, Exception) and not _is_of_task(exc, arrival))
        raise
    if run.source.error is not None:
        raise run.source.error
    return [pieces[start] for start in sorted(pieces)]


def _is_of_task(error: BaseException, arrival: Arrival | None) -> bool:
    """Whether `error` is that of a task whose outcome has just arrived."""
    outcomes = () if arrival is None else arrival.outcomes
    return any(type(outcome) is Failure and outcome.error is error for outcome in outcomes)


class ResultIterator(Iterator[Any]):
    """The results of a lazy map, one at a time.

    An item that failed raises when its turn comes, and the iterator goes on behind it. Dropping or closing the iterator forgets
    what has not run; the pool stays usable.

    Parameters
    ----------
    run : MapRun
        The map.
    is_ordered : bool
        In the order of the items, or as they come.
    on_failure : callable
        ``on_failure(index, error)`` gives what is yielded in place of a failed item, or raises, or gives `SKIP`.
    on_progress : callable
        Called with the number of items that have come in.
    on_end : callable
        Called once, when nothing more will come.
    on_value : callable
        Makes a stream of the caller of a handle to a generator in a worker.
    """

    def __init__(
        self,
        run: MapRun,
        *,
        is_ordered: bool,
        on_failure: Callable[[int, BaseException, int | None], Any],
        on_progress: Callable[[int], None],
        on_end: Callable[[], None],
        on_value: Callable[[Any], Any],
    ) -> None:
        self._run = run
        self._turns: Turns[Arrival] = Turns(is_ordered)
        self._on_failure = on_failure
        self._on_progress = on_progress
        self._on_end = on_end
        self._on_value = on_value
        self._ready = self._turns.ready
        self._piece: Sequence[Any] = ()
        self._at = 0
        self._is_closed = False
        self._left_at = time.perf_counter()
        # Not a `__del__`, which would be run for iterators that have come to their end too: Python drops an interrupt in there.
        self._dropped = weakref.finalize(self, _forget, run, on_end)
        self._dropped.atexit = False

    def __iter__(self) -> ResultIterator:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """Return the next result.

        Parameters
        ----------
        timeout : float or None
            Seconds; past them ``TimeoutError`` is raised, nothing is lost, and one may call again.
        """
        while True:
            if self._at >= len(self._piece):
                self._advance(timeout)
            value = self._piece[self._at]
            self._at += 1
            if type(value) is StreamHandle:
                return self._on_value(value)
            if type(value) is not Failure:
                return value
            value = self._on_failure(self._ready[0].start + self._at - 1, value.error, self._ready[0].worker_id)
            if value is not SKIP:
                return value

    def _advance(self, timeout: float | None) -> None:
        """Bring the next piece of results to hand."""
        is_slow = time.perf_counter() - self._left_at > _SLOW_CONSUMER_SECONDS
        if self._piece:
            self._ready.popleft()
            self._piece, self._at = (), 0
        deadline = None if timeout is None else self._run._driver.backend.now() + timeout
        try:
            self._wait_for_piece(deadline)
        except (KeyboardInterrupt, SystemExit):
            self.close(and_running=True)
            raise
        self._piece, self._at = self._ready[0].outcomes, 0
        if is_slow:
            self._run.drive_in_background()
        self._left_at = time.perf_counter()

    def _wait_for_piece(self, deadline: float | None) -> None:
        while not self._ready:
            if self._is_closed:
                raise StopIteration
            self._run.feed(self._turns.n_waiting)
            if self._run.is_finished:
                self._end()
            if not self._run.wait(deadline):
                raise TimeoutError("no result arrived in time; nothing is lost, call next() again")
            for arrival in self._run.take():
                self._on_progress(len(arrival.outcomes))
                self._turns.add(arrival.start, len(arrival.outcomes), arrival)
        # Keep the workers busy while the consumer looks at what it gets.
        self._run.feed(self._turns.n_waiting + sum(len(arrival.outcomes) for arrival in self._ready))

    def _end(self) -> None:
        self._is_closed = True
        self._dropped.detach()
        self._on_end()
        error, self._run.source.error = self._run.source.error, None
        if error is not None:
            raise error
        raise StopIteration

    def close(self, *, and_running: bool = False) -> None:
        """Forget what has no outcome yet; the next ``next()`` ends the iteration."""
        if not self._is_closed:
            self._is_closed = True
            self._dropped.detach()
            self._ready.clear()
            self._piece, self._at = (), 0
            self._run.stop(and_running=and_running)
            self._on_end()

    def __enter__(self) -> ResultIterator:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()


def _forget(run: MapRun, on_end: Callable[[], None]) -> None:
    run.forget()
    on_end()


#: Given by `on_failure` for an item that shall not be yielded at all.
SKIP = object()

"""A stream: a map whose items are put at any time, from any thread, and whose results are got at any time.

::

    put(items) ──> queue ── feed: chunks ──> workers ──> take in: in order, or as they come ──> ready ──> get()
                     ^
    put(iterator) ── reader (a thread, only while there are iterators)

Feeding and taking in are done by whoever is here: a thread that puts feeds at once, a thread that gets feeds, turns the engine
and takes in. While nobody is here a thread, the *keeper*, does it for them, so that the workers never run dry. It starts with
the first item, leaves everything to a thread that gets, and ends when there has been nothing to do for a while. A round trip
through another thread would cost two more switches, so there is none between a caller who waits and the worker.

Locks: `_changed` guards the results and the counts, and is never held while code of the user runs. `_feeding` is held by who
feeds; it is reentrant, since pickling an item may run code of the user that puts. `_hands` is held by the one thread that
waits for arrivals and takes them in. Who holds `_feeding` or `_hands` may take `_changed`, never the other way round, and
nobody takes one of the two while holding the other.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from objproxy._engine import forked
from objproxy._engine.calls import Arrival
from objproxy._engine.interrupts import Condition, held
from objproxy._engine.mapping import SKIP
from objproxy._engine.messages import Failure
from objproxy._engine.stream_input import read
from objproxy._engine.stream_run import FailedItem, InputError, StreamRun
from objproxy._engine.turns import Turns
from objproxy._worker import natives
from objproxy._worker.outcome import StreamHandle
from objproxy._worker.waits import Helper

#: The keeper steps in when nobody has put or got anything for so long; the workers hold more work than that.
_PATIENCE_SECONDS = 0.005

#: The keeper ends after so many looks at a stream that has nothing to do.
_IDLE_LOOKS = 40

#: Stands for "no result is ready".
_NOTHING = object()

#: What `_pop` gives that is no plain result.
_SPECIAL = (object, FailedItem, StreamHandle)

OnFailure = Callable[[int, Any, BaseException, int | None], Any]


class TaskStream(Iterator[Any]):
    """Items in at any time, results out at any time; made by ``pool.method.stream()``.

    Iterating waits for results until `end` was called and all of them were given. Any number of threads may put and get.

    Parameters
    ----------
    run : StreamRun
        The map.
    is_ordered : bool
        Results in the order of the items, or as they come.
    maxsize : int or None
        Most items that were put and are not yet on their way; None for no bound.
    on_failure : callable
        ``on_failure(index, item, error, worker_id)`` gives what is given in place of a failed item, or raises, or gives `SKIP`.
    on_value : callable
        Makes a stream of the caller of a handle to a generator in a worker.

    Notes
    -----
    Nothing blocks but waiting for a result. Items are pickled when their turn to be sent comes, so they must not be changed
    after they were put. A worker that dies costs the item it ran, as in every map.
    """

    def __init__(
        self, run: StreamRun, *, is_ordered: bool, maxsize: int | None, on_failure: OnFailure, on_value: Callable[[Any], Any]
    ) -> None:
        self._run = run
        self._queue = run.source
        self._turns: Turns[tuple[Arrival, Sequence[Any]]] = Turns(is_ordered)
        self._ready = self._turns.ready
        self._maxsize = maxsize
        self._on_failure = on_failure
        self._on_value = on_value
        self._make_locks()
        self._inputs: deque[Iterator[Any]] = deque()
        self._current: tuple[Arrival, Sequence[Any]] | None = None
        self._outcomes: Sequence[Any] = ()  # those of the current piece, of which `_at` is next
        self._at = self._stop = 0
        self._n_put = self._n_arrived = self._n_given = 0
        self._n_sleeping = self._n_getting = self._n_turns = 0
        self._is_ended = self._is_closed = False
        self._broken_by: BaseException | None = None
        self._keeper: Helper | None = None
        self._reader: Helper | None = None
        forked.tell(self)

    def _make_locks(self) -> None:
        self._lock = natives.Lock()  # that of `_changed`, for where speed counts
        self._changed = Condition(self._lock)
        self._feeding = natives.RLock()
        self._hands = natives.Lock()

    def forget_parent(self) -> None:
        """Give what is ready, and then refuse, in a forked child; see `forked`."""
        self._make_locks()
        self._inputs.clear()
        self._n_sleeping = self._n_getting = 0
        self._broken_by, self._keeper, self._reader = forked.refusal(), None, None
        self._run.forget_parent()

    # ---- in ----------------------------------------------------------------------------------------------------------

    @held
    def put(self, items: Iterable[Any]) -> None:
        """Add items; each is the one argument of a call.

        Parameters
        ----------
        items : iterable
            A list or tuple is taken at once. Any other iterable is read by a thread of the stream, no faster than the workers
            need it, so it may be endless, and slow; what it raises is raised behind the results of the items before it.

        Raises
        ------
        queue.Full
            A list or tuple has no room beside what is queued (``maxsize=``); nothing of it was taken.
        ValueError
            `end` or `close` was called.
        PoolClosedError, PoolBrokenError
            The pool has ended.
        """
        iterator = iter(items)
        with self._changed:
            self._check_open()
            if isinstance(items, (list, tuple)) and not self._inputs:
                self._add_whole(items)
            else:
                self._add_input(iterator)
        self._feed()
        self._see_to_keeper()

    def _add_whole(self, items: Sequence[Any]) -> None:
        """Queue items at once; `_changed` is held."""
        if self._maxsize is not None and self.n_queued + len(items) > self._maxsize:
            told = f"{self.n_queued} items are queued and {len(items)} more would pass maxsize={self._maxsize}"
            raise queue.Full(f"{told}; get results first, or put an iterator, which is read as there is room")
        self._n_put += len(items)
        self._queue.items.extend(items)

    def _check_open(self) -> None:
        self._run.check_usable()
        if self._is_ended or self._is_closed:
            raise ValueError("the stream was ended; make a new one with stream()")
        if self._broken_by is not None:
            raise self._broken_by

    def _add_input(self, items: Iterator[Any]) -> None:
        """Let the reader read an iterator when its turn comes; `_changed` is held."""
        self._inputs.append(items)
        self._queue.is_open_ended = True
        if self._reader is None:
            self._reader = Helper(lambda: read(self), "objproxy-stream-reader")
            self._reader.start()

    @held
    def end(self) -> None:
        """Say that nothing more will be put: iterating ends behind the last result."""
        with self._changed:
            self._is_ended = True
            self._changed.notify_all()

    # ---- out ---------------------------------------------------------------------------------------------------------

    def get(self, timeout: float | None = None) -> Any:
        """Return the next result of what was put.

        Parameters
        ----------
        timeout : float or None
            Seconds to wait; 0 gives what is ready; None waits as long as it takes.

        Raises
        ------
        queue.Empty
            Every result was given already, or `timeout` came first; nothing is lost.
        Exception
            What the item raised, if errors are not asked for as results; the next call goes on behind it.
        """
        with self._lock:
            value = self._pop()
        if type(value) in _SPECIAL:
            return self._next(value, timeout, lambda: self.n_outstanding == 0)
        return value

    def __next__(self) -> Any:
        try:
            return self._next(_NOTHING, None, lambda: self.n_outstanding == 0 and (self._is_ended or self._is_closed))
        except queue.Empty:
            raise StopIteration from None

    @held
    def take(self, n_items: int | None = None) -> list[Any]:
        """Return the results that are ready, at most `n_items` of them, without waiting.

        An error stands behind the results before it: it is raised by the next call, in which it comes first.
        """
        results: list[Any] = []
        while n_items is None or len(results) < n_items:
            with self._changed:
                values = self._pop_plain(None if n_items is None else n_items - len(results))
                if not values and (results or not self._has_ready()):
                    break
            if not values:  # a failure, or a handle, is first
                try:
                    values = [self._next(_NOTHING, 0, lambda: True)]
                except queue.Empty:  # what was ready is skipped
                    break
            results += values
        if not results and n_items != 0 and self._broken_by is not None and not self._run.has_work:
            raise self._broken_by
        self._feed()
        self._see_to_keeper()
        return results

    @property
    def n_queued(self) -> int:
        """Items that were put and are not yet on their way."""
        return len(self._queue.items)

    @property
    def n_outstanding(self) -> int | None:
        """Items that were put and whose result was not given; None while an iterator is being read."""
        return None if self._inputs else self._n_put - self._n_given

    @property
    def n_put(self) -> int:
        """Items that were put, those of iterators as they were read."""
        return self._n_put

    @property
    def n_done(self) -> int:
        """Items whose result has arrived, given or not."""
        return self._n_arrived

    @property
    def n_given(self) -> int:
        """Results that were given, skipped ones among them."""
        return self._n_given

    def close(self) -> None:
        """Forget what has no result yet; what runs is left to finish. What is ready can still be got."""
        if self._is_closed:
            return
        self._drop()
        for helper in (self._keeper, self._reader):
            # A reader may be in the user's iterator, for as long as that takes; it ends when it comes back.
            if helper is not None and not helper.is_current():
                helper.join(1.0 if helper is self._reader else None)

    @held
    def _drop(self) -> None:
        with self._changed:
            self._is_closed = True
            self._inputs.clear()
        with self._feeding:
            self._run.stop()
        with self._changed:
            self._n_put = self._n_given + self._n_ready()
            self._turns.forget_waiting()
            self._changed.notify_all()

    def __enter__(self) -> TaskStream:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_is_closed", True):
            self._run.forget()

    # ---- results -----------------------------------------------------------------------------------------------------

    def _next(self, value: Any, timeout: float | None, is_over: Callable[[], bool]) -> Any:
        """Return the next result; `value` is what `_pop` gave. ``queue.Empty`` if ``is_over()``, or `timeout` has passed."""
        while True:
            if value is _NOTHING:
                value = self._wait_for_value(timeout, is_over)
            kind = type(value)
            if kind is not FailedItem:
                return self._on_value(value) if kind is StreamHandle else value
            if type(value.item) is InputError:
                raise value.error
            value = self._on_failure(value.position, value.item, value.error, value.worker_id)
            if value is not SKIP:
                return value
            value = _NOTHING

    def _pop(self) -> Any:
        """Take the next result, if it is ready; `_changed` is held."""
        at = self._at
        if at >= self._stop:
            if not self._has_ready():
                return _NOTHING
            at = 0
        value = self._outcomes[at]
        self._at = at + 1
        self._n_given += 1
        if type(value) is Failure:
            assert self._current is not None
            arrival, items = self._current
            return FailedItem(arrival.start + at, items[at], value.error, arrival.worker_id)
        return value

    def _has_ready(self) -> bool:
        """Bring the next result to hand; `_changed` is held."""
        if self._at < self._stop:
            return True
        self._at = 0
        if not self._ready:
            self._current, self._outcomes, self._stop = None, (), 0
            return False
        self._current = self._ready.popleft()
        self._outcomes = self._current[0].outcomes
        self._stop = len(self._outcomes)
        return True

    def _pop_plain(self, n_items: int | None) -> list[Any]:
        """Take results up to the end of the piece at hand, if it has no failures; `_changed` is held."""
        if not self._has_ready() or (self._current is not None and self._current[0].has_failures):
            return []
        values = list(self._outcomes[self._at : None if n_items is None else self._at + n_items])
        if StreamHandle in set(map(type, values)):
            return []
        self._at += len(values)
        self._n_given += len(values)
        return values

    def _n_ready(self) -> int:
        return sum(len(arrival.outcomes) for arrival, _ in self._ready) + self._stop - self._at

    @held
    def _wait_for_value(self, timeout: float | None, is_over: Callable[[], bool]) -> Any:
        """Feed, turn the engine and take in, or sleep while another thread does, until a result is ready."""
        deadline = None if timeout is None else self._run.now() + timeout
        self._see_to_keeper()
        with self._changed:
            self._n_getting += 1
        try:
            while True:
                is_late = deadline is not None and self._run.now() >= deadline
                self._feed()
                is_idle = not self._turn(deadline)
                with self._changed:
                    value = self._pop()
                    if value is not _NOTHING:
                        return value
                    if self._broken_by is not None and not self._run.has_work:
                        raise self._broken_by
                    if is_over() or is_late:
                        raise queue.Empty
                    if is_idle:
                        self._sleep(deadline)
        finally:
            with self._changed:
                self._n_getting -= 1

    def _sleep(self, deadline: float | None) -> None:
        """Sleep until something has changed; `_changed` is held.

        Who lets the hands go looks afterwards whether anybody sleeps (`_tell`). So whoever counts as a sleeper first, and finds
        the hands taken then, will be woken; and whoever finds them free, with something to wait for, must not sleep.
        """
        self._n_sleeping += 1
        if self._hands.locked() or not self._run.has_work:
            self._changed.wait(None if deadline is None else max(0.0, deadline - self._run.now()))
        self._n_sleeping -= 1

    # ---- the engine --------------------------------------------------------------------------------------------------

    def _feed(self) -> None:
        """Send what the workers can use; this never waits."""
        if self._inputs:
            self._tell()  # the reader: there may be room
        if not self._queue.items or self._broken_by is not None:
            return
        try:
            with self._feeding:
                self._run.feed(self._n_arrived - self._n_given)
        except Exception as exc:  # the pool has ended: what is queued will have no result, and everybody is told why
            self._broken_by = exc
        except BaseException:
            self._broken_by = RuntimeError("the stream was interrupted while it sent items, which are lost; make a new one")
            raise
        self._tell()

    def _turn(self, deadline: float | None, is_wanted: Callable[[], bool] | None = None) -> bool:
        """Wait for arrivals and take them in; False if another thread does so, or if there is nothing to wait for."""
        hands = self._hands
        if not self._run.has_work or not hands.acquire(blocking=False):
            return False
        try:
            self._n_turns += 1
            if is_wanted is None or is_wanted():
                self._run.wait(deadline)
                arrivals = self._run.take()
                if arrivals:
                    with self._changed:
                        for arrival in arrivals:
                            self._sort_in(arrival)
        finally:
            hands.release()
            self._tell()
        self._feed()
        return True

    def _tell(self) -> None:
        """Wake who sleeps."""
        if self._n_sleeping:
            with self._changed:
                self._changed.notify_all()

    def _sort_in(self, arrival: Arrival) -> None:
        piece = arrival, self._run.settle(arrival)
        if self._is_closed:
            return
        self._n_arrived += len(arrival.outcomes)
        self._turns.add(arrival.start, len(arrival.outcomes), piece)

    # ---- helpers -----------------------------------------------------------------------------------------------------

    def _see_to_keeper(self) -> None:
        """See that the keeper is there, if there is anything to keep."""
        if self._keeper is None and (self._queue.items or self._run.has_work):
            with self._changed:
                if self._keeper is None and not self._is_closed:
                    self._keeper = Helper(self._keep, "objproxy-stream-keeper")
                    self._keeper.start()

    def _keep(self) -> None:
        """Stand in for the threads of the user while none of them is here."""
        n_idle = 0
        while True:
            n_turns = self._n_turns
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed, _PATIENCE_SECONDS)
                is_idle = self._n_turns == n_turns and not self._run.has_work
                n_idle = n_idle + 1 if is_idle else 0
                if self._is_closed or n_idle > _IDLE_LOOKS:
                    self._keeper = None
                    return
            if self._inputs:
                self._feed()  # also beside a thread that gets: it does not know what the reader has added
            if self._n_turns == n_turns and not self._n_getting:
                self._feed()
                while self._turn(None, self._is_left_alone) and self._is_left_alone():
                    pass

    def _is_left_alone(self) -> bool:
        return not self._n_getting and not self._is_closed

"""The verbs: from the arguments of a call to its outcomes. One function each for one task, broadcast, map, rounds, stream."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from objproxy._engine import failures, plan
from objproxy._engine.calls import Arrival, Call
from objproxy._engine.chunks import ChunkSizer
from objproxy._engine.driver import Driver
from objproxy._engine.futures import CallFuture
from objproxy._engine.interrupts import held
from objproxy._engine.mapping import MapRun, ResultIterator, collect
from objproxy._engine.messages import PLAIN, Batch, Failure, Policy
from objproxy._engine.payload import Payload
from objproxy._engine.stay import Stay
from objproxy._engine.stream_run import StreamRun, TaskQueue
from objproxy._worker.wire import Operation

Explain = Callable[[Operation, Exception], str]
OnArrival = Callable[[Arrival], None]


class Verbs:
    """The verbs of one pool.

    Parameters
    ----------
    driver : Driver
        The engine.
    explain : callable
        ``explain(operation, exc)`` gives the path to what cannot be pickled.
    """

    def __init__(self, driver: Driver, explain: Explain) -> None:
        self._driver = driver
        self._explain = explain
        # Numbers the fan-outs of this pool, so that each has random streams of its own; 0 means none.
        self._call_numbers = itertools.count(1)

    def encode(self, operation: Operation, label: str = "") -> Payload:
        """Pickle the arguments of a call.

        Raises
        ------
        ArgumentPickleError
            They cannot be pickled; nothing was sent.
        """
        try:
            return Payload(operation, self._driver.backend.encode(operation))
        except Exception as exc:
            error = failures.argument(label or operation.name, functools.partial(self._explain, operation, exc), exc)
            raise error from error.__cause__

    def one(self, worker_id: int, operation: Operation, policy: Policy = PLAIN, *, is_task: bool = True) -> Any:
        """Carry out one operation on one worker; return its outcome."""
        payload = self.encode(operation, policy.label)
        call = Call(operation.name, policy, needs_state=True, is_task=is_task)
        self._carry_out(call, [Batch(call, 0, 1, payload, worker_id)])
        return call.inbox[0].outcomes[0]

    @held
    def _carry_out(self, call: Call, batches: Sequence[Batch]) -> None:
        """Submit and wait until every outcome has arrived; who is interrupted ends what runs."""
        try:
            self._driver.submit(batches)
            while call.outstanding:
                self._driver.wait_until(lambda: not call.outstanding, None, call)
        except BaseException:
            self._end_early(call)
            raise

    def _end_early(self, call: Call) -> None:
        if call.outstanding:  # else it was refused: in a forked child, say, where the engine's lock may be taken for ever
            self._driver.cancel(call, and_running=True)

    def every(
        self,
        operation: Operation,
        policy: Policy = PLAIN,
        *,
        is_task: bool = True,
        on_begin: Callable[[int], None] = lambda _n_workers: None,
        on_arrival: OnArrival = lambda _arrival: None,
        on_done: Callable[[int], None] | None = None,
    ) -> list[Any]:
        """Carry out one operation exactly once on each worker; return the outcomes in the order of the workers.

        These are the workers of the pool at the moment of submission, whatever becomes of its size before or after that.
        """
        payload = self.encode(operation, policy.label)
        call = Call(operation.name, policy, needs_state=True, is_task=is_task)
        call.on_done = on_done
        try:
            n_workers = self._driver.submit_to_all(lambda worker_id: Batch(call, worker_id, 1, payload, worker_id))
            outcomes: list[Any] = [None] * n_workers
            on_begin(n_workers)
            while call.outstanding or call.inbox:
                self._driver.wait_for(call)
                for arrival in call.take():
                    outcomes[arrival.start] = arrival.outcomes[0]
                    on_arrival(arrival)
        except BaseException:
            self._end_early(call)
            raise
        return outcomes

    def future(
        self,
        operation: Operation,
        finish: Callable[[Any, int | None], Any],
        policy: Policy = PLAIN,
        *,
        worker_id: int | None = None,
        is_task: bool = True,
    ) -> CallFuture:
        """Submit one operation to whichever worker is free, or to the one that is named."""
        payload = self.encode(operation, policy.label)
        # A task for any worker has random streams of its own, as an item of a map has.
        call_number = next(self._call_numbers) if worker_id is None else 0
        call = Call(operation.name, policy, needs_state=worker_id is not None, is_task=is_task, call_number=call_number)
        future = CallFuture(self._driver, call, finish)
        self._driver.submit_future(Batch(call, 0, 1, payload, worker_id))
        return future

    def run(
        self,
        source: plan.ItemSource,
        n_workers: int,
        policy: Policy = PLAIN,
        *,
        chunksize: int | None = None,
        buffersize: int | Callable[[float | None], int] | None = None,
        is_lazy: bool = False,
    ) -> MapRun:
        """Prepare a map.

        With a time limit each item is a message of its own: the parent's clock then is the item's clock. So is each of
        the items that run at the same time in a worker: none waits for the slowest of a chunk.
        """
        call = self._map_call(source.method, n_workers, policy, chunksize)
        return MapRun(self._driver, call, source, n_workers, buffersize=buffersize, is_lazy=is_lazy, explain=self._explain)

    def stream(
        self,
        method: str,
        n_workers: int,
        policy: Policy,
        *,
        chunksize: int | None = None,
        buffersize: int | Callable[[float | None], int] | None = None,
    ) -> StreamRun:
        """Prepare a map whose items are still to be put."""
        call = self._map_call(method, n_workers, policy, chunksize)
        source = TaskQueue(method)
        return StreamRun(self._driver, call, source, n_workers, buffersize=buffersize, is_lazy=True, explain=self._explain)

    def _map_call(self, method: str, n_workers: int, policy: Policy, chunksize: int | None) -> Call:
        is_single = policy.timeout is not None or policy.concurrency > 0
        sizer = ChunkSizer(n_workers, 1 if is_single else chunksize, may_join=not is_single)
        return Call(method, policy, sizer=sizer, call_number=next(self._call_numbers))

    def map(self, run: MapRun, on_arrival: OnArrival) -> list[Sequence[Any]]:
        """Run a map to its end; return the outcomes in order, in consecutive pieces."""
        return collect(run, on_arrival)

    def dedicated(self, source: plan.ItemSource, on_arrival: OnArrival, policy: Policy = PLAIN) -> list[Sequence[Any]]:
        """Send item i to worker i; as many items as workers.

        Raises
        ------
        ValueError
            Their numbers differ.
        """
        call = self._pinned_call(source, policy)
        with self.staying(call) as stay:
            n_workers = stay.n_workers
            if source.total is not None and source.total != n_workers:
                raise _wrong_length(source.total, n_workers)
            payloads = self._pull_encoded(call, source, n_workers + 1)
            if source.error is not None:
                raise source.error
            if len(payloads) != n_workers:
                raise _wrong_length(f"{len(payloads)} or more" if len(payloads) > n_workers else len(payloads), n_workers)
            return self._round(call, 0, payloads, on_arrival)

    def rounds(self, source: plan.ItemSource, on_arrival: OnArrival, policy: Policy = PLAIN) -> list[Sequence[Any]]:
        """Send item i to worker ``i % n``, in rounds; no round starts before the last has ended."""
        call = self._pinned_call(source, policy)
        pieces: list[Sequence[Any]] = []
        with self.staying(call) as stay:
            while not source.is_exhausted:
                start = source.n_pulled
                payloads = self._pull_encoded(call, source, stay.n_workers)
                pieces += self._round(call, start, payloads, on_arrival)
        if source.error is not None:
            raise source.error
        return pieces

    def staying(self, call: Call | None = None) -> Stay:
        """Return a block in which the workers of now stay, also if the pool shrinks meanwhile."""
        return Stay(self._driver, call or Call("stay"))

    def _pinned_call(self, source: plan.ItemSource, policy: Policy) -> Call:
        return Call(source.method, policy, call_number=next(self._call_numbers))

    def _pull_encoded(self, call: Call, source: plan.ItemSource, n_items: int) -> list[Payload]:
        """Pull items and pickle each before the next is pulled, which may change it."""
        payloads: list[Payload] = []
        for _ in range(n_items):
            payload = source.pull(1)
            if payload is None:
                break
            try:
                payload.data = self._driver.backend.encode(payload.operation)
            except Exception as exc:
                explain = functools.partial(self._explain, payload.operation, exc)
                error = failures.argument(call.method, explain, exc, source.n_pulled - 1)
                raise error from error.__cause__
            payloads.append(payload)
        return payloads

    def _round(self, call: Call, start: int, payloads: Sequence[Payload], on_arrival: OnArrival) -> list[Sequence[Any]]:
        """Run one item on each of the first workers and wait for all of them."""
        self._carry_out(call, [Batch(call, start + i, 1, payload, i) for i, payload in enumerate(payloads)])
        arrivals = sorted(call.take(), key=lambda arrival: arrival.start)
        for arrival in arrivals:
            on_arrival(arrival)
        return [arrival.outcomes for arrival in arrivals]


def make_source(method: str, args: Sequence[Iterable[Any]], kwargs: Mapping[str, Iterable[Any]]) -> plan.ItemSource:
    """Make the source of a map."""
    return plan.ItemSource(method, args, kwargs)


def _wrong_length(n_items: Any, n_workers: int) -> ValueError:
    return ValueError(f"a dedicated call needs one item for each worker: {n_items} items were given for {n_workers} workers")


__all__ = ["Failure", "ResultIterator", "Verbs", "make_source"]

"""What becomes of items that were sent: answered, tried again, or lost with their worker.

Rules that live here:

- an item is tried again only as its call's rules say (`may_retry`), so it runs at most ``1 + retries`` times;
- the death of a worker costs the item that ran, nothing else; what had not started goes back to its place in the queue.
"""

from __future__ import annotations

import copy
import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from objproxy._engine import failures
from objproxy._engine import messages as m
from objproxy._engine.dispatch import Dispatcher
from objproxy._engine.ledger import Ledger
from objproxy._engine.messages import Batch, Failure
from objproxy._engine.watch import loading_limit
from objproxy._engine.workers import Slot, WorkerRecord
from objproxy.errors import TaskTimeoutError
from objproxy.handling import matches

_N_SLOWEST = 5


class Settlement:
    """Ends items, or puts them back.

    Parameters
    ----------
    ledger : Ledger
        Where the end of an item is written down.
    dispatcher : Dispatcher
        Where an item waits that is sent again.
    describe : callable
        Gives the text for a worker's device, for errors.

    Attributes
    ----------
    slowest : list
        A heap of (seconds, method, item, worker_id): the slowest items.
    """

    def __init__(self, ledger: Ledger, dispatcher: Dispatcher, describe: Callable[[int], str | None]) -> None:
        self._ledger = ledger
        self._dispatcher = dispatcher
        self._describe = describe
        self.slowest: list[tuple[float, str, int, int]] = []

    @staticmethod
    def may_retry(batch: Batch, error: BaseException) -> bool:
        """Whether the items of `batch`, having ended with `error`, are tried again."""
        rules = batch.rules
        return batch.attempts <= rules.retries and matches(error, rules.retry_on) and not rules.is_dropped

    def take_in(self, record: WorkerRecord, batch: Batch, outcomes: Sequence[Any], failed: Sequence[int]) -> None:
        """End the next items of a batch with what its worker answered, except those that are tried again."""
        count = len(outcomes)
        if failed and batch.rules.retries:
            self._take_in_with_retries(record, batch, outcomes, failed)
        elif count:
            self._ledger.deliver(batch, batch.received, outcomes, bool(failed), record.worker_id)
        batch.received += count
        record.n_tasks += count

    def _take_in_with_retries(self, record: WorkerRecord, batch: Batch, outcomes: Sequence[Any], failed: Sequence[int]) -> None:
        received, begin, has_failures = batch.received, 0, False
        for offset in failed:
            if not self.may_retry(batch, outcomes[offset].error):
                has_failures = True
                continue
            if begin < offset:
                self._ledger.deliver(batch, received + begin, outcomes[begin:offset], has_failures, record.worker_id)
            at = received + offset
            self._dispatcher.put_back(batch.cut(at, at + 1, batch.attempts + 1), record)
            begin, has_failures = offset + 1, False
        if begin < len(outcomes):
            self._ledger.deliver(batch, received + begin, outcomes[begin:], has_failures, record.worker_id)

    def finish(self, record: WorkerRecord, batch: Batch, seconds: float) -> None:
        """Take a batch that was answered in full off its worker."""
        if batch.received < batch.count:
            self._ledger.fail(
                batch, batch.received, batch.count, failures.missing_answers(batch, record.worker_id), record.worker_id
            )
        record.inflight.popleft()
        record.working_seconds += seconds
        batch.rules.learn(batch.count, seconds)
        self._dispatcher.end_head(record, batch)
        if record.inflight:
            self._dispatcher.begin_head(record, record.inflight[0])
        seconds /= batch.count
        self._note_seconds(seconds, batch, record)

    def finish_task(self, record: WorkerRecord, batch: Batch, event: m.Replied, *, is_told: bool) -> None:
        """Take in the end of a concurrent task, which has left its worker; `is_told` if its item has an outcome already."""
        if not is_told:
            self.take_in(record, batch, event.outcomes, event.failed)
            if batch.received < batch.count:
                make_error = failures.missing_answers(batch, record.worker_id)
                self._ledger.fail(batch, batch.received, batch.count, make_error, record.worker_id)
        batch.rules.learn(batch.count, event.seconds)
        self._note_seconds(event.seconds, batch, record)

    def _note_seconds(self, seconds: float, batch: Batch, record: WorkerRecord) -> None:
        if len(self.slowest) < _N_SLOWEST or seconds > self.slowest[0][0]:
            self._note_slow(seconds, batch, record)

    def _note_slow(self, seconds: float, batch: Batch, record: WorkerRecord) -> None:
        heapq.heappush(self.slowest, (seconds, batch.rules.method, batch.start, record.worker_id))
        if len(self.slowest) > _N_SLOWEST:
            heapq.heappop(self.slowest)

    def take_head(self, record: WorkerRecord) -> Batch:
        """Take the oldest batch off a worker that will not answer it."""
        batch = record.inflight.popleft()
        self._dispatcher.end_head(record, batch)
        return batch

    def take_all(self, records: Iterable[WorkerRecord]) -> list[Batch]:
        """Take all that was submitted off the queues and the workers, because the pool ends."""
        batches = self._dispatcher.shared.take_all()
        for record in records:
            while record.inflight:
                batches.append(self.take_head(record))
            batches += self._dispatcher.concurrency.end_all(record)
            batches += record.queue.take_all()
        return sorted(batches)

    def take_apart(self, record: WorkerRecord, batch: Batch) -> None:
        """Have the items of a batch sent one by one: its arguments cannot be unpickled, and nobody knows whose they are."""
        for at in range(batch.count):
            self._dispatcher.put_back(batch.cut(at, at + 1), record)

    def settle_orphans(self, record: WorkerRecord, event: m.Died) -> bool:
        """Settle what was sent to a dead worker: one item may have run, the rest goes back to the queue.

        Returns whether the caller of that item is told of the death.
        """
        is_told = self._settle_orphaned_tasks(record, event) if record.concurrent else False
        while record.inflight:
            batch = self.take_head(record)
            if batch.seq == event.started_seq and event.is_unpickling and batch.count > 1:
                self.take_apart(record, batch)
                continue
            if batch.seq == event.started_seq:
                self.take_in(record, batch, event.recovered, event.failed)
                is_told = self._blame(record, batch, event)
            if batch.received < batch.count:
                self._dispatcher.put_back(batch.cut(batch.received, batch.count), record)
        return is_told

    def _blame(self, record: WorkerRecord, batch: Batch, event: m.Died) -> bool:
        """Fail or retry what ran when its worker died; return whether a caller is told of the death.

        That is one item, unless the worker had more results than it left behind: each of those has run as well.
        """
        is_told = False
        stop = 0 if event.running is None else min(event.running + 1, batch.count)
        for at in range(batch.received, stop):
            is_told = self._blame_item(record, batch, event, at)
        return is_told

    def _blame_item(self, record: WorkerRecord, batch: Batch, event: m.Died, at: int) -> bool:
        error = failures.death(record, event, batch, batch.start + at, self._describe(record.worker_id))
        # A copy: the caller's gets a traceback when it is raised, and would keep all that its frames hold.
        record.death = copy.copy(error)
        batch.received += 1
        if self.may_retry(batch, error):
            self._dispatcher.put_back(batch.cut(at, at + 1, batch.attempts + 1), record)
            return False
        self._ledger.deliver(batch, at, [Failure(error)], True, record.worker_id)
        return not (batch.rules.is_dropped or batch.rules.is_chore)

    def _settle_orphaned_tasks(self, record: WorkerRecord, event: m.Died) -> bool:
        """Settle the concurrent tasks of a dead worker: each that had begun is lost, the others go back to the queue."""
        is_told = False
        for batch in list(self._dispatcher.concurrency.end_all(record)):
            if batch.seq in event.begun:
                is_told = self._blame_item(record, batch, event, 0) or is_told
            else:
                self._dispatcher.put_back(batch.cut(0, 1), record)
        return is_told

    def time_out(self, record: WorkerRecord, stack: str) -> None:
        """Fail or retry what a worker has run too long, whose threads stand at `stack`.

        That is its oldest batch, or the concurrent tasks whose time is over and none of which it stops.
        """
        for slot in list(record.concurrent.values()):
            if not slot.is_unwanted and (slot.is_asked or slot.is_loading):
                self.time_out_task(slot, stack, is_stopped=False)
        if not record.inflight:
            return
        self._time_out_batch(record, self.take_head(record), stack, is_loading=record.is_loading)

    def time_out_task(self, slot: Slot, stack: str, *, is_stopped: bool = True) -> None:
        """Fail or retry a concurrent task that has run too long; it keeps its place until its worker has ended it."""
        assert slot.batch is not None
        self._time_out_batch(slot.record, slot.batch, stack, is_loading=slot.is_loading, is_stopped=is_stopped)
        self._dispatcher.concurrency.note_stopping(slot)

    def _time_out_batch(
        self, record: WorkerRecord, batch: Batch, stack: str, *, is_loading: bool, is_stopped: bool = False
    ) -> None:
        rules = batch.rules
        limit = rules.timeout or 0.0
        seconds = loading_limit(limit) if is_loading else limit

        def make_error(item: int) -> BaseException:
            return TaskTimeoutError(
                record.worker_id,
                rules.method,
                item,
                seconds,
                stack,
                is_loading=is_loading,
                is_stopped=is_stopped,
                advice=rules.advice,
            )

        if self.may_retry(batch, make_error(batch.start)):
            self._dispatcher.put_back(batch.cut(batch.received, batch.count, batch.attempts + 1), record)
        else:
            self._ledger.fail(batch, batch.received, batch.count, make_error, record.worker_id)

    def take_back(self, record: WorkerRecord, seq: int, error: BaseException) -> None:
        """End the items of a batch that could not be sent after all."""
        if seq in record.concurrent:
            batch, _ = self._dispatcher.concurrency.end(record, seq)
            self._ledger.fail(batch, 0, batch.count, lambda _item: error, record.worker_id)
            return
        batch = next((batch for batch in reversed(record.inflight) if batch.seq == seq), None)  # type: ignore[assignment]
        if batch is None:
            return
        is_head = batch is record.inflight[0]
        record.inflight.remove(batch)
        self._ledger.fail(batch, 0, batch.count, lambda _item: error, record.worker_id)
        if is_head:
            self._dispatcher.end_head(record, batch)
            if record.inflight:
                self._dispatcher.begin_head(record, record.inflight[0])

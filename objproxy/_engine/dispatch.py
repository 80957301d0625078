"""Who runs which batch, and when it is sent.

Rules that live here:

- a batch goes to the worker it is meant for, or to one that is free: the one that had something to do last, for it may still
  be awake;
- a worker holds one batch, and a few more ahead only while batches are short and others are waiting (`_may_go_ahead`);
- a batch that a worker's lifetime has no room for is cut (``max_tasks_per_worker``);
- a task that counts on the state of a worker that died is told of the loss in place of being sent, exactly once.
"""

from __future__ import annotations

from concurrent.futures import CancelledError

from objproxy._engine import messages as m
from objproxy._engine.backlog import Backlog
from objproxy._engine.concurrency import Concurrency
from objproxy._engine.ledger import Ledger
from objproxy._engine.messages import Batch, Failure
from objproxy._engine.watch import Watch
from objproxy._engine.workers import WorkerRecord

#: Batches shorter than this are sent ahead, so that a worker need not wait for the parent between two of them.
_AHEAD_SECONDS = 0.005

#: Work that may lie ahead of a worker, and the most batches of it.
_AHEAD_WORK_SECONDS = 0.001
_MAX_AHEAD = 16


class Dispatcher:
    """The batches that wait for any worker, and the workers that wait for any batch; never both.

    Parameters
    ----------
    ledger : Ledger
        Where what is sent is written down.
    watch : Watch
        Is told which batch a worker begins, and when that has left it.
    n_workers : int
        Number of workers of the pool.
    max_tasks : int or None
        Items after which a worker is replaced.
    """

    def __init__(self, ledger: Ledger, watch: Watch, n_workers: int, max_tasks: int | None) -> None:
        self.n_workers = n_workers
        self.shared = Backlog()
        self._ledger = ledger
        self._watch = watch
        self._max_tasks = max_tasks
        self.concurrency = Concurrency(ledger, watch)
        self._free: dict[WorkerRecord, None] = {}  # idle; the longest idle is first
        self._seq = 0

    # ---- what waits --------------------------------------------------------------------------------------------------

    def share(self, batch: Batch) -> None:
        """Give a batch to whichever worker is free, or let it wait."""
        if self._free and self._limit(batch) is None and not self.shared.heap:
            self.send(self._free.popitem()[0], batch)
            return
        self.shared.push(batch)
        while self._free and self.shared.head() is not None:
            self.serve(self._free.popitem()[0])
        if batch.rules.concurrency and self.shared.heap:
            record = self.concurrency.find_room(batch)
            if record is not None:
                self.serve(record)

    def put_back(self, batch: Batch, record: WorkerRecord) -> None:
        """Let a batch that was sent to `record` wait again, at its old place; nobody is told."""
        if batch.rules.is_dropped:
            self._ledger.fail(batch, 0, batch.count, lambda _item: CancelledError())
        elif batch.worker_id is None:
            self.share(batch)
        else:
            record.queue.push(batch)

    def list_free(self, record: WorkerRecord) -> None:
        """Note that a worker has nothing to do."""
        self._free[record] = None

    def forget_free(self, record: WorkerRecord) -> None:
        """Note that a worker must not be given anything more."""
        self._free.pop(record, None)

    # ---- what is sent ------------------------------------------------------------------------------------------------

    def is_worn_out(self, record: WorkerRecord) -> bool:
        """Whether a worker has been sent as many items as it may run, or has outgrown its memory."""
        limit = record.max_tasks
        return record.is_outgrown or (limit is not None and record.n_assigned >= limit)

    def _limit(self, batch: Batch) -> int | None:
        """Return the items after which a worker is replaced that runs this batch."""
        return self._max_tasks if batch.rules.max_tasks is None else batch.rules.max_tasks

    def serve(self, record: WorkerRecord) -> None:
        """Send a worker that is up what it can take."""
        own, shared = record.queue, self.shared
        while own.heap or shared.heap:
            if record.loss is not None:
                self.tell_loss(record)
            if self.is_worn_out(record):
                return
            queue = self._next_queue(record)
            if queue is None:
                return
            batch = queue.heap[0][3]
            if (record.inflight or record.concurrent) and not self._may_go_ahead(record, batch):
                return
            queue.pop()
            limit = self._limit(batch)
            self.send(record, batch if limit is None else self._cut_to_lifetime(record, batch, queue, limit))

    def _next_queue(self, record: WorkerRecord) -> Backlog | None:
        """Return the queue whose head is next for `record`; None if both are empty."""
        own = record.queue.head() if record.queue.heap else None
        shared = None if record.is_retiring else self.shared.head()
        if own is not None and (shared is None or own < shared):
            return record.queue
        return None if shared is None else self.shared

    def _cut_to_lifetime(self, record: WorkerRecord, batch: Batch, queue: Backlog, limit: int) -> Batch:
        if not batch.rules.is_task:
            return batch
        # Who has run more than a call allows, when calls before allowed more, runs one item of it and is replaced then.
        room = max(1, limit - record.n_assigned)
        if batch.count <= room:
            return batch
        queue.push(batch.cut(room, batch.count))
        return batch.cut(0, room)

    def _may_go_ahead(self, record: WorkerRecord, batch: Batch) -> bool:
        """Whether a batch may wait in a busy worker instead of in the queue, or run there beside others."""
        if record.concurrent or batch.rules.concurrency:
            return self.concurrency.has_room(record, batch)
        if batch.worker_id is None and len(self.shared.heap) <= self.n_workers:
            return False  # near the end each batch goes to the worker that is free first
        last = record.inflight[-1].rules
        if last.timeout is not None:
            return False  # it may cost the worker its life
        seconds = batch.rules.seconds_per_batch
        if seconds is None or seconds > _AHEAD_SECONDS:
            return False
        if last is not batch.rules and (last.seconds_per_batch is None or last.seconds_per_batch > _AHEAD_SECONDS):
            return False  # nothing shall wait behind a slow one while other workers are free
        depth = 2 + min(_MAX_AHEAD, int(_AHEAD_WORK_SECONDS / max(seconds, 1e-6)))
        return len(record.inflight) < depth

    def send(self, record: WorkerRecord, batch: Batch) -> None:
        """Send a batch to a worker."""
        self._seq += 1
        batch.seq = self._seq
        record.max_tasks = self._limit(batch)
        if batch.rules.is_task:
            record.n_assigned += batch.count
        if record.phase == "idle":
            record.phase = "busy"
        if batch.rules.concurrency:
            self.concurrency.begin(record, batch)
        else:
            record.inflight.append(batch)
            if len(record.inflight) == 1:
                self.begin_head(record, batch)
        self._ledger.actions.append(m.Send(record.worker_id, batch))

    def begin_head(self, record: WorkerRecord, batch: Batch) -> None:
        """Note that the oldest batch of a worker runs from now on; of a worker that is ending, only its end is expected."""
        rules = batch.rules
        rules.running.add(record.worker_id)
        record.busy_since = self._ledger.now
        if record.phase == "busy":
            self._watch.expect(record, rules.timeout)
            self._watch.hear_from(record)

    def end_head(self, record: WorkerRecord, batch: Batch) -> None:
        """Note that a batch that was running has left its worker; of one that is not ending, nothing more is expected."""
        batch.rules.running.discard(record.worker_id)
        if record.phase == "busy":
            self._watch.forget(record)

    # ---- lost state --------------------------------------------------------------------------------------------------

    def tell_loss(self, record: WorkerRecord) -> None:
        """Tell a lost state to the task that is next for the worker, if that counts on it; else a later one is told."""
        batch = record.queue.head()
        if batch is None or not batch.rules.needs_state or batch.attempts > 1:  # who asked for another try has it
            return
        record.queue.pop()
        loss, record.loss = record.loss, None
        assert loss is not None
        self._ledger.deliver(batch, 0, [Failure(loss)], True, record.worker_id)

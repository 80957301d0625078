"""The pool as a state machine: ``handle(event, now)`` returns actions. No I/O, no clock, no lock, no thread.

A pool is ``starting`` until every constructor has ended, then ``open``; ``closing`` finishes what was submitted; ``broken`` and
``killed`` end everything at once; all of them end in ``closed``, when the last worker is gone.

Rules that live here:

- a batch goes to the worker it is meant for, or to whichever is free; larger priority first, then in order of submission;
- a worker holds one batch, and a few more ahead only while batches are short and others are waiting (`_depth`);
- the death of a worker costs the item that ran, nothing else; what had not started goes back to its place in the queue;
- an item is tried again only as its call's rules say (`_judge`);
- a worker that died is replaced, with the next generation, up to the restart limit; then it is quarantined;
- the loss of a worker's state is told exactly once (`_tell_loss`).

No event costs more than O(log batches); only the end of the pool looks at all of them.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from objproxy._engine import messages as m
from objproxy._engine.messages import Batch, Failure, Rules
from objproxy._engine.workers import WorkerRecord
from objproxy.errors import (
    PoisonTaskError,
    PoolBrokenError,
    TaskTimeoutError,
    WorkerDiedError,
    WorkerInitError,
    describe_exit,
)

#: Batches shorter than this are sent ahead, so that a worker need not wait for the parent between two of them.
_AHEAD_SECONDS = 0.002

#: Work that may lie ahead of a worker, and the most batches of it.
_AHEAD_WORK_SECONDS = 0.001
_MAX_AHEAD = 16

_N_SLOWEST = 5


class PoolState:
    """The state of one pool.

    Parameters
    ----------
    n_workers : int
        Number of workers.
    max_restarts : tuple
        (count, seconds): a worker that dies more often than `count` times within `seconds` is quarantined.
    max_tasks_per_worker : int or None
        Items after which a worker is replaced.
    init_timeout : float or None
        Seconds for a constructor.
    describe : callable
        Gives the text for a worker's device, for errors.
    """

    def __init__(
        self,
        n_workers: int,
        *,
        max_restarts: tuple[int, float] = (3, 5.0),
        max_tasks_per_worker: int | None = None,
        init_timeout: float | None = None,
        describe: Callable[[int], str | None] = lambda _worker_id: None,
    ) -> None:
        self.phase = "starting"
        self.failure: BaseException | None = None
        self.workers: dict[int, WorkerRecord] = {}
        self.n_workers = n_workers
        self.n_outstanding = 0
        self.removed: dict[int, WorkerRecord] = {}  # the last of each place that has left the pool
        self.slowest: list[tuple[float, str, int, int]] = []  # (seconds, method, item, worker_id), a heap
        self._max_restarts = max_restarts
        self._max_tasks = max_tasks_per_worker
        self._init_timeout = init_timeout
        self._describe = describe
        self._queue: list[Batch] = []  # a heap
        self._free: deque[int] = deque()  # workers with nothing to do; may hold some that have got something since
        self._timers: list[tuple[float, int, int, int]] = []  # (when, worker_id, generation, seq or 0 for init)
        self._n_starting = 0
        self._n_quarantined = 0
        self._order = 0
        self._seq = 0
        self._actions: list[m.Action] = []
        self._now = 0.0
        self._handlers: dict[type, Callable[[Any], None]] = {
            m.Submitted: self._on_submitted,
            m.Ready: self._on_ready,
            m.InitFailed: self._on_init_failed,
            m.Replied: self._on_replied,
            m.Died: self._on_died,
            m.Cancelled: self._on_cancelled,
            m.Ticked: self._on_ticked,
            m.CloseAsked: self._on_close_asked,
            m.KillAsked: self._on_kill_asked,
            m.Resized: self._on_resized,
        }

    def begin(self, now: float) -> list[m.Action]:
        """Start the workers."""
        self._now = now
        self._n_starting = self.n_workers
        for worker_id in range(self.n_workers):
            self._add_worker(worker_id)
        return self._take_actions()

    def handle(self, event: m.Event, now: float) -> list[m.Action]:
        """Take one event in and return what shall be done about it."""
        self._now = now
        self._handlers[type(event)](event)
        return self._take_actions()

    def next_deadline(self) -> float | None:
        """Return when `Ticked` is due next, or None."""
        while self._timers and not self._is_timer_due(self._timers[0]):
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    @property
    def n_queued(self) -> int:
        """Number of batches that wait for a free worker."""
        return len(self._queue)

    # ---- submission and dispatch --------------------------------------------------------------------------------------

    def _on_submitted(self, event: m.Submitted) -> None:
        batch = event.batch
        self._order += 1
        batch.order = self._order
        batch.rules.outstanding += batch.count
        self.n_outstanding += batch.count
        if batch.worker_id is not None:
            self._submit_to_worker(batch, self.workers.get(batch.worker_id))
            return

        self._push(self._queue, batch)
        self._serve_free_workers()

    def _submit_to_worker(self, batch: Batch, record: WorkerRecord | None) -> None:
        if record is None or record.phase == "quarantined":
            self._fail(batch, 0, batch.count, self._unavailable(batch, record))
            return

        self._push(record.queue, batch)
        if batch.rules.needs_state and record.loss is not None:
            self._tell_loss(record)
        if record.phase == "idle":
            self._serve(record)

    def _serve_free_workers(self) -> None:
        while self._queue and self._free:
            record = self.workers.get(self._free.popleft())
            if record is not None:
                record.is_listed = False
                if record.phase == "idle":
                    self._serve(record)

    def _serve(self, record: WorkerRecord) -> None:
        """Give a worker what it can take."""
        while record.phase in ("idle", "busy") and record.end_reason is None:
            if self._max_tasks is not None and record.n_assigned >= self._max_tasks:
                break
            batch = self._next_batch(record)
            if batch is None:
                break
            self._send(record, batch)

        if not record.inflight and record.phase in ("idle", "busy"):
            self._rest(record)

    def _rest(self, record: WorkerRecord) -> None:
        """A worker has nothing left to do: end it if it was due, else list it as free."""
        record.phase = "idle"
        if self._max_tasks is not None and record.n_assigned >= self._max_tasks:
            self._end(record, "recycled", is_polite=True)
        elif record.is_retiring and not record.queue:
            self._end(record, "resized", is_polite=True)
        elif self.phase == "closing" and not self.n_outstanding:
            self._end(record, "closed", is_polite=True)
        elif not record.is_listed and not record.is_retiring:
            record.is_listed = True
            self._free.append(record.worker_id)

    def _next_batch(self, record: WorkerRecord) -> Batch | None:
        """Take the batch out of the queues that `record` shall run next; None if it has enough or there is none."""
        own = _live_head(record.queue)
        shared = None if record.is_retiring else _live_head(self._queue)
        if own is None and shared is None:
            return None
        batch = own if shared is None or (own is not None and own < shared) else shared
        assert batch is not None
        if record.inflight and not self._may_go_ahead(record, batch):
            return None

        queue = record.queue if batch is own else self._queue
        _pop(queue)
        return self._cut_to_lifetime(record, batch, queue)

    def _cut_to_lifetime(self, record: WorkerRecord, batch: Batch, queue: list[Batch]) -> Batch:
        if self._max_tasks is None or not batch.rules.is_task:
            return batch
        room = self._max_tasks - record.n_assigned
        if batch.count <= room:
            return batch
        self._push(queue, batch.cut(room, batch.count))
        return batch.cut(0, room)

    def _may_go_ahead(self, record: WorkerRecord, batch: Batch) -> bool:
        """Whether a batch may wait in the worker instead of in the queue."""
        if batch.worker_id is None and len(self._queue) <= self.n_workers:
            return False  # near the end each batch goes to the worker that is free first
        seconds = batch.rules.seconds_per_batch
        if seconds is None or seconds > _AHEAD_SECONDS or record.inflight[-1].rules.timeout is not None:
            return False
        depth = 2 + min(_MAX_AHEAD, int(_AHEAD_WORK_SECONDS / max(seconds, 1e-6)))
        return len(record.inflight) < depth

    def _send(self, record: WorkerRecord, batch: Batch) -> None:
        self._seq += 1
        batch.seq = self._seq
        if batch.rules.is_task:
            record.n_assigned += batch.count
        record.phase = "busy"
        record.inflight.append(batch)
        if len(record.inflight) == 1:
            self._head_started(record)
        self._actions.append(m.Send(record.worker_id, batch))

    def _head_started(self, record: WorkerRecord) -> None:
        """The oldest batch of a worker is running from now on."""
        batch = record.inflight[0]
        batch.rules.running.add(record.worker_id)
        record.busy_since = self._now
        if batch.rules.timeout is not None:
            self._set_timer(batch.rules.timeout, record, batch.seq)

    def _pop_head(self, record: WorkerRecord) -> Batch:
        batch = record.inflight.popleft()
        batch.rules.running.discard(record.worker_id)
        return batch

    def _push(self, queue: list[Batch], batch: Batch) -> None:
        batch.rules.n_queued += batch.count
        heapq.heappush(queue, batch)

    # ---- answers ------------------------------------------------------------------------------------------------------

    def _on_replied(self, event: m.Replied) -> None:
        record = self._find(event.worker_id, event.generation)
        if record is None or not record.inflight or record.inflight[0].seq != event.seq:
            return  # of a worker that was replaced, or of a batch that has timed out

        batch = record.inflight[0]
        self._settle(batch, event.outcomes, event.failed, record)
        if not event.is_last:
            return

        self._pop_head(record)
        record.n_tasks += batch.count
        record.working_seconds += event.seconds
        batch.rules.learn(batch.count, event.seconds)
        self._note_slow(event.seconds / batch.count, batch, record)
        if record.inflight:
            self._head_started(record)
        self._serve(record)
        self._finish_closing()

    def _note_slow(self, seconds: float, batch: Batch, record: WorkerRecord) -> None:
        """Keep the slowest items."""
        if len(self.slowest) < _N_SLOWEST:
            heapq.heappush(self.slowest, (seconds, batch.rules.method, batch.start, record.worker_id))
        elif seconds > self.slowest[0][0]:
            heapq.heapreplace(self.slowest, (seconds, batch.rules.method, batch.start, record.worker_id))

    def _settle(self, batch: Batch, outcomes: Sequence[Any], failed: Sequence[int], record: WorkerRecord) -> None:
        """Deliver the next outcomes of a batch, except those that are tried again."""
        if failed and batch.rules.retries:
            self._settle_one_by_one(batch, outcomes, record)
        elif outcomes:
            self._deliver(batch, batch.received, outcomes, bool(failed), record.worker_id)
        batch.received += len(outcomes)

    def _settle_one_by_one(self, batch: Batch, outcomes: Sequence[Any], record: WorkerRecord) -> None:
        for offset, outcome in enumerate(outcomes, batch.received):
            if isinstance(outcome, Failure) and self._judge(batch, outcome.error):
                self._requeue(batch.cut(offset, offset + 1, batch.attempts + 1))
            else:
                self._deliver(batch, offset, [outcome], isinstance(outcome, Failure), record.worker_id)

    def _judge(self, batch: Batch, error: BaseException) -> bool:
        """Whether the item that ended with `error` is tried again."""
        rules = batch.rules
        return (
            batch.attempts <= rules.retries
            and isinstance(error, rules.retry_on)
            and not rules.is_dropped
            and self.phase in ("open", "closing")
        )

    def _deliver(self, batch: Batch, offset: int, outcomes: Sequence[Any], has_failures: bool, worker_id: int | None) -> None:
        self._count_off(batch.rules, len(outcomes))
        self._actions.append(m.Deliver(batch.rules, batch.start + offset, outcomes, has_failures, worker_id))

    def _fail(self, batch: Batch, start: int, stop: int, make_error: Callable[[int], BaseException]) -> None:
        """Fail the items ``start <= i < stop`` of a batch, each with an error of its own."""
        failures = [Failure(make_error(batch.start + i)) for i in range(start, stop)]
        if failures:
            self._deliver(batch, start, failures, True, batch.worker_id)

    def _requeue(self, batch: Batch) -> None:
        """Put a batch back at its place; nobody is told."""
        record = None if batch.worker_id is None else self.workers.get(batch.worker_id)
        if batch.rules.is_dropped:
            self._count_off(batch.rules, batch.count)
        elif batch.worker_id is None:
            self._push(self._queue, batch)
            self._serve_free_workers()
        elif record is None or record.phase == "quarantined":
            self._fail(batch, 0, batch.count, self._unavailable(batch, record))
        else:
            self._push(record.queue, batch)

    def _count_off(self, rules: Rules, count: int) -> None:
        rules.outstanding -= count
        self.n_outstanding -= count

    # ---- workers come and go ------------------------------------------------------------------------------------------

    def _add_worker(self, worker_id: int) -> None:
        record = self.workers[worker_id] = WorkerRecord(worker_id)
        record.created_at = self._now
        self._start(record)

    def _start(self, record: WorkerRecord) -> None:
        record.reset("starting", self._now)
        if self._init_timeout is not None:
            self._set_timer(self._init_timeout, record, 0)
        self._actions.append(m.Start(record.worker_id, record.generation))

    def _on_ready(self, event: m.Ready) -> None:
        record = self._find(event.worker_id, event.generation)
        if record is None or record.phase != "starting":
            return
        record.phase = "idle"
        if self.phase == "starting":
            self._n_starting -= 1
            if not self._n_starting:
                self.phase = "open"
        self._serve(record)
        self._serve_free_workers()

    def _on_init_failed(self, event: m.InitFailed) -> None:
        record = self._find(event.worker_id, event.generation)
        if record is not None:
            self._init_failed(record, event.error)

    def _init_failed(self, record: WorkerRecord, error: BaseException) -> None:
        record.init_error = error
        if self.phase == "starting":
            self._break(error)

    def _on_died(self, event: m.Died) -> None:
        record = self._find(event.worker_id, event.generation)
        if record is None or record.phase in ("gone", "quarantined"):
            return

        reason, was_starting = record.end_reason, record.phase == "starting"
        record.phase = "gone"
        record.exitcode = event.exitcode
        if record.ending_since is not None:
            record.exit_seconds += self._now - record.ending_since
        if was_starting and record.init_error is None and reason is None:
            self._init_failed(record, self._init_death(event))
        is_told = self._settle_orphans(record, event)
        if reason is None and not was_starting and not is_told:
            record.loss = self._death_error(record, event, None)
            self._tell_loss(record)
        self._replace(record, is_failure=reason is None)
        self._finish_closing()

    def _settle_orphans(self, record: WorkerRecord, event: m.Died) -> bool:
        """Settle what was sent to a dead worker: one item may have run, the rest goes back to the queue.

        Returns whether the caller of that item is told of the death.
        """
        is_told = False
        while record.inflight:
            batch = self._pop_head(record)
            if batch.seq == event.started_seq:
                self._settle(batch, event.recovered, event.failed, record)
                if event.running is not None and batch.received <= event.running < batch.count:
                    is_told = self._blame_item(record, batch, event)
                    batch.received += 1
            if batch.received < batch.count:
                self._requeue(batch.cut(batch.received, batch.count))
        return is_told

    def _blame_item(self, record: WorkerRecord, batch: Batch, event: m.Died) -> bool:
        """Fail or retry the item that ran when its worker died; return whether the caller is told of the death."""
        assert event.running is not None
        error = self._death_error(record, event, batch)
        if self._judge(batch, error):
            self._requeue(batch.cut(event.running, event.running + 1, batch.attempts + 1))
            return False
        self._deliver(batch, event.running, [Failure(error)], True, record.worker_id)
        return not batch.rules.is_dropped

    def _death_error(self, record: WorkerRecord, event: m.Died, batch: Batch | None) -> WorkerDiedError:
        is_poison = batch is not None and batch.attempts > 1 and batch.attempts > batch.rules.retries
        kind = PoisonTaskError if is_poison else WorkerDiedError
        return kind(
            record.worker_id,
            pid=event.pid,
            device=self._describe(record.worker_id),
            generation=record.generation,
            exitcode=event.exitcode,
            method=None if batch is None else batch.rules.method,
            item=None if batch is None or event.running is None else batch.start + event.running,
            started=batch is not None,
            attempts=1 if batch is None else batch.attempts,
            detail=event.detail,
        )

    def _tell_loss(self, record: WorkerRecord) -> None:
        """Tell the first waiting task that counts on the lost state; if there is none, the next one will be told."""
        for batch in sorted(record.queue):
            if batch.rules.needs_state and not batch.rules.is_dropped:
                record.queue.remove(batch)
                heapq.heapify(record.queue)
                batch.rules.n_queued -= batch.count
                loss, record.loss = record.loss, None
                assert loss is not None
                self._deliver(batch, 0, [Failure(loss)], True, record.worker_id)
                return

    def _replace(self, record: WorkerRecord, *, is_failure: bool) -> None:
        """Start the successor of a worker that is gone, if it shall have one."""
        if record.is_retiring or self.phase not in ("open", "closing") or (self.phase == "closing" and not self.n_outstanding):
            self._remove(record)
            return
        if is_failure and self._is_failing(record):
            self._quarantine(record)
            return
        record.generation += 1
        record.init_error = None
        self._start(record)

    def _is_failing(self, record: WorkerRecord) -> bool:
        """Note a death; whether there were too many (a supervisor's restart intensity, as in Erlang/OTP)."""
        count, seconds = self._max_restarts
        record.deaths.append(self._now)
        while record.deaths and record.deaths[0] < self._now - seconds:
            record.deaths.popleft()
        return len(record.deaths) > count

    def _quarantine(self, record: WorkerRecord) -> None:
        record.phase = "quarantined"
        self._n_quarantined += 1
        for batch in _take_live(record.queue):
            self._fail(batch, 0, batch.count, self._unavailable(batch, record))
        if self._n_quarantined == len(self.workers):
            cause = record.init_error or record.loss or self._unavailable(None, record)(0)
            self._break(cause)

    def _unavailable(self, batch: Batch | None, record: WorkerRecord | None) -> Callable[[int], BaseException]:
        count, seconds = self._max_restarts

        def make_error(item: int) -> BaseException:
            if record is None:
                worker_id = None if batch is None else batch.worker_id
                return PoolBrokenError(f"worker {worker_id} is no longer part of this pool (see resize)")
            detail = f"It died more than {count} times within {seconds:g} s and is quarantined; the other workers go on"
            if record.init_error is not None:
                return WorkerInitError(record.worker_id, f"{record.init_error}. {detail}", device=self._describe(record.worker_id))
            return WorkerDiedError(
                record.worker_id,
                device=self._describe(record.worker_id),
                generation=record.generation,
                exitcode=record.exitcode,
                method=None if batch is None else batch.rules.method,
                item=item,
                started=False,
                detail=detail,
            )

        return make_error

    def _init_death(self, event: m.Died) -> WorkerInitError:
        reason = event.detail or f"its process {describe_exit(event.exitcode)} in the constructor"
        return WorkerInitError(
            event.worker_id, reason, device=self._describe(event.worker_id), exitcode=event.exitcode
        )

    def _end(self, record: WorkerRecord, reason: str, *, is_polite: bool) -> None:
        record.end_reason = reason
        record.phase = "ending"
        record.ending_since = self._now
        self._actions.append(m.End(record.worker_id, record.generation, is_polite))

    def _remove(self, record: WorkerRecord) -> None:
        for batch in _take_live(record.queue):
            self._fail(batch, 0, batch.count, self._unavailable(batch, None))
        self._n_quarantined -= record.phase == "quarantined"
        record.ended_at = self._now
        if self.workers.pop(record.worker_id, None) is not None:
            self.removed[record.worker_id] = record

    # ---- time ---------------------------------------------------------------------------------------------------------

    def _set_timer(self, seconds: float, record: WorkerRecord, seq: int) -> None:
        heapq.heappush(self._timers, (self._now + seconds, record.worker_id, record.generation, seq))

    def _is_timer_due(self, timer: tuple[float, int, int, int]) -> bool:
        """Whether what the timer guards is still going on."""
        _, worker_id, generation, seq = timer
        record = self._find(worker_id, generation)
        if record is None or record.end_reason is not None:
            return False
        if seq == 0:
            return record.phase == "starting"
        return bool(record.inflight) and record.inflight[0].seq == seq

    def _on_ticked(self, _event: m.Ticked) -> None:
        while (deadline := self.next_deadline()) is not None and deadline <= self._now:
            _, worker_id, _, seq = heapq.heappop(self._timers)
            record = self.workers[worker_id]
            if seq == 0:
                reason = f"its constructor took longer than init_timeout={self._init_timeout:g} s"
                self._init_failed(record, WorkerInitError(worker_id, reason, device=self._describe(worker_id)))
                if record.end_reason is None:
                    self._actions.append(m.End(worker_id, record.generation, False))
            else:
                self._time_out(record)

    def _time_out(self, record: WorkerRecord) -> None:
        """The oldest batch of a worker has run too long: its item fails, the worker is replaced."""
        batch = self._pop_head(record)
        rules = batch.rules
        assert rules.timeout is not None
        error = TaskTimeoutError(record.worker_id, rules.method, batch.start, rules.timeout)
        if self._judge(batch, error):
            self._requeue(batch.cut(0, batch.count, batch.attempts + 1))
        else:
            self._deliver(batch, 0, [Failure(error)], True, record.worker_id)
        self._end(record, "timed out", is_polite=False)

    # ---- the end ------------------------------------------------------------------------------------------------------

    def _on_cancelled(self, event: m.Cancelled) -> None:
        """Drop what is queued; items that run are ended with their workers if that was asked, else left to finish."""
        rules = event.rules
        if not rules.is_dropped:
            rules.is_dropped = True
            self._count_off(rules, rules.n_queued)
        if event.and_running:
            for worker_id in list(rules.running):
                record = self.workers[worker_id]
                if record.end_reason is None:
                    self._end(record, "cancelled", is_polite=False)
        self._finish_closing()

    def _on_close_asked(self, _event: m.CloseAsked) -> None:
        if self.phase in ("starting", "open"):
            self.phase = "closing"
        self._finish_closing()

    def _finish_closing(self) -> None:
        """End the idle workers when the last task of a closing pool has its outcome, and see when all are gone."""
        if self.phase == "closing" and not self.n_outstanding:
            for record in list(self.workers.values()):
                if record.phase == "idle":
                    self._end(record, "closed", is_polite=True)
                elif record.phase == "quarantined":
                    self._remove(record)
        if self.phase in ("closing", "killed", "broken") and not self.workers:
            self.phase = "closed"

    def _break(self, cause: BaseException) -> None:
        """No worker can be kept alive."""
        self._on_kill_asked(m.KillAsked(cause, is_broken=True))

    def _on_kill_asked(self, event: m.KillAsked) -> None:
        if self.phase in ("killed", "broken", "closed"):
            return
        self.phase = "broken" if event.is_broken else "killed"
        self.failure = event.error
        for batch in self._take_all_batches():
            self._fail(batch, batch.received, batch.count, lambda _item: _ending_error(event))
        for record in list(self.workers.values()):
            if record.phase in ("quarantined", "gone"):
                self._remove(record)
            elif record.end_reason is None or record.phase == "ending":
                self._end(record, "killed", is_polite=False)
        self._finish_closing()

    def _take_all_batches(self) -> list[Batch]:
        batches = _take_live(self._queue)
        for record in self.workers.values():
            while record.inflight:
                batches.append(self._pop_head(record))
            batches += _take_live(record.queue)
        return sorted(batches)

    def _on_resized(self, event: m.Resized) -> None:
        self.n_workers = event.n_workers
        for worker_id in range(event.n_workers):
            if worker_id not in self.workers:
                self._add_worker(worker_id)
        for record in list(self.workers.values()):
            record.is_retiring = record.worker_id >= event.n_workers
            if record.is_retiring and record.phase == "idle" and not record.queue:
                self._end(record, "resized", is_polite=True)
            elif record.is_retiring and record.phase == "quarantined":
                self._remove(record)

    # ---- helpers ------------------------------------------------------------------------------------------------------

    def _find(self, worker_id: int, generation: int) -> WorkerRecord | None:
        record = self.workers.get(worker_id)
        return record if record is not None and record.generation == generation else None

    def _take_actions(self) -> list[m.Action]:
        actions, self._actions = self._actions, []
        return actions


def _live_head(queue: list[Batch]) -> Batch | None:
    """Return the first batch of a heap that somebody still waits for, dropping others (they are counted off already)."""
    while queue and queue[0].rules.is_dropped:
        _pop(queue)
    return queue[0] if queue else None


def _pop(queue: list[Batch]) -> None:
    batch = heapq.heappop(queue)
    batch.rules.n_queued -= batch.count


def _take_live(queue: list[Batch]) -> list[Batch]:
    """Empty a heap and return, in order, the batches that somebody still waits for."""
    batches = []
    while _live_head(queue) is not None:
        batches.append(queue[0])
        _pop(queue)
    return batches


def _ending_error(event: m.KillAsked) -> BaseException:
    """Return an error of its own for each item that the end of the pool has cost."""
    if not event.is_broken:
        return type(event.error)(*event.error.args)
    error = PoolBrokenError(f"the pool is broken: {event.error}")
    error.__cause__ = event.error
    return error

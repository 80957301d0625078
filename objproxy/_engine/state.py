"""The pool as a state machine: ``handle(event, now)`` returns actions. No I/O, no clock, no lock, no thread.

A pool is ``starting`` until every constructor has ended, then ``open``; ``closing`` finishes what was submitted;
``broken`` and ``killed`` end everything at once; all of them end in ``closed``, when the last worker is gone.

This module holds the life of the workers and of the pool. Its neighbours hold the rest of the rules:

- ``dispatch``: who runs which batch, and when it is sent;
- ``settlement``: what becomes of items that were sent: answered, tried again, lost;
- ``ledger``: counts the items, so that each ends exactly once;
- ``watch``: what is done about workers that take too long or fall silent;
- ``endings``: what is expected of a worker that was asked to end;
- ``shortage``: what is done about workers for which the system has no room.

Rules that live here:

- a worker that died is replaced, with the next generation, up to the restart limit; then it is quarantined, and when
  all are, the pool is broken; constructors that fail in a row count whatever time they take;
- the death of a worker is told exactly once: to the caller of the item that ran, else to the next task that counts on
  its state;
- an item past its time limit fails, and its worker is interrupted, so that the task can clean up;
- a closing pool ends its workers when the last item has its outcome.

No event costs more than O(log batches), except for what it ends: only a change of size and the end of the pool look at
all workers, and the end of the pool at all batches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from objproxy._engine import failures
from objproxy._engine import messages as m
from objproxy._engine.dispatch import Dispatcher
from objproxy._engine.endings import END_SECONDS, Endings
from objproxy._engine.ledger import Ledger
from objproxy._engine.messages import Batch
from objproxy._engine.settlement import Settlement
from objproxy._engine.shortage import Shortage, is_passing
from objproxy._engine.tasks import Tasks
from objproxy._engine.watch import GRACE_SECONDS, Watch
from objproxy._engine.workers import WorkerRecord
from objproxy.errors import WorkerInitError

#: Why the pool ended a worker. This one counts for the restart limit, as the constructor's failure that it is.
_INIT_TIMED_OUT = "init timed out"


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
    stall_warning : float or None
        Seconds of silence of a busy worker that are worth a warning.
    describe : callable
        Gives the text for a worker's device, for errors.

    Attributes
    ----------
    phase : str
        ``starting``, ``open``, ``closing``, ``broken``, ``killed`` or ``closed``.
    failure : BaseException or None
        Why it is broken or killed.
    workers : dict of int to WorkerRecord
        Those that are part of the pool.
    removed : dict of int to WorkerRecord
        Those that have left it.
    n_starting : int
        Workers that are building their objects.
    slowest : list
        As `Settlement.slowest`.
    """

    def __init__(
        self,
        n_workers: int,
        *,
        max_restarts: tuple[int, float] = (3, 5.0),
        max_tasks_per_worker: int | None = None,
        init_timeout: float | None = None,
        stall_warning: float | None = None,
        describe: Callable[[int], str | None] = lambda _worker_id: None,
    ) -> None:
        self.phase = "starting"
        self.failure: BaseException | None = None
        self.workers: dict[int, WorkerRecord] = {}
        self.removed: dict[int, WorkerRecord] = {}
        self.n_workers = n_workers
        self.n_starting = 0
        self._max_restarts = max_restarts
        self._init_timeout = init_timeout
        self._describe = describe
        self._ledger = Ledger()
        self._watch = Watch(self._ledger, stall_warning)
        self._dispatcher = Dispatcher(self._ledger, self._watch, n_workers, max_tasks_per_worker)
        self._shared = self._dispatcher.shared
        self._concurrency = self._dispatcher.concurrency
        self._shortage = Shortage(self._ledger, self._watch, self._shared, describe)
        self._settlement = Settlement(self._ledger, self._dispatcher, describe)
        self.slowest = self._settlement.slowest
        self._endings = Endings(self._ledger, self._watch, self._find, stall_warning, describe)
        self.take_end_errors = self._endings.take_errors
        self._tasks = Tasks(self._concurrency, self._settlement, self._find)
        self._heaps = self._watch.limits.heap, self._watch.silences.heap, self._watch.tasks.heap
        self._deadline: float | None = None
        self._n_quarantined = 0
        self._is_finishing = self._is_leaving = False
        self._holds: dict[m.Rules, int] = {}  # calls that need their workers to the end, and how many those are
        self._make_ending_error = failures.ended_pool(None, is_broken=False)
        self._handlers: dict[type, Callable[[Any], None]] = {
            m.Submitted: self._on_submitted,
            m.Ready: self._on_ready,
            m.InitFailed: self._on_init_failed,
            m.StartFailed: self._on_start_failed,
            m.Replied: self._on_replied,
            m.Unreadable: self._on_unreadable,
            m.SendFailed: self._on_send_failed,
            m.Outgrown: self._on_outgrown,
            m.Died: self._on_died,
            m.Ending: self._endings.on_ending,
            m.EndFailed: self._endings.on_failed,
            m.Inspected: self._on_inspected,
            m.Stopping: self._tasks.on_stopping,
            m.NotDue: self._tasks.on_not_due,
            m.StacksAsked: self._on_stacks_asked,
            m.Cancelled: self._on_cancelled,
            m.Ticked: self._on_ticked,
            m.CloseAsked: self._on_close_asked,
            m.KillAsked: self._on_kill_asked,
            m.Resized: self._on_resized,
            m.Held: self._on_held,
            m.Released: self._on_released,
        }

    def begin(self, now: float) -> list[m.Action]:
        """Start the workers."""
        self._ledger.now = now
        for worker_id in range(self.n_workers):
            self._add_worker(worker_id)
        return self._finish_event()

    def handle(self, event: m.Event, now: float) -> list[m.Action]:
        """Take one event in and return what shall be done about it."""
        self._ledger.now = now
        self._handlers[type(event)](event)
        return self._finish_event()

    def _finish_event(self) -> list[m.Action]:
        if self.phase != "open":
            self._move_on()
        limits, silences, tasks = self._heaps
        if limits or silences or tasks or self._deadline is not None:
            self._deadline = self._watch.next_deadline()
        ledger = self._ledger
        actions = ledger.actions
        ledger.actions = []
        return actions

    def next_deadline(self) -> float | None:
        """Return when `Ticked` is due next, or None; one field is read, so no lock is needed."""
        return self._deadline

    @property
    def n_outstanding(self) -> int:
        """Number of items that were submitted and have no outcome yet."""
        return self._ledger.n_outstanding

    @property
    def n_queued(self) -> int:
        """Number of batches that wait for a free worker, those that were dropped among them."""
        return len(self._shared.heap)

    # ---- tasks -------------------------------------------------------------------------------------------------------

    def _on_submitted(self, event: m.Submitted) -> None:
        batch = event.batch
        if batch.rules.is_dropped:
            return  # a caller's thread was about to hand it in when another dropped the call
        self._ledger.admit(batch)
        if self.phase != "open" and self.phase != "starting":
            self._ledger.fail(batch, 0, batch.count, self._make_ending_error, batch.worker_id)
        elif batch.worker_id is None:
            self._dispatcher.share(batch)
        else:
            self._submit_to_worker(batch, self.workers.get(batch.worker_id))

    def _submit_to_worker(self, batch: Batch, record: WorkerRecord | None) -> None:
        has_left = record is None or (record.is_retiring and record.end_reason == "resized" and not self._is_held(record))
        if record is None or has_left or record.phase == "quarantined":
            make_error = failures.gone_worker(batch.worker_id)
            if record is not None and not has_left:
                make_error = self._quarantined(record, batch)
            self._ledger.fail(batch, 0, batch.count, make_error, batch.worker_id)
            return

        record.queue.push(batch)
        if record.loss is not None:
            self._dispatcher.tell_loss(record)
        if record.phase == "idle":
            self._dispatcher.forget_free(record)
            self._serve(record)
        elif record.concurrent and record.phase == "busy":
            self._serve(record)

    def _serve(self, record: WorkerRecord) -> None:
        """Send a worker that is up what it can take; if there is nothing, it is free, or its time has come."""
        if record.queue.heap or self._shared.heap:
            self._dispatcher.serve(record)
        if record.inflight or record.concurrent:
            return
        record.phase = "idle"
        if self._dispatcher.is_worn_out(record):
            self._end(record, "recycled", "ask")
        elif self._is_finishing:
            self._end(record, "closed", "ask")
        elif record.is_retiring:
            self._retire(record)
        else:
            self._dispatcher.list_free(record)

    def _on_replied(self, event: m.Replied) -> None:
        record = self.workers.get(event.worker_id)
        if record is None or record.generation != event.generation:
            return  # of a worker that was replaced
        if not record.inflight or record.inflight[0].seq != event.seq:
            if event.seq in record.concurrent:
                self._tasks.end(record, event)
                if record.phase == "busy":
                    self._serve(record)
            return  # else it is of a batch that has timed out

        batch = record.inflight[0]
        settlement = self._settlement
        settlement.take_in(record, batch, event.outcomes, event.failed)
        if not event.is_last:
            self._watch.hear_from(record)
            return

        settlement.finish(record, batch, event.seconds)
        if record.phase == "busy":
            self._serve(record)

    def _on_unreadable(self, event: m.Unreadable) -> None:
        record = self._find(event.worker_id, event.generation)
        if record is not None and record.inflight and record.inflight[0].seq == event.seq:
            batch = self._settlement.take_head(record)
            if record.inflight:
                self._dispatcher.begin_head(record, record.inflight[0])
            self._settlement.take_apart(record, batch)
            if record.phase == "busy":
                self._serve(record)

    def _on_outgrown(self, event: m.Outgrown) -> None:
        record = self.workers.get(event.worker_id)
        if record is not None and record.generation == event.generation:
            record.is_outgrown = True
            if record.phase == "idle":
                self._dispatcher.forget_free(record)
                self._serve(record)

    def _on_send_failed(self, event: m.SendFailed) -> None:
        record = self.workers.get(event.worker_id)
        if record is not None:
            self._settlement.take_back(record, event.seq, event.error)
            if record.phase == "busy":
                self._serve(record)

    def _on_cancelled(self, event: m.Cancelled) -> None:
        """Drop what is queued; what runs is ended with its workers if that was asked, else left to finish.

        A batch of a map that was sent ahead runs all the same; those are short.
        """
        self._ledger.drop(event.rules)
        if event.and_running:
            for worker_id in list(event.rules.running):
                record = self.workers[worker_id]
                if record.end_reason is None and not self._concurrency.cancel(record, event.rules):
                    self._end(record, "cancelled", "interrupt")

    # ---- workers come and go -----------------------------------------------------------------------------------------

    def _add_worker(self, worker_id: int) -> None:
        record = self.removed.get(worker_id)
        if record is None:
            record = WorkerRecord(worker_id)
            record.created_at = self._ledger.now
        else:
            record.come_back(self._ledger.now)
        self.workers[worker_id] = record  # before it leaves the other: an observer takes no lock and shall find it
        self.removed.pop(worker_id, None)
        self._start(record)

    def _start(self, record: WorkerRecord) -> None:
        record.reset("starting", self._ledger.now)
        self.n_starting += 1
        self._watch.expect(record, self._init_timeout)
        self._ledger.actions.append(m.Start(record.worker_id, record.generation))

    def _on_ready(self, event: m.Ready) -> None:
        record = self._find(event.worker_id, event.generation)
        if record is None or record.phase != "starting":
            return
        record.phase = "idle"
        record.n_failed_starts = 0
        self._watch.forget(record)
        self.n_starting -= 1
        self._serve(record)

    def _on_init_failed(self, event: m.InitFailed) -> None:
        record = self._find(event.worker_id, event.generation)
        if record is not None and record.phase == "starting":
            self._watch.expect(record, END_SECONDS)
            self._fail_init(record, event.error)

    def _on_start_failed(self, event: m.StartFailed) -> None:
        """Start it later, if the lack may pass; else take it for a death in the constructor, with a cause of its own."""
        record = self._find(event.worker_id, event.generation)
        if record is not None and self.phase != "starting" and is_passing(event.error):
            self._leave(record, "gone")
            self._shortage.wait(record, event.error, self.workers)
            self._deadline = self._watch.next_deadline()
            return
        self._on_init_failed(m.InitFailed(*event))
        self._on_died(m.Died(event.worker_id, event.generation))

    def _fail_init(self, record: WorkerRecord, error: BaseException) -> None:
        """Note why a constructor failed; its worker's death follows. A pool that is being made fails with it."""
        record.init_error = error
        if self.phase == "starting":
            self._break(error)

    def _on_died(self, event: m.Died) -> None:
        record = self._find(event.worker_id, event.generation)
        if record is None or record.phase == "quarantined":
            return

        reason, was_starting = record.end_reason, record.phase == "starting"
        self._endings.note_death(record, event)
        self._leave(record, "gone")
        record.exitcode = event.exitcode
        record.n_failed_starts += was_starting
        if was_starting and record.init_error is None:
            self._fail_init(record, failures.death_in_constructor(event, self._describe(record.worker_id)))
        is_told = self._settlement.settle_orphans(record, event)
        if reason is None and not was_starting and not is_told and record.loss is None:
            record.loss = failures.death(record, event, None, None, self._describe(record.worker_id))
            record.death = copy.copy(record.loss)  # as in settlement
            self._dispatcher.tell_loss(record)
        self._replace(record, is_failure=reason is None or reason == _INIT_TIMED_OUT)

    def _leave(self, record: WorkerRecord, phase: str) -> None:
        """Note that a worker can be given nothing more."""
        if record.phase == "starting":
            self.n_starting -= 1
        elif record.phase == "idle":
            self._dispatcher.forget_free(record)
        if phase == "ending" and record.ending_since is None:
            record.ending_since = self._ledger.now
        elif phase == "gone" and record.ending_since is not None:
            record.exit_seconds += self._ledger.now - record.ending_since
        record.phase = phase
        self._watch.forget(record)

    def _replace(self, record: WorkerRecord, *, is_failure: bool, is_new: bool = True) -> None:
        """Start the successor of a worker that is gone, if it shall have one."""
        has_left = record.is_retiring and not self._is_needed(record)
        if has_left or self._is_finishing or self.phase not in ("starting", "open", "closing"):
            self._remove(record)
        elif is_failure and record.has_died_too_often(self._ledger.now, self._max_restarts):
            self._quarantine(record)
        else:
            record.generation += is_new
            record.init_error = None
            self._start(record)

    def _quarantine(self, record: WorkerRecord) -> None:
        for batch in record.queue.take_all():
            self._ledger.fail(batch, 0, batch.count, self._quarantined(record, batch), record.worker_id)
        if record.is_retiring:
            self._remove(record)
        else:
            record.phase = "quarantined"
            self._n_quarantined += 1
            self._break_if_all_quarantined(record)

    def _quarantined(self, record: WorkerRecord, batch: Batch | None) -> failures.MakeError:
        method = None if batch is None else batch.rules.method
        return failures.quarantined_worker(record, method, self._max_restarts, self._describe(record.worker_id))

    def _break_if_all_quarantined(self, record: WorkerRecord) -> None:
        # A quarantined worker that retires is removed, so those that are counted are of the n_workers that stay.
        if self._n_quarantined >= self.n_workers:
            self._break(record.init_error or record.death or self._quarantined(record, None)(0))

    def _end(self, record: WorkerRecord, reason: str, how: str) -> None:
        self._leave(record, "ending")
        record.end_reason = reason
        if how == "interrupt":
            self._watch.expect(record, GRACE_SECONDS)
        elif how == "ask":
            self._endings.begin(record)
        self._ledger.actions.append(m.End(record.worker_id, record.generation, how))

    def _remove(self, record: WorkerRecord) -> None:
        for batch in record.queue.take_all():
            self._ledger.fail(batch, 0, batch.count, failures.gone_worker(record.worker_id), record.worker_id)
        self._n_quarantined -= record.phase == "quarantined"
        record.phase = "gone"
        record.ended_at = self._ledger.now
        self.removed[record.worker_id] = record
        self.workers.pop(record.worker_id, None)

    def _on_ticked(self, _event: m.Ticked) -> None:
        self._watch.tick()
        for record, reason in self._concurrency.tick():
            if record.phase == "busy":
                self._end(record, reason, "interrupt")
        for record in self._shortage.take_due(self.workers):
            self._replace(record, is_failure=False, is_new=False)

    def _on_stacks_asked(self, event: m.StacksAsked) -> None:
        self._watch.ask_for_stacks(self.workers.get(worker_id) for worker_id in event.worker_ids)

    def _on_inspected(self, event: m.Inspected) -> None:
        record = self._find(event.worker_id, event.generation)
        if record is None:
            return
        if event.began is not None:
            if record.n_looks and record.phase == "busy" and record.inflight:
                self._watch.grant_rest(record, event.began)
            return
        record.stack = event.stack
        record.n_stacks += 1
        if record.n_looks and record.phase == "starting":
            self._time_out_init(record, event.stack)
        elif record.n_looks and record.phase == "busy":
            self._settlement.time_out(record, event.stack)
            self._end(record, "timed out", "interrupt")
        elif record.n_looks and record.end_step:
            self._endings.look(record, event)

    def _time_out_init(self, record: WorkerRecord, stack: str) -> None:
        reason = f"its constructor took longer than init_timeout={self._init_timeout:g} s"
        device = self._describe(record.worker_id)
        self._fail_init(record, WorkerInitError(record.worker_id, reason, device=device, remote_traceback=stack))
        if record.end_reason is None:
            self._end(record, _INIT_TIMED_OUT, "kill")

    # ---- the pool ----------------------------------------------------------------------------------------------------

    def _move_on(self) -> None:
        """See whether a pool that is not open has reached its next phase."""
        if self.phase == "starting":
            if not self.n_starting:
                self.phase = "open"
            return

        if self.phase == "closing" and not self._ledger.n_outstanding and not self._is_finishing:
            self._is_finishing = True  # nothing is submitted any more, so this look at all workers is the only one
            for record in list(self.workers.values()):
                if record.phase == "idle":
                    self._end(record, "closed", "ask")
                elif record.phase in ("quarantined", "gone"):
                    self._remove(record)
        if not self.workers:
            self.phase = "closed"

    def _on_close_asked(self, _event: m.CloseAsked) -> None:
        if self.phase in ("starting", "open"):
            self.phase = "closing"
            self._endings.is_closing = True

    def _break(self, cause: BaseException) -> None:
        """No worker can be kept alive."""
        self._on_kill_asked(m.KillAsked(cause, is_broken=True))

    def _on_kill_asked(self, event: m.KillAsked) -> None:
        if self.phase in ("killed", "broken", "closed") and not (self._is_leaving and self.phase == "killed"):
            return
        self._is_leaving = event.is_polite
        self.phase = "broken" if event.is_broken else "killed"
        self.failure = event.error
        self._make_ending_error = failures.ended_pool(event.error, is_broken=event.is_broken)
        for batch in self._settlement.take_all(self.workers.values()):
            self._ledger.fail(batch, batch.received, batch.count, self._make_ending_error, batch.worker_id)
        for record in list(self.workers.values()):
            if record.phase in ("quarantined", "gone"):
                self._remove(record)
            elif not event.is_polite or record.phase == "starting":
                self._endings.time_out(record, event.seconds)
                self._end(record, "killed", "kill")
            elif record.phase != "ending":
                self._end(record, "killed", "leave" if record.phase == "idle" else "interrupt")

    def _on_resized(self, event: m.Resized) -> None:
        """Add workers, or let those of the highest numbers go when they have done what they were given."""
        if self.phase not in ("starting", "open"):
            return
        self.n_workers = self._dispatcher.n_workers = event.n_workers
        for worker_id in range(event.n_workers):
            if worker_id not in self.workers:
                self._add_worker(worker_id)
        for record in list(self.workers.values()):
            record.is_retiring = record.worker_id >= event.n_workers
            if record.phase == "gone":  # it waits for room
                if record.is_retiring and not self._is_needed(record):
                    self._remove(record)
            elif record.is_retiring and record.phase == "quarantined":
                self._remove(record)
            elif record.phase == "idle":
                self._serve(record)
        self._break_if_all_quarantined(self.workers[0])

    def _retire(self, record: WorkerRecord) -> None:
        """End an idle worker that shall go, unless a call needs it still."""
        self._dispatcher.forget_free(record)
        if not self._is_held(record):
            self._end(record, "resized", "ask")

    def _is_needed(self, record: WorkerRecord) -> bool:
        """Return whether there is something that only this worker, which shall go, may run."""
        return record.queue.head() is not None or self._is_held(record)

    def _is_held(self, record: WorkerRecord) -> bool:
        return any(record.worker_id < n_workers for n_workers in self._holds.values())

    def _on_held(self, event: m.Held) -> None:
        self._holds[event.rules] = self.n_workers

    def _on_released(self, event: m.Released) -> None:
        self._holds.pop(event.rules, None)
        for record in list(self.workers.values()):
            if record.is_retiring and record.phase == "idle":
                self._retire(record)

    def _find(self, worker_id: int, generation: int) -> WorkerRecord | None:
        record = self.workers.get(worker_id)
        return record if record is not None and record.generation == generation else None

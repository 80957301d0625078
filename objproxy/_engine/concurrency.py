"""Tasks that run at the same time in one worker: those of calls with ``options(concurrency=n)``.

Each is a batch of one item and is known by its number (`Batch.seq`). Answers come in the order in which the tasks end.

Rules that live here:

- a worker runs either concurrent tasks or one batch after another. So a call without the option has its object for itself;
- while a task of a call runs, its worker has at most as many tasks as that call allows;
- a new task goes to the worker that has the fewest;
- a task that is cancelled, or past its time limit, is stopped in its worker: its coroutine is cancelled, the other tasks go on;
- a worker that does not say soon that it has stopped a task is held up by code that does not await. If the time limit of the
  task is over, the worker is treated as any other that takes too long. If it was cancelled, the worker is only interrupted when
  no outcome of its other tasks is waited for;
- a task that goes on though it was stopped keeps its place. Its worker is sent nothing more, and is replaced when no other task
  of it is waited for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from objproxy._engine import messages as m
from objproxy._engine.ledger import Ledger
from objproxy._engine.messages import Batch, Rules
from objproxy._engine.timers import Timers
from objproxy._engine.watch import LOOK_SECONDS, Watch, loading_limit
from objproxy._engine.workers import Slot, WorkerRecord

#: More tasks than these do not run at once in a worker: its journal has no room to tell of them.
MAX_CONCURRENCY = 4096

#: A worker has this long to say that it stops a task: other tasks may compute for a moment, and the machine may be busy. Too
#: short a time would cost those their worker.
_STOP_SECONDS = 2.0

#: A coroutine that is cancelled has this long to clean up; a connection is closed politely, say.
_CLEANUP_SECONDS = 5.0


class Concurrency:
    """The concurrent tasks of all workers.

    Parameters
    ----------
    ledger : Ledger
        Has the time, and takes the actions.
    watch : Watch
        Knows when workers were heard of, and asks them where they stand.
    """

    def __init__(self, ledger: Ledger, watch: Watch) -> None:
        self._ledger = ledger
        self._watch = watch
        self._timers: Timers[Slot] = watch.tasks
        self._busy: dict[WorkerRecord, None] = {}  # workers that run concurrent tasks

    # ---- room --------------------------------------------------------------------------------------------------------

    @staticmethod
    def has_room(record: WorkerRecord, batch: Batch) -> bool:
        """Whether a worker that is not idle may run `batch` now, beside what it runs."""
        limit = min(batch.rules.concurrency, MAX_CONCURRENCY, *record.limits)
        return not record.inflight and len(record.concurrent) < limit

    def find_room(self, batch: Batch) -> WorkerRecord | None:
        """Return the worker with the fewest tasks if it may run `batch` beside those."""
        records = [record for record in self._busy if record.phase == "busy" and not record.is_retiring]
        record = min(records, key=lambda record: len(record.concurrent), default=None)
        return record if record is not None and self.has_room(record, batch) else None

    # ---- begin and end -----------------------------------------------------------------------------------------------

    def begin(self, record: WorkerRecord, batch: Batch) -> None:
        """Note that a task was sent to a worker."""
        if not record.concurrent:
            self._busy[record] = None
            record.busy_since = self._ledger.now
            self._watch.stop_looking(record)
        slot = record.slots.pop() if record.slots else Slot(record)
        slot.begin(batch, self._ledger.now)
        record.concurrent[batch.seq] = slot
        allowed = batch.rules.concurrency
        record.limits[allowed] = record.limits.get(allowed, 0) + 1
        batch.rules.running.add(record.worker_id)
        if batch.rules.timeout is not None:
            self._timers.set(slot, self._ledger.now + batch.rules.timeout)
        self._watch.hear_from(record)

    def end(self, record: WorkerRecord, seq: int) -> tuple[Batch, bool]:
        """Take a task off its worker; return it, and whether its item has an outcome already."""
        slot = record.concurrent.pop(seq)
        batch, is_told = slot.batch, slot.is_told
        assert batch is not None
        self._timers.clear(slot)
        slot.batch = None
        record.slots.append(slot)
        rules = batch.rules
        record.limits[rules.concurrency] -= 1
        if not record.limits[rules.concurrency]:
            del record.limits[rules.concurrency]
        if not any(other.batch is not None and other.batch.rules is rules for other in record.concurrent.values()):
            rules.running.discard(record.worker_id)
        record.working_seconds += max(0.0, self._ledger.now - record.busy_since)
        record.busy_since = self._ledger.now
        if not record.concurrent:
            self._busy.pop(record, None)
            if record.phase == "busy":
                self._watch.forget(record)
        return batch, is_told

    def end_all(self, record: WorkerRecord) -> Iterator[Batch]:
        """Take all tasks off a worker; yield those whose items have no outcome."""
        for seq in list(record.concurrent):
            batch, is_told = self.end(record, seq)
            if not is_told:
                yield batch

    def hear_from(self, record: WorkerRecord) -> None:
        """Note that the event loop of a worker turns: what was not told in time may still be."""
        if not record.concurrent or record.phase != "busy":
            return
        self._watch.hear_from(record)
        if record.n_looks:
            self._watch.stop_looking(record)
            for slot in record.concurrent.values():
                if slot.is_asked and not slot.is_told:
                    self._timers.set(slot, self._ledger.now + _STOP_SECONDS)

    # ---- tasks that are to be stopped --------------------------------------------------------------------------------

    def cancel(self, record: WorkerRecord, rules: Rules) -> bool:
        """Stop the tasks of a call in one worker; False if it runs no concurrent tasks."""
        for slot in record.concurrent.values():
            if slot.batch is not None and slot.batch.rules is rules and not slot.is_asked:
                self._ask(slot, None)
        return bool(record.concurrent)

    def _ask(self, slot: Slot, limit: float | None) -> None:
        assert slot.batch is not None
        slot.is_asked = True
        self._timers.set(slot, self._ledger.now + _STOP_SECONDS)
        self._ledger.actions.append(m.Stop(slot.record.worker_id, slot.record.generation, slot.batch.seq, limit))

    def note_stopping(self, slot: Slot) -> None:
        """Note that a task is being cancelled in its worker, and that its outcome is settled."""
        slot.is_told = True
        self._timers.set(slot, self._ledger.now + _CLEANUP_SECONDS)

    def grant_rest(self, slot: Slot, began: float) -> None:
        """Give a task what is left of its time: it began later than it was sent, or has not begun."""
        assert slot.batch is not None
        now, timeout = self._ledger.now, slot.batch.rules.timeout or 0.0
        if began < math.inf:
            self._timers.set(slot, max(began, slot.sent_at) + timeout)
        elif now < slot.sent_at + loading_limit(timeout):
            self._timers.set(slot, now + max(timeout, LOOK_SECONDS))
        else:
            slot.is_loading = True
            self._watch.look_at(slot.record)
            return
        slot.is_asked = False

    def tick(self) -> list[tuple[WorkerRecord, str]]:
        """Go on with the tasks whose time is over; return the workers that must be interrupted, and why."""
        lost = []
        while (slot := self._timers.pop_due(self._ledger.now)) is not None:
            record, batch = slot.record, slot.batch
            if batch is None or record.phase != "busy":
                continue
            if not slot.is_asked:
                self._ask(slot, batch.rules.timeout)
            elif not slot.is_told and not batch.rules.is_dropped:
                self._watch.look_at(record)
            elif all(other.is_unwanted for other in record.concurrent.values()):
                lost.append((record, "timed out" if slot.is_told else "cancelled"))
            else:
                record.is_outgrown = record.is_outgrown or slot.is_told
                self._timers.set(slot, self._ledger.now + _STOP_SECONDS)
        return lost

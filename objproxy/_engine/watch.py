"""What is done about workers that take too long or fall silent.

Rules that live here:

- the clock of a task starts when its arguments are there and its code is loaded; for that there is a limit of its own;
- a worker whose time is over is first asked where its threads stand, for the error, and again and again until it has said so;
  if it cannot say, what it has said so far must do;
- a worker that was interrupted, or whose constructor has failed, and that does not end is killed;
- a worker that has given no sign of life for long is worth a warning, once for each time it falls silent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from objproxy._engine import messages as m
from objproxy._engine.ledger import Ledger
from objproxy._engine.timers import Timers
from objproxy._engine.workers import Slot, WorkerRecord

#: A worker is asked where it stands as often as this until it has said so; it takes a millisecond, if the machine is not busy.
LOOK_SECONDS = 0.015

#: So often at most, and the last answer must do. Half a second after its limit a task has failed, whatever the worker does.
_MAX_LOOKS = 27

#: Arguments must have arrived and be unpickled, with all imports that this needs, within so many seconds, or so many times the
#: limit of their task. Large libraries take half a minute to import from a slow disk; a hang shall be noticed all the same.
LOADING_SECONDS = 60.0
_LOADING_LIMITS = 10

#: An interrupted task has this long to clean up, before its worker is killed.
GRACE_SECONDS = 0.5


class Watch:
    """Knows until when each worker must have done something.

    Parameters
    ----------
    ledger : Ledger
        Has the time, and takes the actions.
    stall_seconds : float or None
        Seconds of silence of a busy worker that are worth a warning.
    """

    def __init__(self, ledger: Ledger, stall_seconds: float | None) -> None:
        self._ledger = ledger
        self._stall_seconds = stall_seconds
        self.limits: Timers[WorkerRecord] = Timers()
        self.silences: Timers[WorkerRecord] = Timers()
        self.retries: Timers[WorkerRecord] = Timers()  # of workers for which the system had no room
        self.tasks: Timers[Slot] = Timers()  # of concurrent tasks
        self._all = self.limits, self.silences, self.retries, self.tasks

    def next_deadline(self) -> float | None:
        """Return when `tick` is due next, or None."""
        moments = [timers.next_deadline() for timers in self._all if timers.heap]
        return min((moment for moment in moments if moment is not None), default=None)

    def expect(self, record: WorkerRecord, seconds: float | None) -> None:
        """Give a worker so many seconds for what it begins now."""
        record.n_looks = 0
        record.is_loading = False
        if seconds is not None:
            self.limits.set(record, self._ledger.now + seconds)

    def grant_rest(self, record: WorkerRecord, began: float) -> None:
        """Give a busy worker what is left of the time of its task, which began later than it was sent."""
        now, timeout = self._ledger.now, record.inflight[0].rules.timeout or 0.0
        record.n_looks = 0
        if began < math.inf:
            # It cannot have begun before it was sent; it looks so where the clock stood still in between, for a debugger.
            self.limits.set(record, max(began, record.busy_since) + timeout)
        elif now < record.busy_since + loading_limit(timeout):
            self.limits.set(record, now + max(timeout, LOOK_SECONDS))
        else:
            record.is_loading = True
            self._ask_where_it_stands(record)

    def look_at(self, record: WorkerRecord) -> None:
        """Ask a worker where it stands that does not stop a task whose time is over."""
        if not record.n_looks:
            self._ask_where_it_stands(record)

    def stop_looking(self, record: WorkerRecord) -> None:
        """Ask a worker no more where it stands: it has given a sign of life."""
        record.n_looks = 0
        self.limits.clear(record)

    def hear_from(self, record: WorkerRecord) -> None:
        """Note that a busy worker has given a sign of life: its silence begins anew."""
        if self._stall_seconds is not None:
            self.silences.set(record, self._ledger.now + self._stall_seconds)

    def forget(self, record: WorkerRecord) -> None:
        """Expect nothing of a worker."""
        self.limits.clear(record)
        self.silences.clear(record)

    def ask_for_stacks(self, records: Iterable[WorkerRecord | None]) -> None:
        """Ask workers where they stand."""
        for record in records:
            if record is not None and record.phase not in ("gone", "quarantined"):
                self._ledger.actions.append(m.Inspect(record.worker_id, record.generation))

    def tick(self) -> None:
        """See who has taken too long, and who is silent."""
        now = self._ledger.now
        while (record := self.limits.pop_due(now)) is not None:
            if record.init_error is not None or (record.phase == "ending" and not record.end_step):
                self._ledger.actions.append(m.End(record.worker_id, record.generation, "kill"))
            else:
                self._ask_where_it_stands(record)
        while (record := self.silences.pop_due(now)) is not None:
            batch = record.running_batches()[0]
            item = batch.start + batch.received
            self._ledger.actions.append(m.Warn(record.worker_id, batch.rules.method, item, now - record.busy_since))

    def _ask_where_it_stands(self, record: WorkerRecord) -> None:
        record.n_looks += 1
        is_last_call = record.n_looks == _MAX_LOOKS
        if not is_last_call:
            self.limits.set(record, self._ledger.now + LOOK_SECONDS)
        is_item = record.phase == "busy" and not record.is_loading and not record.concurrent
        limit = record.inflight[0].rules.timeout if is_item else None
        self._ledger.actions.append(m.Inspect(record.worker_id, record.generation, is_last_call, limit))


def loading_limit(timeout: float) -> float:
    """Return the seconds that the arguments of a task may take to arrive and to be unpickled."""
    return max(LOADING_SECONDS, _LOADING_LIMITS * timeout)

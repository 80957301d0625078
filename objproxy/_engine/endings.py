"""What is expected of a worker that was asked to end, and what has gone wrong with its end.

A worker ends as an interpreter does (``_worker/leaving.py``), and tells its step where that may take long:

=============  ====================================================================  ==================
step           what the worker does                                                  after a grace period
=============  ====================================================================  ==================
``asked``      has not told anything yet; an idle worker has nothing to do            told of, killed
``finishing``  runs the object's own ``close()`` or ``__exit__``                      told of, waited for
``joining``    waits for threads that are no daemons, executors, child processes      told of, waited for
``leaving``    runs exit functions, deletes the object                                told of, killed
=============  ====================================================================  ==================

Rules that live here:

- a worker whose process is stopped is killed in every step, but only if two looks, a second apart, find it so: a batch system
  may have suspended the whole program, and the workers wake after it;
- a worker that has told nothing but is computing is waited for: a thread of its object may hold the interpreter;
- a worker that ends before its last step, or with an exit code, has failed to end; so has one whose ``close()`` raised; one
  that was killed before it had told anything may have been killed before it was asked, and has not;
- who closes the pool is raised the failures; those of other ends (recycled, resized) are logged.
"""

from __future__ import annotations

from collections.abc import Callable

from objproxy._engine import failures
from objproxy._engine import messages as m
from objproxy._engine.ledger import Ledger
from objproxy._engine.watch import Watch
from objproxy._engine.workers import WorkerRecord

#: An idle worker ends in milliseconds; exit functions may write to a disk or a network. Short enough to be waited for.
END_SECONDS = 5.0

#: A process that was found stopped is looked at again after this.
_SECOND_LOOK_SECONDS = 1.0

_HONEST = ("finishing", "joining")

#: Exit code of SIGKILL, which no process sends itself by a defect.
_KILLED = -9


class Endings:
    """Follows the workers that were asked to end.

    Parameters
    ----------
    ledger : Ledger
        Has the time, and takes the actions.
    watch : Watch
        Has the timers.
    find : callable
        Gives the record of a worker, by its number and generation.
    stall_seconds : float or None
        Seconds after which honest work is told of; None for the grace period.
    describe : callable
        Gives the text for a worker's device, for errors.

    Attributes
    ----------
    is_closing : bool
        Whether a caller closes the pool: the errors are raised there, else logged.
    """

    def __init__(
        self,
        ledger: Ledger,
        watch: Watch,
        find: Callable[[int, int], WorkerRecord | None],
        stall_seconds: float | None,
        describe: Callable[[int], str | None],
    ) -> None:
        self.is_closing = False
        self._errors: dict[int, tuple[str, BaseException]] = {}
        self._ledger = ledger
        self._watch = watch
        self._find = find
        self._stall_seconds = stall_seconds
        self._describe = describe

    def begin(self, record: WorkerRecord) -> None:
        """Expect the end of a worker that is asked for it now."""
        self._enter(record, "asked")

    def on_ending(self, event: m.Ending) -> None:
        """Take the step of a worker in."""
        record = self._find(event.worker_id, event.generation)
        if record is not None and record.end_step and record.phase == "ending":
            self._enter(record, event.step)

    def on_failed(self, event: m.EndFailed) -> None:
        """Take in what the object's own end has raised."""
        record = self._find(event.worker_id, event.generation)
        if record is not None:
            self._fail(record, event.error, event.method)

    def _enter(self, record: WorkerRecord, step: str) -> None:
        record.end_step = step
        record.end_step_since = self._ledger.now
        record.is_end_told = record.was_stopped = False
        self._watch.expect(record, (self._stall_seconds if step in _HONEST else None) or END_SECONDS)

    def look(self, record: WorkerRecord, event: m.Inspected) -> None:
        """Decide about a worker that has taken long for its step, and of which it is known now where it stands."""
        is_stopped = event.activity == "stopped"
        if is_stopped and not record.was_stopped:
            record.was_stopped = True
            self._watch.expect(record, _SECOND_LOOK_SECONDS)
            return
        record.was_stopped = is_stopped
        is_honest = record.end_step in _HONEST or (record.end_step == "asked" and event.activity == "running")
        is_killed = is_stopped or not is_honest
        if is_killed or not record.is_end_told:
            record.is_end_told = True
            seconds = self._ledger.now - record.end_step_since
            self._ledger.actions.append(
                m.WarnOfEnd(record.worker_id, record.end_step, seconds, event.activity, event.stack, is_killed)
            )
        if is_killed:
            record.end_step = ""  # its death is no failure of its own
            self._ledger.actions.append(m.End(record.worker_id, record.generation, "kill"))
        else:
            self._watch.expect(record, END_SECONDS)

    def note_death(self, record: WorkerRecord, event: m.Died) -> None:
        """See whether a worker that was asked to end has done so."""
        step, record.end_step = record.end_step, ""
        if step == "asked" and event.exitcode == _KILLED:
            return  # it was idle, and its death is seen late; seen before close(), it is not told either
        if step in _HONEST or (step and event.exitcode):
            self._fail(record, failures.death_at_end(record, event, step, self._describe(record.worker_id)))

    def time_out(self, record: WorkerRecord, seconds: float | None) -> None:
        """Note that a worker is killed in the midst of its end: if `seconds`, because the time of ``close()`` is over."""
        step, record.end_step = record.end_step, ""
        if step in _HONEST and seconds is not None:
            self._fail(record, failures.late_end(record, step, seconds))

    def _fail(self, record: WorkerRecord, error: BaseException, method: str = "close") -> None:
        """Note that the end of a worker has failed; the first error of a worker counts."""
        if record.is_end_failed:
            return
        record.is_end_failed = True
        if self.is_closing:
            self._errors[record.worker_id] = method, error
        else:
            self._ledger.actions.append(m.TellEndFailed(record.worker_id, error))

    def take_errors(self) -> dict[int, tuple[str, BaseException]]:
        """Return the methods and errors of the workers whose ends have failed while the pool was closed, once."""
        errors, self._errors = self._errors, {}
        return errors

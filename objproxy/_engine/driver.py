"""Turns the state machine with a back end: waits, sends, receives, hands outcomes over.

::

    caller's thread                      | state machine          | back end              | worker
    -------------------------------------+------------------------+-----------------------+-------------------
    submit(batch) ── Submitted ──────────> handle() ── Send ──────> send() ── frame ──────> call
    wait_until(...): turn:               |                        |                       |
        wait() <─────────────────────────┼────────────────────────┼ frame <───────────────┼ reply
        events ─── Replied ──────────────> handle() ── Deliver, Send(next) ──> ...        |
        inbox, futures <─────────────────|                        |                       |

There is no thread of its own as long as somebody waits: the caller who waits turns the engine (a *leader*). When several wait,
one leads and the others sleep until something arrives for them, or until the leader has what it wanted and passes the lead on.
A background thread, the *pump*, waits like any other while futures are pending that nobody waits for, and ends soon after.
A thread between the worker and the caller would cost two more switches a call, and forking a process with threads is unsafe.

A thread may be a greenlet (gevent, eventlet): one that waits lets others of its thread run; see ``_worker/waits.py``.

Locks: `_lock` guards the state machine and every inbox; it is never held while waiting, or while code of the user runs.
`_leading` is held by the leader. Who holds `_leading` may take `_lock`, never the other way round. Callbacks of futures, and
hooks (`outbox.py`), are called when both are let go: a leader that finds some due passes the lead on first.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Sequence

from objproxy._engine import forked
from objproxy._engine import messages as m
from objproxy._engine.calls import Call
from objproxy._engine.interrupts import held, pass_on, take_thrown, waiting
from objproxy._engine.messages import Batch
from objproxy._engine.outbox import Outbox
from objproxy._engine.performer import Performer, wake
from objproxy._engine.pump import Pump
from objproxy._engine.stacks import collect_stacks
from objproxy._engine.state import PoolState
from objproxy._worker import natives
from objproxy._worker.waits import Sleeper, get_ident, make_sleeper
from objproxy.backends.base import Backend
from objproxy.errors import PoolBrokenError, PoolClosedError
from objproxy.handling import text_of

_logger = logging.getLogger("objproxy")

#: Killed workers are gone within milliseconds; this is for those that the kernel cannot end.
_KILL_SECONDS = 10.0

#: Workers that are killed because the time of ``close()`` is over have this long to tell where they stand.
_STACK_SECONDS = 0.1


class Driver(Performer):
    """Runs one pool.

    Parameters
    ----------
    state : PoolState
        The rules.
    backend : Backend
        The workers.
    outbox : Outbox or None
        Where the back end puts hooks.
    """

    def __init__(self, state: PoolState, backend: Backend, outbox: Outbox | None = None) -> None:
        outbox = outbox or Outbox()
        super().__init__(state, backend, outbox.calls)
        self._outbox = outbox
        self._owner_pid = os.getpid()
        self._is_inherited = False  # this is a forked child, where everything is refused
        self._lock = natives.Lock()
        self._leading = natives.Lock()
        self._leader: int | None = None  # the thread that holds it
        self._forgotten: deque[Call] = deque()  # calls that were deleted at an awkward moment
        self._sleepers: list[Sleeper] = []
        self._onlookers: list[Sleeper] = []  # those of them that wait for what happens to workers, not for a call
        self._holders: dict[Call, int] = {}  # calls that keep workers in the pool, and their threads
        self._pump = Pump(self._drive_for_futures, lambda: bool(self._background))
        forked.tell(self)

    def forget_parent(self) -> None:
        """Refuse everything, in a forked child; see `forked`. A future that was set before keeps its outcome."""
        self._is_inherited = True
        self._lock, self._leading = natives.Lock(), natives.Lock()
        if self._leader == get_ident():
            self._leading.acquire()
        self._sleepers, self._onlookers = [], []
        for future in [*(call.future for call in self._background), *(entry[0] for entry in self._resolved), *self._settling]:
            if future is not None:
                future.forget_parent()
        self._background, self._resolved, self._settling = set(), [], []
        self._outbox.forget_parent()

    # ---- for callers ----------------------------------------------------------------------------------------------------

    @held
    def start(self) -> None:
        """Start every worker and wait until all constructors have ended.

        Raises
        ------
        WorkerInitError
            One of them failed; every worker is gone.
        """
        try:
            with self._lock:
                self._perform_all(self.state.begin(self.backend.now()))
            self.wait_until(lambda: self.state.phase in ("open", "closed"))
        except BaseException:
            self.kill(PoolClosedError("the pool was interrupted while it was being made"))
            raise
        if self.state.phase == "closed":
            self.backend.close()
            raise self.state.failure or PoolClosedError("the pool was closed while it was being made")

    def check_usable(self) -> None:
        """Raise the error that says why this pool cannot be used, if it cannot."""
        if os.getpid() != self._owner_pid:
            raise forked.refusal()
        if self.state.phase == "open":
            return
        if self.state.failure is not None and not isinstance(self.state.failure, PoolClosedError):
            raise PoolBrokenError(f"the pool is broken: {text_of(self.state.failure)}") from self.state.failure
        raise PoolClosedError("the pool is closed; make a new one")

    @held
    def submit(self, batches: Sequence[Batch]) -> None:
        """Hand batches in; their arguments are encoded already."""
        self.check_usable()
        with self._lock:
            for batch in batches:
                self._feed(m.Submitted(batch))
        self._after_feeding()

    @held
    def submit_to_all(self, make_batch: Callable[[int], Batch]) -> int:
        """Hand in one batch for each worker; return their number, which cannot change between the two."""
        self.check_usable()
        with self._lock:
            n_workers = self.state.n_workers
            for worker_id in range(n_workers):
                self._feed(m.Submitted(make_batch(worker_id)))
        self._after_feeding()
        return n_workers

    @held
    def submit_future(self, batch: Batch) -> None:
        """Hand in the one batch of a call that has a future, and see that somebody will drive it."""
        call = batch.rules
        with self._lock:
            self.check_usable()  # in here, so that a pool which closes meanwhile refuses the call, or finishes it
            self._background.add(call)
            self._feed(m.Submitted(batch))
        self._after_feeding()
        self._pump.call()

    def _after_feeding(self) -> None:
        if self._resolved:
            self._resolve()
        if self.state.next_deadline() is not None and self._leading.locked():
            self.backend.wake()  # the leader may be waiting for a later moment than a new deadline

    def wait_for(self, call: Call, deadline: float | None = None) -> bool:
        """Wait until something has arrived for `call`; False if the deadline came first."""
        self._background.discard(call)  # its caller is here again
        return self.wait_until(lambda: bool(call.inbox) or not call.outstanding, deadline, call)

    @held
    def wait_until(self, is_true: Callable[[], bool], deadline: float | None = None, call: Call | None = None) -> bool:
        """Turn the engine, or sleep while another thread does, until ``is_true()``; False if the deadline came first."""
        has_slept, is_late, is_patient = False, False, self._outbox.runner is None
        try:
            while not is_late and not is_true():
                if self._leading.acquire(blocking=False):
                    is_late = not self._lead(is_true, deadline)
                elif self._leader == get_ident():
                    is_late = not self._turn_within(deadline)
                else:
                    has_slept = True
                    is_late = not self._sleep(is_true, deadline, call)
        except BaseException:
            self._outbox.run()
            raise
        finally:
            if has_slept:
                self._wake_successor()
        if (self._hooks or self._outbox.runner is not None) and (call is None or not call.outstanding):
            self.finish_hooks(is_patient=is_patient)
        return not is_late

    def _lead(self, is_true: Callable[[], bool], deadline: float | None) -> bool:
        """Turn the engine until ``is_true()``, or until code of the user is due, which is called without the lead.

        `_leading` is held, and let go. Returns False if the deadline came first.
        """
        self._leader = get_ident()
        is_late = False
        try:
            while not (is_late or is_true()):
                is_late = not self._turn(deadline)
                if (self._hooks and self._outbox.is_due()) or (self._resolved and not self._resolve_quietly()):
                    break
        finally:
            self._pass_lead_on()
        if self._resolved or self._hooks:
            self._call_user()
        return not is_late

    def _resolve_quietly(self) -> bool:
        """Set futures that have no callbacks while leading; to pass the lead on for each would cost two switches."""
        if any(future._done_callbacks for future, *_ in self._resolved):
            return False
        self._resolve()
        return True

    def _turn_within(self, deadline: float | None) -> bool:
        """Turn the engine for code that this very thread runs while it leads: a method of a serial pool uses its pool."""
        is_late = not self._turn(deadline)
        self._resolve()
        return not is_late

    def _call_user(self) -> None:
        """Call hooks and callbacks; neither lock is held. Reports of a task come before its result."""
        try:
            if self._hooks:
                self._pump.step_aside()
                self._outbox.run()
        finally:
            self._run_callbacks()

    def _run_callbacks(self) -> None:
        """Settle futures, whose callbacks may take long: then another pump takes over.

        With nothing to settle the pump stays where it is. A pump that began by stepping away would be replaced by the one that
        ends, which would be replaced at once again: threads without end, and none of them turns the engine.
        """
        if self._resolved:
            self._pump.run_callbacks(self._resolve)

    def finish_hooks(self, *, is_patient: bool) -> None:
        """Wait until the hooks have been called that are due now; the pump does not, for others wait for futures.

        A caller is patient if its call began when no hook was being called.
        """
        if (self._hooks or self._outbox.runner is not None) and not self._pump.is_here():
            self._outbox.finish(is_patient=is_patient)

    @property
    def is_calling_hooks(self) -> bool:
        """Whether a thread is calling a hook."""
        return self._outbox.runner is not None

    def look(self) -> None:
        """Take in what has happened meanwhile, without waiting; where another thread turns the engine, it does so anyway."""
        if self.state.phase != "closed" and os.getpid() == self._owner_pid:
            self.drive_if_free(lambda: self.state.phase == "closed", self.backend.now())

    @held
    def cancel(self, call: Call, *, and_running: bool = False) -> None:
        """Forget a call: what is queued never runs; what runs is left to finish, or its workers are replaced."""
        if self._is_inherited:
            return
        with self._lock:
            if call.is_dropped and not and_running:
                return
            self._feed(m.Cancelled(call, and_running))
            if not call.outstanding:
                self._background.discard(call)
        self._after_feeding()
        self._wake_leader()

    @held
    def forget(self, call: Call) -> None:
        """Forget a call because an object is being deleted.

        CPython collects garbage wherever something is allocated: also in a thread that holds `_lock`, which would then wait for
        itself. If the lock is free now, this thread does not hold it, and may wait for it; else the next turn sees to the call.
        """
        self._forgotten.append(call)
        if not self._lock.locked():
            self._cancel_forgotten()

    def _cancel_forgotten(self) -> None:
        while self._forgotten:
            try:
                call = self._forgotten.popleft()
            except IndexError:  # another thread took it
                return
            self.cancel(call)

    @held
    def drive_in_background(self, call: Call) -> None:
        """See that the engine is turned for `call` while its caller is busy elsewhere."""
        with self._lock:
            if not call.outstanding or call in self._background or self._is_inherited:
                return
            self._background.add(call)
        self._pump.call()

    def _drive_for_futures(self) -> None:
        self._run_callbacks()
        self.wait_until(self._can_pump_rest)

    def _can_pump_rest(self) -> bool:
        if not self._pump.is_here():
            return True
        return not self._background and (self.state.next_deadline() is None or self.state.phase == "closed")

    @held
    def nudge(self, call: Call) -> None:
        """See that whoever waits for `call` looks again whether it has what it waits for."""
        with self._lock:
            if call.waiter is not None:
                wake(call.waiter)
        self._wake_leader()

    def _wake_leader(self) -> None:
        if self._leading.locked() and self._leader != get_ident():
            self.backend.wake()

    @held
    def drive_if_free(self, is_true: Callable[[], bool], deadline: float | None = None) -> None:
        """Turn the engine until ``is_true()`` or the deadline, unless another thread does so already."""
        while not is_true():
            if self._leading.acquire(blocking=False):
                if not self._lead(is_true, deadline):
                    return
            elif self._leader != get_ident() or not self._turn_within(deadline):
                return

    def is_owned_here(self) -> bool:
        """Whether this process has made the pool, and is no forked child of that one."""
        return os.getpid() == self._owner_pid

    @property
    def is_locked(self) -> bool:
        """Whether a thread, maybe this one, is in the state machine; False says for sure that this one is not."""
        return self._lock.locked()

    def is_in_use_here(self) -> bool:
        """Whether this thread may be in the midst of turning the engine or of feeding it."""
        return self._lock.locked() or (self._leading.locked() and self._leader == get_ident())

    @held
    def resize(self, n_workers: int, note: Callable[[], None]) -> None:
        """Change the number of workers; those that go finish what they were given. ``note()`` is called just before."""
        with self._lock:
            self.check_usable()
            note()
            self._feed(m.Resized(n_workers))
            for onlooker in self._onlookers:
                wake(onlooker)
        self._after_feeding()
        self.backend.wake()

    @held
    def hold(self, call: Call) -> int:
        """Keep the workers that are there now until `release`; return their number."""
        self.check_usable()
        with self._lock:
            self._holders[call] = get_ident()
            self._feed(m.Held(call))
            return self.state.n_workers

    @held
    def release(self, call: Call) -> None:
        """Let the workers go that stay for `call`."""
        if self._holders.pop(call, None) is not None:
            with self._lock:
                self._feed(m.Released(call))

    def is_holding(self) -> bool:
        """Whether this thread is in a call that keeps workers in the pool."""
        return get_ident() in self._holders.values()

    @held
    def do_between(self, function: Callable[[], object]) -> None:
        """Call something short while no worker is started and no event is taken in."""
        with self._lock:
            function()

    @held
    def ask_for_stacks(self, deadline: float) -> dict[int, str]:
        """Return where the threads of each worker stand; "" for one that has not told by the deadline."""
        self.check_usable()
        return collect_stacks(self, deadline)

    @held
    def close(self, timeout: float | None = None) -> None:
        """Finish what was submitted, end the workers politely; past `timeout` seconds kill them.

        What has failed in their ends is in ``state.take_end_errors()`` then.
        """
        if os.getpid() != self._owner_pid:
            return
        deadline = None if timeout is None else self.backend.now() + timeout
        self.finish_hooks(is_patient=timeout is None)  # they may use the pool
        with self._lock:
            self._feed(m.CloseAsked())
        self._resolve()
        try:
            is_closed = self.wait_until(lambda: self.state.phase == "closed", deadline)
        except BaseException:
            self.kill(PoolClosedError("the pool was killed, because closing it was interrupted"))
            raise
        if not is_closed:
            if any(record.end_step for record in list(self.state.workers.values())):
                collect_stacks(self, self._now() + _STACK_SECONDS)  # for their errors
            self.kill(PoolClosedError(f"the pool was killed, because it was not done {timeout} s after close()"), timeout)
        self.backend.close()

    @held
    def kill(self, error: BaseException, seconds: float | None = None) -> None:
        """End every worker now; what has no outcome fails with a copy of `error`."""
        if os.getpid() != self._owner_pid:
            return
        self.take_in(m.KillAsked(error, seconds=seconds))
        # A worker that the kernel cannot end (it waits for a disk, say) must not hold the caller; the back end forgets it.
        self.wait_until(lambda: self.state.phase == "closed", self.backend.now() + _KILL_SECONDS)
        self.backend.close()

    @held
    def ask_to_leave(self, error: BaseException) -> None:
        """End what runs, and have the workers run their exit functions; what has no outcome fails with a copy of `error`."""
        if os.getpid() == self._owner_pid:
            self.take_in(m.KillAsked(error, is_polite=True))

    def take_in(self, event: m.Event) -> None:
        """Take in an event that a caller has brought about, and see that the leader looks at what it has changed."""
        with self._lock:
            self._feed(event)
        self._resolve()
        self.backend.wake()

    # ---- the engine -----------------------------------------------------------------------------------------------------

    def _turn(self, deadline: float | None) -> bool:
        """Wait for events once and take them in; False if `deadline` has passed. Only the leader calls this."""
        pass_on()
        if self._forgotten:
            self._cancel_forgotten()
        try:
            events: Sequence[m.Event] = () if self._is_inherited else self.backend.wait(self._seconds_until(deadline))
        except Exception as exc:
            if exc is take_thrown():
                raise  # into this caller alone: by the handler of a signal, or by another greenlet
            with self._lock:  # a defect, of the back end or of a log handler: say so to everybody who waits
                self._break(exc)
            raise
        if self._is_inherited:  # perhaps only now: the task of a serial pool has forked, or a hook
            raise forked.refusal()
        with self._lock:
            for event in events:
                self._feed(event)
            next_timer = self.state.next_deadline()
            if next_timer is not None and next_timer <= self._now():
                self._feed(m.Ticked())
            for onlooker in self._onlookers if events else ():
                wake(onlooker)
        return bool(events) or deadline is None or self._now() < deadline

    def _seconds_until(self, deadline: float | None) -> float | None:
        timer = self.state.next_deadline()
        if timer is None and deadline is None:
            return None
        moments = [moment for moment in (timer, deadline) if moment is not None]
        return max(0.0, min(moments) - self._now())

    def _break(self, exc: BaseException) -> None:
        """End everything because the engine itself failed, and tell everybody; `_lock` is held."""
        for action in self.state.handle(m.KillAsked(exc, is_broken=True), self.backend.now()):
            try:
                self._perform([action])
            except Exception as error:
                self._hooks.append((_tell_error, (error,)))
        for sleeper in self._sleepers:
            wake(sleeper)
        self._pump.try_call()  # to settle the futures: whoever is here leaves with `exc`

    # ---- waiting --------------------------------------------------------------------------------------------------------

    def _sleep(self, is_true: Callable[[], bool], deadline: float | None, call: Call | None) -> bool:
        """Sleep while another thread leads; False if the deadline came first.

        The leader may have gone between our try for the lead and our registration. So try again after it: whoever lets the
        lead go wakes a registered sleeper, and whoever is not registered in time finds the lead free.
        """
        sleeper = make_sleeper()
        with self._lock:
            self._sleepers.append(sleeper)
            if call is not None:
                call.waiter = sleeper
            else:
                self._onlookers.append(sleeper)
            is_done = is_true()
        try:
            if is_done or not self._leading.locked():
                return True
            seconds = -1 if deadline is None else max(0.0, deadline - self.backend.now())
            with waiting:
                return sleeper.acquire(timeout=seconds)
        finally:
            with self._lock:
                self._sleepers.remove(sleeper)
                if call is not None:
                    call.waiter = None
                else:
                    self._onlookers.remove(sleeper)

    def _pass_lead_on(self) -> None:
        self._leader = None
        self._leading.release()
        self._wake_successor()
        if not self._sleepers and self.state.next_deadline() is not None and not self._is_inherited:
            self._pump.try_call()  # a worker has to be ended, or started, at its time though no caller waits any more

    def _wake_successor(self) -> None:
        """See that somebody leads, if anybody waits.

        Who is woken may find that it has what it waited for, and go without leading. So whoever goes after a sleep calls this
        again, after it has left the list; and whoever lets the lead go calls it after letting go. Between the two, the last of
        them finds the lead free and wakes one of those who are still in the list.
        """
        if not self._sleepers or self._leading.locked():
            return
        with self._lock:
            # Where the pool has ended, or is about to, somebody may be waiting for just that.
            for sleeper in self._sleepers[:1] if self.state.phase == "open" else self._sleepers:
                wake(sleeper)


def _tell_error(error: Exception) -> None:
    _logger.error("while ending a broken pool", exc_info=error)

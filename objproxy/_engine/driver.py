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

Locks: `_lock` guards the state machine and every inbox; it is never held while waiting, or while code of the user runs.
`_leading` is held by the leader. Who holds `_leading` may take `_lock`, never the other way round.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from objproxy._engine import failures
from objproxy._engine import messages as m
from objproxy._engine.calls import Arrival, Call
from objproxy._engine.interrupts import held, pass_on, waiting
from objproxy._engine.messages import Batch
from objproxy._engine.pump import Pump
from objproxy._engine.state import PoolState
from objproxy._engine.watch import LOOK_SECONDS
from objproxy._engine.workers import WorkerRecord
from objproxy.backends.base import Backend
from objproxy.errors import PoolBrokenError, PoolClosedError

_logger = logging.getLogger("objproxy")

#: Killed workers are gone within milliseconds; this is for those that the kernel cannot end.
_KILL_SECONDS = 10.0


class Driver:
    """Runs one pool.

    Parameters
    ----------
    state : PoolState
        The rules.
    backend : Backend
        The workers.
    """

    def __init__(self, state: PoolState, backend: Backend) -> None:
        self.state = state
        self.backend = backend
        self._now = backend.now
        self._owner_pid = os.getpid()
        self._lock = threading.Lock()
        self._leading = threading.Lock()
        self._leader: int | None = None  # the thread that holds it
        self._forgotten: deque[Call] = deque()  # calls that were deleted at an awkward moment
        self._sleepers: list[threading.Lock] = []
        self._onlookers: list[threading.Lock] = []  # those of them that wait for what happens to workers, not for a call
        self._resolved: list[tuple[Any, Any, int | None]] = []  # futures, their outcomes and workers, set outside of the lock
        self._warnings: list[m.Warn] = []  # logged outside of the lock
        self._failed: list[m.SendFailed | m.StartFailed] = []  # what the event at hand has brought to light
        self._background: set[Call] = set()  # calls with outcomes to come that nobody waits for in person
        self._pump = Pump(self._drive_for_futures, lambda: bool(self._background))

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
            raise PoolClosedError("this pool belongs to another process, which was forked; make a pool of your own here")
        if self.state.phase == "open":
            return
        if self.state.failure is not None and not isinstance(self.state.failure, PoolClosedError):
            raise PoolBrokenError(f"the pool is broken: {self.state.failure}") from self.state.failure
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
        has_slept = False
        try:
            while not is_true():
                if self._leading.acquire(blocking=False):
                    self._leader = threading.get_ident()
                    try:
                        while not is_true():
                            if not self._turn(deadline):
                                return False
                    finally:
                        self._pass_lead_on()
                elif self._leader == threading.get_ident():
                    # A callback of a future, called by this very thread while it leads, uses the pool.
                    if not self._turn(deadline):
                        return False
                else:
                    has_slept = True
                    if not self._sleep(is_true, deadline, call):
                        return False
            return True
        finally:
            if has_slept:
                self._wake_successor()

    def look(self) -> None:
        """Take in what has happened meanwhile, without waiting; where another thread turns the engine, it does so anyway."""
        if self.state.phase != "closed" and os.getpid() == self._owner_pid:
            self.drive_if_free(lambda: self.state.phase == "closed", self.backend.now())

    @held
    def cancel(self, call: Call, *, and_running: bool = False) -> None:
        """Forget a call: what is queued never runs; what runs is left to finish, or its workers are replaced."""
        with self._lock:
            if call.is_dropped and not and_running:
                return
            self._feed(m.Cancelled(call, and_running))
            if not call.outstanding:
                self._background.discard(call)
        self._after_feeding()

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
            if not call.outstanding or call in self._background:
                return
            self._background.add(call)
        self._pump.call()

    def _drive_for_futures(self) -> None:
        self._resolve()
        self.wait_until(lambda: not self._background and self.state.next_deadline() is None)

    @held
    def nudge(self, call: Call) -> None:
        """See that whoever waits for `call` looks again whether it has what it waits for."""
        with self._lock:
            if call.waiter is not None:
                _wake(call.waiter)
        if self._leading.locked():
            self.backend.wake()

    @held
    def drive_if_free(self, is_true: Callable[[], bool], deadline: float | None = None) -> None:
        """Turn the engine until ``is_true()`` or the deadline, unless another thread does so already."""
        if self._leading.acquire(blocking=False):
            self._leader = threading.get_ident()
            try:
                while not is_true() and self._turn(deadline):
                    pass
            finally:
                self._pass_lead_on()

    @property
    def is_locked(self) -> bool:
        """Whether a thread, maybe this one, is in the state machine; False says for sure that this one is not."""
        return self._lock.locked()

    def is_in_use_here(self) -> bool:
        """Whether this thread may be in the midst of turning the engine or of feeding it."""
        return self._lock.locked() or (self._leading.locked() and self._leader == threading.get_ident())

    @held
    def resize(self, n_workers: int) -> None:
        """Change the number of workers; those that go finish what they were given."""
        self.check_usable()
        with self._lock:
            self._feed(m.Resized(n_workers))
        self._after_feeding()

    @held
    def ask_for_stacks(self, deadline: float) -> dict[int, str]:
        """Return where the threads of each worker stand; "" for one that has not told by the deadline."""
        self.check_usable()
        with self._lock:
            before = {record: record.n_stacks for record in self.state.workers.values()}

        def has_told(record: WorkerRecord) -> bool:
            return record.n_stacks > before[record]

        def silent() -> list[int]:
            over = ("gone", "quarantined")
            return [record.worker_id for record in before if not has_told(record) and record.phase not in over]

        while worker_ids := silent():
            with self._lock:
                self._feed(m.StacksAsked(worker_ids))
            self.backend.wake()
            self.wait_until(lambda: not silent(), min(deadline, self._now() + LOOK_SECONDS))
            if self._now() >= deadline:
                break
        return {record.worker_id: record.stack if has_told(record) else "" for record in before}

    @held
    def close(self, timeout: float | None = None) -> None:
        """Finish what was submitted, end the workers politely; past `timeout` seconds kill them."""
        if os.getpid() != self._owner_pid:
            return
        deadline = None if timeout is None else self.backend.now() + timeout
        with self._lock:
            self._feed(m.CloseAsked())
        self._resolve()
        try:
            is_closed = self.wait_until(lambda: self.state.phase == "closed", deadline)
        except BaseException:
            self.kill(PoolClosedError("the pool was killed, because closing it was interrupted"))
            raise
        if not is_closed:
            self.kill(PoolClosedError(f"the pool was killed, because it was not done {timeout} s after close()"))
        self.backend.close()

    @held
    def kill(self, error: BaseException) -> None:
        """End every worker now; what has no outcome fails with a copy of `error`."""
        if os.getpid() != self._owner_pid:
            return
        with self._lock:
            self._feed(m.KillAsked(error))
        self._resolve()
        self.backend.wake()
        # A worker that the kernel cannot end (it waits for a disk, say) must not hold the caller; the back end forgets it.
        self.wait_until(lambda: self.state.phase == "closed", self.backend.now() + _KILL_SECONDS)
        self.backend.close()

    # ---- the engine -----------------------------------------------------------------------------------------------------

    def _turn(self, deadline: float | None) -> bool:
        """Wait for events once and take them in; False if `deadline` has passed. Only the leader calls this."""
        pass_on()
        if self._forgotten:
            self._cancel_forgotten()
        try:
            events = self.backend.wait(self._seconds_until(deadline))
        except Exception as exc:  # a defect, of the back end or of a log handler: say so to everybody who waits
            with self._lock:
                self._break(exc)
            raise
        with self._lock:
            for event in events:
                self._feed(event)
            next_timer = self.state.next_deadline()
            if next_timer is not None and next_timer <= self._now():
                self._feed(m.Ticked())
            for onlooker in self._onlookers if events else ():
                _wake(onlooker)
        if self._resolved:
            self._resolve()
        if self._warnings:
            self._warn()
        return bool(events) or deadline is None or self._now() < deadline

    def _seconds_until(self, deadline: float | None) -> float | None:
        timer = self.state.next_deadline()
        if timer is None and deadline is None:
            return None
        moments = [moment for moment in (timer, deadline) if moment is not None]
        return max(0.0, min(moments) - self._now())

    def _feed(self, event: m.Event) -> None:
        """Take one event in; `_lock` is held.

        An exception in here leaves the rules half applied: the pool is broken then.
        """
        try:
            self._perform_all(self.state.handle(event, self._now()))
        except BaseException as exc:
            self._break(exc)
            raise

    def _perform_all(self, actions: Sequence[m.Action]) -> None:
        self._perform(actions)
        while self._failed:  # one after another: each may lead to the next
            self._perform(self.state.handle(self._failed.pop(0), self.backend.now()))

    def _perform(self, actions: Sequence[m.Action]) -> None:
        for action in actions:
            kind = type(action)
            if kind is m.Deliver:
                self._deliver(action)  # type: ignore[arg-type]
            elif kind is m.Send:
                self._send(action)  # type: ignore[arg-type]
            elif kind is m.Start:
                self._start(*action)
            elif kind is m.End:
                self.backend.end(*action)
            elif kind is m.Inspect:
                self.backend.inspect(*action)
            else:
                self._warnings.append(action)  # type: ignore[arg-type]

    def _start(self, worker_id: int, generation: int) -> None:
        try:
            self.backend.start(worker_id, generation)
        except (OSError, MemoryError) as exc:  # no descriptors, no memory: an end of this worker alone
            self._failed.append(m.StartFailed(worker_id, generation, exc))

    def _send(self, action: m.Send) -> None:
        batch = action.batch
        payload = batch.payload
        if payload.data is None:
            # A piece of a larger batch that has to be sent again. It was pickled once, so it can only fail if the objects
            # were changed since.
            try:
                payload.data = self.backend.encode(payload.operation)
            except Exception as exc:
                error = failures.argument(batch.rules.method, str, exc, batch.start)
                self._failed.append(m.SendFailed(action.worker_id, batch.seq, error))
                return
        self.backend.send(action.worker_id, batch)

    def _deliver(self, action: m.Deliver) -> None:
        call = action.rules
        assert isinstance(call, Call)
        if not call.outstanding:
            self._background.discard(call)
        if call.on_done is not None and not action.has_failures and action.worker_id is not None:
            call.on_done(action.worker_id)
        if call.future is not None:
            self._resolved.append((call.future, action.outcomes[0], action.worker_id))
            return

        if not call.is_dropped:
            call.inbox.append(Arrival(action.start, action.outcomes, action.has_failures, action.worker_id))
        if call.waiter is not None:
            _wake(call.waiter)

    def _resolve(self) -> None:
        """Set futures, outside of the lock: their callbacks are the user's code and may call the pool."""
        while self._resolved:
            try:
                future, outcome, worker_id = self._resolved.pop(0)
            except IndexError:  # another thread took it
                return
            future.settle(outcome, worker_id)

    def _warn(self) -> None:
        """Log what is worth a warning, outside of the lock: handlers are the user's code."""
        warnings, self._warnings = self._warnings, []
        for worker_id, method, item, seconds in warnings:
            _logger.warning(
                "worker %d has been silent for %.3g s: it runs %s, item %d; pool.dump_stacks() shows where it stands",
                worker_id,
                seconds,
                method,
                item,
                extra={"worker_id": worker_id},
            )

    def _break(self, exc: BaseException) -> None:
        """End everything because the engine itself failed, and tell everybody; `_lock` is held."""
        for action in self.state.handle(m.KillAsked(exc, is_broken=True), self.backend.now()):
            try:
                self._perform([action])
            except Exception:
                _logger.exception("while ending a broken pool")
        for sleeper in self._sleepers:
            _wake(sleeper)
        with contextlib.suppress(RuntimeError):  # no thread can be started
            self._pump.call()  # to settle the futures: whoever is here leaves with `exc`

    # ---- waiting --------------------------------------------------------------------------------------------------------

    def _sleep(self, is_true: Callable[[], bool], deadline: float | None, call: Call | None) -> bool:
        """Sleep while another thread leads; False if the deadline came first.

        The leader may have gone between our try for the lead and our registration. So try again after it: whoever lets the
        lead go wakes a registered sleeper, and whoever is not registered in time finds the lead free.
        """
        sleeper = threading.Lock()
        sleeper.acquire()
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
        if not self._sleepers and self.state.next_deadline() is not None:
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
                _wake(sleeper)


def _wake(sleeper: threading.Lock) -> None:
    """Release a lock that only its owner acquires; once is enough."""
    if sleeper.locked():
        with contextlib.suppress(RuntimeError):  # another thread was faster
            sleeper.release()

"""Takes events into the state machine and does what it says: sends, starts, ends, hands outcomes over."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from objproxy._engine import failures
from objproxy._engine import messages as m
from objproxy._engine.calls import Arrival, Call
from objproxy._engine.state import PoolState
from objproxy._engine.telling import tell
from objproxy._worker.waits import Sleeper
from objproxy.backends.base import Backend


class Performer(ABC):
    """The part of the driver that never waits.

    Parameters
    ----------
    state : PoolState
        The rules.
    backend : Backend
        The workers.
    hooks : deque
        Where hooks are put that are to be called outside of the lock.
    """

    def __init__(self, state: PoolState, backend: Backend, hooks: deque[tuple[Callable[..., object], tuple[Any, ...]]]) -> None:
        self.state = state
        self.backend = backend
        self._hooks = hooks
        self._now = backend.now
        self._resolved: list[tuple[Any, Any, int | None]] = []  # futures, their outcomes and workers, set outside of the lock
        self._settling: list[Any] = []  # futures that are being set
        self._failed: list[m.SendFailed | m.StartFailed] = []  # what the event at hand has brought to light
        self._background: set[Call] = set()  # calls with outcomes to come for which no caller waits

    @abstractmethod
    def _wake_leader(self) -> None:
        """See that whoever leads looks again whether it has what it waits for."""

    @abstractmethod
    def _break(self, exc: BaseException) -> None:
        """End everything because the engine itself failed; `_lock` is held."""

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
            elif kind is m.Stop:
                self.backend.stop(*action)
            elif kind is m.Inspect:
                self.backend.inspect(*action)
            else:
                self._hooks.append((tell, (action,)))

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
            wake(call.waiter)

    def _resolve(self) -> None:
        """Set futures, outside of the lock: their callbacks are the user's code and may call the pool."""
        while self._resolved:
            try:
                future, outcome, worker_id = self._resolved.pop(0)
            except IndexError:  # another thread took it
                return
            self._settling.append(future)
            try:
                future.settle(outcome, worker_id)
            finally:
                self._settling.remove(future)
            self._wake_leader()  # it may have come after the outcome did, and wait for this very future


def wake(sleeper: Sleeper) -> None:
    """Release a lock that only its owner acquires; once is enough."""
    if sleeper.locked():
        with contextlib.suppress(RuntimeError):  # another thread was faster
            sleeper.release()

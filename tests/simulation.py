"""Runs the state machine against simulated workers, without the driver, and checks the invariants of the engine."""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Sequence
from typing import Any

from objproxy._engine import messages as m
from objproxy._engine.messages import Batch, Failure, Policy, Rules
from objproxy._engine.payload import Payload
from objproxy._engine.state import PoolState
from objproxy._worker.wire import Operation
from objproxy.backends.simulated import Fate, SimulatedBackend
from objproxy.errors import TaskTimeoutError, WorkerDiedError

#: Set it to the number that a failing test has printed, and only that story is told again.
SEED_VARIABLE = "OBJPROXY_SIMULATION_SEED"

DEFAULT_SEEDS = tuple(range(12))


def seeds() -> Sequence[int]:
    given = os.environ.get(SEED_VARIABLE)
    return DEFAULT_SEEDS if given is None else (int(given),)


#: Everything that can go wrong, often enough to meet each other.
ROUGH = Fate(
    raises=0.02,
    dies=0.02,
    dies_before=0.01,
    dies_between=0.02,
    dies_idle=0.02,
    stalls=0.01,
    loses_journal=0.3,
    constructor_raises=0.05,
    constructor_dies=0.05,
    constructor_stalls=0.05,
    answers_in_parts=0.3,
    answers_late=0.5,
    keeps_silent=0.3,
    ignores_interrupts=0.3,
    works_at_end=0.1,
    hangs_at_end=0.1,
    fails_at_end=0.2,
)


@dataclasses.dataclass
class _Ledger:
    """What is known of one call: how each item has ended."""

    rules: Rules
    total: int
    n_submitted: int = 0
    n_ended: int = 0
    ended: bytearray = dataclasses.field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self.ended = bytearray(self.total)


class Simulation:
    """Callers that submit, cancel and resize as a seed says, and workers that live and die as it says.

    Parameters
    ----------
    seed : int
        Tells the story.
    n_workers, n_items : int
        Size of the pool; items of all calls together.
    n_calls : int
        Number of calls that share the items.
    fate : Fate
        What can go wrong.
    max_chunk : int
        Most items of a batch.
    cancels, resizes : float
        Share of the steps in which a call is cancelled, or the pool is resized.
    concurrent : float
        Share of the calls whose tasks run at the same time in a worker.
    options : dict
        For `PoolState`.
    """

    def __init__(
        self,
        seed: int,
        n_workers: int,
        n_items: int,
        *,
        n_calls: int = 10,
        fate: Fate = ROUGH,
        max_chunk: int = 20,
        cancels: float = 0.0,
        resizes: float = 0.0,
        concurrent: float = 0.0,
        **options: Any,
    ) -> None:
        self._random = random.Random(seed)
        self._n_workers = n_workers
        self._max_chunk = max_chunk
        self._cancels = cancels
        self._resizes = resizes
        self._concurrent = concurrent
        self.backend = SimulatedBackend(seed, fate)
        self.state = PoolState(n_workers, init_timeout=10.0, max_restarts=(10**9, 5.0), **options)
        self.calls = [_Ledger(self._make_rules(), n_items // n_calls) for _ in range(n_calls)]
        self._by_rules = {call.rules: call for call in self.calls}
        self.n_events = 0
        self._held: tuple[Rules, int] | None = None  # a call that keeps its workers, and how many those are

    def _make_rules(self) -> Rules:
        # A time limit for every item: stalls happen, and a pool cannot end them by itself.
        policy = Policy(1.0, self._random.choice([0, 0, 1, 3]), (WorkerDiedError, TaskTimeoutError, ValueError), 0)
        policy = policy._replace(priority=self._random.choice([0, 0, 1]))
        if self._random.random() < self._concurrent:
            policy = policy._replace(concurrency=self._random.choice([1, 3, 20]))
        return Rules("work", policy)

    def run(self) -> None:
        """Tell the story to its end and check it."""
        self._perform(self.state.begin(self.backend.now()))
        while self.state.phase == "starting":
            self._turn()
        while self._submit_some() or self.state.n_outstanding:
            self._turn()
            if self._random.random() < self._cancels:
                self._cancel()
            if self._random.random() < self._resizes:
                self._feed(m.Resized(self._random.randint(max(1, self._n_workers // 2), self._n_workers)))
                self._hold_or_release()
            assert self._held is None or set(range(self._held[1])) <= set(self.state.workers)
        self._feed(m.CloseAsked())
        while self.state.phase != "closed":
            self._turn()
        self._check_end()

    def _submit_some(self) -> bool:
        """Keep the queue a little longer than the pool; return whether there is more to submit."""
        is_more = False
        for call in self.calls:
            while call.n_submitted < call.total and not call.rules.is_dropped:
                is_more = True
                if self.state.n_queued > self._n_workers:
                    return True
                self._submit(call)
        return is_more

    def _submit(self, call: _Ledger) -> None:
        start = call.n_submitted
        count = 1 if call.rules.concurrency else min(self._random.randint(1, self._max_chunk), call.total - start)
        call.n_submitted += count
        worker_id = self._random.randrange(self._n_workers) if self._random.random() < 0.05 else None
        payload = Payload(Operation("map", "work", (range(start, start + count),), ()))
        self._feed(m.Submitted(Batch(call.rules, start, count, payload, worker_id)))

    def _hold_or_release(self) -> None:
        """Let a call begin, or end, that keeps its workers."""
        if self._held is not None:
            rules, self._held = self._held[0], None
            self._feed(m.Released(rules))
        elif self._random.random() < 0.5:
            self._held = Rules("hold"), self.state.n_workers
            self._feed(m.Held(self._held[0]))

    def _cancel(self) -> None:
        call = self._random.choice(self.calls)
        self._feed(m.Cancelled(call.rules, self._random.random() < 0.5))

    def _turn(self) -> None:
        deadline = self.state.next_deadline()
        timeout = None if deadline is None else max(0.0, deadline - self.backend.now())
        for event in self.backend.wait(timeout):
            self._feed(event)
        deadline = self.state.next_deadline()
        if deadline is not None and deadline <= self.backend.now():
            self._feed(m.Ticked())

    def _feed(self, event: m.Event) -> None:
        self.n_events += 1
        self._perform(self.state.handle(event, self.backend.now()))

    def _perform(self, actions: Sequence[m.Action]) -> None:
        for action in actions:
            if isinstance(action, m.Deliver):
                self._take(action)
            elif isinstance(action, m.Send):
                self.backend.send(*action)
            elif isinstance(action, m.Start):
                self.backend.start(*action)
            elif isinstance(action, m.Inspect):
                self.backend.inspect(*action)
            elif isinstance(action, m.Stop):
                self.backend.stop(*action)
            elif isinstance(action, m.WarnOfEnd | m.TellEndFailed):
                pass
            else:
                self.backend.end(*action)

    def _take(self, action: m.Deliver) -> None:
        call = self._by_rules[action.rules]
        for item, outcome in enumerate(action.outcomes, action.start):
            assert not call.ended[item], f"item {item} has ended twice"
            call.ended[item] = 1
            assert type(outcome) is Failure or outcome == item + 1
        call.n_ended += len(action.outcomes)

    def _check_end(self) -> None:
        assert self.state.n_outstanding == 0
        assert self.state.next_deadline() is None
        for call in self.calls:
            assert call.rules.outstanding == 0
            assert not call.rules.running
            assert call.rules.is_dropped or call.n_ended == call.n_submitted == call.total
            executions = self.backend.executions.get(call.rules, {})
            assert max(executions.values(), default=0) <= 1 + call.rules.retries

"""Whatever happens in whatever order: every item ends exactly once, and no rule of the state machine is broken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from objproxy._engine import messages as m
from objproxy._engine.messages import Batch, Rules
from objproxy.errors import PoolClosedError, TaskTimeoutError, WorkerDiedError, WorkerInitError
from state_pool import StatePool, make_rules

_MAX_WORKERS = 4
_ENDS = ("killed", "broken", "closed")

draws = st.integers(0, 2**16)


class PoolMachine(RuleBasedStateMachine):
    """Any sequence of what callers and workers can do."""

    pool: StatePool

    @initialize(
        n_workers=st.integers(1, 3),
        max_tasks=st.none() | st.integers(1, 5),
        init_timeout=st.none() | st.just(3.0),
        max_restarts=st.sampled_from([(0, 5.0), (1, 5.0), (3, 5.0), (1000, 5.0)]),
    )
    def make_pool(
        self, n_workers: int, max_tasks: int | None, init_timeout: float | None, max_restarts: tuple[int, float]
    ) -> None:
        self.pool = StatePool(
            n_workers,
            is_open=False,
            max_tasks_per_worker=max_tasks,
            init_timeout=init_timeout,
            max_restarts=max_restarts,
        )
        self.calls: list[Rules] = []
        self.n_submitted: dict[Rules, int] = {}
        self.late: list[m.Replied] = []

    # ---- what callers do --------------------------------------------------------------------------------------------

    @rule(
        count=st.integers(1, 5),
        retries=st.integers(0, 2),
        timeout=st.none() | st.sampled_from([1.0, 4.0]),
        priority=st.integers(-1, 1),
        needs_state=st.booleans(),
        worker_id=st.none() | st.integers(0, _MAX_WORKERS),
        n_batches=st.integers(1, 6),
    )
    def call(
        self,
        count: int,
        retries: int,
        timeout: float | None,
        priority: int,
        needs_state: bool,
        worker_id: int | None,
        n_batches: int,
    ) -> None:
        retry_on = (WorkerDiedError, TaskTimeoutError, ValueError)
        is_single = needs_state or timeout is not None
        rules = make_rules(
            needs_state=needs_state and worker_id is not None,
            retries=retries,
            retry_on=retry_on,
            timeout=timeout,
            priority=priority,
        )
        self.calls.append(rules)
        self.n_submitted[rules] = 0
        for _ in range(n_batches):
            self.go_on_with(rules, 1 if is_single else count, worker_id)

    def go_on_with(self, rules: Rules, count: int, worker_id: int | None) -> None:
        start, self.n_submitted[rules] = self.n_submitted[rules], self.n_submitted[rules] + count
        self.pool.submit(rules, start, count, worker_id)

    @precondition(lambda self: self.calls)
    @rule(draw=draws, and_running=st.booleans())
    def cancel(self, draw: int, and_running: bool) -> None:
        self.pool.feed(m.Cancelled(self.calls[draw % len(self.calls)], and_running))

    @rule(n_workers=st.integers(1, _MAX_WORKERS))
    def resize(self, n_workers: int) -> None:
        self.pool.feed(m.Resized(n_workers))

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 3.0, 6.0]))
    def pass_time(self, seconds: float) -> None:
        self.pool.pass_time(seconds)

    @rule(draw=draws)
    def close(self, draw: int) -> None:
        if draw % 8 == 0:
            self.pool.feed(m.CloseAsked())

    @rule(draw=draws)
    def kill(self, draw: int) -> None:
        if draw % 8 == 0:
            self.pool.feed(m.KillAsked(PoolClosedError("killed")))

    # ---- what workers do --------------------------------------------------------------------------------------------

    def choose(self, draw: int, *, phases: tuple[str, ...]) -> int | None:
        """Choose a living worker, as the world knows them, that is in one of the phases."""
        workers = self.pool.state.workers
        fitting = sorted(worker_id for worker_id in self.pool.sent if workers[worker_id].phase in phases)
        return fitting[draw % len(fitting)] if fitting else None

    @rule(draw=draws, n_workers=st.integers(1, _MAX_WORKERS))
    def come_up(self, draw: int, n_workers: int) -> None:
        for _ in range(n_workers):
            worker_id = self.choose(draw, phases=("starting",))
            if worker_id is not None:
                self.pool.make_ready(worker_id)

    @rule(draw=draws)
    def fail_constructor(self, draw: int) -> None:
        worker_id = self.choose(draw, phases=("starting",))
        if worker_id is not None and draw % 3 == 0:
            generation = self.pool.generations[worker_id]
            self.pool.feed(m.InitFailed(worker_id, generation, WorkerInitError(worker_id, "no")))

    @rule(draw=draws, n_items=st.integers(1, 5), seconds=st.sampled_from([0.00001, 0.0001, 0.1]), fails=st.booleans())
    def answer(self, draw: int, n_items: int, seconds: float, fails: bool) -> None:
        worker_id = self.choose(draw, phases=("busy", "ending"))
        if worker_id is not None and self.is_open(worker_id):
            batch = self.pool.sent[worker_id][0]
            count = min(n_items, batch.count - batch.received)
            self.note_late_answer(worker_id, batch)
            self.pool.answer(worker_id, count, errors={0: ValueError("no")} if fails else None, seconds=seconds)

    def is_open(self, worker_id: int) -> bool:
        """Whether a worker runs a batch, as it knows it, that has not timed out."""
        batches, record = self.pool.sent[worker_id], self.pool.state.workers[worker_id]
        return bool(batches and record.inflight and batches[0] is record.inflight[0])

    def note_late_answer(self, worker_id: int, batch: Batch) -> None:
        generation = self.pool.generations[worker_id]
        self.late.append(m.Replied(worker_id, generation, batch.seq, [0] * batch.count, (), True, 1.0))

    @precondition(lambda self: self.late)
    @rule(draw=draws)
    def answer_late(self, draw: int) -> None:
        """Answer a batch again that was answered in full, or whose worker is dead."""
        event = self.late[draw % len(self.late)]
        is_open = any(batch.seq == event.seq for batches in self.pool.sent.values() for batch in batches)
        if not is_open:
            assert self.pool.feed(event) == []

    @rule(draw=draws, n_done=st.integers(0, 5), is_running=st.booleans())
    def die(self, draw: int, n_done: int, is_running: bool) -> None:
        worker_id = self.choose(draw, phases=("starting", "idle", "busy", "ending"))
        if worker_id is None:
            return
        if not self.is_open(worker_id):
            self.pool.die(worker_id)
            return
        batch = self.pool.sent[worker_id][0]
        n_left = batch.count - batch.received
        n_done = min(n_done, n_left - is_running)
        self.pool.die(worker_id, n_done, is_running=is_running)

    # ---- what is always true ----------------------------------------------------------------------------------------

    @invariant()
    def items_that_have_not_ended_are_outstanding(self) -> None:
        ended = dict.fromkeys(self.calls, 0)
        for rules, _ in self.pool.outcomes:
            ended[rules] += 1
        for rules in self.calls:
            n_open = self.n_submitted[rules] - ended[rules]
            assert rules.outstanding <= n_open if rules.is_dropped else rules.outstanding == n_open
            assert rules.outstanding >= 0
            assert rules.n_queued >= 0
        assert self.pool.state.n_outstanding == sum(rules.outstanding for rules in self.calls)

    @invariant()
    def nothing_runs_more_often_than_allowed(self) -> None:
        for (rules, _), n_executions in self.pool.executions.items():
            assert n_executions <= 1 + rules.retries

    @invariant()
    def a_loss_is_told_at_most_once(self) -> None:
        assert all(count == 1 for count in self.pool.losses.values())

    @invariant()
    def nobody_is_idle_while_something_waits_for_him(self) -> None:
        state = self.pool.state
        for record in state.workers.values():
            assert (record.phase == "busy") == (bool(record.inflight) and record.end_reason is None)
            if record.phase == "idle":
                assert not record.is_retiring
                assert state._shared.head() is None
                assert record.queue.head() is None
        assert set(state._dispatcher._free) == {r for r in state.workers.values() if r.phase == "idle"}

    @invariant()
    def the_running_calls_are_those_that_workers_run(self) -> None:
        running: dict[Rules, set[int]] = {rules: set() for rules in self.calls}
        for record in self.pool.state.workers.values():
            if record.inflight:
                running[record.inflight[0].rules].add(record.worker_id)
        assert all(rules.running == running[rules] for rules in self.calls)

    @invariant()
    def the_next_deadline_is_the_first_of_all(self) -> None:
        watch = self.pool.state._watch
        deadlines = [*watch.limits.deadlines.values(), *watch.silences.deadlines.values()]
        assert self.pool.state.next_deadline() == min(deadlines, default=None)

    @invariant()
    def the_counts_of_workers_are_right(self) -> None:
        state = self.pool.state
        phases = [record.phase for record in state.workers.values()]
        assert state.n_starting == phases.count("starting")
        assert state._n_quarantined == phases.count("quarantined")
        assert set(self.pool.sent) == {r.worker_id for r in state.workers.values() if r.phase != "quarantined"}
        if state.phase in ("open", "closing"):
            assert state._n_quarantined < state.n_workers or state._is_finishing
        assert (state.phase == "closed") == (not state.workers)

    # ---- the end ----------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.pool.feed(m.CloseAsked())
        for worker_id in self.next_workers():
            self.end_well(worker_id)
        assert self.pool.state.phase == "closed"
        assert self.pool.state.n_outstanding == 0
        assert self.pool.state.next_deadline() is None
        for rules in self.calls:
            n_ended = sum(key[0] is rules for key in self.pool.outcomes)
            assert rules.outstanding == 0
            assert rules.n_queued == 0 or rules.is_dropped
            assert rules.is_dropped or n_ended == self.n_submitted[rules]

    def next_workers(self) -> Iterator[int]:
        for _ in range(10_000):
            if not self.pool.sent:
                return
            yield from sorted(self.pool.sent)
        raise AssertionError("the pool does not end")

    def end_well(self, worker_id: int) -> None:
        """Let a worker do what it has to do next."""
        record: Any = self.pool.state.workers.get(worker_id)
        if record is None or worker_id not in self.pool.sent:
            return
        if record.phase == "starting":
            self.pool.make_ready(worker_id)
        elif record.phase == "busy":
            self.pool.answer(worker_id)
        elif record.phase == "ending":
            self.pool.die(worker_id)


PoolMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestAnySequenceOfEvents = PoolMachine.TestCase

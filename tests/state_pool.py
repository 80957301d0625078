"""A pool without workers: feeds the state machine, and checks what it says against what was done so far."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from objproxy._engine import messages as m
from objproxy._engine.messages import Batch, Failure, Policy, Rules
from objproxy._engine.payload import Payload
from objproxy._engine.state import PoolState
from objproxy._worker.wire import Operation
from objproxy.errors import WorkerDiedError


def make_rules(method: str = "work", *, needs_state: bool = False, is_task: bool = True, **policy: Any) -> Rules:
    return Rules(method, Policy(**policy), needs_state=needs_state, is_task=is_task)


def make_batch(rules: Rules, start: int, count: int, worker_id: int | None = None) -> Batch:
    payload = Payload(Operation("map", rules.method, (range(start, start + count),), ()))
    return Batch(rules, start, count, payload, worker_id)


class StatePool:
    """Feeds a `PoolState`.

    Attributes
    ----------
    sent : dict of int to deque of Batch
        What each living worker has received and not answered.
    outcomes : dict of (Rules, int) to object
        What each item has ended with.
    started, ended : list
        Workers that were to start, as (worker_id, generation); to end, as (worker_id, generation, how).
    asked : list of int
        Workers that were asked where they stand; they tell at once, or, without `tells_stacks`, at the last call.
    warnings : list
        Silences that were worth a warning, as (worker_id, method, item, seconds).
    told_of_ends : list
        Ends of workers that took long, or have failed.
    activity : str or None
        What the processes of the workers do.
    begins : dict of int to float
        When the tasks of workers began, where it was not when they were sent; infinity for those that have not.
    executions : Counter of (Rules, int)
        How often each item has begun to run.
    """

    def __init__(self, n_workers: int, *, is_open: bool = True, **options: Any) -> None:
        self.state = PoolState(n_workers, **options)
        self.now = 0.0
        self.sent: dict[int, deque[Batch]] = {}
        self.generations: dict[int, int] = {}
        self.outcomes: dict[tuple[Rules, int], Any] = {}
        self.started: list[tuple[int, int]] = []
        self.ended: list[tuple[int, int, str]] = []
        self.asked: list[int] = []
        self.warnings: list[tuple[int, str, int, float]] = []
        self.told_of_ends: list[m.WarnOfEnd | m.TellEndFailed] = []
        self.tells_stacks = True
        self.activity: str | None = "sleeping"
        self.begins: dict[int, float] = {}
        self.executions: Counter[tuple[Rules, int]] = Counter()
        self.losses: Counter[tuple[int, int]] = Counter()
        self._perform(self.state.begin(self.now))
        if is_open:
            self.make_ready(*range(n_workers))

    def feed(self, event: m.Event) -> list[m.Action]:
        actions = self.state.handle(event, self.now)
        self._perform(actions)
        return actions

    def _perform(self, actions: Sequence[m.Action]) -> None:
        for action in actions:
            if isinstance(action, m.Deliver):
                self._note_outcomes(action)
            elif isinstance(action, m.Send):
                self.sent[action.worker_id].append(action.batch)
            elif isinstance(action, m.Start):
                assert action.worker_id not in self.sent, "a worker was started beside a living one"
                self.sent[action.worker_id] = deque()
                self.generations[action.worker_id] = action.generation
                self.started.append((action.worker_id, action.generation))
            elif isinstance(action, m.Inspect):
                began = self.begins.get(action.worker_id)
                if action.limit is not None and began is not None and began + action.limit > self.now:
                    self.feed(m.Inspected(action.worker_id, action.generation, "", began=began))
                    continue
                self.asked.append(action.worker_id)
                if self.tells_stacks or action.is_last_call:
                    self.feed(m.Inspected(action.worker_id, action.generation, "where it stands", self.activity))
            elif isinstance(action, m.Warn):
                self.warnings.append(tuple(action))
            elif isinstance(action, m.WarnOfEnd | m.TellEndFailed):
                self.told_of_ends.append(action)
            else:
                assert self.generations[action.worker_id] == action.generation
                self.ended.append(tuple(action))

    def _note_outcomes(self, action: m.Deliver) -> None:
        kinds = {type(outcome) is Failure for outcome in action.outcomes}
        assert action.has_failures or True not in kinds
        for item, outcome in enumerate(action.outcomes, action.start):
            key = action.rules, item
            assert key not in self.outcomes, f"item {item} has ended twice"
            self.outcomes[key] = outcome
            error = outcome.error if isinstance(outcome, Failure) else None
            if isinstance(error, WorkerDiedError) and not error.started and not error.detail:
                self.losses[error.worker_id, error.generation] += 1

    # ---- what happens -----------------------------------------------------------------------------------------------

    def make_ready(self, *worker_ids: int) -> None:
        for worker_id in worker_ids:
            self.feed(m.Ready(worker_id, self.generations[worker_id]))

    def submit(self, rules: Rules, start: int = 0, count: int = 1, worker_id: int | None = None) -> Batch:
        batch = make_batch(rules, start, count, worker_id)
        self.feed(m.Submitted(batch))
        return batch

    def answer(
        self,
        worker_id: int,
        n_items: int | None = None,
        *,
        errors: dict[int, BaseException] | None = None,
        seconds: float = 1.0,
    ) -> None:
        """Answer the next items of a worker's oldest batch, all that are left if `n_items` is None."""
        batch = self.sent[worker_id][0]
        n_left = batch.count - batch.received
        count = n_left if n_items is None else n_items
        outcomes = self._run(batch, batch.received, count)
        failed = sorted(errors or {})
        for offset in failed:
            outcomes[offset] = Failure((errors or {})[offset])
        is_last = count == n_left
        if is_last:
            self.sent[worker_id].popleft()
        generation = self.generations[worker_id]
        self.feed(m.Replied(worker_id, generation, batch.seq, outcomes, failed, is_last, seconds))

    def _run(self, batch: Batch, offset: int, count: int) -> list[Any]:
        items = range(batch.start + offset, batch.start + offset + count)
        self.executions.update((batch.rules, item) for item in items)
        arguments = batch.payload.operation.args[0]
        assert list(items) == list(arguments[offset : offset + count]), "a batch was cut with the wrong arguments"
        return [item + 1 for item in items]

    def die(self, worker_id: int, n_done: int | None = None, *, is_running: bool = True, exitcode: int = -9) -> None:
        """Let a worker die; with `n_done` while it runs its oldest batch, of which it leaves so many more results."""
        batches = self.sent.pop(worker_id)
        died = m.Died(worker_id, self.generations[worker_id], exitcode, pid=1000 + worker_id)
        if n_done is not None:
            batch = batches[0]
            recovered = self._run(batch, batch.received, n_done)
            at = batch.received + n_done
            if is_running:
                self.executions[batch.rules, batch.start + at] += 1
            died = died._replace(started_seq=batch.seq, recovered=recovered, running=at if is_running else None)
        self.feed(died)

    def restart(self, worker_id: int, n_done: int | None = None, **how: Any) -> None:
        """Let a worker die and its successor come up."""
        self.die(worker_id, n_done, **how)
        self.make_ready(worker_id)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.feed(m.Ticked())

    # ---- what can be asked ------------------------------------------------------------------------------------------

    def result(self, rules: Rules, item: int = 0) -> Any:
        return self.outcomes[rules, item]

    def error(self, rules: Rules, item: int = 0) -> BaseException:
        outcome = self.outcomes[rules, item]
        assert isinstance(outcome, Failure), outcome
        return outcome.error

    def running(self, worker_id: int) -> list[int]:
        """Return the items that a worker has received, in order."""
        return [item for batch in self.sent[worker_id] for item in range(batch.start, batch.start + batch.count)]

    def phase(self, worker_id: int) -> str:
        return self.state.workers[worker_id].phase


def learn_speed(pool: StatePool, rules: Rules, seconds: float) -> None:
    """Let the pool see how long a batch of a call takes."""
    pool.submit(rules, start=1_000_000, worker_id=0)
    pool.answer(0, seconds=seconds)


def fill_queue(pool: StatePool, rules: Rules, n_batches: int = 30) -> None:
    for item in range(n_batches):
        pool.submit(rules, item)

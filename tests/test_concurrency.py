"""The rules for tasks that run at the same time in one worker: one test for each."""

from __future__ import annotations

import math
from typing import Any

from objproxy._engine import messages as m
from objproxy._engine.concurrency import MAX_CONCURRENCY
from objproxy._engine.messages import Failure, Rules
from objproxy._worker.journal import N_TASKS
from objproxy.errors import TaskTimeoutError, WorkerDiedError
from state_pool import StatePool, make_rules

DEATHS = (WorkerDiedError,)


class TaskPool(StatePool):
    """Answers concurrent tasks in any order.

    Attributes
    ----------
    stopped : list of (int, int)
        Workers and items that were to be stopped; the worker says so at once, unless it `is_held_up`.
    begins_of_items : dict of int to float
        When items began, where that is not when they were sent.
    """

    def __init__(self, n_workers: int, **options: Any) -> None:
        self.stopped: list[tuple[int, int]] = []
        self.is_held_up = False
        self.begins_of_items: dict[int, float] = {}
        super().__init__(n_workers, **options)

    def _perform(self, actions: Any) -> None:
        stops = [action for action in actions if isinstance(action, m.Stop)]
        super()._perform([action for action in actions if not isinstance(action, m.Stop)])
        for stop in stops:
            self._stop(stop)

    def _stop(self, stop: m.Stop) -> None:
        (item,) = [batch.start for batch in self.sent[stop.worker_id] if batch.seq == stop.seq]
        began = self.begins_of_items.get(item, 0.0)
        if stop.limit is not None and began + stop.limit > self.now:
            self.feed(m.NotDue(stop.worker_id, stop.generation, stop.seq, began))
            return
        self.stopped.append((stop.worker_id, item))
        if not self.is_held_up:
            self.feed(m.Stopping(stop.worker_id, stop.generation, stop.seq, "its coroutine"))

    def end(self, worker_id: int, item: int, outcome: Any = None) -> None:
        """Let a worker answer one of its tasks."""
        (batch,) = [batch for batch in self.sent[worker_id] if batch.start == item]
        self.sent[worker_id].remove(batch)
        outcome = item + 1 if outcome is None else outcome
        failed = [0] if isinstance(outcome, Failure) else []
        generation = self.generations[worker_id]
        self.feed(m.Replied(worker_id, generation, batch.seq, [outcome], failed, True, 1.0))

    def die_with(self, worker_id: int, *begun: int) -> None:
        """Let a worker die whose tasks for these items had begun."""
        batches = self.sent.pop(worker_id)
        seqs = frozenset(batch.seq for batch in batches if batch.start in begun)
        self.feed(m.Died(worker_id, self.generations[worker_id], -9, pid=1000, begun=seqs))


def begin(n_tasks: int, n_workers: int = 1, concurrency: int = 3, **policy: Any) -> tuple[TaskPool, Rules]:
    pool, rules = TaskPool(n_workers), make_rules(concurrency=concurrency, **policy)
    for item in range(n_tasks):
        pool.submit(rules, item)
    return pool, rules


# ---- which worker gets what ------------------------------------------------------------------------------------------


def test_a_worker_runs_as_many_tasks_as_their_call_allows() -> None:
    pool, rules = begin(5)
    assert pool.running(0) == [0, 1, 2]
    pool.end(0, 1)
    assert pool.running(0) == [0, 2, 3]
    for item in (3, 0, 4, 2):
        pool.end(0, item)
    assert [pool.result(rules, item) for item in range(5)] == [1, 2, 3, 4, 5]
    assert pool.phase(0) == "idle"


def test_a_new_task_goes_to_the_worker_that_has_the_fewest() -> None:
    pool, rules = begin(6, n_workers=2)
    assert sorted(map(len, (pool.running(0), pool.running(1)))) == [3, 3]
    first = pool.running(0)[0]
    pool.end(0, first)
    pool.submit(rules, 6)
    assert pool.running(0)[-1] == 6


def test_a_call_without_the_option_has_its_worker_for_itself() -> None:
    pool, rules = begin(2)
    plain = make_rules()
    pool.submit(plain, 7)
    pool.submit(rules, 2)
    assert pool.running(0) == [0, 1]
    pool.end(0, 0)
    assert pool.running(0) == [1]
    pool.end(0, 1)
    assert pool.running(0) == [7]
    pool.answer(0)
    assert pool.running(0) == [2]


def test_the_smallest_number_of_the_calls_that_run_counts() -> None:
    pool, rules = begin(1, concurrency=1)
    many = make_rules(concurrency=10)
    pool.submit(many, 5)
    pool.submit(rules, 1)
    assert pool.running(0) == [0]
    pool.end(0, 0)
    assert pool.running(0) == [5]
    pool.end(0, 5)
    assert pool.running(0) == [1]


def test_a_task_for_one_worker_runs_beside_its_others() -> None:
    pool, rules = begin(1, n_workers=2)
    worker_id = 0 if pool.running(0) else 1
    for item in (5, 6, 7):
        pool.submit(rules, item, worker_id=worker_id)
    assert pool.running(worker_id) == [0, 5, 6]


def test_a_worker_is_recycled_when_its_last_task_has_ended() -> None:
    pool, rules = TaskPool(1, max_tasks_per_worker=2), make_rules(concurrency=3)
    for item in range(3):
        pool.submit(rules, item)
    assert pool.running(0) == [0, 1]
    pool.end(0, 1)
    assert pool.running(0) == [0]
    pool.end(0, 0)
    assert pool.ended == [(0, 0, "ask")]


def test_the_journal_has_room_for_all_tasks() -> None:
    assert MAX_CONCURRENCY <= N_TASKS


# ---- deaths ----------------------------------------------------------------------------------------------------------


def test_a_death_costs_the_tasks_that_had_begun() -> None:
    pool, rules = begin(4)
    pool.end(0, 1)
    pool.die_with(0, 0, 2)
    for item in (0, 2):
        error = pool.error(rules, item)
        assert isinstance(error, WorkerDiedError)
        assert error.started
    assert pool.result(rules, 1) == 2
    pool.make_ready(0)
    assert pool.running(0) == [3]


def test_tasks_that_had_begun_are_tried_again_if_their_call_says_so() -> None:
    pool, rules = begin(3, retries=1, retry_on=DEATHS)
    pool.die_with(0, 0, 2)
    pool.make_ready(0)
    assert pool.running(0) == [0, 1, 2]
    pool.die_with(0, 0)
    pool.make_ready(0)
    assert isinstance(pool.error(rules, 0), WorkerDiedError)
    assert pool.running(0) == [1, 2]


def test_the_end_of_a_pool_ends_its_tasks() -> None:
    pool, rules = begin(4)
    pool.feed(m.KillAsked(ValueError("the end")))
    assert [type(pool.error(rules, item)).__name__ for item in range(4)] == ["ValueError"] * 4
    assert pool.state.n_outstanding == 0
    assert not rules.running


# ---- time limits -----------------------------------------------------------------------------------------------------


def test_a_task_past_its_time_is_stopped_and_the_others_go_on() -> None:
    pool, rules = begin(3, timeout=1.0)
    pool.begins_of_items[1] = 0.5
    pool.end(0, 2)
    pool.pass_time(1.0)
    assert pool.stopped == [(0, 0)]
    error = pool.error(rules, 0)
    assert isinstance(error, TaskTimeoutError)
    assert "its coroutine" in str(error)
    pool.end(0, 0, Failure(RuntimeError("cancelled")))
    pool.end(0, 1)
    assert pool.result(rules, 1) == 2
    assert (pool.phase(0), pool.ended) == ("idle", [])


def test_the_clock_of_a_task_starts_when_it_begins() -> None:
    pool, _rules = begin(1, timeout=1.0)
    pool.begins_of_items[0] = math.inf
    pool.pass_time(1.0)
    pool.begins_of_items[0] = 1.5
    pool.pass_time(1.0)
    assert pool.stopped == []
    pool.pass_time(0.5)
    assert pool.stopped == [(0, 0)]


def test_a_task_that_ends_before_it_is_stopped_has_its_result() -> None:
    pool, rules = begin(2, timeout=1.0)
    pool.is_held_up = True
    pool.pass_time(1.0)
    pool.end(0, 0)
    assert pool.result(rules, 0) == 1


def test_a_worker_that_stops_nothing_is_interrupted() -> None:
    pool, rules = begin(2, timeout=1.0)
    pool.begins_of_items[1] = 2.5
    pool.is_held_up = True
    pool.pass_time(1.0)
    pool.pass_time(2.0)
    assert pool.asked == [0]
    assert "where it stands" in str(pool.error(rules, 0))
    assert pool.ended == [(0, 0, "interrupt")]
    pool.die_with(0, 0, 1)
    assert isinstance(pool.error(rules, 1), WorkerDiedError)


def test_a_task_that_goes_on_though_it_was_stopped_costs_its_worker_when_no_other_is_left() -> None:
    pool, rules = begin(2, timeout=1.0)
    pool.begins_of_items[1] = 1000.0
    pool.pass_time(1.0)
    pool.pass_time(6.0)
    pool.submit(rules, 2)
    assert pool.running(0) == [0, 1]
    assert pool.ended == []
    pool.end(0, 1)
    pool.pass_time(2.0)
    assert pool.ended == [(0, 0, "interrupt")]
    pool.die_with(0, 0)
    pool.make_ready(0)
    assert pool.running(0) == [2]


# ---- cancel ----------------------------------------------------------------------------------------------------------


def test_a_call_that_is_cancelled_stops_its_own_tasks() -> None:
    pool, rules = begin(1)
    other = make_rules(concurrency=3)
    pool.submit(other, 5)
    pool.feed(m.Cancelled(rules, and_running=True))
    assert pool.stopped == [(0, 0)]
    pool.end(0, 0, Failure(RuntimeError("cancelled")))
    pool.end(0, 5)
    assert pool.result(other, 5) == 6
    assert pool.ended == []


def test_a_cancelled_task_that_does_not_end_costs_no_other_its_worker() -> None:
    pool, rules = begin(1)
    pool.is_held_up = True
    other = make_rules(concurrency=3)
    pool.submit(other, 5)
    pool.feed(m.Cancelled(rules, and_running=True))
    pool.pass_time(10.0)
    assert pool.ended == []
    pool.end(0, 5)
    pool.pass_time(2.0)
    assert pool.ended == [(0, 0, "interrupt")]


def test_silence_is_told_once() -> None:
    pool, rules = TaskPool(1, stall_warning=2.0), make_rules(concurrency=3)
    pool.submit(rules, 0)
    pool.submit(rules, 1)
    pool.pass_time(1.5)
    pool.end(0, 0)
    pool.pass_time(1.5)
    assert pool.warnings == []
    pool.pass_time(0.5)
    assert [warning[:3] for warning in pool.warnings] == [(0, "work", 1)]

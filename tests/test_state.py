"""The life of the workers and of the pool: one test for each rule."""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import Any

import pytest

from objproxy._engine import messages as m
from objproxy.errors import (
    PoolBrokenError,
    PoolClosedError,
    WorkerDiedError,
    WorkerInitError,
)
from state_pool import StatePool, make_batch, make_rules

DEATHS = (WorkerDiedError,)


# ---- the restart limit -----------------------------------------------------------------------------------------------


def test_a_worker_that_dies_too_often_is_quarantined() -> None:
    pool = StatePool(2, max_restarts=(3, 5.0))
    waiting = make_rules()
    for _ in range(3):
        pool.restart(0)
    batch = make_batch(waiting, 0, 1, 0)
    pool.die(0)
    assert pool.phase(0) == "quarantined"
    pool.feed(m.Submitted(batch))
    assert isinstance(pool.error(waiting), WorkerDiedError)
    pool.submit(waiting, 1)
    assert pool.running(1) == [1]


def test_what_waits_for_a_worker_that_is_quarantined_fails() -> None:
    pool, rules = StatePool(2, max_restarts=(0, 5.0)), make_rules()
    for item in range(2):
        pool.submit(rules, item, worker_id=0)
    pool.die(0, 0)
    assert [type(pool.error(rules, item)) for item in range(2)] == [WorkerDiedError] * 2
    assert "quarantined" in str(pool.error(rules, 1))


def test_deaths_that_are_far_apart_do_not_add_up() -> None:
    pool = StatePool(1, max_restarts=(3, 5.0))
    for _ in range(20):
        pool.restart(0)
        pool.now += 2.0
    assert pool.phase(0) == "idle"


def test_the_pool_is_broken_when_every_worker_is_quarantined() -> None:
    pool, rules = StatePool(1, max_restarts=(1, 5.0)), make_rules()
    pool.restart(0)
    pool.submit(rules, 0, 3)
    pool.die(0, 1)
    assert pool.state.phase == "closed"
    assert isinstance(pool.error(rules, 2), PoolBrokenError)
    assert pool.error(rules, 2).__cause__ is pool.state.failure


def test_the_pool_is_broken_when_only_quarantined_workers_stay_behind() -> None:
    pool, rules = StatePool(2, max_restarts=(0, 5.0)), make_rules()
    pool.submit(rules, 0, worker_id=1)
    pool.submit(rules, 1, worker_id=1)
    pool.die(0)
    pool.feed(m.Resized(1))
    assert pool.state.phase == "broken"
    assert isinstance(pool.error(rules, 1), PoolBrokenError)


def test_the_pool_is_broken_when_the_last_staying_worker_is_quarantined() -> None:
    pool, rules = StatePool(2, max_restarts=(0, 5.0)), make_rules()
    pool.submit(rules, 0, worker_id=1)
    pool.feed(m.Resized(1))
    pool.submit(rules, 1)
    pool.submit(rules, 2)
    pool.die(0, 0)
    assert pool.state.phase == "broken"
    assert isinstance(pool.error(rules, 2), PoolBrokenError)


# ---- constructors ----------------------------------------------------------------------------------------------------


def test_a_failing_constructor_fails_the_pool_that_is_being_made() -> None:
    pool = StatePool(3, is_open=False)
    pool.make_ready(0)
    error = WorkerInitError(1, "no")
    pool.feed(m.InitFailed(1, 0, error))
    assert pool.state.failure is error
    assert {worker_id for worker_id, _, _ in pool.ended} == {0, 1, 2}
    for worker_id in range(3):
        pool.die(worker_id)
    assert pool.state.phase == "closed"


def test_a_death_in_the_constructor_fails_the_pool_that_is_being_made() -> None:
    pool = StatePool(1, is_open=False)
    pool.die(0)
    assert isinstance(pool.state.failure, WorkerInitError)
    assert pool.state.phase == "closed"


def test_a_worker_that_dies_before_the_others_are_up_is_replaced() -> None:
    pool = StatePool(2, is_open=False)
    pool.make_ready(0)
    pool.die(0)
    assert pool.started[-1] == (0, 1)
    pool.make_ready(1)
    assert pool.state.phase == "starting"
    pool.make_ready(0)
    assert pool.state.phase == "open"


def test_a_constructor_that_takes_too_long_fails_the_pool_that_is_being_made() -> None:
    pool = StatePool(1, is_open=False, init_timeout=2.0)
    assert pool.state.next_deadline() == 2.0
    pool.pass_time(2.0)
    assert isinstance(pool.state.failure, WorkerInitError)
    assert pool.ended == [(0, 0, "kill")]


def test_a_constructor_that_fails_at_each_restart_quarantines_its_worker() -> None:
    pool, rules = StatePool(2, max_restarts=(3, 5.0)), make_rules()
    pool.die(0)
    for _ in range(3):
        pool.feed(m.InitFailed(0, pool.generations[0], WorkerInitError(0, "no")))
        pool.die(0)
    assert pool.phase(0) == "quarantined"
    pool.submit(rules, worker_id=0)
    assert isinstance(pool.error(rules), WorkerInitError)


@pytest.mark.parametrize(("limit", "n_starts"), [((1000, 600.0), 5), ((3, 1.0), 4), ((1, 1.0), 2)])
def test_a_constructor_that_kills_its_worker_slowly_is_not_tried_for_ever(limit: tuple[int, float], n_starts: int) -> None:
    """No two of the deaths are within the restart limit's time, or the limit allows any number of them."""
    pool, rules = StatePool(2, max_restarts=limit), make_rules()
    pool.die(0)
    pool.submit(rules, worker_id=0)
    while pool.phase(0) == "starting":
        pool.now += 2.0
        pool.die(0)
    assert pool.started[2:] == [(0, generation) for generation in range(1, n_starts + 1)]
    assert pool.phase(0) == "quarantined"


def test_constructors_that_fail_in_a_row_are_counted_from_the_last_that_did_not() -> None:
    pool = StatePool(1, max_restarts=(1000, 600.0))
    for _ in range(10):
        for _ in range(4):
            pool.die(0)
        pool.make_ready(0)
    assert pool.phase(0) == "idle"


def test_a_constructor_that_takes_too_long_at_a_restart_counts_as_a_failure() -> None:
    pool = StatePool(2, max_restarts=(1, 100.0), init_timeout=2.0)
    pool.die(0)
    pool.pass_time(2.0)
    assert pool.ended[-1] == (0, 1, "kill")
    pool.die(0)
    assert pool.phase(0) == "quarantined"


def test_a_worker_that_comes_up_too_late_gets_no_work() -> None:
    pool, rules = StatePool(2, init_timeout=2.0), make_rules()
    pool.die(0)
    pool.pass_time(2.0)
    pool.make_ready(0)
    pool.submit(rules, worker_id=0)
    assert pool.running(0) == []
    pool.restart(0)
    assert pool.running(0) == [] or pool.running(0) == [0]


# ---- cancelling ------------------------------------------------------------------------------------------------------


def test_a_dropped_call_is_never_sent_and_the_next_one_is() -> None:
    pool, running, dropped, wanted = StatePool(1), make_rules(), make_rules(), make_rules()
    pool.submit(running)
    for item in range(5):
        pool.submit(dropped, item)
    pool.submit(wanted)
    pool.feed(m.Cancelled(dropped, False))
    assert dropped.outstanding == 0
    pool.answer(0)
    assert pool.sent[0][0].rules is wanted
    assert pool.state.n_queued == 0


def test_what_runs_of_a_dropped_call_is_left_to_finish() -> None:
    pool, rules = StatePool(1), make_rules()
    pool.submit(rules, 0, 4)
    pool.feed(m.Cancelled(rules, False))
    assert not pool.ended
    pool.answer(0)
    assert rules.outstanding == 0


def test_cancelling_what_runs_replaces_its_worker() -> None:
    pool, cancelled, waiting = StatePool(1), make_rules(), make_rules()
    pool.submit(cancelled, 0, 4)
    pool.submit(waiting)
    pool.feed(m.Cancelled(cancelled, True))
    assert pool.ended == [(0, 0, "interrupt")]
    pool.restart(0, 2)
    assert cancelled.outstanding == 0
    pool.answer(0)
    assert pool.result(waiting) == 1


def test_what_is_cancelled_twice_is_interrupted_once() -> None:
    pool, rules = StatePool(1), make_rules()
    pool.submit(rules)
    for _ in range(2):
        pool.feed(m.Cancelled(rules, True))
    assert pool.ended == [(0, 0, "interrupt")]


def test_a_worker_that_answers_while_it_is_being_killed_gets_nothing_more() -> None:
    pool, cancelled, waiting = StatePool(1), make_rules(), make_rules()
    pool.submit(cancelled)
    pool.submit(waiting)
    pool.feed(m.Cancelled(cancelled, True))
    pool.answer(0)
    assert pool.running(0) == []
    pool.restart(0)
    assert pool.running(0) == [0]


def test_cancelling_ends_only_the_workers_that_run_the_call() -> None:
    pool, cancelled, other = StatePool(2), make_rules(), make_rules()
    pool.submit(cancelled)
    pool.submit(other)
    pool.feed(m.Cancelled(cancelled, True))
    assert pool.ended == [(1, 0, "interrupt")]


def test_a_cancelled_item_that_had_not_started_ends_as_cancelled() -> None:
    """Otherwise nobody would learn that the last item of the call has ended."""
    pool, rules = StatePool(1), make_rules()
    pool.submit(rules)
    pool.feed(m.Cancelled(rules, True))
    pool.restart(0)
    assert isinstance(pool.error(rules), CancelledError)
    assert rules.outstanding == 0


def test_a_batch_of_a_dropped_call_is_not_taken_in() -> None:
    pool, rules = StatePool(1), make_rules()
    pool.feed(m.Cancelled(rules, False))
    pool.submit(rules)
    assert rules.outstanding == pool.state.n_outstanding == 0
    assert pool.running(0) == []


def test_a_cancelled_call_loses_no_state_that_is_told() -> None:
    pool, cancelled, later = StatePool(1), make_rules(), make_rules(needs_state=True)
    pool.submit(cancelled)
    pool.feed(m.Cancelled(cancelled, True))
    pool.restart(0, 0)
    pool.submit(later, worker_id=0)
    pool.answer(0)
    assert pool.result(later) == 1


# ---- the end ---------------------------------------------------------------------------------------------------------


def test_a_closing_pool_finishes_what_was_submitted() -> None:
    pool, rules = StatePool(2), make_rules()
    for item in range(3):
        pool.submit(rules, item)
    pool.feed(m.CloseAsked())
    pool.answer(0)
    pool.answer(1)
    assert pool.state.phase == "closing"
    pool.answer(0)
    assert sorted(pool.ended) == [(0, 0, "ask"), (1, 0, "ask")]
    pool.die(0)
    pool.die(1)
    assert pool.state.phase == "closed"
    assert len(pool.outcomes) == 3


def test_a_closing_pool_tries_again_and_replaces_what_it_needs() -> None:
    pool, rules = StatePool(1), make_rules(retries=1, retry_on=DEATHS)
    pool.submit(rules)
    pool.feed(m.CloseAsked())
    pool.restart(0, 0)
    pool.answer(0)
    assert pool.result(rules) == 1
    pool.die(0)
    assert pool.state.phase == "closed"


def test_a_closing_pool_does_not_replace_a_worker_that_nobody_needs() -> None:
    pool = StatePool(2)
    pool.feed(m.CloseAsked())
    pool.die(0)
    assert len(pool.started) == 2


def test_a_pool_that_is_closed_while_it_starts_ends_its_workers_when_they_are_up() -> None:
    pool = StatePool(1, is_open=False)
    pool.feed(m.CloseAsked())
    pool.make_ready(0)
    assert pool.ended == [(0, 0, "ask")]


@pytest.mark.parametrize("event", [m.CloseAsked(), m.KillAsked(PoolClosedError("killed"))])
def test_what_comes_too_late_fails_at_once(event: m.Event) -> None:
    pool, rules = StatePool(1), make_rules()
    pool.feed(event)
    pool.submit(rules)
    assert isinstance(pool.error(rules), PoolClosedError)
    assert rules.outstanding == 0


def test_a_kill_ends_every_item_and_every_worker() -> None:
    pool, rules = StatePool(3), make_rules()
    for item in range(10):
        pool.submit(rules, item, worker_id=item % 3 if item > 5 else None)
    pool.feed(m.KillAsked(PoolClosedError("killed")))
    assert rules.outstanding == pool.state.n_outstanding == 0
    errors = [pool.error(rules, item) for item in range(10)]
    assert all(isinstance(error, PoolClosedError) for error in errors)
    assert len(set(map(id, errors))) == 10
    for worker_id in range(3):
        pool.die(worker_id)
    assert pool.state.phase == "closed"


def test_a_kill_takes_over_from_a_close() -> None:
    pool, rules = StatePool(1), make_rules()
    pool.submit(rules)
    pool.feed(m.CloseAsked())
    pool.feed(m.KillAsked(PoolClosedError("killed")))
    assert pool.ended == [(0, 0, "kill")]
    pool.die(0)
    assert pool.state.phase == "closed"


def test_a_kill_reaches_a_worker_that_was_asked_to_end_and_does_not() -> None:
    pool = StatePool(1)
    pool.feed(m.CloseAsked())
    pool.feed(m.KillAsked(PoolClosedError("killed")))
    assert pool.ended == [(0, 0, "ask"), (0, 0, "kill")]


def test_quarantined_workers_do_not_keep_a_pool_from_closing() -> None:
    pool = StatePool(2, max_restarts=(0, 5.0))
    pool.die(0)
    pool.feed(m.CloseAsked())
    pool.die(1)
    assert pool.state.phase == "closed"


# ---- size ------------------------------------------------------------------------------------------------------------


def test_a_pool_that_grows_gives_waiting_work_to_the_new_workers() -> None:
    pool, rules = StatePool(1), make_rules()
    pool.submit(rules, 0)
    pool.submit(rules, 1)
    pool.feed(m.Resized(2))
    pool.make_ready(1)
    assert pool.running(1) == [1]


def test_workers_that_go_finish_what_they_were_given() -> None:
    pool, rules = StatePool(2), make_rules()
    for item in range(4):
        pool.submit(rules, item, worker_id=1)
    pool.feed(m.Resized(1))
    for _ in range(4):
        pool.answer(1)
    assert pool.ended == [(1, 0, "ask")]
    pool.die(1)
    assert sorted(pool.state.workers) == [0]
    assert [pool.result(rules, item) for item in range(4)] == [1, 2, 3, 4]


def test_a_worker_that_goes_takes_no_shared_work() -> None:
    pool, rules = StatePool(2), make_rules()
    for item in range(4):
        pool.submit(rules, item)
    pool.feed(m.Resized(1))
    pool.answer(1)
    assert pool.running(1) == []
    assert pool.ended == [(1, 0, "ask")]


def test_work_for_a_worker_that_is_gone_fails() -> None:
    """The pool is whole: it is no `PoolBrokenError`."""
    pool, rules = StatePool(2), make_rules()
    pool.feed(m.Resized(1))
    pool.submit(rules, 0, worker_id=1)
    pool.die(1)
    pool.submit(rules, 1, worker_id=1)
    for item in range(2):
        error = pool.error(rules, item)
        assert type(error) is WorkerDiedError
        assert str(error) == "worker 1 is no longer part of this pool (see resize); the other workers go on"


def test_a_worker_that_goes_and_dies_or_is_worn_out_has_a_successor_for_what_it_was_given() -> None:
    for max_tasks in (None, 1):
        pool, rules = StatePool(2, max_tasks_per_worker=max_tasks), make_rules()
        for item in range(2):
            pool.submit(rules, item, worker_id=1)
        pool.feed(m.Resized(1))
        if max_tasks is None:
            pool.die(1, 0)
        else:
            pool.answer(1)
            pool.die(1)
        pool.make_ready(1)
        pool.answer(1)
        pool.die(1)
        assert sorted(pool.state.workers) == [0]
        assert pool.result(rules, 1) == 2


def test_a_worker_that_goes_and_dies_too_often_costs_the_pool_nothing() -> None:
    pool, rules = StatePool(2, max_restarts=(0, 5.0)), make_rules()
    for item in range(2):
        pool.submit(rules, item, worker_id=1)
    pool.feed(m.Resized(1))
    pool.die(1, 0)
    assert sorted(pool.state.workers) == [0]
    assert pool.state.phase == "open"
    assert "quarantined" in str(pool.error(rules, 1))


def test_a_call_that_is_held_keeps_its_workers_and_takes_no_shared_work_to_them() -> None:
    pool, rules, held = StatePool(3), make_rules(), make_rules()
    pool.feed(m.Held(held))
    pool.feed(m.Resized(1))
    for item in range(3):
        pool.submit(rules, item)
    assert [len(pool.running(worker_id)) for worker_id in range(3)] == [1, 0, 0]
    pool.submit(held, 0, worker_id=2)
    pool.answer(2)
    assert pool.result(held) == 1
    pool.die(1)
    pool.make_ready(1)
    pool.submit(held, 1, worker_id=1)
    pool.answer(1)
    assert pool.ended == []
    pool.feed(m.Released(held))
    assert sorted(pool.ended) == [(1, 1, "ask"), (2, 0, "ask")]


def test_a_worker_that_stays_after_all_takes_shared_work_again() -> None:
    pool, rules, held = StatePool(2), make_rules(), make_rules()
    pool.feed(m.Held(held))
    pool.feed(m.Resized(1))
    pool.feed(m.Resized(2))
    pool.feed(m.Released(held))
    for item in range(2):
        pool.submit(rules, item)
    assert [len(pool.running(worker_id)) for worker_id in range(2)] == [1, 1]


def test_a_pool_that_closes_does_not_wait_for_a_call_that_is_held() -> None:
    pool = StatePool(2)
    pool.feed(m.Held(make_rules()))
    pool.feed(m.Resized(1))
    pool.feed(m.CloseAsked())
    pool.die(0)
    pool.die(1)
    assert pool.state.phase == "closed"


def test_a_worker_that_was_to_go_may_stay() -> None:
    pool, rules = StatePool(2), make_rules()
    pool.submit(rules, 0, worker_id=1)
    pool.feed(m.Resized(1))
    pool.feed(m.Resized(2))
    pool.answer(1)
    assert pool.phase(1) == "idle"


def test_a_worker_that_comes_back_goes_on_counting() -> None:
    """A late answer, a timer or a random stream of the first stay must not be taken for one of the second."""
    pool, rules = StatePool(2, init_timeout=10.0), make_rules()
    pool.submit(rules, worker_id=1)
    pool.answer(1)
    pool.feed(m.Resized(1))
    pool.die(1)
    pool.now = 9.0
    pool.feed(m.Resized(2))
    assert pool.started[-1] == (1, 1)
    pool.pass_time(1.0)
    assert pool.phase(1) == "starting"
    assert pool.state.workers[1].n_tasks == 1


def test_a_quarantined_worker_that_goes_is_forgotten() -> None:
    pool = StatePool(2, max_restarts=(0, 5.0))
    pool.die(1)
    pool.feed(m.Resized(1))
    assert sorted(pool.state.workers) == [0]
    pool.die(0)
    assert pool.state.phase == "closed"


# ---- odd things ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        m.Ready(0, 0),
        m.Ready(9, 0),
        m.Ready(0, 7),
        m.InitFailed(0, 0, WorkerInitError(0, "late")),
        m.Replied(0, 0, 77, [1], (), True, 1.0),
        m.Replied(9, 0, 1, [1], (), True, 1.0),
        m.Died(0, 5),
        m.Died(9, 0),
        m.SendFailed(9, 1, ValueError()),
        m.SendFailed(0, 77, ValueError()),
        m.Unreadable(0, 0, 77),
        m.Unreadable(9, 0, 1),
        m.Outgrown(9, 0),
        m.Outgrown(0, 7),
        m.Inspected(0, 7, "late"),
        m.Ticked(),
    ],
)
def test_what_does_not_fit_is_ignored(event: m.Event) -> None:
    pool = StatePool(1)
    assert pool.feed(event) == []
    assert pool.phase(0) == "idle"


def test_an_idle_worker_that_has_outgrown_its_memory_is_replaced() -> None:
    pool = StatePool(1)
    pool.feed(m.Outgrown(0, 0))
    assert pool.ended == [(0, 0, "ask")]


def test_stacks_are_asked_of_those_who_live() -> None:
    pool = StatePool(2, max_restarts=(0, 5.0))
    pool.die(0)
    pool.feed(m.StacksAsked([0, 1]))
    assert pool.asked == [1]


def test_actions_belong_to_the_event_that_caused_them() -> None:
    pool: Any = StatePool(1)
    first = pool.state.handle(m.Submitted(make_batch(make_rules(), 0, 1)), 0.0)
    second = pool.state.handle(m.Ticked(), 0.0)
    assert len(first) == 1
    assert second == []

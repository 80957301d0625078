"""Time limits, and what they cost."""

from __future__ import annotations

from objproxy.errors import (
    TaskTimeoutError,
    WorkerDiedError,
)
from state_pool import StatePool, make_rules

DEATHS = (WorkerDiedError,)


# ---- time limits -----------------------------------------------------------------------------------------------------


def test_an_item_that_runs_too_long_fails_and_its_worker_is_replaced() -> None:
    pool, rules = StatePool(1), make_rules(timeout=5.0)
    pool.submit(rules)
    assert pool.state.next_deadline() == 5.0
    pool.pass_time(4.9)
    assert not pool.outcomes
    pool.pass_time(0.1)
    assert isinstance(pool.error(rules), TaskTimeoutError)
    assert pool.ended == [(0, 0, False)]
    pool.restart(0)
    assert pool.phase(0) == "idle"


def test_an_answer_after_the_time_limit_is_ignored() -> None:
    pool, rules = StatePool(1), make_rules(timeout=5.0)
    pool.submit(rules)
    pool.pass_time(5.0)
    pool.answer(0)
    pool.restart(0)
    assert isinstance(pool.error(rules), TaskTimeoutError)


def test_the_clock_of_an_item_starts_when_it_is_the_first_of_its_worker() -> None:
    pool, rules = StatePool(1), make_rules(timeout=5.0)
    pool.submit(rules, 0)
    pool.submit(rules, 1)
    pool.now = 4.0
    pool.answer(0)
    assert pool.state.next_deadline() == 9.0


def test_a_time_limit_that_is_met_leaves_no_deadline() -> None:
    pool, rules = StatePool(1), make_rules(timeout=5.0)
    pool.submit(rules)
    pool.answer(0)
    assert pool.state.next_deadline() is None


def test_a_shorter_time_limit_comes_before_an_older_longer_one() -> None:
    pool, long, short = StatePool(1), make_rules(timeout=100.0), make_rules(timeout=1.0)
    pool.submit(long)
    pool.answer(0)
    pool.submit(short)
    assert pool.state.next_deadline() == 1.0
    pool.answer(0)
    pool.submit(long, 1)
    assert pool.state.next_deadline() == 100.0


def test_a_shorter_time_limit_that_waited_comes_before_an_older_longer_one() -> None:
    pool, long, short = StatePool(2), make_rules(timeout=100.0), make_rules(timeout=1.0)
    pool.submit(long)
    pool.submit(make_rules(timeout=50.0))
    pool.submit(short)
    pool.answer(0)
    assert pool.state.next_deadline() == 1.0
    pool.pass_time(1.0)
    assert isinstance(pool.error(short), TaskTimeoutError)


def test_time_limits_that_are_met_take_no_room() -> None:
    pool, rules = StatePool(2), make_rules(timeout=3600.0)
    for item in range(1000):
        pool.submit(rules, item, worker_id=item % 2)
        pool.answer(item % 2)
        pool.now += 0.01
    assert len(pool.state._timers.heap) <= 2


def test_a_time_out_is_tried_again_if_asked() -> None:
    pool, rules = StatePool(2), make_rules(timeout=5.0, retries=1, retry_on=(TaskTimeoutError,))
    pool.submit(rules)
    pool.pass_time(5.0)
    assert pool.running(1) == [0]
    pool.pass_time(5.0)
    assert isinstance(pool.error(rules), TaskTimeoutError)


def test_time_outs_do_not_count_for_the_restart_limit() -> None:
    pool, rules = StatePool(1, max_restarts=(0, 100.0)), make_rules(timeout=1.0)
    for item in range(5):
        pool.submit(rules, item)
        pool.pass_time(1.0)
        pool.restart(0)
    assert pool.phase(0) == "idle"

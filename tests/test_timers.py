"""Time limits, and what they cost."""

from __future__ import annotations

from objproxy._engine import messages as m
from objproxy._engine.watch import GRACE_SECONDS
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
    assert pool.ended == [(0, 0, "interrupt")]
    pool.restart(0)
    assert pool.phase(0) == "idle"


def test_an_interrupted_worker_that_does_not_end_is_killed() -> None:
    pool, rules = StatePool(1), make_rules(timeout=5.0)
    pool.submit(rules)
    pool.pass_time(5.0)
    assert pool.state.next_deadline() == 5.0 + GRACE_SECONDS
    pool.pass_time(GRACE_SECONDS)
    assert pool.ended == [(0, 0, "interrupt"), (0, 0, "kill")]
    assert pool.state.next_deadline() is None
    pool.restart(0)
    assert pool.phase(0) == "idle"


def test_an_interrupted_worker_that_answers_on_is_expected_to_end_all_the_same() -> None:
    pool, short = StatePool(1, stall_warning=10.0), make_rules()
    for item in range(8):
        pool.submit(short, item)
    for _ in range(2):
        pool.answer(0, seconds=0.0001)  # so short that the next are sent ahead
    assert len(pool.sent[0]) > 1
    pool.feed(m.Cancelled(short, True))
    while pool.sent[0]:
        pool.answer(0)
    pool.pass_time(GRACE_SECONDS)
    assert pool.ended == [(0, 0, "interrupt"), (0, 0, "kill")]
    pool.pass_time(100.0)
    assert not pool.warnings


def test_an_interrupted_worker_that_ends_leaves_no_deadline() -> None:
    pool, rules = StatePool(1), make_rules(timeout=5.0)
    pool.submit(rules)
    pool.pass_time(5.0)
    pool.restart(0)
    assert pool.state.next_deadline() is None


def test_the_error_says_where_the_worker_stood() -> None:
    pool, rules = StatePool(1), make_rules(timeout=5.0)
    pool.submit(rules)
    pool.pass_time(5.0)
    error = pool.error(rules)
    assert isinstance(error, TaskTimeoutError)
    assert error.stack == "where it stands"


def test_a_worker_that_does_not_say_where_it_stands_is_asked_again_and_again_and_then_given_up() -> None:
    pool, rules = StatePool(1), make_rules(timeout=5.0)
    pool.tells_stacks = False
    pool.submit(rules)
    pool.pass_time(5.0)
    assert not pool.outcomes
    while not pool.outcomes:
        moment = pool.state.next_deadline()
        assert moment is not None
        assert pool.now < moment <= pool.now + 0.02, "one that has said something must not wait for long"
        assert moment < 5.5, "a task has failed half a second after its limit, whatever the worker does"
        pool.pass_time(moment - pool.now)
    assert len(pool.asked) > 10
    assert isinstance(pool.error(rules), TaskTimeoutError)


def test_an_answer_that_comes_while_the_worker_is_asked_counts() -> None:
    pool, rules = StatePool(1), make_rules(timeout=5.0)
    pool.tells_stacks = False
    pool.submit(rules, 3)
    pool.pass_time(5.0)
    pool.answer(0)
    pool.feed(m.Inspected(0, 0, "late"))
    assert pool.outcomes[rules, 3] == 4
    assert not pool.ended
    pool.submit(rules, 4)
    assert pool.running(0) == [4]


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
    assert len(pool.state._watch.limits.heap) <= 2


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


# ---- silence --------------------------------------------------------------------------------------------------------------


def test_a_silent_worker_is_worth_a_warning_once() -> None:
    pool, rules = StatePool(2, stall_warning=10.0), make_rules("fit")
    pool.submit(rules, 7)
    pool.pass_time(9.0)
    assert not pool.warnings
    pool.pass_time(1.0)
    pool.pass_time(100.0)
    assert pool.warnings == [(1, "fit", 7, 10.0)]
    assert not pool.ended


def test_every_answer_is_a_sign_of_life() -> None:
    pool, rules = StatePool(1, stall_warning=10.0), make_rules()
    pool.submit(rules, 0, 4)
    for _ in range(3):
        pool.pass_time(9.0)
        pool.answer(0, 1)
    assert not pool.warnings
    pool.pass_time(10.0)
    assert [item for _, _, item, _ in pool.warnings] == [3]


def test_idle_workers_may_be_silent() -> None:
    pool, rules = StatePool(1, stall_warning=10.0), make_rules()
    pool.submit(rules)
    pool.answer(0)
    pool.pass_time(100.0)
    assert not pool.warnings
    assert pool.state.next_deadline() is None


def test_silence_and_time_limit_do_not_disturb_each_other() -> None:
    pool, rules = StatePool(1, stall_warning=10.0), make_rules(timeout=15.0)
    pool.submit(rules)
    pool.pass_time(10.0)
    pool.pass_time(5.0)
    assert len(pool.warnings) == 1
    assert isinstance(pool.error(rules), TaskTimeoutError)

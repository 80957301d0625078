"""Who runs which batch, and when it is sent."""

from __future__ import annotations

from objproxy.errors import (
    WorkerDiedError,
)
from state_pool import StatePool, fill_queue, learn_speed, make_rules

DEATHS = (WorkerDiedError,)


# ---- who runs what ---------------------------------------------------------------------------------------------------


def test_a_batch_goes_to_the_worker_that_had_something_to_do_last() -> None:
    """One that still looks for more is faster than one that has to be woken."""
    pool = StatePool(3)
    for item in range(3):
        pool.submit(make_rules(), item)
    pool.answer(2)
    pool.answer(0)
    pool.submit(make_rules(), 7)
    assert pool.running(0) == [7]
    assert pool.running(2) == []


def test_batches_wait_in_order_when_all_workers_are_busy() -> None:
    pool, rules = StatePool(1), make_rules()
    for item in range(4):
        pool.submit(rules, item)
    seen = []
    while pool.sent[0]:
        seen += pool.running(0)
        pool.answer(0)
    assert seen == [0, 1, 2, 3]


def test_a_larger_priority_goes_first() -> None:
    pool, low, high = StatePool(1), make_rules(), make_rules(priority=5)
    pool.submit(low, 0)
    pool.submit(low, 1)
    pool.submit(high, 2)
    pool.answer(0)
    assert pool.running(0) == [2]


def test_a_pinned_batch_waits_for_its_worker_while_others_are_idle() -> None:
    pool, rules = StatePool(2), make_rules()
    pool.submit(rules, 0, worker_id=0)
    pool.submit(rules, 1, worker_id=0)
    assert pool.running(0) == [0]
    assert pool.running(1) == []


def test_pinned_and_shared_batches_keep_the_order_of_submission() -> None:
    pool, rules = StatePool(1), make_rules()
    pool.submit(rules, 0)
    pool.submit(rules, 1)
    pool.submit(rules, 2, worker_id=0)
    pool.answer(0)
    assert pool.running(0) == [1]


def test_a_worker_that_got_a_pinned_batch_is_not_taken_for_free() -> None:
    pool, rules = StatePool(2), make_rules()
    pool.submit(rules, 0, worker_id=0)
    pool.submit(rules, 1)
    pool.submit(rules, 2)
    assert pool.running(0) == [0]
    assert pool.running(1) == [1]


def test_batches_are_accepted_while_the_workers_start() -> None:
    pool, rules = StatePool(2, is_open=False), make_rules()
    pool.submit(rules, 0)
    pool.make_ready(1)
    assert pool.running(1) == [0]
    assert pool.state.phase == "starting"
    pool.make_ready(0)
    assert pool.state.phase == "open"


# ---- sending ahead ---------------------------------------------------------------------------------------------------


def test_short_batches_are_sent_ahead_while_many_wait() -> None:
    pool, rules = StatePool(1), make_rules()
    learn_speed(pool, rules, 0.0001)
    fill_queue(pool, rules)
    pool.answer(0, seconds=0.0001)
    assert len(pool.sent[0]) > 2


def test_long_batches_are_not_sent_ahead() -> None:
    pool, rules = StatePool(1), make_rules()
    learn_speed(pool, rules, 0.1)
    fill_queue(pool, rules)
    pool.answer(0, seconds=0.1)
    assert len(pool.sent[0]) == 1


def test_the_last_batches_are_not_sent_ahead() -> None:
    pool, rules = StatePool(2), make_rules()
    learn_speed(pool, rules, 0.0001)
    fill_queue(pool, rules, 4)
    pool.answer(0, seconds=0.0001)
    assert [len(pool.sent[i]) for i in range(2)] == [1, 1]


def test_short_batches_do_not_wait_behind_a_long_one() -> None:
    pool, long, short = StatePool(1), make_rules(), make_rules()
    learn_speed(pool, short, 0.0001)
    pool.submit(short, 99)
    pool.submit(long, 0)
    fill_queue(pool, short)
    pool.answer(0, seconds=0.0001)
    assert pool.sent[0][-1].rules is long


def test_nothing_is_sent_behind_a_batch_with_a_time_limit() -> None:
    pool, rules = StatePool(1), make_rules(timeout=5.0)
    learn_speed(pool, rules, 0.0001)
    fill_queue(pool, rules)
    pool.answer(0, seconds=0.0001)
    assert len(pool.sent[0]) == 1


# ---- lifetimes -------------------------------------------------------------------------------------------------------


def test_a_worker_is_replaced_after_its_tasks_and_chunks_are_cut_to_fit() -> None:
    pool, rules = StatePool(1, max_tasks_per_worker=3), make_rules()
    pool.submit(rules, 0, 7)
    seen = []
    while rules.outstanding:
        seen.append(pool.running(0))
        pool.answer(0)
        if pool.phase(0) == "ending":
            pool.restart(0)
    assert seen == [[0, 1, 2], [3, 4, 5], [6]]
    assert pool.state.workers[0].generation == 2


def test_recycling_does_not_count_for_the_restart_limit() -> None:
    pool, rules = StatePool(1, max_tasks_per_worker=1, max_restarts=(0, 5.0)), make_rules()
    for item in range(10):
        pool.submit(rules, item)
        pool.answer(0)
        pool.restart(0)
    assert pool.phase(0) == "idle"


def test_recycling_loses_no_state_that_is_told() -> None:
    pool, rules = StatePool(1, max_tasks_per_worker=1), make_rules(needs_state=True)
    for item in range(3):
        pool.submit(rules, item, worker_id=0)
        pool.answer(0)
        pool.restart(0)
    assert not pool.losses


def test_an_attribute_access_does_not_use_up_a_lifetime() -> None:
    pool, rules = StatePool(1, max_tasks_per_worker=1), make_rules(is_task=False)
    for item in range(3):
        pool.submit(rules, item, worker_id=0)
        pool.answer(0)
    assert pool.phase(0) == "idle"

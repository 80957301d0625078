"""What becomes of items that were sent: answered, tried again, or lost with their worker."""

from __future__ import annotations

from concurrent.futures import CancelledError

from objproxy._engine import messages as m
from objproxy._engine.messages import Batch, Rules
from objproxy.errors import (
    ArgumentPickleError,
    PoisonTaskError,
    PoolClosedError,
    RemoteError,
    WorkerDiedError,
)
from state_pool import StatePool, fill_queue, learn_speed, make_rules

DEATHS = (WorkerDiedError,)


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_answers_in_parts_end_each_item_once() -> None:
    pool, rules = StatePool(1), make_rules()
    pool.submit(rules, 10, 5)
    pool.answer(0, 2)
    assert sorted(item for _, item in pool.outcomes) == [10, 11]
    pool.answer(0)
    assert [pool.result(rules, item) for item in range(10, 15)] == [11, 12, 13, 14, 15]
    assert rules.outstanding == 0


def test_a_batch_of_which_all_has_come_and_not_its_end_has_nothing_left_to_fail() -> None:
    pool, rules = StatePool(1), make_rules()
    batch = pool.submit(rules, 0, 2)
    pool.feed(m.Replied(0, 0, batch.seq, [1, 2], (), False, 1.0))
    pool.feed(m.KillAsked(PoolClosedError("now")))
    assert [pool.result(rules, item) for item in range(2)] == [1, 2]


def test_an_answer_of_a_replaced_worker_is_ignored() -> None:
    pool, rules = StatePool(1), make_rules(retries=1, retry_on=DEATHS)
    batch = pool.submit(rules)
    pool.restart(0, 0)
    pool.feed(m.Replied(0, 0, batch.seq, ["late"], (), True, 1.0))
    assert not pool.outcomes
    pool.answer(0)
    assert pool.result(rules) == 1


def test_an_answer_to_another_batch_than_the_one_that_runs_is_ignored() -> None:
    pool, rules = StatePool(1), make_rules()
    batch = pool.submit(rules)
    pool.feed(m.Replied(0, 0, batch.seq - 1, ["late"], (), True, 1.0))
    assert not pool.outcomes
    pool.answer(0)
    assert pool.result(rules) == 1


def test_items_that_an_answer_leaves_out_fail() -> None:
    pool, rules = StatePool(1), make_rules()
    batch = pool.submit(rules, 0, 3)
    pool.feed(m.Replied(0, 0, batch.seq, [1], (), True, 1.0))
    assert isinstance(pool.error(rules, 2), RemoteError)
    assert rules.outstanding == 0


def test_the_slowest_items_are_remembered() -> None:
    pool, rules = StatePool(1), make_rules()
    for item in range(20):
        pool.submit(rules, item)
        pool.answer(0, seconds=float(item % 10))
    assert sorted(seconds for seconds, *_ in pool.state.slowest) == [7.0, 8.0, 8.0, 9.0, 9.0]


def test_a_batch_that_cannot_be_sent_fails_and_its_worker_goes_on() -> None:
    pool, bad, good = StatePool(1), make_rules(), make_rules()
    batch = pool.submit(bad, 0, 2)
    pool.submit(good)
    pool.sent[0].popleft()
    pool.feed(m.SendFailed(0, batch.seq, ArgumentPickleError("work", "", "it was changed")))
    assert isinstance(pool.error(bad, 1), ArgumentPickleError)
    pool.answer(0)
    assert pool.result(good) == 1


def _send_ahead(pool: StatePool) -> tuple[Rules, list[Batch]]:
    """Give a worker two batches at once."""
    rules = make_rules()
    learn_speed(pool, rules, 1e-6)
    fill_queue(pool, rules, 20)
    pool.answer(0, seconds=1e-6)
    return rules, list(pool.sent[0])[:2]


def test_a_batch_behind_another_that_cannot_be_sent_fails_and_the_first_goes_on() -> None:
    pool = StatePool(1)
    rules, (head, behind) = _send_ahead(pool)
    pool.sent[0].remove(behind)
    pool.feed(m.SendFailed(0, behind.seq, ArgumentPickleError("work", "", "it was changed")))
    pool.answer(0)
    assert (pool.result(rules, head.start), type(pool.error(rules, behind.start))) == (head.start + 1, ArgumentPickleError)


def test_the_next_batch_runs_if_the_first_could_not_be_sent() -> None:
    pool = StatePool(1)
    rules, (head, behind) = _send_ahead(pool)
    pool.sent[0].remove(head)
    pool.feed(m.SendFailed(0, head.seq, ArgumentPickleError("work", "", "it was changed")))
    assert rules.running == {0}
    pool.answer(0)
    assert (type(pool.error(rules, head.start)), pool.result(rules, behind.start)) == (ArgumentPickleError, behind.start + 1)


# ---- arguments that cannot be read -----------------------------------------------------------------------------------


def test_a_batch_whose_arguments_cannot_be_read_is_sent_item_by_item() -> None:
    pool, rules = StatePool(1), make_rules()
    batch = pool.submit(rules, 0, 2)
    pool.sent[0].popleft()
    pool.feed(m.Unreadable(0, 0, batch.seq))
    for _ in range(2):
        pool.answer(0)
    assert [pool.result(rules, item) for item in range(2)] == [1, 2]


def test_what_was_sent_behind_a_batch_that_cannot_be_read_runs_meanwhile() -> None:
    pool = StatePool(1)
    rules, (head, behind) = _send_ahead(pool)
    pool.sent[0].popleft()
    pool.feed(m.Unreadable(0, 0, head.seq))
    assert rules.running == {0}
    pool.answer(0)
    assert pool.result(rules, behind.start) == behind.start + 1


def test_a_worker_that_is_ending_is_sent_no_items_one_by_one() -> None:
    pool, rules = StatePool(1), make_rules()
    batch = pool.submit(rules, 0, 2)
    pool.sent[0].popleft()
    pool.feed(m.Cancelled(rules, True))
    pool.feed(m.Unreadable(0, 0, batch.seq))
    assert not pool.sent[0]
    assert [type(pool.error(rules, item)) for item in range(2)] == [CancelledError] * 2


# ---- retries ---------------------------------------------------------------------------------------------------------


def test_an_error_is_tried_again_as_often_as_asked() -> None:
    pool, rules = StatePool(1), make_rules(retries=2, retry_on=(ValueError,))
    pool.submit(rules)
    for _ in range(3):
        pool.answer(0, errors={0: ValueError("no")})
    assert isinstance(pool.error(rules), ValueError)
    assert pool.executions[rules, 0] == 3


def test_only_the_errors_that_were_named_are_tried_again() -> None:
    pool, rules = StatePool(1), make_rules(retries=2, retry_on=(KeyError,))
    pool.submit(rules)
    pool.answer(0, errors={0: ValueError("no")})
    assert isinstance(pool.error(rules), ValueError)


def test_of_a_chunk_only_the_failing_items_are_tried_again() -> None:
    pool, rules = StatePool(1), make_rules(retries=1, retry_on=(ValueError,))
    pool.submit(rules, 0, 6)
    pool.answer(0, errors={1: ValueError(), 4: ValueError(), 5: KeyError()})
    assert sorted(item for _, item in pool.outcomes) == [0, 2, 3, 5]
    assert pool.running(0) == [1]
    pool.answer(0)
    pool.answer(0)
    assert [pool.executions[rules, item] for item in range(6)] == [1, 2, 1, 1, 2, 1]


def test_an_item_that_is_tried_again_keeps_its_place() -> None:
    pool, rules = StatePool(1), make_rules(retries=1, retry_on=(ValueError,))
    for item in range(3):
        pool.submit(rules, item)
    pool.answer(0, errors={0: ValueError()})
    assert pool.running(0) == [0]


def test_a_dropped_item_is_not_tried_again() -> None:
    pool, rules = StatePool(1), make_rules(retries=9, retry_on=(ValueError,))
    pool.submit(rules)
    pool.feed(m.Cancelled(rules, False))
    pool.answer(0, errors={0: ValueError()})
    assert rules.outstanding == 0
    assert pool.running(0) == []


# ---- deaths ----------------------------------------------------------------------------------------------------------


def test_death_fails_only_the_running_item() -> None:
    pool, rules = StatePool(1), make_rules()
    pool.submit(rules, 0, 5)
    pool.restart(0, 2)
    error = pool.error(rules, 2)
    assert isinstance(error, WorkerDiedError)
    assert (error.worker_id, error.item, error.started, error.generation) == (0, 2, True, 0)
    assert pool.running(0) == [3, 4]
    pool.answer(0)
    assert [pool.executions[rules, item] for item in range(5)] == [1, 1, 1, 1, 1]


def test_an_item_that_had_not_started_is_sent_again_and_not_charged() -> None:
    pool, rules = StatePool(1), make_rules()
    pool.submit(rules)
    pool.restart(0)
    pool.answer(0)
    assert pool.result(rules) == 1
    assert pool.executions[rules, 0] == 1


def test_a_death_between_two_items_costs_none() -> None:
    pool, rules = StatePool(1), make_rules()
    pool.submit(rules, 0, 4)
    pool.restart(0, 2, is_running=False)
    pool.answer(0)
    assert [pool.result(rules, item) for item in range(4)] == [1, 2, 3, 4]


def test_what_ran_and_left_no_result_is_charged() -> None:
    pool, rules = StatePool(1), make_rules()
    batch = pool.submit(rules, 0, 4)
    pool.sent.pop(0)
    pool.feed(m.Died(0, 0, -9, started_seq=batch.seq, running=2))
    assert all(isinstance(pool.error(rules, item), WorkerDiedError) for item in range(3))
    assert (rules, 3) not in pool.outcomes


def test_a_death_is_tried_again_elsewhere_if_asked() -> None:
    pool, rules = StatePool(2), make_rules(retries=1, retry_on=DEATHS)
    pool.submit(rules)
    pool.die(1, 0)
    assert pool.running(0) == [0]
    pool.answer(0)
    assert pool.result(rules) == 1


def test_an_item_that_kills_on_each_attempt_is_poison() -> None:
    pool, rules = StatePool(1), make_rules(retries=1, retry_on=DEATHS)
    pool.submit(rules)
    pool.restart(0, 0)
    pool.restart(0, 0)
    error = pool.error(rules)
    assert isinstance(error, PoisonTaskError)
    assert error.attempts == 2


def test_batches_sent_ahead_survive_a_death() -> None:
    pool, rules = StatePool(1), make_rules()
    learn_speed(pool, rules, 0.0001)
    fill_queue(pool, rules)
    pool.answer(0, seconds=0.0001)
    pool.restart(0, 0)
    while pool.sent[0]:
        pool.answer(0)
    assert rules.outstanding == 0
    assert max(pool.executions.values()) == 1


def test_a_dead_worker_is_replaced_with_the_next_generation() -> None:
    pool = StatePool(2)
    pool.die(1)
    assert pool.started[-1] == (1, 1)
    assert pool.phase(1) == "starting"


def test_a_death_is_told_once_to_the_next_task_that_counts_on_the_state() -> None:
    pool = StatePool(1)
    pool.restart(0)
    plain, first, second = make_rules(), make_rules(needs_state=True), make_rules(needs_state=True)
    pool.submit(plain)
    pool.answer(0)
    pool.submit(first, worker_id=0)
    pool.submit(second, worker_id=0)
    pool.answer(0)
    error = pool.error(first)
    assert isinstance(error, WorkerDiedError)
    assert not error.started
    assert pool.result(plain) == pool.result(second) == 1


def test_a_task_that_waits_for_a_starting_worker_is_told_at_once() -> None:
    pool, rules = StatePool(1), make_rules(needs_state=True)
    pool.die(0)
    pool.submit(rules, worker_id=0)
    assert isinstance(pool.error(rules), WorkerDiedError)


def test_a_lost_state_is_told_behind_a_task_that_does_not_count_on_it() -> None:
    pool, plain, counting = StatePool(1), make_rules(), make_rules(needs_state=True)
    pool.die(0)
    pool.submit(plain, worker_id=0)
    pool.submit(counting, worker_id=0)
    pool.make_ready(0)
    assert pool.running(0) == [0]
    pool.answer(0)
    assert isinstance(pool.error(counting), WorkerDiedError)


def test_a_death_that_failed_an_item_is_not_told_again() -> None:
    pool, failing, later = StatePool(1), make_rules(), make_rules(needs_state=True)
    pool.submit(failing)
    pool.restart(0, 0)
    pool.submit(later, worker_id=0)
    pool.answer(0)
    assert pool.result(later) == 1


def test_a_death_hidden_by_a_retry_is_told_to_who_counts_on_the_state() -> None:
    pool, retried, later = StatePool(1), make_rules(retries=1, retry_on=DEATHS), make_rules(needs_state=True)
    pool.submit(retried)
    pool.restart(0, 0)
    pool.answer(0)
    pool.submit(later, worker_id=0)
    assert isinstance(pool.error(later), WorkerDiedError)


def test_two_idle_deaths_in_a_row_are_told_once() -> None:
    pool = StatePool(1)
    pool.restart(0)
    pool.restart(0)
    first, second = make_rules(needs_state=True), make_rules(needs_state=True)
    pool.submit(first, worker_id=0)
    pool.submit(second, worker_id=0)
    error = pool.error(first)
    assert isinstance(error, WorkerDiedError)
    assert error.generation == 0  # whose state the caller knew
    pool.answer(0)
    assert pool.result(second) == 1

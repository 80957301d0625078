"""The ends of workers as rules: who is waited for, told of, killed, and whose failure is told to whom."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from objproxy._engine import messages as m
from objproxy._engine.endings import END_SECONDS
from objproxy._engine.telling import tell
from objproxy.errors import PoolClosedError, TaskTimeoutError, WorkerDiedError, WorkerInitError
from state_pool import StatePool, make_rules


def closing_pool(n_workers: int = 1, **options: Any) -> StatePool:
    """Return a pool whose workers were asked to end."""
    pool = StatePool(n_workers, **options)
    pool.feed(m.CloseAsked())
    assert pool.ended == [(worker_id, 0, "ask") for worker_id in range(n_workers)]
    pool.ended.clear()
    return pool


def kills(pool: StatePool) -> list[int]:
    return [worker_id for worker_id, _, how in pool.ended if how == "kill"]


# ---- who is waited for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["asked", "leaving"])
def test_a_worker_that_hangs_where_it_has_nothing_to_do_is_told_of_and_killed(step: str) -> None:
    pool = closing_pool()
    if step == "leaving":
        pool.pass_time(1.0)
        pool.feed(m.Ending(0, 0, step))
    pool.pass_time(END_SECONDS)
    assert kills(pool) == [0]
    assert pool.told_of_ends == [m.WarnOfEnd(0, step, END_SECONDS, "sleeping", "where it stands", True)]
    pool.die(0)
    assert pool.state.phase == "closed"
    assert pool.state.take_end_errors() == {}


@pytest.mark.parametrize("step", ["finishing", "joining"])
def test_a_worker_that_works_at_its_end_is_told_of_once_and_waited_for(step: str) -> None:
    pool = closing_pool()
    pool.feed(m.Ending(0, 0, step))
    for _ in range(100):
        pool.pass_time(END_SECONDS)
    assert kills(pool) == []
    assert pool.told_of_ends == [m.WarnOfEnd(0, step, END_SECONDS, "sleeping", "where it stands", False)]
    pool.feed(m.Ending(0, 0, "leaving"))
    pool.die(0, exitcode=0)
    assert pool.state.phase == "closed"
    assert pool.state.take_end_errors() == {}


def test_each_step_has_a_grace_period_of_its_own() -> None:
    pool = closing_pool()
    pool.pass_time(END_SECONDS - 0.1)
    pool.feed(m.Ending(0, 0, "finishing"))
    pool.pass_time(END_SECONDS - 0.1)
    pool.feed(m.Ending(0, 0, "leaving"))
    pool.pass_time(END_SECONDS - 0.1)
    assert pool.told_of_ends == []


def test_stall_warning_says_when_honest_work_is_told_of() -> None:
    pool = closing_pool(stall_warning=1.0)
    pool.feed(m.Ending(0, 0, "joining"))
    pool.pass_time(1.0)
    assert [told.is_killed for told in pool.told_of_ends if isinstance(told, m.WarnOfEnd)] == [False]


@pytest.mark.parametrize("step", ["asked", "finishing", "joining", "leaving"])
def test_a_worker_that_is_stopped_is_killed_when_a_second_look_finds_it_so(step: str) -> None:
    pool = closing_pool()
    pool.activity = "stopped"
    if step != "asked":
        pool.feed(m.Ending(0, 0, step))
    pool.pass_time(END_SECONDS)
    assert kills(pool) == []
    pool.pass_time(1.0)
    assert kills(pool) == [0]
    assert [told.activity for told in pool.told_of_ends if isinstance(told, m.WarnOfEnd)] == ["stopped"]


def test_a_worker_that_was_stopped_for_a_moment_goes_on() -> None:
    """A batch system suspends the whole program: the clock has gone on when it wakes."""
    pool = closing_pool()
    pool.feed(m.Ending(0, 0, "joining"))
    for activity in ("stopped", "sleeping", "stopped", "running"):
        pool.activity = activity
        pool.pass_time(END_SECONDS)
    assert kills(pool) == []


def test_a_worker_that_computes_and_tells_nothing_is_waited_for() -> None:
    """A thread of its object may hold the interpreter for as long as its work takes."""
    pool = closing_pool()
    pool.activity = "running"
    for _ in range(10):
        pool.pass_time(END_SECONDS)
    assert kills(pool) == []
    assert len(pool.told_of_ends) == 1
    pool.activity = None
    pool.pass_time(END_SECONDS)
    assert kills(pool) == [0]


def test_work_that_was_submitted_has_no_grace_period() -> None:
    pool, rules = StatePool(1), make_rules()
    pool.submit(rules)
    pool.feed(m.CloseAsked())
    pool.pass_time(100 * END_SECONDS)
    assert pool.ended == []
    pool.answer(0)
    assert pool.ended == [(0, 0, "ask")]


@pytest.mark.parametrize("why", ["recycled", "resized"])
def test_the_end_of_a_worker_that_is_recycled_or_leaves_is_followed_too(why: str) -> None:
    pool, rules = StatePool(2, max_tasks_per_worker=1 if why == "recycled" else None), make_rules()
    pool.submit(rules, worker_id=1)
    pool.answer(1)
    if why == "resized":
        pool.feed(m.Resized(1))
    assert pool.ended == [(1, 0, "ask")]
    pool.pass_time(END_SECONDS)
    assert kills(pool) == [1]
    pool.die(1)
    assert pool.state.workers[0].phase == "idle"


def test_a_worker_whose_constructor_has_failed_and_that_does_not_end_is_killed() -> None:
    pool = StatePool(2)
    pool.die(0)
    pool.feed(m.InitFailed(0, 1, WorkerInitError(0, "no")))
    pool.pass_time(END_SECONDS)
    assert kills(pool) == [0]


# ---- who is told of failures -----------------------------------------------------------------------------------------


def test_what_fails_while_the_pool_is_closed_is_for_the_caller() -> None:
    pool, error = closing_pool(3), ValueError("mine")
    pool.feed(m.Ending(0, 0, "finishing"))
    pool.feed(m.Ending(1, 0, "finishing"))
    pool.feed(m.EndFailed(1, 0, "__exit__", error))
    pool.feed(m.Ending(1, 0, "leaving"))
    for worker_id, exitcode in ((0, -9), (1, 1), (2, 0)):
        pool.die(worker_id, exitcode=exitcode)
    errors = pool.state.take_end_errors()
    assert pool.state.take_end_errors() == {}
    assert sorted(errors) == [0, 1]
    assert errors[1] == ("__exit__", error)
    died = errors[0][1]
    assert isinstance(died, WorkerDiedError)
    assert "SIGKILL. It had been asked to end, and it was running the close() or __exit__ of its object" in str(died)
    assert pool.told_of_ends == []


@pytest.mark.parametrize(
    ("step", "exitcode", "has_failed"),
    [
        ("finishing", 0, True),
        ("joining", 0, True),
        ("leaving", 0, False),
        ("leaving", 3, True),
        ("asked", 0, False),
        ("asked", -9, False),
        ("asked", -11, True),
    ],
)
def test_a_worker_has_ended_well_if_it_came_to_its_last_step_and_to_exit_code_zero(
    step: str, exitcode: int, has_failed: bool
) -> None:
    pool = closing_pool()
    if step != "asked":
        pool.feed(m.Ending(0, 0, step))
    pool.die(0, exitcode=exitcode)
    assert bool(pool.state.take_end_errors()) == has_failed


def test_what_fails_when_a_worker_is_recycled_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    pool, rules, error = StatePool(1, max_tasks_per_worker=1), make_rules(), ValueError("mine")
    pool.submit(rules)
    pool.answer(0)
    pool.feed(m.Ending(0, 0, "finishing"))
    pool.feed(m.EndFailed(0, 0, "close", error))
    pool.die(0, exitcode=1)
    assert pool.told_of_ends == [m.TellEndFailed(0, error)]
    assert pool.started[-1] == (0, 1)
    with caplog.at_level(logging.WARNING, "objproxy"):
        tell(pool.told_of_ends[0])
    assert "the end of worker 0" in caplog.text
    assert "ValueError: mine" in caplog.text


def test_a_worker_that_is_killed_in_its_end_by_the_time_of_close_has_failed() -> None:
    pool = closing_pool(2)
    pool.feed(m.Ending(0, 0, "joining"))
    pool.feed(m.KillAsked(PoolClosedError("late"), seconds=3.0))
    pool.die(0)
    pool.die(1)
    errors = pool.state.take_end_errors()
    assert [type(error) for _, error in errors.values()] == [TaskTimeoutError]
    assert "limit of 3 s on worker 0: it was waiting for threads" in str(errors[0][1])


def test_a_kill_tells_of_no_failure() -> None:
    pool = closing_pool(2)
    pool.feed(m.Ending(0, 0, "finishing"))
    pool.feed(m.KillAsked(PoolClosedError("killed")))
    pool.die(0)
    pool.die(1)
    assert pool.state.take_end_errors() == {}


@pytest.mark.parametrize(
    "event", [m.Ending(9, 0, "joining"), m.Ending(0, 0, "joining"), m.EndFailed(9, 0, "close", ValueError())]
)
def test_what_does_not_fit_is_ignored(event: m.Event) -> None:
    pool = StatePool(1)
    assert pool.feed(event) == []
    assert pool.state.next_deadline() is None


# ---- leaving ---------------------------------------------------------------------------------------------------------


def test_a_pool_that_is_left_asks_the_idle_and_interrupts_the_busy() -> None:
    pool, rules = StatePool(4), make_rules()
    pool.submit(rules, worker_id=1)
    pool.submit(rules, 1, worker_id=1)
    pool.die(2)
    pool.feed(m.KillAsked(PoolClosedError("left"), is_polite=True))
    assert pool.ended == [(0, 0, "leave"), (1, 0, "interrupt"), (2, 1, "kill"), (3, 0, "leave")]
    assert [type(pool.error(rules, item)) for item in range(2)] == [PoolClosedError] * 2
    pool.pass_time(0.5)
    assert pool.ended[4:] == [(1, 0, "kill")]
    for worker_id in range(3):
        pool.die(worker_id)
    pool.feed(m.KillAsked(PoolClosedError("too late")))
    assert pool.ended[5:] == [(3, 0, "kill")]
    pool.die(3)
    assert pool.state.phase == "closed"

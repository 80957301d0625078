"""Workers that die, hang or are replaced: only where they are processes."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from objproxy import PoisonTaskError, PoolBrokenError, TaskTimeoutError, WorkerDiedError
from targets import LIMIT_SECONDS, PATIENCE_SECONDS, Journaled, poll_until
from ways import MakePool

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSEGV", "os._exit"])
def test_a_death_is_the_error_of_the_call_that_ran(make_pool: MakePool, how: str) -> None:
    pool = make_pool()
    pid = pool.workers[1].pid
    with pytest.raises(WorkerDiedError) as caught:
        pool[1].die(how)
    error = caught.value
    assert (error.worker_id, error.pid, error.method, error.started, error.state_lost) == (1, pid, "die", True, True)
    assert (error.signal, error.exitcode) == ((how, -getattr(signal, how)) if how.startswith("SIG") else (None, 3))
    assert pool.wait_ready(PATIENCE_SECONDS)
    assert [worker.generation for worker in pool.workers] == [0, 1]
    assert pool.count().tolist() == [1, 1]


def test_a_death_in_a_broadcast_is_told_with_the_workers_number(make_pool: MakePool) -> None:
    pool = make_pool()
    results = pool.die.options(return_exceptions=True)()
    assert [type(result) for result in results] == [WorkerDiedError] * 2
    assert [result.worker_id for result in results] == [0, 1]
    assert pool.count().tolist() == [1, 1]


@pytest.mark.parametrize("chunksize", [1, 4, 100, None])
@pytest.mark.parametrize("bad", [0, 3, 5, 19])
def test_a_death_in_a_chunk_costs_exactly_the_running_item(make_pool: MakePool, chunksize: int | None, bad: int) -> None:
    pool = make_pool()
    results = pool.die_at.options(on_error="return", chunksize=chunksize).map(range(20), itertools.repeat(bad))
    assert [i for i, result in enumerate(results) if not isinstance(result, int)] == [bad]
    assert isinstance(results[bad], WorkerDiedError)
    assert results[bad].item == bad
    assert [result for result in results if isinstance(result, int)] == [i for i in range(20) if i != bad]


def test_a_death_in_a_lazy_map_comes_in_its_turn(make_pool: MakePool) -> None:
    results = make_pool().die_at.imap(range(6), itertools.repeat(2))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(WorkerDiedError):
        next(results)
    assert list(results) == [3, 4, 5]


def test_no_item_runs_twice_when_its_worker_dies(make_pool: MakePool, tmp_path: Path) -> None:
    pool, path = make_pool(), tmp_path / "tries"
    n_deaths = [1 if item == 7 else 0 for item in range(30)]
    pool.die_first.options(on_error="return", chunksize=10).map(itertools.repeat(path), range(30), n_deaths)
    assert sorted(map(int, path.read_text().split())) == list(range(30))


def test_an_item_that_died_is_tried_again_on_request(make_pool: MakePool, tmp_path: Path) -> None:
    pool, path = make_pool(max_restarts=(10, 5.0)), tmp_path / "tries"
    n_deaths = [0, 1, 2, 0, 0]
    assert pool.die_first.options(retries=2).map(itertools.repeat(path), range(5), n_deaths) == list(range(5))
    tries = path.read_text().split()
    assert [tries.count(str(item)) for item in range(5)] == [1, 2, 3, 1, 1]


def test_an_item_that_kills_on_each_of_its_attempts_is_poison(make_pool: MakePool, tmp_path: Path) -> None:
    pool, path = make_pool(max_restarts=(10, 5.0)), tmp_path / "tries"
    results = pool.die_first.options(retries=1, on_error="return").map(itertools.repeat(path), range(4), [0, 9, 0, 0])
    assert isinstance(results[1], PoisonTaskError)
    assert results[1].attempts == 2
    assert [results[0], results[2], results[3]] == [0, 2, 3]


# ---- deaths while idle -----------------------------------------------------------------------------------------------


def _kill_idle(pool: Any, worker_id: int) -> None:
    """Kill an idle worker from outside and wait until its replacement is there."""
    generation = pool.workers[worker_id].generation
    os.kill(pool.workers[worker_id].pid, signal.SIGKILL)

    def is_replaced() -> bool:
        # Submitted work makes the engine look; it never hears of the death itself.
        pool.nothing.submit().result(PATIENCE_SECONDS)
        return bool(pool.workers[worker_id].generation > generation and pool.wait_ready(PATIENCE_SECONDS))

    poll_until(is_replaced)


@pytest.mark.race
@pytest.mark.parametrize("use", ["broadcast", "instance", "attribute", "set"])
def test_an_idle_death_is_told_once_by_what_needs_the_state(make_pool: MakePool, use: str) -> None:
    pool = make_pool()
    uses = {
        "broadcast": lambda: pool.count(),
        "instance": lambda: pool[1].count(),
        "attribute": lambda: pool.calls,
        "set": lambda: setattr(pool, "calls", 3),
    }
    _kill_idle(pool, 1)
    assert pool.score.map(range(10)) == [2 * x for x in range(10)]
    assert pool[0].score(1) == 2
    with pytest.raises(WorkerDiedError) as caught:
        uses[use]()
    assert (caught.value.worker_id, caught.value.started, caught.value.signal) == (1, False, "SIGKILL")
    uses[use]()
    assert pool.who().tolist() == [0, 1]


@pytest.mark.race
def test_map_and_submit_never_hear_of_an_idle_death(make_pool: MakePool) -> None:
    pool = make_pool()
    os.kill(pool.workers[0].pid, signal.SIGKILL)
    assert pool.score.map(range(50)) == [2 * x for x in range(50)]
    assert pool.score.submit(3).result(PATIENCE_SECONDS) == 6
    assert list(pool.score.imap(range(50))) == [2 * x for x in range(50)]


@pytest.mark.race
def test_each_idle_death_is_told_by_its_own_worker(make_pool: MakePool) -> None:
    pool = make_pool()
    _kill_idle(pool, 0)
    _kill_idle(pool, 1)
    results = pool.count.options(return_exceptions=True)()
    assert [type(result) for result in results] == [WorkerDiedError] * 2
    assert pool.count().tolist() == [1, 1]


# ---- limits ----------------------------------------------------------------------------------------------------------


def test_a_worker_that_dies_too_often_is_given_up_and_the_others_go_on(make_pool: MakePool) -> None:
    pool = make_pool(max_restarts=(1, 100.0))
    for _ in range(2):
        with pytest.raises(WorkerDiedError):
            pool[0].die()
    with pytest.raises(WorkerDiedError, match="quarantined"):
        pool[0].score(1)
    assert [worker.state for worker in pool.workers] == ["quarantined", "idle"]
    assert pool.score.map(range(5)) == [0, 2, 4, 6, 8]
    assert pool[1].score(1) == 2


def test_a_pool_with_no_worker_left_is_broken(make_pool: MakePool) -> None:
    pool = make_pool(worker_count=1, max_restarts=(0, 100.0))
    with pytest.raises(WorkerDiedError):
        pool[0].die()
    with pytest.raises(PoolBrokenError) as caught:
        pool.score(1)
    assert caught.value.__cause__ is not None


def test_an_item_past_its_time_costs_itself_alone(make_pool: MakePool, gates: Any) -> None:
    pool, gate, other = make_pool(max_restarts=(0, 100.0)), gates("gate"), gates("other")
    other.open()
    method = pool.wait_at.options(timeout=LIMIT_SECONDS, on_error="return")
    results = method.map([other, gate, other, other, gate, other], range(6))
    assert [type(result) for result in results] == [int, TaskTimeoutError, int, int, TaskTimeoutError, int]
    assert (results[1].method, results[1].item, results[1].seconds) == ("wait_at", 1, LIMIT_SECONDS)
    assert isinstance(results[1], TimeoutError)
    assert pool.wait_ready(PATIENCE_SECONDS)
    assert pool.score(1).tolist() == [2, 2]


@pytest.mark.parametrize("verb", ["call", "instance", "submit"])
def test_every_verb_has_its_time_limit(make_pool: MakePool, gates: Any, verb: str) -> None:
    pool, gate = make_pool(), gates("gate")
    call = {
        "call": lambda: pool.wait_at.options(timeout=0.2)(gate),
        "instance": lambda: pool[0].wait_at.options(timeout=0.2)(gate),
        "submit": lambda: pool.wait_at.options(timeout=0.2).submit(gate).result(PATIENCE_SECONDS),
    }[verb]
    with pytest.raises(TaskTimeoutError, match=r"0\.2 s"):
        call()
    assert pool.score(1).tolist() == [2, 2]


# ---- what replacements start from ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on_restart", "expected"),
    [("fresh", []), ("replay", ["kept", "kept too"]), ("snapshot", ["kept", "lost", "kept too"])],
)
def test_what_the_replacement_of_a_dead_worker_starts_from(make_pool: MakePool, on_restart: str, expected: list[str]) -> None:
    pool = make_pool(Journaled, on_restart=on_restart)
    keep = pool.step.options(journal=True)
    keep("kept")
    pool.step("lost")
    keep("kept too")
    pool.checkpoint()
    pool.step("later")
    with pytest.raises(WorkerDiedError):
        pool[1].die()
    assert pool[1].read() == expected
    assert pool[1].where() == (1, 1)
    assert pool[0].read() == ["kept", "lost", "kept too", "later"]


def test_a_generator_dies_with_its_worker(make_pool: MakePool) -> None:
    pool = make_pool()
    rows = pool[0].rows(10)
    next(rows)
    with pytest.raises(WorkerDiedError):
        pool[0].die()
    with pytest.raises(RuntimeError, match="lost with the worker"):
        next(rows)
    assert list(rows) == []


def test_what_a_worker_has_started_ends_with_it(make_pool: MakePool, gates: Any) -> None:
    """Time-outs and deaths leave nothing: the leak check of every test looks for grandchildren too."""
    pool, gate = make_pool(), gates("gate")
    with pytest.raises(TaskTimeoutError):
        pool[0].wait_at.options(timeout=0.2)(gate)
    pool.kill()

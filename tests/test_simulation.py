"""Deterministic simulations: many workers, virtual time, and everything that can go wrong.

Each story hangs on its seed alone. To see one again: ``OBJPROXY_SIMULATION_SEED=7 pytest tests/test_simulation.py``.
"""

from __future__ import annotations

import concurrent.futures as cf
import dataclasses
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from objproxy._engine import mapping
from objproxy._engine import messages as m
from objproxy._engine.calls import Call
from objproxy._engine.driver import Driver
from objproxy._engine.mapping import MapRun, ResultIterator, collect
from objproxy._engine.messages import Batch, Failure, Policy
from objproxy._engine.payload import Payload
from objproxy._engine.plan import ItemSource
from objproxy._engine.state import PoolState
from objproxy._engine.verbs import Verbs
from objproxy._worker.wire import Operation
from objproxy.backends import simulated
from objproxy.backends.base import Backend
from objproxy.backends.simulated import DeadlockError, Fate, SimulatedBackend
from objproxy.errors import PoolBrokenError, PoolClosedError, TaskTimeoutError, WorkerDiedError, WorkerInitError
from simulation import ROUGH, Simulation, seeds
from targets import PATIENCE_SECONDS, poll_until

CALM = Fate()
UNSTALLED = dataclasses.replace(ROUGH, stalls=0.0)
RETRY_ON = (WorkerDiedError, TaskTimeoutError, ValueError)


# ---- the state machine alone ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", seeds())
def test_every_item_ends_exactly_once_whatever_happens(seed: int) -> None:
    Simulation(seed, 20, 2000, cancels=0.002, resizes=0.002).run()


@pytest.mark.parametrize("seed", seeds())
def test_every_item_ends_exactly_once_while_workers_are_recycled(seed: int) -> None:
    Simulation(seed, 5, 500, max_tasks_per_worker=7).run()


@pytest.mark.parametrize("seed", seeds())
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_every_item_ends_exactly_once_though_tasks_overlap(seed: int, share: float) -> None:
    """Concurrent tasks die with their worker, are stopped or not, and are mixed with calls that run alone."""
    Simulation(seed, 6, 400, concurrent=share, cancels=0.02, resizes=0.01, max_tasks_per_worker=50).run()


@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds()[:2])
@pytest.mark.parametrize(("n_workers", "n_items"), [(1000, 100_000), (10_000, 1_000_000)])
def test_every_item_ends_exactly_once_in_a_very_large_pool(seed: int, n_workers: int, n_items: int) -> None:
    Simulation(seed, n_workers, n_items, cancels=0.0001, max_chunk=10).run()


def test_the_same_seed_tells_the_same_story() -> None:
    stories = [Simulation(5, 10, 500, cancels=0.01) for _ in range(2)]
    for story in stories:
        story.run()
    first, second = [(story.n_events, story.backend.now(), story.backend.n_deaths) for story in stories]
    assert first == second
    assert first[2] > 0


# ---- the driver ----------------------------------------------------------------------------------------------------


class SimulatedPool:
    """A driver that turns a simulation."""

    def __init__(self, seed: int, n_workers: int, fate: Fate, **options: Any) -> None:
        options = {"max_restarts": (10**9, 5.0), "init_timeout": 5.0, **options}
        self.backend = SimulatedBackend(seed, fate)
        self.n_workers = n_workers
        self.driver = Driver(PoolState(n_workers, **options), self.backend)
        self.verbs = Verbs(self.driver, lambda _operation, _exc: "")

    def __enter__(self) -> SimulatedPool:
        self.driver.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.driver.close()
        assert self.driver.state.phase == "closed"

    def run(self, items: Any, policy: Policy, **options: Any) -> MapRun:
        return self.verbs.run(ItemSource("work", [items], {}), self.n_workers, policy, **options)

    def check_executions(self, call: Call) -> None:
        assert max(self.backend.executions[call].values()) <= 1 + call.retries


MakePool = Callable[..., SimulatedPool]


@pytest.fixture(autouse=True)
def nobody_turns_the_engine_but_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow consumer, on a busy machine, would call the pump: a second thread, and another story."""
    monkeypatch.setattr(mapping, "_SLOW_CONSUMER_SECONDS", float("inf"))


def flatten(pieces: list[Any]) -> list[Any]:
    return [outcome for piece in pieces for outcome in piece]


def check_results(outcomes: list[Any], n_items: int) -> None:
    assert len(outcomes) == n_items
    for item, outcome in enumerate(outcomes):
        assert type(outcome) is Failure or outcome == item + 1


def iterate(run: MapRun, *, is_ordered: bool, failed: list[int]) -> ResultIterator:
    def keep(index: int, error: BaseException, *_more: Any) -> BaseException:
        failed.append(index)
        return error

    return ResultIterator(
        run,
        is_ordered=is_ordered,
        on_failure=keep,
        on_progress=lambda _count: None,
        on_end=lambda: None,
        on_value=lambda value: value,
    )


@pytest.mark.parametrize("seed", seeds())
@pytest.mark.parametrize("chunksize", [None, 1, 7])
def test_a_map_gives_every_result_in_order(seed: int, chunksize: int | None) -> None:
    with SimulatedPool(seed, 8, UNSTALLED) as pool:
        run = pool.run(range(500), Policy(None, 2, RETRY_ON), chunksize=chunksize)
        check_results(flatten(collect(run, lambda _arrival: None)), 500)
        pool.check_executions(run.call)


@pytest.mark.parametrize("seed", seeds()[:4])
def test_a_map_of_tasks_that_overlap_gives_every_result(seed: int) -> None:
    with SimulatedPool(seed, 8, ROUGH) as pool:
        run = pool.run(range(300), Policy(0.5, 1, RETRY_ON, concurrency=10))
        check_results(flatten(collect(run, lambda _arrival: None)), 300)
        pool.check_executions(run.call)


@pytest.mark.parametrize("seed", seeds())
def test_slow_unpickling_costs_no_item_its_time(seed: int) -> None:
    """The limit is beyond what an item takes by far, and most arguments take longer than that to unpickle."""
    with SimulatedPool(seed, 8, Fate(item_seconds=0.001, unpickle_seconds=1.0)) as pool:
        run = pool.run(range(300), Policy(0.1))
        assert flatten(collect(run, lambda _arrival: None)) == [item + 1 for item in range(300)]


@pytest.mark.parametrize("seed", seeds())
def test_a_map_with_a_time_limit_survives_stalls(seed: int) -> None:
    with SimulatedPool(seed, 8, ROUGH) as pool:
        run = pool.run(range(300), Policy(0.5, 1, RETRY_ON))
        check_results(flatten(collect(run, lambda _arrival: None)), 300)
        pool.check_executions(run.call)


@pytest.mark.parametrize("seed", seeds())
@pytest.mark.parametrize("is_ordered", [True, False])
@pytest.mark.parametrize("buffersize", [1, 3, 40])
def test_a_lazy_map_never_pulls_more_than_the_buffersize_ahead(seed: int, is_ordered: bool, buffersize: int) -> None:
    n_pulled, n_yielded = 0, 0

    def items() -> Iterator[int]:
        nonlocal n_pulled
        for item in range(200):
            n_pulled += 1
            assert n_pulled - n_yielded <= buffersize
            yield item

    with SimulatedPool(seed, 4, UNSTALLED) as pool:
        run = pool.run(items(), Policy(None, 1, RETRY_ON), buffersize=buffersize, is_lazy=True)
        failed: list[int] = []
        values = []
        for value in iterate(run, is_ordered=is_ordered, failed=failed):
            n_yielded += 1
            values.append(value)
        pool.check_executions(run.call)
    good = [value for value in values if isinstance(value, int)]
    assert len(values) == 200
    assert sorted(good) == [item + 1 for item in range(200) if item not in failed]
    assert not is_ordered or good == sorted(good)


@pytest.mark.parametrize("seed", seeds())
def test_a_lazy_map_can_be_left_and_the_pool_stays_usable(seed: int) -> None:
    with SimulatedPool(seed, 4, UNSTALLED) as pool:
        iterator = iterate(pool.run(iter(int, 1), Policy(), is_lazy=True), is_ordered=True, failed=[])
        assert sum(1 for _value, _ in zip(iterator, range(50), strict=False)) == 50
        iterator.close()
        check_results(flatten(collect(pool.run(range(50), Policy()), lambda _arrival: None)), 50)


@pytest.mark.parametrize("seed", seeds())
def test_a_broadcast_runs_exactly_once_on_every_worker(seed: int) -> None:
    with SimulatedPool(seed, 30, dataclasses.replace(CALM, dies_before=0.1, dies_idle=0.3)) as pool:
        for _ in range(10):
            operation = Operation("call", "work", (1,), {})
            outcomes = pool.verbs.every(operation)
            assert all(type(outcome) is Failure or outcome == 2 for outcome in outcomes)
        for call, executions in pool.backend.executions.items():
            assert max(executions.values()) == 1
            assert call.outstanding == 0


@pytest.mark.parametrize("seed", seeds())
def test_each_call_sees_one_set_of_workers_while_the_pool_changes(seed: int) -> None:
    """Its size changes before each round of a call, and while a broadcast is on its way."""
    with SimulatedPool(seed, 8, UNSTALLED) as pool:
        sizes = random.Random(seed)

        def resize(*_event: Any) -> None:
            pool.driver.resize(sizes.randint(1, 8), lambda: None)

        for _ in range(5):
            n_workers = pool.driver.state.n_workers
            items = (item for item in range(30) if resize() is None)
            pieces = pool.verbs.rounds(ItemSource("work", [items], {}), resize)
            outcomes = flatten(pieces)
            check_results(outcomes, 30)
            errors = [outcome.error for outcome in outcomes if type(outcome) is Failure]
            assert all("no longer part" not in str(error) for error in errors)
            assert len(pieces) == 30
            outcomes = pool.verbs.every(Operation("call", "work", (1,), {}), on_begin=resize, on_arrival=resize)
            assert all("no longer part" not in str(outcome.error) for outcome in outcomes if type(outcome) is Failure)
            assert 1 <= n_workers <= 8
        pool.driver.wait_until(lambda: len(pool.driver.state.workers) == pool.driver.state.n_workers)


@pytest.mark.parametrize("seed", seeds())
def test_each_idle_death_is_told_exactly_once(seed: int) -> None:
    """The story knows who has died; each death is told by the next broadcast, and by no other."""
    n_workers = 10
    with SimulatedPool(seed, n_workers, CALM) as pool:
        n_told = 0
        for dead in ({seed % n_workers}, (), {0, n_workers - 1}, set(range(n_workers)), ()):
            pool.driver.wait_until(lambda: pool.driver.state.n_starting == 0)
            for worker_id in dead:
                pool.backend.crash(worker_id)
            outcomes = pool.verbs.every(Operation("call", "work", (1,), {}))
            told = [i for i, outcome in enumerate(outcomes) if type(outcome) is Failure]
            assert told == sorted(dead)
            n_told += len(told)
        assert n_told == pool.backend.n_deaths


@pytest.mark.parametrize("seed", seeds())
def test_cancelled_futures_end_and_leave_the_pool_usable(seed: int) -> None:
    with SimulatedPool(seed, 3, dataclasses.replace(CALM, stalls=0.3)) as pool:
        calls = [Call("work", Policy()) for _ in range(20)]
        for call in calls:
            payload = pool.verbs.encode(Operation("call", "work", (1,), {}))
            pool.driver.submit([Batch(call, 0, 1, payload)])
        pool.driver.wait_until(lambda: False, pool.backend.now() + 1.0)
        for call in calls:
            pool.driver.cancel(call, and_running=True)
        pool.driver.wait_until(lambda: not any(call.outstanding for call in calls))
        assert pool.driver.state.n_outstanding == 0


@pytest.mark.parametrize("seed", seeds())
def test_a_killed_pool_ends_everything(seed: int) -> None:
    pool = SimulatedPool(seed, 5, ROUGH).__enter__()
    call = Call("work", Policy())
    batches = [
        Batch(call, i, 1, Payload(Operation("map", "work", ((i,),), ()), Operation("map", "work", ((i,),), ())))
        for i in range(50)
    ]
    pool.driver.submit(batches)
    pool.driver.wait_until(lambda: False, pool.backend.now() + 0.02)
    pool.driver.kill(PoolClosedError("killed"))
    assert pool.driver.state.phase == "closed"
    assert call.outstanding == 0
    assert sum(len(arrival.outcomes) for arrival in call.take()) == 50


@pytest.mark.parametrize("seed", seeds())
def test_a_pool_ends_however_its_workers_end_and_tells_what_has_failed(seed: int) -> None:
    """Work is waited for; what hangs is killed; who closes is told of the failures, and of nothing else."""
    fate = dataclasses.replace(CALM, works_at_end=0.5, hangs_at_end=0.2, fails_at_end=0.5)
    pool = SimulatedPool(seed, 30, fate).__enter__()
    pool.driver.close()
    assert pool.driver.state.phase == "closed"
    errors = pool.driver.state.take_end_errors()
    assert 0 < len(errors) < 30
    assert {str(error) for _, error in errors.values()} == {"so the seed says"}


@pytest.mark.parametrize("seed", seeds())
def test_workers_that_are_recycled_may_work_and_hang_at_their_end(seed: int) -> None:
    fate = dataclasses.replace(CALM, works_at_end=0.3, hangs_at_end=0.2, fails_at_end=0.3)
    with SimulatedPool(seed, 4, fate, max_tasks_per_worker=5) as pool:
        run = pool.run(range(100), Policy(), chunksize=1)
        check_results(flatten(collect(run, lambda _arrival: None)), 100)


def test_a_pool_whose_constructors_fail_is_not_made() -> None:
    fate = dataclasses.replace(CALM, constructor_raises=1.0, spares_first=False)
    with pytest.raises(WorkerInitError):
        SimulatedPool(0, 5, fate).__enter__()


def test_a_pool_whose_constructors_stall_is_not_made() -> None:
    fate = dataclasses.replace(CALM, constructor_stalls=1.0, spares_first=False)
    with pytest.raises(WorkerInitError, match="init_timeout"):
        SimulatedPool(0, 5, fate, init_timeout=2.0).__enter__()


def test_a_pool_whose_workers_die_all_the_time_breaks() -> None:
    pool = SimulatedPool(0, 3, dataclasses.replace(CALM, dies=1.0), max_restarts=(3, 5.0)).__enter__()
    run = pool.run(range(50), Policy())
    with pytest.raises(PoolBrokenError) as caught:
        collect(run, lambda _arrival: None)
    assert isinstance(caught.value.__cause__, WorkerDiedError)
    assert run.call.outstanding == 0
    pool.driver.close()
    assert pool.driver.state.phase == "closed"


def test_waiting_for_what_never_comes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated, "_PATIENCE_SECONDS", 0.0)
    with pytest.raises(DeadlockError):
        SimulatedBackend().wait(None)


def test_what_another_thread_is_about_to_send_is_waited_for() -> None:
    backend: Any = SimulatedBackend()
    with cf.ThreadPoolExecutor(1) as executor:
        events = executor.submit(backend.wait, None)
        poll_until(lambda: backend._changed._waiters)
        backend.start(0, 0)
        assert events.result(PATIENCE_SECONDS) == [m.Ready(0, 0)]


def test_the_simulation_is_a_back_end() -> None:
    def take(_backend: Backend) -> None:
        pass

    take(SimulatedBackend())

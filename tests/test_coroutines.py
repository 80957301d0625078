"""Coroutine methods in worker processes: time limits, deaths, forks, what goes on in the background; and through the faces."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from coroutine_targets import Client
from objproxy import ProxyPool, TaskTimeoutError, WorkerDiedError
from objproxy._engine import messages as m
from objproxy._worker import journal as journals
from objproxy._worker import wire
from objproxy._worker.event_loop import EventLoop, is_awaitable
from objproxy.backends.replies import recover
from objproxy.mpire import WorkerPool
from objproxy.mtasklite import Pool
from objproxy.ompr import OMPRunner, RunningWorker
from objproxy.workercontext import MultiWorker
from objproxy.workercontext.reductions import flatten_reduction
from targets import LIMIT_SECONDS, PATIENCE_SECONDS, poll_until


def make_pool(**options: Any) -> ProxyPool[Client]:
    return ProxyPool(Client, worker_count=1, **options)


# ---- time limits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"concurrency": 4}])
def test_a_time_limit_cancels_a_coroutine_and_nothing_else(options: dict[str, int], gates: Any) -> None:
    with make_pool() as pool:
        wait = pool.wait_if.options(timeout=LIMIT_SECONDS / 3, on_error="return", **options)
        results = wait.map(range(4), itertools.repeat(gates("gate")), itertools.repeat(gates("started")))
        assert [result for result in results if not isinstance(result, Exception)] == [0, 1, 3]
        assert type(results[2]) is TaskTimeoutError
        assert "await self.wait(gate, started)" in results[2].stack
        assert pool[0].notes == ["cancelled"]
        assert pool.workers[0].generation == 0


def test_a_time_limit_holds_for_single_calls(gates: Any) -> None:
    gate, started = gates("gate"), gates("started")
    with make_pool() as pool:
        for call in (
            lambda: pool[0].wait.options(timeout=0.1)(gate, started),
            lambda: pool.wait.options(timeout=0.1)(gate, started),
            lambda: pool.wait.options(timeout=0.1).submit(gate, started).result(PATIENCE_SECONDS),
        ):
            with pytest.raises(TaskTimeoutError):
                call()
        assert pool[0].notes == ["cancelled"] * 3
        assert pool.workers[0].generation == 0


def test_a_worker_that_is_held_up_is_replaced(gates: Any) -> None:
    """Item 2 does not await."""
    with make_pool() as pool:
        results = pool.block.options(timeout=LIMIT_SECONDS / 3, concurrency=4, on_error="return").map(range(3))
        assert type(results[2]) is TaskTimeoutError
        assert "in block" in results[2].stack
        pool.wait_ready(PATIENCE_SECONDS)
        assert pool.workers[0].generation == 1
        assert pool[0].double(1) == 2


def test_a_coroutine_that_cannot_be_cancelled_is_ended_with_its_worker(gates: Any) -> None:
    with make_pool() as pool:
        future = pool.wait_bravely.submit(gates("gate"), started := gates("started"))
        poll_until(lambda: started.is_open)
        assert future.cancel()
        assert pool[0].double.submit(2).result(PATIENCE_SECONDS) == 4
        assert pool.workers[0].generation == 1


async def _time_out(pool: ProxyPool[Client], gate: Any, started: Any) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(pool.wait.aio(gate, started), LIMIT_SECONDS / 3)


def test_what_asyncio_cancels_costs_no_worker(gates: Any) -> None:
    with make_pool() as pool:
        asyncio.run(_time_out(pool, gates("gate"), gates("started")))
        assert pool[0].notes == ["cancelled"]
        assert pool.workers[0].generation == 0


async def _cancel_second_item(pool: ProxyPool[Client], gate: Any) -> None:
    stream = pool[0].ticks(gate)
    assert await anext(stream) == 0
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(stream), LIMIT_SECONDS / 3)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


def test_an_item_of_a_generator_that_asyncio_cancels_ends_the_generator_alone(gates: Any) -> None:
    with make_pool() as pool:
        asyncio.run(_cancel_second_item(pool, gates("gate")))
        assert pool[0].notes == ["end of ticks"]
        assert pool.workers[0].generation == 0


def test_a_worker_may_run_tasks_while_an_item_of_a_generator_is_awaited(gates: Any) -> None:
    gate = gates("gate")
    with make_pool() as pool, pool[0].ticks.options(concurrency=2)(gate) as stream:
        assert next(stream) == 0
        with ThreadPoolExecutor(1) as executor:
            item = executor.submit(next, stream)
            assert pool[0].double.options(concurrency=2)(2) == 4
            gate.open()
            assert item.result(PATIENCE_SECONDS) == 1


# ---- deaths ----------------------------------------------------------------------------------------------------------


def test_a_death_costs_the_tasks_that_run(gates: Any) -> None:
    """Item 0 has ended, 1 and 2 run, and 3 has not been sent."""
    with make_pool() as pool:
        die = pool.die.options(concurrency=2, on_error="return")
        results = die.map([0, 1, 2, 3], itertools.repeat(gates("started")), itertools.repeat(gates("gate")))
        assert [type(result) for result in results] == [int, WorkerDiedError, WorkerDiedError, int]
        assert all(result.started and result.exitcode == 3 for result in results[1:3])
        retrying = pool.die_once.options(concurrency=4, retries=1)
        assert retrying.map(range(5), itertools.repeat(gates("before"))) == [0, 1, 2, 3, 4]


def test_the_journal_tells_which_tasks_had_begun() -> None:
    fd = journals.create()
    journal = journals.Journal(fd)
    os.close(fd)
    try:
        journal.begin(3)
        journal.slots[wire.INTS][0] = 77  # a result of the batch before
        journal.open_tasks()
        assert journal.recover_tasks() == frozenset()
        for place, seq in enumerate((5, 6, 7)):
            journal.begin_task(place, seq)
        journal.begin_item_of_task(1)
        journal.end_task(0)
        assert journal.recover_tasks() == {6, 7}
        assert journal.began_task(6) > 0
        assert journal.began_task(7) == journal.began_task(5) == math.inf
        journal.begin(8)
        assert journal.recover_tasks() == frozenset()
    finally:
        journal.close()


def test_a_damaged_journal_blames_every_task() -> None:
    """One that had begun may have run, and nobody knows which those are."""
    fd = journals.create()
    journal = journals.Journal(fd)
    os.close(fd)
    try:
        journal.open_tasks()
        journal.header[journals.LIMIT] = 1 << 40
        link = SimpleNamespace(tasks={5: "work", 6: "work"}, journal=journal)
        died = recover(link, m.Died(0, 0))  # type: ignore[arg-type]
        assert died.begun == {5, 6}
        assert "damaged" in died.detail
    finally:
        journal.close()


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_process_that_a_coroutine_forks_answers_for_nothing() -> None:
    with make_pool() as pool:
        assert pool.fork.options(concurrency=3).map(range(6)) == list(range(6))
        assert pool.fork.map(range(3)) == [0, 1, 2]
        assert pool[0].double(2) == 4
        assert pool.workers[0].generation == 0


# ---- beside the calls ------------------------------------------------------------------------------------------------


def test_tasks_of_the_object_go_on_between_calls() -> None:
    with make_pool() as pool:
        pool[0].start_beating()
        before = pool[0].beats
        poll_until(lambda: pool[0].beats > before + 3)


def test_what_has_to_be_awaited_is_known() -> None:
    async def coroutine() -> None:
        pass

    made = coroutine()
    assert is_awaitable(made)
    made.close()
    for value in (1, None, [], iter(()), (x for x in ()), asyncio.Future, Client):
        assert not is_awaitable(value)


def test_an_interrupt_ends_a_coroutine_which_may_clean_up() -> None:
    loop, notes = EventLoop(), []

    async def interrupted() -> None:
        task = asyncio.current_task()
        asyncio.get_running_loop().call_soon(_interrupt)
        try:
            await asyncio.sleep(PATIENCE_SECONDS)
        finally:
            notes.append(task)

    with pytest.raises(KeyboardInterrupt):
        loop.run(interrupted())
    assert len(notes) == 1
    loop.close()


def _interrupt() -> None:
    raise KeyboardInterrupt


def test_tasks_overlap_in_the_thread_of_the_caller() -> None:
    with make_pool(backend="serial") as pool:
        meet = pool.meet.options(concurrency=5)
        assert meet.map(range(5), itertools.repeat(5)) == [0, 1, 2, 3, 4]
        pool.leave()
        assert list(meet.imap(range(5), itertools.repeat(5))) == [0, 1, 2, 3, 4]


# ---- the faces -------------------------------------------------------------------------------------------------------


async def double(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


class Doubler(RunningWorker):
    def __init__(self, device: Any = None) -> None:
        self.device = device

    async def process(self, x: int) -> int:  # type: ignore[override]
        return await double(x)


async def double_all(numbers: list[int]) -> list[int]:
    return [await double(number) for number in numbers]


def test_functions_and_methods_of_every_face_may_be_coroutines() -> None:
    with WorkerPool(n_jobs=1) as mpire_pool:
        assert mpire_pool.map(double, range(5)) == [0, 2, 4, 6, 8]
        assert mpire_pool.apply_async(double, (4,)).get(PATIENCE_SECONDS) == 8
    with Pool(double, 1) as task_pool:
        assert list(task_pool(range(5))) == [0, 2, 4, 6, 8]
    with MultiWorker(double_all, n_processes=1, batched_arg="numbers", reduction=flatten_reduction) as run:
        assert list(run(numbers=[1, 2, 3])) == [2, 4, 6]
    runner = OMPRunner(Doubler, devices=["cpu"], log_rww_exception=False)
    try:
        runner.process([{"x": 1}, {"x": 2}])
        assert sorted([runner.get_result(), runner.get_result()]) == [2, 4]
    finally:
        runner.exit()

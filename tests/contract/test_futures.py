"""`submit` and its futures; `aio` and `aimap`."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from objproxy import ArgumentPickleError, PoolClosedError, ProxyPool
from targets import PATIENCE_SECONDS, CustomError, Model, poll_until
from ways import MakePool


def test_a_future_is_a_real_one(shared_pool: ProxyPool[Model]) -> None:
    future = shared_pool.score.submit(4, bias=1)
    assert isinstance(future, cf.Future)
    assert future.result(PATIENCE_SECONDS) == 9
    assert future.done()
    assert not future.cancelled()
    assert not future.running()
    assert future.exception() is None
    assert not future.cancel()


def test_a_future_has_the_methods_error(shared_pool: ProxyPool[Model]) -> None:
    future = shared_pool.raise_custom.submit()
    assert isinstance(future.exception(PATIENCE_SECONDS), CustomError)
    with pytest.raises(CustomError, match="custom") as caught:
        future.result()
    assert any("raise_custom" in note and "worker" in note for note in caught.value.__notes__)


def test_futures_can_be_waited_for_together(shared_pool: ProxyPool[Model]) -> None:
    futures = [shared_pool.score.submit(x) for x in range(20)]
    done, pending = cf.wait(futures, PATIENCE_SECONDS)
    assert not pending
    assert sorted(future.result() for future in done) == [2 * x for x in range(20)]


def test_futures_come_as_they_complete(shared_pool: ProxyPool[Model]) -> None:
    futures = {shared_pool.score.submit(x): x for x in range(20)}
    seen = {futures[future]: future.result() for future in cf.as_completed(futures, PATIENCE_SECONDS)}
    assert seen == {x: 2 * x for x in range(20)}


def test_callbacks_are_called_and_may_use_the_pool(shared_pool: ProxyPool[Model]) -> None:
    told: list[Any] = []
    is_told = threading.Event()

    def callback(future: cf.Future[Any]) -> None:
        told.append((future.result(), shared_pool.score(future.result()).tolist()))
        is_told.set()

    shared_pool.score.submit(2).add_done_callback(callback)
    assert is_told.wait(PATIENCE_SECONDS)
    assert told == [(4, [8, 8, 8])]


def test_nobody_needs_to_wait_for_a_future_to_end(shared_pool: ProxyPool[Model]) -> None:
    future = shared_pool.score.submit(2)
    poll_until(future.done)
    assert future.result() == 4


def test_the_thread_behind_futures_ends_when_there_are_none(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.score.submit(2).result(PATIENCE_SECONDS)
    poll_until(lambda: "objproxy-pump" not in [thread.name for thread in threading.enumerate()])
    assert pool.score.submit(3).result(PATIENCE_SECONDS) == 6


@pytest.mark.concurrent
def test_waiting_for_a_result_can_time_out(make_pool: MakePool, gates: Any) -> None:
    pool, gate = make_pool(), gates("gate")
    future = pool.wait_at.submit(gate, 3)
    with pytest.raises(TimeoutError):
        future.result(timeout=0.01)
    with pytest.raises(TimeoutError):
        future.exception(timeout=0.01)
    gate.open()
    assert future.result(PATIENCE_SECONDS) == 3


@pytest.mark.concurrent
def test_a_queued_call_can_be_cancelled_and_never_runs(make_pool: MakePool, gates: Any) -> None:
    pool, gate, started = make_pool(worker_count=1), gates("gate"), gates("started")
    running = pool.report_and_wait.submit(started, gate, 1)
    started.wait()
    queued, behind = pool.count.submit(), pool.echo.submit("behind")
    assert not queued.running()
    assert queued.cancel()
    assert queued.cancelled()
    assert queued.cancel()
    gate.open()
    assert running.result(PATIENCE_SECONDS) == 1
    assert behind.result(PATIENCE_SECONDS) == "behind"
    with pytest.raises(cf.CancelledError):
        queued.result()
    assert pool.calls.tolist() == [0]


@pytest.mark.race
@pytest.mark.processes
def test_cancelling_a_running_call_replaces_its_worker_and_nobody_is_told_of_a_loss(make_pool: MakePool, gates: Any) -> None:
    pool, gate, started = make_pool(worker_count=1, max_restarts=(0, 100.0)), gates("gate"), gates("started")
    for generation in range(3):
        future = pool.report_and_wait.submit(started, gate)
        behind = pool.facts.submit()
        started.wait()
        started.path.unlink()
        poll_until(future.running)
        assert future.cancel()
        assert future.cancelled()
        assert behind.result(PATIENCE_SECONDS)["generation"] == generation + 1
        assert pool.score(1).tolist() == [2]
    assert pool.workers[0].state == "idle"


@pytest.mark.race
@pytest.mark.processes
def test_waiters_are_told_of_a_cancelled_call(make_pool: MakePool, gates: Any) -> None:
    pool, gate, started = make_pool(), gates("gate"), gates("started")
    future, told = pool.report_and_wait.submit(started, gate), []
    future.add_done_callback(told.append)
    started.wait()
    waiter = threading.Thread(target=lambda: told.append(cf.wait([future], PATIENCE_SECONDS).done))
    waiter.start()
    future.cancel()
    waiter.join(PATIENCE_SECONDS)
    assert future in told
    assert {future} in told


@pytest.mark.in_memory
@pytest.mark.concurrent
def test_cancelling_a_running_call_of_a_thread_lets_the_pool_go_on(make_pool: MakePool, gates: Any) -> None:
    pool, gate, started = make_pool(), gates("gate"), gates("started")
    future = pool.report_and_wait.submit(started, gate)
    started.wait()
    assert future.cancel()
    gate.open()
    assert pool.score(1).tolist() == [2, 2]


@pytest.mark.concurrent
def test_larger_priority_goes_first(make_pool: MakePool, gates: Any, tmp_path: Any) -> None:
    pool, gate, started, path = make_pool(worker_count=1), gates("gate"), gates("started"), tmp_path / "lines"
    futures = [pool.report_and_wait.submit(started, gate)]
    started.wait()
    futures += [pool.append_line.options(priority=rank).submit(path, rank) for rank in (0, 5, -1, 5, 1)]
    gate.open()
    cf.wait(futures, PATIENCE_SECONDS)
    assert path.read_text().split() == ["5", "5", "1", "0", "-1"]


@pytest.mark.race
@pytest.mark.concurrent
def test_killing_the_pool_ends_every_pending_future(make_pool: MakePool, gates: Any) -> None:
    pool, gate, started = make_pool(worker_count=1), gates("gate"), gates("started")
    futures = [pool.report_and_wait.submit(started, gate), pool.echo.submit(1), pool.echo.submit(2)]
    started.wait()
    pool.kill()
    assert not cf.wait(futures, PATIENCE_SECONDS).not_done
    assert [type(future.exception()) for future in futures] == [PoolClosedError] * 3


@pytest.mark.race
@pytest.mark.concurrent
def test_closing_the_pool_finishes_every_pending_future(make_pool: MakePool, gates: Any) -> None:
    pool, gate, started = make_pool(worker_count=1), gates("gate"), gates("started")
    futures = [pool.report_and_wait.submit(started, gate, 0), *(pool.echo.submit(i) for i in range(1, 5))]
    started.wait()
    closing = threading.Thread(target=pool.close)
    closing.start()
    gate.open()
    closing.join(PATIENCE_SECONDS)
    assert [future.result(PATIENCE_SECONDS) for future in futures] == [0, 1, 2, 3, 4]


# ---- asyncio ---------------------------------------------------------------------------------------------------------


def test_a_call_can_be_awaited(shared_pool: ProxyPool[Model]) -> None:
    async def main() -> list[Any]:
        one: Any = shared_pool[1]
        return await asyncio.gather(*(shared_pool.score.aio(x) for x in range(10)), one.who.aio())

    assert asyncio.run(main()) == [*(2 * x for x in range(10)), 1]


def test_an_awaited_call_raises_its_error(shared_pool: ProxyPool[Model]) -> None:
    async def main() -> None:
        await shared_pool.raise_custom.aio()

    with pytest.raises(CustomError):
        asyncio.run(main())


def test_a_future_can_be_wrapped(shared_pool: ProxyPool[Model]) -> None:
    async def main() -> Any:
        return await asyncio.wrap_future(shared_pool.score.submit(3))

    assert asyncio.run(main()) == 6


@pytest.mark.processes
def test_cancelling_the_await_cancels_the_call(make_pool: MakePool, gates: Any) -> None:
    pool, gate, started = make_pool(worker_count=1), gates("gate"), gates("started")

    async def main() -> None:
        task = asyncio.create_task(pool.report_and_wait.aio(started, gate))
        while not started.is_open:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert pool.facts(stack_results=False)[0]["generation"] == 1


def test_a_lazy_map_for_async_for(shared_pool: ProxyPool[Model]) -> None:
    async def numbers() -> AsyncIterator[int]:
        for x in range(20):
            await asyncio.sleep(0)
            yield x

    async def main() -> tuple[list[Any], list[Any], list[Any]]:
        plain = [result async for result in shared_pool.score.aimap(range(20))]
        mixed = [result async for result in shared_pool.score.aimap(numbers(), [3] * 30, bias=range(50))]
        empty = [result async for result in shared_pool.score.aimap([])]
        return plain, mixed, empty

    plain, mixed, empty = asyncio.run(main())
    assert plain == [2 * x for x in range(20)]
    assert mixed == [4 * x for x in range(20)]
    assert empty == []


@pytest.mark.parametrize("buffersize", [1, 4])
def test_a_lazy_map_for_async_for_keeps_its_buffersize(shared_pool: ProxyPool[Model], buffersize: int) -> None:
    worst = n_pulled = n_yielded = 0

    def items() -> Any:
        nonlocal n_pulled, worst
        while True:
            n_pulled += 1
            worst = max(worst, n_pulled - n_yielded)
            yield n_pulled

    async def main() -> None:
        nonlocal n_yielded
        results = shared_pool.score.options(buffersize=buffersize).aimap(items())
        async for _ in results:
            n_yielded += 1
            if n_yielded == 30:
                break
        await results.aclose()

    asyncio.run(main())
    assert worst <= buffersize


@pytest.mark.parametrize(("on_error", "expected"), [("return", ["0", "bad item 1", "2"]), ("skip", ["0", "2"])])
def test_errors_of_a_lazy_map_for_async_for(shared_pool: ProxyPool[Model], on_error: str, expected: list[str]) -> None:
    async def main() -> list[str]:
        method = shared_pool.raise_at.options(on_error=on_error)
        return [str(result) async for result in method.aimap(range(3), [1] * 3)]

    async def fail() -> list[Any]:
        return [result async for result in shared_pool.raise_at.aimap(range(3), [1] * 3)]

    assert asyncio.run(main()) == expected
    with pytest.raises(ValueError, match="bad item 1"):
        asyncio.run(fail())


@pytest.mark.processes
def test_what_aimap_cannot_send_is_the_error_of_its_item(shared_pool: ProxyPool[Model]) -> None:
    items = [1, threading.Lock(), 3]

    async def gather(**options: Any) -> list[Any]:
        return [result async for result in shared_pool.echo.options(**options).aimap(items)]

    first, error, last = asyncio.run(gather(on_error="return"))
    assert (first, type(error), last) == (1, ArgumentPickleError, 3)
    assert asyncio.run(gather(on_error="skip")) == [1, 3]
    with pytest.raises(ArgumentPickleError):
        asyncio.run(gather())

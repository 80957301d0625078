"""`aio` and `aimap` under the event loops that there are: the same tests over asyncio and trio."""

from __future__ import annotations

import concurrent.futures as cf
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from objproxy import PoolClosedError, ProxyPool, TaskTimeoutError, WorkerDiedError
from objproxy.awaiting import wait_for
from optional import need
from targets import PATIENCE_SECONDS, CustomError, Model

anyio = need("trio", "anyio")
trio = need("trio")

Run = Callable[[Callable[[], Awaitable[Any]]], Any]


@pytest.fixture(params=["asyncio", "trio"])
def run(request: Any) -> Run:
    """Return what runs an asynchronous function under one of the event loops."""
    return lambda main: anyio.run(main, backend=request.param)


@pytest.fixture(scope="module")
def shared_pool() -> Iterator[ProxyPool[Model]]:
    with ProxyPool(Model, worker_count=2) as pool:
        yield pool


@pytest.fixture
def own_pool() -> Iterator[ProxyPool[Model]]:
    with ProxyPool(Model, worker_count=1) as pool:
        yield pool


def test_calls_can_be_awaited_by_several_tasks(shared_pool: ProxyPool[Model], run: Run) -> None:
    results: dict[int, Any] = {}

    async def score(x: int) -> None:
        results[x] = await shared_pool.score.aio(x)

    async def main() -> Any:
        async with anyio.create_task_group() as tasks:
            for x in range(10):
                tasks.start_soon(score, x)
        one: Any = shared_pool[1]
        return await one.who.aio()

    assert run(main) == 1
    assert results == {x: 2 * x for x in range(10)}


def test_an_awaited_call_raises_its_error(shared_pool: ProxyPool[Model], run: Run) -> None:
    with pytest.raises(CustomError):
        run(shared_pool.raise_custom.aio)


def test_the_loop_goes_on_while_a_call_runs(own_pool: Any, gates: Any, run: Run) -> None:
    pool, gate, started = own_pool, gates("gate"), gates("started")

    async def open_gate() -> None:
        while not started.is_open:
            await anyio.sleep(0.001)
        gate.open()

    async def main() -> Any:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(open_gate)
            return await pool.report_and_wait.aio(started, gate, 7)

    assert run(main) == 7


def test_cancelling_the_await_cancels_the_call(own_pool: Any, gates: Any, run: Run) -> None:
    pool, gate, started = own_pool, gates("gate"), gates("started")

    async def main() -> Any:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pool[0].report_and_wait.aio, started, gate)
            while not started.is_open:
                await anyio.sleep(0.001)
            tasks.cancel_scope.cancel()
        return await pool[0].score.aio(4)

    assert run(main) == 8
    assert pool.facts(stack_results=False)[0]["generation"] == 1


def test_a_limit_of_the_loop_and_one_of_the_call_end_it(own_pool: Any, gates: Any, run: Run) -> None:
    pool, gate = own_pool, gates("gate")

    async def main() -> tuple[bool, Any]:
        with anyio.move_on_after(0.05) as scope:
            await pool.wait_at.aio(gate, 1)
        with pytest.raises(TaskTimeoutError):
            await pool.wait_at.options(timeout=0.05).aio(gate, 1)
        return scope.cancelled_caught, await pool.score.aio(1)

    assert run(main) == (True, 2)


def test_the_death_of_a_worker_is_the_error_of_what_it_ran(own_pool: Any, run: Run) -> None:
    pool = own_pool

    async def main() -> Any:
        with pytest.raises(WorkerDiedError):
            await pool.die.aio()
        return await pool.score.aio(1)

    assert run(main) == 2


def test_a_lazy_map_for_async_for(shared_pool: ProxyPool[Model], run: Run) -> None:
    ends: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            for x in range(20):
                await anyio.sleep(0)
                yield x
        finally:
            ends.append("closed")

    async def main() -> tuple[list[Any], list[Any], list[str]]:
        plain = [result async for result in shared_pool.score.aimap(range(20))]
        mixed = [result async for result in shared_pool.score.aimap(numbers(), bias=range(50))]
        method = shared_pool.raise_at.options(on_error="return")
        return plain, mixed, [str(result) async for result in method.aimap(range(3), [1] * 3)]

    plain, mixed, errors = run(main)
    assert plain == [2 * x for x in range(20)]
    assert mixed == [3 * x for x in range(20)]
    assert errors == ["0", "bad item 1", "2"]
    assert ends == ["closed"]


def test_a_lazy_map_that_is_left_ends_what_it_has_pulled(shared_pool: ProxyPool[Model], run: Run) -> None:
    async def main() -> list[Any]:
        results = []
        async with contextlib.aclosing(shared_pool.score.options(buffersize=4).aimap(iter(int, 1))) as scores:
            async for score in scores:
                results.append(score)
                if len(results) == 10:
                    break
        return [*results, await shared_pool.score.aio(1)]

    assert run(main) == [0] * 10 + [2]


def test_a_lazy_map_can_be_cancelled_while_it_waits(own_pool: Any, gates: Any, run: Run) -> None:
    pool, gate = own_pool, gates("gate")

    async def main() -> bool:
        with anyio.move_on_after(0.05) as scope:
            async with contextlib.aclosing(pool.wait_at.aimap([gate] * 3)) as results:
                async for _ in results:
                    pass
        return bool(scope.cancelled_caught)

    assert run(main)
    gate.open()
    assert pool.score.submit(1).result(PATIENCE_SECONDS) == 2


def test_a_future_that_others_cancel_is_told_under_trio(own_pool: Any, gates: Any) -> None:
    future = own_pool.wait_at.submit(gates("gate"))
    assert future.cancel()
    with pytest.raises(cf.CancelledError):
        trio.run(wait_for, future)


def test_a_pool_that_is_killed_ends_what_is_awaited(own_pool: Any, gates: Any, run: Run) -> None:
    gate, started = gates("gate"), gates("started")

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail)
            while not started.is_open:
                await anyio.sleep(0.001)
            own_pool.kill()

    async def fail() -> None:
        with pytest.raises(PoolClosedError):
            await own_pool.report_and_wait.aio(started, gate)

    run(main)


_INTERRUPTED = """
import sys
import trio
from objproxy import ProxyPool
from targets import Gate, Model

async def main():
    with ProxyPool(Model, worker_count=1) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.wait_at.aio, Gate("never"))
            while not any(worker.state == "busy" for worker in pool.workers):
                await trio.sleep(0.001)
            print("ready", flush=True)

try:
    trio.run(main)
except BaseExceptionGroup as errors:
    assert errors.subgroup(KeyboardInterrupt)
    sys.exit(3)
except KeyboardInterrupt:
    sys.exit(3)
"""


def test_ctrl_c_ends_a_program_whose_trio_waits_for_a_call() -> None:
    folder = Path(__file__).parent
    program = subprocess.Popen([sys.executable, "-c", _INTERRUPTED], cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        os.kill(program.pid, signal.SIGINT)
        assert program.wait(PATIENCE_SECONDS) == 3
        program.stdout.close()
    finally:
        program.kill()
        program.wait()

"""Classes whose methods are coroutines, or asynchronous generators."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from objproxy import current_worker
from targets import PATIENCE_SECONDS, CustomError, Gate


async def poll(is_true: Callable[[], object]) -> None:
    """Wait until ``is_true()``; other tasks go on meanwhile."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


def wrapped(method: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    """Decorate a coroutine with a plain function."""

    @functools.wraps(method)
    def call(*args: Any) -> Any:
        return method(*args)

    return call


class Client:
    """Has methods of every kind that gives something to await."""

    def __init__(self) -> None:
        self.n_here = self.n_running = self.peak = 0
        self.notes: list[Any] = []
        self.beats = 0
        self.lock: asyncio.Lock | None = None

    async def double(self, x: int) -> int:
        self.n_running += 1
        self.peak = max(self.peak, self.n_running)
        await asyncio.sleep(0)
        self.n_running -= 1
        return 2 * x

    def double_later(self, x: int) -> Awaitable[int]:
        return self.double(x)

    def plain(self, x: int) -> int:
        return 2 * x

    def plain_with_a_loop(self, x: int) -> int:
        return asyncio.run(_double(x))

    def future(self, x: int) -> asyncio.Future[int]:
        loop = asyncio.new_event_loop()
        future: asyncio.Future[int] = loop.create_future()
        future.set_result(2 * x)
        loop.close()
        return future

    @wrapped
    async def decorated(self, x: int) -> int:
        return 2 * x

    @classmethod
    async def of_class(cls, x: int) -> int:
        return 2 * x

    @staticmethod
    async def of_nothing(x: int) -> int:
        return 2 * x

    async def __call__(self, x: int) -> int:
        return 2 * x

    @property
    async def size(self) -> int:
        return 7

    async def locked(self, x: int) -> int:
        """Use a lock that is bound to the event loop of its first use."""
        self.lock = self.lock or asyncio.Lock()
        async with self.lock:
            await asyncio.sleep(0.001)
            return id(asyncio.get_running_loop())

    async def fail(self, how: Any) -> Any:
        await asyncio.sleep(0)
        if how == "error":
            raise CustomError("no", code=3)
        if how == "exit":
            raise SystemExit(4)
        if how == "interrupt":
            raise KeyboardInterrupt
        if how == "cancelled":
            raise asyncio.CancelledError
        return how

    async def fail_in_a_child(self, _x: Any) -> Any:
        return await asyncio.gather(self.fail(1), self.fail("exit"))

    async def meet(self, x: int, n: int) -> int:
        """Wait until `n` tasks are here."""
        self.n_here += 1
        await poll(lambda: self.n_here >= n)
        return x

    def leave(self) -> None:
        self.n_here = 0

    async def wait(self, gate: Gate, started: Gate) -> str:
        started.open()
        try:
            await poll(lambda: gate.is_open)
        except asyncio.CancelledError:
            self.notes.append("cancelled")
            raise
        return "waited"

    async def wait_if(self, x: int, gate: Gate, started: Gate) -> Any:
        """Wait for ever if `x` is 2."""
        return await self.wait(gate, started) if x == 2 else x

    async def wait_bravely(self, gate: Gate, started: Gate) -> str:
        """Wait, and go on though it is cancelled."""
        while True:
            try:
                return await self.wait(gate, started)
            except asyncio.CancelledError:
                continue

    async def block(self, x: int) -> int:
        await asyncio.sleep(0.01)
        if x == 2:
            time.sleep(PATIENCE_SECONDS)
        return x

    async def die(self, x: int, started: Gate, gate: Gate) -> int:
        """Item 0 ends at once; item 1 waits for ever; item 2 ends the process when the others have begun."""
        if x == 1:
            started.open()
            await poll(lambda: gate.is_open)
        if x == 2:
            await poll(lambda: started.is_open)
            os._exit(3)
        return x

    async def die_once(self, x: int, before: Gate) -> int:
        if x == 2 and not before.is_open:
            before.open()
            os._exit(3)
        return x

    async def fork(self, x: int) -> int:
        pid = os.fork()
        if not pid:
            await asyncio.sleep(0)
            return -1
        os.waitpid(pid, 0)
        return x

    async def draw(self, _x: int) -> tuple[float, float]:
        """Draw twice, with other tasks in between."""
        first = current_worker().rng.random()
        await asyncio.sleep(0.001)
        return first, current_worker().rng.random()

    async def start_beating(self) -> None:
        """Start a task that goes on in the background."""
        self.task = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(0.001)
            self.beats += 1

    async def rows(self, n: int) -> AsyncIterator[int]:
        """Give items from within a block that has to be left by the task that has entered it."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                for i in range(n):
                    await asyncio.sleep(0)
                    yield i
            if n == 3:
                raise CustomError("no more", code=n)
        finally:
            await asyncio.sleep(0)
            self.notes.append("end of rows")

    async def ticks(self, gate: Gate) -> AsyncIterator[int]:
        try:
            yield 0
            await poll(lambda: gate.is_open)
            yield 1
        finally:
            self.notes.append("end of ticks")


async def _double(x: int) -> int:
    return 2 * x


class Closing:
    """Notes its end in a file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.is_entered = False

    async def touch(self) -> bool:
        self.task = asyncio.create_task(self._go_on())
        await asyncio.sleep(0)
        return self.is_entered

    async def _go_on(self) -> None:
        try:
            await asyncio.sleep(PATIENCE_SECONDS)
        finally:
            self._note("task")

    def _note(self, what: str) -> None:
        with open(self.path, "a") as file:
            file.write(f"{what}\n")


class Closed(Closing):
    async def close(self) -> None:
        await asyncio.sleep(0)
        self._note("close")


class AsyncClosed(Closing):
    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self._note("aclose")


class Entered(Closing):
    async def __aenter__(self) -> Entered:
        await asyncio.sleep(0)
        self.is_entered = True
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        await asyncio.sleep(0)
        self._note("aexit")


class FailingAtEnd:
    async def touch(self) -> None:
        pass

    async def aclose(self) -> None:
        raise CustomError("the end", code=5)


async def make_client(start: int = 0) -> Client:
    client = Client()
    client.notes.append(id(asyncio.get_running_loop()))
    client.beats = start
    return client

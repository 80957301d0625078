"""Generators that live in a worker, as their caller sees them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

from objproxy._engine.futures import CallFuture
from objproxy._engine.messages import PLAIN, Policy
from objproxy._worker.execute import StreamEnd
from objproxy._worker.outcome import StreamHandle
from objproxy._worker.wire import Operation
from objproxy.awaiting import wait_for


class StreamHome(Protocol):
    """What a stream needs of its pool."""

    def ask(self, worker_id: int, operation: Operation, policy: Policy = PLAIN) -> Any:
        """Carry one operation out on one worker; return its result, or raise its error."""
        ...

    def ask_later(self, worker_id: int, operation: Operation, policy: Policy = PLAIN) -> CallFuture:
        """Carry one operation out on one worker; return the future of its result."""
        ...

    def forget_stream(self, handle: StreamHandle) -> None:
        """See that a generator that nobody holds any more is ended in its worker."""
        ...


class RemoteStream(Iterator[Any], AsyncIterator[Any]):
    """The items of a generator that lives in a worker, pulled one by one as they are consumed.

    ``for`` and ``async for`` both work, with plain generators and asynchronous ones. If its worker dies, the next item raises
    `WorkerDiedError`.

    Parameters
    ----------
    home : StreamHome
        The pool.
    handle : StreamHandle
        The generator.
    name : str
        The method that gave it.
    concurrency : int
        How many tasks its worker may run while it waits for an item of an asynchronous generator, this one among them.
    """

    def __init__(self, home: StreamHome, handle: StreamHandle, name: str, concurrency: int = 1) -> None:
        self._policy_of_next = Policy(concurrency=concurrency) if handle.is_async else PLAIN
        self._home = home
        self._handle = handle
        self._name = name
        self._is_ended = False

    def __iter__(self) -> RemoteStream:
        return self

    def __next__(self) -> Any:
        if self._is_ended:
            raise StopIteration
        try:
            value = self._ask("next")
        except BaseException:
            self._is_ended = True
            raise
        if isinstance(value, StreamEnd):
            self._is_ended = True
            raise StopIteration
        return value

    def __aiter__(self) -> RemoteStream:
        return self

    async def __anext__(self) -> Any:
        if self._is_ended:
            raise StopAsyncIteration
        try:
            value = await self._ask_later("next")
        except BaseException:
            self._is_ended = True
            raise
        if isinstance(value, StreamEnd):
            self._is_ended = True
            raise StopAsyncIteration
        return value

    def close(self) -> None:
        """Run the generator's own end, in its worker."""
        if not self._is_ended:
            self._is_ended = True
            self._ask("drop")

    async def aclose(self) -> None:
        """Run the generator's own end, in its worker, and await that."""
        if not self._is_ended:
            self._is_ended = True
            await self._ask_later("drop")

    def _ask(self, verb: str) -> Any:
        return self._home.ask(self._handle.worker_id, self._operation(verb), self._policy(verb))

    async def _ask_later(self, verb: str) -> Any:
        future = self._home.ask_later(self._handle.worker_id, self._operation(verb), self._policy(verb))
        return await wait_for(future)

    def _policy(self, verb: str) -> Policy:
        """Pull an item of an asynchronous generator as a task: to cancel that ends the generator, and not its worker."""
        return self._policy_of_next if verb == "next" else PLAIN

    def _operation(self, verb: str) -> Operation:
        return Operation(verb, self._name, (self._handle.stream_id, self._handle.generation), {})

    def __del__(self) -> None:
        if not getattr(self, "_is_ended", True):
            self._is_ended = True
            with contextlib.suppress(Exception):  # the pool is closed, or the interpreter is ending
                self._home.forget_stream(self._handle)

    def __enter__(self) -> RemoteStream:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    async def __aenter__(self) -> RemoteStream:
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        await self.aclose()

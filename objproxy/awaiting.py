"""Await the futures of tasks."""

from __future__ import annotations

from typing import Any

from objproxy._engine.futures import CallFuture


async def outcome_of(future: CallFuture) -> Any:
    """Await a future; return its result, or raise its error as it is.

    ``asyncio.wrap_future`` puts the error into a future of asyncio's. That one refuses `StopIteration`, and before Python 3.12
    it never ends then.
    """
    import asyncio  # 12 ms, and a program that can await has loaded it already

    loop = asyncio.get_running_loop()
    has_ended = asyncio.Event()

    def tell(_future: Any) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(has_ended.set)

    future.add_done_callback(tell)
    try:
        await has_ended.wait()
    except asyncio.CancelledError:
        future.cancel()
        raise
    if future.cancelled():
        raise asyncio.CancelledError
    return future.result()

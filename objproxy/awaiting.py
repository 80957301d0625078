"""Await a future of a pool, under asyncio and under trio alike.

The future is settled by whichever thread turns the engine then. That thread only leaves word for the event loop and goes on: it
must not wait, since it may be the thread of the loop itself. anyio has no such call from other threads, so trio's own is used,
through `anyio` as well as without it.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from objproxy._engine.futures import CallFuture


class _Loop(NamedTuple):
    """The event loop that runs the calling task.

    Attributes
    ----------
    event : object
        An event of its kind, not set.
    tell : callable
        Sets the event, from any thread, at any time.
    cancelled : type
        What is raised for a future that was cancelled by others.
    """

    event: Any
    tell: Callable[[Any], None]
    cancelled: type[BaseException]


async def wait_for(future: CallFuture) -> Any:
    """Await a future; return its result, or raise its error as it is. Cancel the call when the task does not wait any more.

    ``asyncio.wrap_future`` puts the error into a future of asyncio's. That one refuses `StopIteration`, and before Python 3.12
    it never ends then.
    """
    loop = _of_trio() if _is_in_trio() else _of_asyncio()
    future.add_done_callback(loop.tell)
    try:
        await loop.event.wait()
    except BaseException:  # cancelled, interrupted by Ctrl-C, or closed
        future.cancel()
        raise
    if future.cancelled():
        raise loop.cancelled
    return future.result()


def _is_in_trio() -> bool:
    """Whether trio runs the calling task, also as a guest of an asyncio loop."""
    trio: Any = sys.modules.get("trio")
    if trio is None:
        return False
    sniffio: Any = sys.modules.get("sniffio")
    if sniffio is None:
        return bool(trio.lowlevel.in_trio_task())
    try:
        return bool(sniffio.current_async_library() == "trio")  # not so in asyncio's tasks within trio
    except sniffio.AsyncLibraryNotFoundError:
        return False


def _of_asyncio() -> _Loop:
    import asyncio  # 12 ms, and a program that can await has loaded it already

    loop = asyncio.get_running_loop()
    event = asyncio.Event()

    def tell(_future: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(event.set)

    return _Loop(event, tell, asyncio.CancelledError)


def _of_trio() -> _Loop:
    trio: Any = sys.modules["trio"]
    token = trio.lowlevel.current_trio_token()
    event = trio.Event()

    def tell(_future: Any) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(event.set)

    return _Loop(event, tell, concurrent.futures.CancelledError)

"""The event loop of a worker, in which coroutine methods run.

It is made when a method gives the first awaitable, and it stays the worker's only one: a client whose sessions and locks are
bound to a loop works in all its calls. It runs in the thread that runs the methods:

- as long as an awaitable is being run;
- in a worker process also while that waits for its next call (`wait_for_descriptor`), so that background tasks of the object go
  on, the pings of a connection for instance. Plain methods hold them up, as in every program with an event loop.

A loop of a thread of its own would run the object's code in two threads at once. Signals, and what must be done in the main
thread, would not work in coroutines either.
"""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import TYPE_CHECKING, Any

from objproxy._worker.context import enter_worker, leave_worker, worker_of_thread

if TYPE_CHECKING:
    import asyncio

_CO_ITERABLE_COROUTINE = 0x100  # of generators that `types.coroutine` has decorated

#: What most methods return.
PLAIN = frozenset({bool, bytes, dict, float, int, list, set, str, tuple, type(None)})


def is_awaitable(value: Any) -> bool:
    """Return whether the value of a call has to be awaited: a coroutine, a future, or whatever has ``__await__``."""
    kind = type(value)
    if kind in PLAIN:
        return False
    if kind is GeneratorType:
        return bool(value.gi_code.co_flags & _CO_ITERABLE_COROUTINE)
    try:
        return getattr(kind, "__await__", None) is not None
    except Exception:  # of a metaclass that refuses
        return False


class EventLoop:
    """The event loop of one worker; it costs nothing before it is needed.

    Parameters
    ----------
    is_of_thread : bool
        Whether the worker has its thread for itself: then ``asyncio.get_event_loop()`` gives the loop there.
    """

    def __init__(self, *, is_of_thread: bool = False) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_of_thread = is_of_thread
        self._on_made: Callable[[], None] = lambda: None
        self._is_detached = False

    @property
    def is_made(self) -> bool:
        """Whether the loop has been needed."""
        return self._loop is not None

    def tell_when_made(self, on_made: Callable[[], None]) -> None:
        """Call ``on_made()`` once, when there is a loop."""
        self._on_made = on_made
        if self.is_made:
            on_made()

    def get(self, awaitable: Any = None) -> asyncio.AbstractEventLoop:
        """Return the loop; make it first if needed, or take that of a future over."""
        if self._loop is None:
            import asyncio

            theirs = awaitable.get_loop() if isinstance(awaitable, asyncio.Future) else None
            self._loop = asyncio.new_event_loop() if theirs is None or theirs.is_closed() else theirs
            if self._is_of_thread:
                asyncio.set_event_loop(self._loop)
            self._on_made()
        return self._loop

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """Run an awaitable to its end and return its result, or raise its error."""
        task = self.get(awaitable).create_task(_wait_for(awaitable))
        try:
            self.drive(task)
            return task.result()
        finally:
            forget_unawaited(awaitable, task)
            del task  # its error refers to this frame

    def drive(self, future: asyncio.Future[Any]) -> None:
        """Run the loop until `future` is done; an interrupt cancels it and is raised when it has ended."""
        future.add_done_callback(lambda _future: self.stop())
        if _is_running_here():  # in a notebook, say: a second loop cannot run in this thread
            _run_in_thread(lambda: self._run_until(future), self._cancel_soon(future))
        else:
            self._run_until(future)

    def _run_until(self, future: asyncio.Future[Any]) -> None:
        interrupt: KeyboardInterrupt | None = None
        while not future.done():
            if self._is_detached:
                raise RuntimeError("a process that was forked by a coroutine has no event loop, so it cannot await anything")
            try:
                self.get().run_forever()
            except SystemExit:
                continue  # of a task that this one waits for, and gets it from; or of one that nobody waits for
            except KeyboardInterrupt as exc:
                if future.done():  # it was raised in there
                    break
                if interrupt is not None:
                    raise
                interrupt = exc
                future.cancel()
        if interrupt is not None:
            with contextlib.suppress(BaseException):
                future.exception()  # else asyncio says that it was never looked at
            raise interrupt

    def _cancel_soon(self, future: asyncio.Future[Any]) -> Callable[[], None]:
        return lambda: self.call_soon(future.cancel)

    def detach(self) -> None:
        """Let the loop go in a forked child: what it watches is shared with the parent, and its tasks are the parent's."""
        self._is_detached = True
        self.stop()
        selector = getattr(self._loop, "_selector", None)
        if selector is not None:
            selector.close()  # of this process; the parent's watches on

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call a function in the loop; any thread may ask for that."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(function)

    def stop(self) -> None:
        """Have the loop return to the worker after its present turn."""
        if self._loop is not None:
            self._loop.stop()

    def wait(self, is_wanted: Callable[[], bool]) -> None:
        """Run the loop until it is stopped, or another thread calls `wake`, or ``is_wanted()`` is false."""
        if _is_running_here():
            _run_in_thread(lambda: self._run_while(is_wanted), self.wake)
        else:
            self._run_while(is_wanted)

    def _run_while(self, is_wanted: Callable[[], bool]) -> None:
        if is_wanted():
            with contextlib.suppress(SystemExit):  # of a background task
                self.get().run_forever()

    def wake(self) -> None:
        """Make `wait` return; any thread may call this."""
        self.call_soon(self.stop)

    def wait_for_descriptor(self, fd: int, seconds: float | None = None) -> bool:
        """Run the loop until `fd` can be read; False if it was stopped before, or the time has passed."""
        loop, is_readable = self.get(), False

        def tell() -> None:
            nonlocal is_readable
            is_readable = True
            loop.stop()

        loop.add_reader(fd, tell)
        timer = None if seconds is None else loop.call_later(seconds, loop.stop)
        try:
            with contextlib.suppress(SystemExit):  # of a background task
                loop.run_forever()
        finally:
            if not self._is_detached:
                loop.remove_reader(fd)
            if timer is not None:
                timer.cancel()
        return is_readable

    def close(self) -> None:
        """Cancel what still runs, end asynchronous generators and the loop's threads, and close the loop."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        try:
            self.run(_cancel_all())
            self.run(loop.shutdown_asyncgens())
            self.run(loop.shutdown_default_executor())
        finally:
            if self._is_of_thread:
                import asyncio

                asyncio.set_event_loop(None)
            loop.close()


def forget_unawaited(awaitable: Any, task: asyncio.Future[Any]) -> None:
    """Close a coroutine whose task was cancelled before it began; else Python warns that it was never awaited."""
    if type(awaitable) is CoroutineType and task.cancelled():
        awaitable.close()


async def _wait_for(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def _cancel_all() -> None:
    """Cancel every other task of the running loop and wait for all of them; report those that fail."""
    import asyncio

    loop, me = asyncio.get_running_loop(), asyncio.current_task()
    tasks = [task for task in asyncio.all_tasks() if task is not me]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if not task.cancelled() and task.exception() is not None:
            text = "a task of a worker has failed while the worker ended"
            loop.call_exception_handler({"message": text, "exception": task.exception(), "task": task})


def _is_running_here() -> bool:
    import asyncio

    return asyncio._get_running_loop() is not None


def _run_in_thread(function: Callable[[], None], interrupt: Callable[[], None]) -> None:
    """Call a function in a thread that is the same worker, and wait for it; an interrupt meanwhile calls `interrupt` first."""
    worker, errors = worker_of_thread(), []

    def call() -> None:
        if worker is not None:
            enter_worker(worker, whole_process=False)
        try:
            function()
        except BaseException as exc:
            errors.append(exc)
        finally:
            leave_worker()

    thread = threading.Thread(target=call, name="objproxy-event-loop", daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:
        interrupt()
        thread.join()
        raise
    if errors:
        raise errors.pop()


class AsyncStream(Iterator[Any]):
    """The items of an asynchronous generator, one by one.

    Its code runs in one task from the first item to the last, as with ``async for``: what it enters before an item it may leave
    behind another one (time limits, task groups).

    Parameters
    ----------
    loop : EventLoop
        Where it runs.
    generator : AsyncGeneratorType
        The generator.
    """

    def __init__(self, loop: EventLoop, generator: AsyncGeneratorType[Any, Any]) -> None:
        self._loop = loop
        self._generator = generator
        self._requests: Any = None
        self._task: asyncio.Task[None] | None = None

    def __iter__(self) -> AsyncStream:
        return self

    def __next__(self) -> Any:
        try:
            return self._loop.run(self.pull())
        except StopAsyncIteration:
            raise StopIteration from None

    async def pull(self) -> Any:
        """Return the next item, or raise StopAsyncIteration; to cancel this cancels the generator."""
        return await self._ask(self._generator.__anext__)

    def close(self) -> None:
        """Run the generator's own end."""
        with contextlib.suppress(StopAsyncIteration):
            self._loop.run(self._ask(self._generator.aclose))

    async def _ask(self, step: Callable[[], Awaitable[Any]]) -> Any:
        """Have the generator's task make one step."""
        import asyncio

        if self._task is None:
            self._requests = asyncio.Queue()
            self._task = asyncio.create_task(self._serve())
        reply = asyncio.get_running_loop().create_future()
        self._requests.put_nowait((step, reply))
        try:
            await asyncio.wait([reply, self._task], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            reply.cancel()
            self._task.cancel()
            await asyncio.wait([self._task])
            raise
        if not reply.done():
            raise StopAsyncIteration  # it had ended before
        return reply.result()

    async def _serve(self) -> None:
        """Make the steps that are asked for, up to the first that fails or ends the generator."""
        while True:
            step, reply = await self._requests.get()
            try:
                value = await step()
            except BaseException as exc:
                if not reply.done():
                    reply.set_exception(exc)
                return
            if not reply.done():
                reply.set_result(value)
            if step.__name__ == "aclose":
                return


def stack_of(coroutine: Any) -> str:
    """Return where a coroutine stands, as text: its own frame, then those of what it awaits."""
    frames: list[tuple[FrameType, int]] = []
    while coroutine is not None:
        get_coroutine = getattr(coroutine, "get_coro", None)  # it awaits a task
        if get_coroutine is not None:
            coroutine = get_coroutine()
        frame = _first(coroutine, "cr_frame", "gi_frame", "ag_frame")
        if frame is None:
            break
        frames.append((frame, frame.f_lineno))
        coroutine = _first(coroutine, "cr_await", "gi_yieldfrom", "ag_await")
    return "".join(traceback.StackSummary.extract(iter(frames)).format())


def _first(value: Any, *names: str) -> Any:
    """Return the first attribute of `value` that is there."""
    return next((found for name in names if (found := getattr(value, name, None)) is not None), None)

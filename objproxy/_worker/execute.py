"""Carry out one operation on the object of a worker; the same for processes, threads and the caller itself."""

from __future__ import annotations

import gc
import itertools
import operator
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from types import AsyncGeneratorType, GeneratorType
from typing import Any

from objproxy._worker import forking
from objproxy._worker.context import Worker, item_of_task
from objproxy._worker.event_loop import AsyncStream, EventLoop, is_awaitable
from objproxy._worker.items import Rows
from objproxy._worker.outcome import Failure, StreamHandle, with_worker_trace
from objproxy._worker.plane import forget_shared
from objproxy._worker.seeding import ItemStreams
from objproxy._worker.wire import Operation, dumps
from objproxy.inspecting import signature_of

#: An object's own end, if it takes no arguments.
_CLOSES = ("close", "aclose")


class StreamEnd:
    """Stands for the end of a generator in the answer to "next"."""

    def __reduce__(self) -> tuple[Any, ...]:
        return StreamEnd, ()


class CallableMarker:
    """Stands for an attribute that is a method or another callable, which stays where it is."""

    def __reduce__(self) -> tuple[Any, ...]:
        return CallableMarker, ()


class Host:
    """The object of one worker, and the generators that its methods gave.

    Parameters
    ----------
    instance : object
        The user's object.
    worker : Worker
        Whose it is.
    is_of_factory : bool
        Whether a function has made it, and not its class. A class has the methods that the pool offers, so its object stays the
        instance whatever its ``__enter__`` returns; of a function (``@contextmanager``, say) the pool knows nothing, and the
        instance is what ``with function() as instance`` gives.
    item_streams : ItemStreams or None
        Seeds the global generators for each item of a fan-out; None without a seed.
    loop : EventLoop or None
        Where coroutines run.
    """

    def __init__(
        self,
        instance: Any,
        worker: Worker,
        *,
        is_of_factory: bool = False,
        item_streams: ItemStreams | None = None,
        loop: EventLoop | None = None,
    ) -> None:
        self.instance = instance
        self.worker = worker
        self.loop = loop or EventLoop()
        self.item_streams = item_streams
        self._manager = instance  # whose end is run
        self._is_of_factory = is_of_factory
        self.n_done = 0  # items of the running "map" that are done, where there is no journal to tell
        self._streams: dict[int, Iterator[Any]] = {}
        self._stream_numbers = itertools.count()

    def perform(self, operation: Operation) -> Any:
        """Carry out `operation` and return its result; whatever the user's code raises passes through."""
        verb = operation.verb
        if verb == "call":
            return self.settle(getattr(self.instance, operation.name)(*operation.args, **operation.kwargs))
        handler: Callable[[Operation], Any] = getattr(self, f"_{verb}")
        return handler(operation)

    def calls(self, operation: Operation, *, is_seeded: bool = True) -> Iterator[Any]:
        """Return an iterator that makes the calls of a "map"; it goes on after an item that raised."""
        method = getattr(self.instance, operation.name)
        if operation.kwargs:
            method = partial(_call_with_names, method, operation.kwargs)
        if is_seeded and self.item_streams is not None:
            method = partial(_call_seeded, self.item_streams.seed_item, method)
        return itertools.starmap(method, operation.args) if type(operation.args) is Rows else map(method, *operation.args)

    def call_once(self, operation: Operation, *, is_alone: bool) -> Any:
        """Make the one call of a concurrent task.

        The generators that the whole process shares are seeded for it only if it `is_alone`: tasks that overlap draw by turns.
        """
        streams = self.item_streams
        if streams is not None and is_alone:
            if item_of_task.get() is None:
                streams.leave()
            else:
                streams.enter()
                streams.seed_item()
        if operation.verb == "call":
            return getattr(self.instance, operation.name)(*operation.args, **operation.kwargs)
        if operation.verb == "next":
            return self._next_later(operation)
        return next(self.calls(operation, is_seeded=False))

    def perform_map(self, operation: Operation, count: int) -> list[Any]:
        """Make the `count` calls of a "map" and return their results, a `Failure` for each that raised.

        A process that one of the calls has forked makes no further call.
        """
        results: list[Any] = []
        calls: Iterator[Any] | None = None
        n_forks = forking.count
        for self.n_done in range(count):
            try:
                calls = calls or self.calls(operation)
                results.append(self.settle(next(calls)))
            except BaseException as exc:
                results.append(Failure(with_worker_trace(exc)))
            if n_forks != forking.count:
                break
        self.n_done = 0
        return results

    def settle(self, value: Any) -> Any:
        """Return the value of a call: what an awaitable gives, and a handle in place of a generator, which is kept here."""
        return self.keep(self._run(value))

    def keep(self, value: Any) -> Any:
        """Keep a generator here and return a handle in its place; return anything else as it is."""
        kind = type(value)
        if kind is not GeneratorType and kind is not AsyncGeneratorType:
            return value
        number = next(self._stream_numbers)
        self._streams[number] = value if kind is GeneratorType else AsyncStream(self.loop, value)
        return StreamHandle(number, self.worker.worker_id, self.worker.generation, kind is AsyncGeneratorType)

    def enter(self) -> None:
        """Run ``__enter__`` of an object whose ``__exit__`` is its own end, or ``__aenter__`` if that is ``__aexit__``."""
        if self._is_of_factory and is_awaitable(self._manager):
            self.instance = self._manager = self.loop.run(self._manager)
        name = {"__exit__": "__enter__", "__aexit__": "__aenter__"}.get(name_of_end(self._manager) or "")
        if name is not None and callable(getattr(type(self._manager), name, None)):
            entered = self._run(getattr(self._manager, name)())
            if self._is_of_factory and entered is not None:
                self.instance = entered

    def _run(self, value: Any) -> Any:
        """Return what an awaitable gives, and anything else as it is."""
        return self.loop.run(value) if is_awaitable(value) else value

    def has_end(self) -> bool:
        """Return whether `finish` has anything to do."""
        return bool(self._streams) or self.loop.is_made or name_of_end(self._manager) is not None

    def name_of_end(self) -> str:
        """Return the name of the object's own end, for errors."""
        return name_of_end(self._manager) or "close"

    def finish(self) -> None:
        """Run the object's own end if it has one, then close the event loop."""
        try:
            for stream in self._streams.values():
                stream.close()  # type: ignore[attr-defined]
            self._streams.clear()
            name = name_of_end(self._manager)
            if name is not None:
                self._run(getattr(self._manager, name)(*(() if name in _CLOSES else (None, None, None))))
        finally:
            self.loop.close()

    def forget(self) -> None:
        """Delete the object, so that its files are written and its ``__del__`` runs."""
        kept = self.instance
        self._streams.clear()
        self.instance = self._manager = None
        try:
            reference = weakref.ref(kept)
        except TypeError:
            reference = None
        del kept
        if reference is None or reference() is not None:
            gc.collect()  # it may be part of a cycle

    def _get(self, operation: Operation) -> Any:
        value = getattr(self.instance, operation.name)
        return CallableMarker() if callable(value) and not operation.args else self._run(value)

    def _set(self, operation: Operation) -> None:
        setattr(self.instance, operation.name, operation.args[0])

    def _augment(self, operation: Operation) -> None:
        operand, name = operation.args
        value = getattr(operator, name)(getattr(self.instance, operation.name), operand)
        setattr(self.instance, operation.name, value)

    def _find_stream(self, operation: Operation) -> Iterator[Any] | None:
        stream_id, generation = operation.args
        if generation != self.worker.generation:
            raise RuntimeError(f"the generator of {operation.name!r} was lost with the worker that it lived in")
        return self._streams.get(stream_id)

    async def _next_later(self, operation: Operation) -> Any:
        """Return the next item of an asynchronous generator, as a task that can be cancelled; that ends the generator."""
        stream = self._find_stream(operation)
        if not isinstance(stream, AsyncStream):
            return StreamEnd()
        try:
            return await stream.pull()
        except BaseException as exc:  # it has ended
            self._streams.pop(operation.args[0], None)
            if isinstance(exc, StopAsyncIteration):
                return StreamEnd()
            raise

    def _next(self, operation: Operation) -> Any:
        stream_id = operation.args[0]
        stream = self._find_stream(operation)
        if stream is None:
            return StreamEnd()
        try:
            return next(stream)
        except StopIteration:
            del self._streams[stream_id]
            return StreamEnd()

    def _drop(self, operation: Operation) -> None:
        stream_id, generation = operation.args
        stream = self._streams.pop(stream_id, None) if generation == self.worker.generation else None
        if stream is not None:
            stream.close()  # type: ignore[attr-defined]

    def _forget(self, operation: Operation) -> None:
        forget_shared(operation.args[0])

    def _snapshot(self, _operation: Operation) -> bytes:
        return dumps(self.instance)


def _call_seeded(seed_item: Callable[[], None], method: Callable[..., Any], *values: Any) -> Any:
    seed_item()
    return method(*values)


def name_of_end(instance: Any) -> str | None:
    """Return the name of the method that is an object's own end; None if it has none.

    ``close`` or ``aclose``, if it takes no arguments; else ``__exit__`` or ``__aexit__``.
    """
    kind = type(instance)
    for name in _CLOSES:
        if callable(getattr(kind, name, None)) and _takes_nothing(getattr(instance, name)):
            return name
    return next((name for name in ("__exit__", "__aexit__") if callable(getattr(kind, name, None))), None)


def _takes_nothing(method: Callable[..., Any]) -> bool:
    """Return whether a method can be called without arguments; one that does not tell (compiled code) can."""
    try:
        signature = signature_of(method)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind()
    except TypeError:
        return False
    return True


def _call_with_names(method: Callable[..., Any], names: tuple[str, ...], *values: Any) -> Any:
    n_args = len(values) - len(names)
    return method(*values[:n_args], **dict(zip(names, values[n_args:], strict=True)))

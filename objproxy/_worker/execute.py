"""Carry out one operation on the object of a worker; the same for processes, threads and the caller itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from types import GeneratorType
from typing import Any

from objproxy._worker import forking
from objproxy._worker.context import Worker
from objproxy._worker.outcome import Failure, StreamHandle, with_worker_trace
from objproxy._worker.plane import forget_shared
from objproxy._worker.wire import Operation, dumps


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
    """

    def __init__(self, instance: Any, worker: Worker) -> None:
        self.instance = instance
        self.worker = worker
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

    def calls(self, operation: Operation) -> Iterator[Any]:
        """Return an iterator that makes the calls of a "map"; it goes on after an item that raised."""
        method = getattr(self.instance, operation.name)
        if operation.kwargs:
            n_args = len(operation.args) - len(operation.kwargs)
            method = partial(_call_with_names, method, n_args, operation.kwargs)
        return map(method, *operation.args)

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
        """Keep a generator here and return a handle in its place; return anything else as it is."""
        if type(value) is not GeneratorType:
            return value
        number = next(self._stream_numbers)
        self._streams[number] = value
        return StreamHandle(number, self.worker.worker_id, self.worker.generation)

    def finish(self) -> None:
        """Run the object's own ``close()`` or ``__exit__`` if it has one."""
        for stream in self._streams.values():
            stream.close()  # type: ignore[attr-defined]
        self._streams.clear()
        kind = type(self.instance)
        if callable(getattr(kind, "close", None)):
            self.instance.close()
        elif callable(getattr(kind, "__exit__", None)):
            self.instance.__exit__(None, None, None)

    def _get(self, operation: Operation) -> Any:
        value = getattr(self.instance, operation.name)
        return CallableMarker() if callable(value) and not operation.args else value

    def _set(self, operation: Operation) -> None:
        setattr(self.instance, operation.name, operation.args[0])

    def _next(self, operation: Operation) -> Any:
        stream_id, generation = operation.args
        if generation != self.worker.generation:
            raise RuntimeError(f"the generator of {operation.name!r} was lost with the worker that it lived in")
        stream = self._streams.get(stream_id)
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


def _call_with_names(method: Callable[..., Any], n_args: int, names: tuple[str, ...], *values: Any) -> Any:
    return method(*values[:n_args], **dict(zip(names, values[n_args:], strict=True)))

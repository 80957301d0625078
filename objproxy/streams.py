"""Generators that live in a worker, as their caller sees them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

from objproxy._worker.execute import StreamEnd
from objproxy._worker.outcome import StreamHandle
from objproxy._worker.wire import Operation


class StreamHome(Protocol):
    """What a stream needs of its pool."""

    def ask(self, worker_id: int, operation: Operation) -> Any:
        """Carry one operation out on one worker; return its result, or raise its error."""
        ...

    def forget_stream(self, handle: StreamHandle) -> None:
        """See that a generator that nobody holds any more is ended in its worker."""
        ...


class RemoteStream(Iterator[Any]):
    """The items of a generator that lives in a worker, pulled one by one as they are consumed.

    If its worker dies, the next item raises `WorkerDiedError`.

    Parameters
    ----------
    home : StreamHome
        The pool.
    handle : StreamHandle
        The generator.
    name : str
        The method that gave it.
    """

    def __init__(self, home: StreamHome, handle: StreamHandle, name: str) -> None:
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

    def close(self) -> None:
        """Run the generator's own end, in its worker."""
        if not self._is_ended:
            self._is_ended = True
            self._ask("drop")

    def _ask(self, verb: str) -> Any:
        handle = self._handle
        return self._home.ask(handle.worker_id, Operation(verb, self._name, (handle.stream_id, handle.generation), {}))

    def __del__(self) -> None:
        if not getattr(self, "_is_ended", True):
            self._is_ended = True
            with contextlib.suppress(Exception):  # the pool is closed, or the interpreter is ending
                self._home.forget_stream(self._handle)

    def __enter__(self) -> RemoteStream:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

"""What becomes of an item: a value, or a `Failure` that holds the error; and errors as they travel between processes."""

from __future__ import annotations

import copyreg
import pickle
from typing import Any

from objproxy import handling
from objproxy._worker.wire import dumps
from objproxy.errors import RemoteError, RemoteTraceback, ResultPickleError, SharedMemoryFullError


class Failure:
    """Stands in a list of results for an item that raised; a returned exception object is a value, and stands for itself."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __repr__(self) -> str:
        return f"Failure({handling.repr_of(self.error)})"


class StreamHandle:
    """Stands for a generator that lives in a worker.

    Parameters
    ----------
    stream_id : int
        Number of the generator in its worker.
    worker_id, generation : int
        Where it lives.
    is_async : bool
        Whether it is an asynchronous one.
    """

    __slots__ = ("generation", "is_async", "stream_id", "worker_id")

    def __init__(self, stream_id: int, worker_id: int, generation: int, is_async: bool = False) -> None:
        self.is_async = is_async
        self.stream_id = stream_id
        self.worker_id = worker_id
        self.generation = generation

    def __reduce__(self) -> tuple[Any, ...]:
        return StreamHandle, (self.stream_id, self.worker_id, self.generation, self.is_async)


def trace_text(error: BaseException) -> str:
    """Return the traceback of `error` as text, without the frame of the worker loop at its head."""
    trace = handling.traceback_of(error)
    return handling.format_error(error, trace.tb_next if trace is not None else None)


def encode_error(error: BaseException, text: str | None = None) -> bytes:
    """Pickle `error` so that unpickling it in the caller is sure to work.

    Many exception classes pickle and then fail to unpickle (CPython issue 103061), or take the process down while they do.
    The round trip is therefore made here, in the worker. What does not survive it because its constructor wants other
    arguments is rebuilt without calling that; anything else travels as a `RemoteError`.
    """
    text = trace_text(error) if text is None else text
    kind, message = handling.type_name(error), handling.text_of(error)
    try:
        data = _pickle_surely(error)
    except BaseException:
        data = dumps(RemoteError(kind, message, text))
    return dumps((data, text, kind, message))


def _pickle_surely(error: BaseException) -> bytes:
    """Pickle an exception as itself, or without its constructor, or raise what happens when it is unpickled."""
    try:
        return _pickle_and_try(error)
    except Exception:
        return _pickle_and_try(_Rebuilt(error))


def _pickle_and_try(error: BaseException | _Rebuilt) -> bytes:
    data = dumps(error)
    _load_error(data)
    return data


def _load_error(data: bytes) -> BaseException:
    """Unpickle an exception; anything else raises TypeError."""
    error = pickle.loads(data)
    if not handling.is_a(error, BaseException):
        raise TypeError(f"unpickling it gives no exception, but {handling.type_name(error)}")
    return error


class _Rebuilt:
    """Pickles as an exception whose constructor is not called when it is unpickled."""

    def __init__(self, error: BaseException) -> None:
        reduced: Any = error.__reduce__()
        maker, args, *state = reduced
        if maker is not type(error):  # its class knows better
            raise TypeError("it has its own way of being pickled")
        if maker.__getstate__ is not object.__getstate__:  # `BaseException.__reduce__` does not call it
            state, names = [error.__getstate__()], []
        else:
            names = copyreg._slotnames(maker)  # type: ignore[attr-defined]
        slots = {name: getattr(error, name) for name in names if hasattr(error, name)}
        self._parts = (maker, args, state[0] if state else None, slots)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, self._parts


def _rebuild(kind: type[BaseException], args: tuple[Any, ...], state: Any, slots: dict[str, Any]) -> BaseException:
    """Make an exception without its constructor, and without the assignments that a frozen class refuses."""
    error = kind.__new__(kind, *args)
    BaseException.args.__set__(error, args)  # type: ignore[attr-defined]
    if state is not None and kind.__setstate__ is not BaseException.__setstate__:
        error.__setstate__(state)
    elif state:
        error.__dict__.update(state)
    for name, value in slots.items():
        object.__setattr__(error, name, value)
    return error


def decode_error(data: bytes | memoryview) -> BaseException:
    """Rebuild what `encode_error` wrote, with the remote traceback as its cause.

    It could be rebuilt in the worker. Here it may fail all the same: a module that only the worker has, for instance. Then a
    `RemoteError` stands for it, also where rebuilding it exits.
    """
    pickled, text, kind, message = pickle.loads(data)
    try:
        error = _load_error(pickled)
    except BaseException as exc:
        reason = f"{message} (the exception cannot be rebuilt here: {handling.describe(exc)})"
        error = RemoteError(kind, reason, text)
    handling.set_cause(error, RemoteTraceback(text))
    return error


def with_worker_trace(error: BaseException) -> BaseException:
    """Give an error that stays in this process the same cause as one that crosses: the traceback of the worker, as text.

    Its own traceback is cut off, so that an error that is raised again by the caller does not grow, or keep frames alive.
    """
    if not handling.is_a(handling.cause_of(error), RemoteTraceback):
        handling.set_cause(error, RemoteTraceback(trace_text(error)))
    handling.set_traceback(error, None)
    return error


def explain_result(error: BaseException, worker_id: int, method: str, value: Any) -> BaseException:
    """Return the error of a result that could not be sent."""
    if handling.is_a(error, SharedMemoryFullError):
        return error
    return ResultPickleError(worker_id, method, handling.type_name(value), handling.text_of(error))

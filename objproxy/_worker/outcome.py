"""What becomes of an item: a value, or a `Failure` that holds the error; and errors as they travel between processes."""

from __future__ import annotations

import pickle
import traceback
from typing import Any

from objproxy._worker.wire import dumps
from objproxy.errors import RemoteError, RemoteTraceback, ResultPickleError, SharedMemoryFullError


class Failure:
    """Stands in a list of results for an item that raised; a returned exception object is a value, and stands for itself."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __repr__(self) -> str:
        return f"Failure({self.error!r})"


class StreamHandle:
    """Stands for a generator that lives in a worker.

    Parameters
    ----------
    stream_id : int
        Number of the generator in its worker.
    worker_id, generation : int
        Where it lives.
    """

    __slots__ = ("generation", "stream_id", "worker_id")

    def __init__(self, stream_id: int, worker_id: int, generation: int) -> None:
        self.stream_id = stream_id
        self.worker_id = worker_id
        self.generation = generation

    def __reduce__(self) -> tuple[Any, ...]:
        return StreamHandle, (self.stream_id, self.worker_id, self.generation)


def format_error(error: BaseException) -> str:
    """Return the traceback of `error` as text, without the frame of the worker loop at its head."""
    trace = error.__traceback__
    if trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, trace))
    except Exception as exc:  # the user's own __str__ or __repr__ may raise
        return f"{type(error).__qualname__} (its traceback cannot be shown: {type(exc).__name__})"


def encode_error(error: BaseException, text: str | None = None) -> bytes:
    """Pickle `error` so that unpickling it in the caller is sure to work.

    Many exception classes pickle and then fail to unpickle (CPython issue 103061), or take the process down while they do.
    The round trip is therefore made here, in the worker. What does not survive it because its constructor wants other
    arguments is rebuilt without calling that; anything else travels as a `RemoteError`.
    """
    text = format_error(error) if text is None else text
    try:
        data = _pickle_surely(error)
    except BaseException:
        data = dumps(RemoteError(type_name(error), _safe_text(error), text))
    return dumps((data, text))


def _pickle_surely(error: BaseException) -> bytes:
    """Pickle an exception as itself, or without its constructor, or raise what happens when it is unpickled."""
    try:
        return _pickle_and_try(error)
    except Exception:
        return _pickle_and_try(_Rebuilt(error))


def _pickle_and_try(error: BaseException | _Rebuilt) -> bytes:
    data = dumps(error)
    if not isinstance(pickle.loads(data), BaseException):
        raise TypeError("unpickling it gives something else than an exception")
    return data


class _Rebuilt:
    """Pickles as an exception whose constructor is not called when it is unpickled."""

    def __init__(self, error: BaseException) -> None:
        reduced: Any = error.__reduce__()
        maker, args, *state = reduced
        if maker is not type(error):  # its class knows better
            raise TypeError("it has its own way of being pickled")
        self._parts = (maker, args, state[0] if state else None)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, self._parts


def _rebuild(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any] | None) -> BaseException:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__setstate__(state)
    return error


def decode_error(data: bytes | memoryview) -> BaseException:
    """Rebuild what `encode_error` wrote, with the remote traceback as its cause."""
    pickled, text = pickle.loads(data)
    try:
        error: BaseException = pickle.loads(pickled)
    except BaseException as exc:
        # It could be rebuilt in the worker and cannot be here: a module that only the worker has, for instance.
        error = RemoteError("unknown", f"the exception cannot be rebuilt here: {type(exc).__name__}: {exc}", text)
    error.__cause__ = RemoteTraceback(text)
    return error


def with_worker_trace(error: BaseException) -> BaseException:
    """Give an error that stays in this process the same cause as one that crosses: the traceback of the worker, as text.

    Its own traceback is cut off, so that an error that is raised again by the caller does not grow, or keep frames alive.
    """
    if not isinstance(error.__cause__, RemoteTraceback):
        error.__cause__ = RemoteTraceback(format_error(error))
    return error.with_traceback(None)


def explain_result(error: BaseException, worker_id: int, method: str, value: Any) -> BaseException:
    """Return the error of a result that could not be sent."""
    if isinstance(error, SharedMemoryFullError):
        return error
    return ResultPickleError(worker_id, method, type_name(value), str(error))


def type_name(value: Any) -> str:
    """Return the qualified name of the type of `value`."""
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}" if kind.__module__ != "builtins" else kind.__qualname__


def _safe_text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(its text cannot be shown)"

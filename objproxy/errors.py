"""The errors of objproxy: what happened, to whom, the likely cause, what to do next.

::

    ObjProxyError
    ├── WorkerDiedError     (BrokenExecutor)   a worker process ended while it was needed
    │   └── PoisonTaskError                    an item that killed a worker on each of its attempts
    ├── WorkerInitError                        a constructor raised, died or ran past init_timeout
    ├── TaskTimeoutError    (TimeoutError)     an item ran longer than its time limit
    ├── PoolBrokenError     (BrokenExecutor)   no worker can be kept alive, or the engine failed
    ├── PoolClosedError     (RuntimeError)     the pool was closed, or belongs to another process
    ├── NestedPoolError     (RuntimeError)     a pool is not started, since it would start itself without end
    ├── ArgumentPickleError (TypeError)        an argument cannot be pickled
    ├── ResultPickleError   (TypeError)        a result cannot be pickled
    ├── RemoteError                            stands for an exception that cannot be rebuilt here
    ├── SharedMemoryFullError (MemoryError)    no room for a shared segment
    ├── DeviceError         (ValueError)       a device that is not there
    └── NotSupportedError   (NotImplementedError)  an option that this back end cannot honour

The facts are attributes; the text is built from them in the class, so that it is the same everywhere. Every error
survives pickling with its facts, its notes and its ``attempts``.
"""

from __future__ import annotations

import concurrent.futures
import signal
from typing import Any

__all__ = [
    "ArgumentPickleError",
    "DeviceError",
    "NestedPoolError",
    "NotSupportedError",
    "ObjProxyError",
    "PoisonTaskError",
    "PoolBrokenError",
    "PoolClosedError",
    "RemoteError",
    "RemoteTraceback",
    "ResultPickleError",
    "SharedMemoryFullError",
    "TaskTimeoutError",
    "WorkerDiedError",
    "WorkerInitError",
]


def _rebuild(cls: type[ObjProxyError], args: tuple[Any, ...], facts: dict[str, Any]) -> ObjProxyError:
    """Make an error from its facts without running its constructor again."""
    # The base that says how an object of this class looks in memory is the one that may make it.
    error: ObjProxyError = cls.__base__.__new__(cls, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


class ObjProxyError(Exception):
    """Base class of every error that objproxy itself raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class RemoteTraceback(Exception):
    """The traceback of a worker, as text; it is the ``__cause__`` of an exception that a method raised.

    Parameters
    ----------
    text : str
        What ``traceback.format_exception`` gave in the worker.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text.rstrip()}\n"""'

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.text,)


def describe_exit(exitcode: int | None) -> str:
    """Say in words how a process ended: a signal by its name, not by its number."""
    if exitcode is None:
        return "ended for an unknown reason"
    if exitcode >= 0:
        return f"exited with code {exitcode}"
    name = signal_name(exitcode)
    return f"was killed by signal {name or -exitcode}"


def signal_name(exitcode: int | None) -> str | None:
    """Return the name of the signal that a negative exit code stands for, else None."""
    if exitcode is None or exitcode >= 0:
        return None
    try:
        return signal.Signals(-exitcode).name
    except ValueError:
        return f"SIG{-exitcode}"


_LIKELY_CAUSE = {
    "SIGKILL": "Likely cause: the system ran out of memory and killed it, or somebody did",
    "SIGSEGV": "Likely cause: a crash in compiled code",
    "SIGABRT": "Likely cause: compiled code gave up (abort)",
    "SIGBUS": "Likely cause: memory that is mapped but not there, for instance a full /dev/shm",
    "SIGTERM": "Likely cause: somebody asked it to end",
}


class WorkerDiedError(ObjProxyError, concurrent.futures.BrokenExecutor):
    """A worker process ended while somebody needed it.

    The worker is replaced by one with the same ``worker_id`` and device, and the next ``generation``; what its object
    held is lost unless ``on_restart`` says otherwise.

    Attributes
    ----------
    worker_id : int
        Index of the worker in the pool.
    pid : int or None
        Process id of the worker that died.
    device : str or None
        Its device; None for a CPU worker.
    generation : int
        How often this worker had been replaced before.
    exitcode : int or None
        Exit code; negative for a signal; None if unknown.
    signal : str or None
        Name of the signal that ended it, for instance ``"SIGKILL"``.
    method : str or None
        The method that it ran.
    item : int or None
        Index of the item in its call.
    started : bool
        Whether the item had started. False: the worker died idle and only its state is lost.
    state_lost : bool
        Whether the state of the object is lost.
    attempts : int
        How often the item was tried.
    peak_rss : int or None
        The most memory that its process ever held, in bytes; None if unknown.
    stack : str
        Where its threads stood when it crashed (SIGSEGV and its like), as ``faulthandler`` tells it; else "".
    is_replaced : bool
        Whether another worker takes its place; False if it died too often.
    ending : str
        What it was doing, if it had been asked to end: its pool was closed, or it was recycled; else "".
    advice : str
        What its text recommends in place of the usual; see ``options(advice=...)``.
    """

    def __init__(
        self,
        worker_id: int,
        *,
        pid: int | None = None,
        device: str | None = None,
        generation: int = 0,
        exitcode: int | None = None,
        method: str | None = None,
        item: int | None = None,
        started: bool = True,
        state_lost: bool = True,
        attempts: int = 1,
        detail: str = "",
        peak_rss: int | None = None,
        stack: str = "",
        is_replaced: bool = True,
        ending: str = "",
        advice: str = "",
    ) -> None:
        self.worker_id = worker_id
        self.pid = pid
        self.device = device
        self.generation = generation
        self.exitcode = exitcode
        self.signal = signal_name(exitcode)
        self.method = method
        self.item = item
        self.started = started
        self.state_lost = state_lost
        self.attempts = attempts
        self.detail = detail
        self.peak_rss = peak_rss
        self.stack = stack
        self.is_replaced = is_replaced
        self.ending = ending
        self.advice = advice
        super().__init__(self._text() + (f"\n{stack.rstrip()}" if stack else ""))

    def _text(self) -> str:
        where = f"worker {self.worker_id} (pid {self.pid}, device {self.device or 'cpu'}, generation {self.generation})"
        parts = [f"{where} {describe_exit(self.exitcode)}", self._when()]
        parts.append(self.detail or _LIKELY_CAUSE.get(self.signal or "", ""))
        if self.signal == "SIGKILL" and self.peak_rss:
            parts.append(f"It held {self.peak_rss / 1e6:.0f} MB at most")
        parts.append(self._advice())
        return ". ".join(part for part in parts if part) + "."

    def _when(self) -> str:
        if self.ending:
            return f"It had been asked to end, and {self.ending}"
        if not self.started:
            return "No call was lost with it, but the state of its object is"
        item = "" if self.item is None else f", item {self.item}"
        return f"It was running {self.method or 'a call'}{item} (attempt {self.attempts})"

    def _advice(self) -> str:
        if self.ending:
            return "What it had still to do is lost"
        if self.advice:
            return self.advice
        if not self.is_replaced:
            return "The worker is given up and the others go on; make a new pool, or see max_restarts="
        if not self.started:
            return "The worker has been replaced; call again, or see on_restart= to keep its state"
        return "The worker is replaced and the pool goes on; see options(retries=...) to try such items again"


class PoisonTaskError(WorkerDiedError):
    """An item that killed a worker on each of its attempts (``options(retries=...)``); it is not tried again."""

    def _advice(self) -> str:
        return f"The item killed a worker on each of its {self.attempts} attempts and is given up; the other items go on"


class WorkerInitError(ObjProxyError):
    """A worker could not be set up: its constructor raised, died, or ran past ``init_timeout``.

    The exception of the constructor, where there is one, is the ``__cause__``. While a pool is being made, every worker
    of it is gone when this is raised.

    Attributes
    ----------
    worker_id : int
        Index of the worker.
    device : str or None
        Its device; None for a CPU worker.
    reason : str
        What happened, in words.
    exitcode : int or None
        Exit code if the worker died; negative for a signal.
    remote_traceback : str
        Traceback of the constructor, or "".
    """

    def __init__(
        self,
        worker_id: int,
        reason: str,
        *,
        device: str | None = None,
        exitcode: int | None = None,
        remote_traceback: str = "",
    ) -> None:
        self.worker_id = worker_id
        self.device = device
        self.reason = reason
        self.exitcode = exitcode
        self.signal = signal_name(exitcode)
        self.remote_traceback = remote_traceback
        text = f"worker {worker_id} (device {device or 'cpu'}) could not be set up: {reason}"
        super().__init__(f"{text}\n{remote_traceback.rstrip()}" if remote_traceback else text)


class TaskTimeoutError(ObjProxyError, TimeoutError):
    """An item ran longer than ``options(timeout=...)``; its worker has been replaced, the other items go on.

    With ``options(concurrency=...)`` its coroutine has been cancelled, and the worker goes on.

    The clock of an item starts when its arguments are unpickled and all that they need is imported. For that there is a limit
    of its own: 60 seconds, or ten times the item's if that is more.

    ``close(timeout=...)`` raises it for an object whose own end, or whose background work, took longer.

    Attributes
    ----------
    worker_id : int
        Index of the worker.
    method : str
        The method that ran.
    item : int or None
        Index of the item in its call.
    seconds : float
        The limit, in seconds.
    stack : str
        The worker's stack at that moment, where it could be read, else "".
    is_loading : bool
        Whether its arguments were still being unpickled.
    """

    def __init__(
        self,
        worker_id: int,
        method: str,
        item: int | None,
        seconds: float,
        stack: str = "",
        *,
        is_loading: bool = False,
        is_stopped: bool = False,
        ending: str = "",
        advice: str = "",
    ) -> None:
        self.worker_id = worker_id
        self.method = method
        self.item = item
        self.seconds = seconds
        self.stack = stack
        self.is_loading = is_loading
        which = method if item is None else f"{method}, item {item},"
        what = "ran longer than its limit of"
        if is_loading:
            what = "never began: its arguments were still being unpickled, or a module imported for them, after"
        text = f"{which} {what} {seconds:g} s on worker {worker_id}"
        if ending:
            text += f": {ending}. It was killed, and what it had still to do is lost."
        else:
            usual = "The worker has been replaced and the state of its object is lost; the other items go on"
            if is_stopped:
                usual = "It was cancelled; the other tasks of the worker go on"
            text += f". {advice or usual}."
        super().__init__(f"{text}\n{stack.rstrip()}" if stack else text)


class PoolBrokenError(ObjProxyError, concurrent.futures.BrokenExecutor):
    """The pool cannot go on: no worker can be kept alive, or its engine failed. The ``__cause__`` says why."""


class PoolClosedError(ObjProxyError, RuntimeError):
    """The pool was used after ``close()`` or ``kill()``, or in a forked child of the process that owns it."""


class NestedPoolError(ObjProxyError, RuntimeError):
    """A pool is not started, since it would start itself without end.

    A module makes it while a worker imports that module; or it is nested deeper than the environment variable
    OBJPROXY_MAX_DEPTH allows (default: 4 pools); or the process that makes it is a helper that runs the program once more.

    Attributes
    ----------
    where : str
        File and line that make the pool.
    depth : int
        How many pools are above that process.
    """

    def __init__(self, message: str, *, where: str = "", depth: int = 0) -> None:
        self.where = where
        self.depth = depth
        super().__init__(message)


#: What to do about an object that `multiprocessing` gives to its own children alone.
_FOR_CHILDREN = (
    ". Workers are no children of multiprocessing. Use multiprocessing.Manager() for a lock, an event or a queue of all "
    "workers, and SharedArray for numbers"
)


class ArgumentPickleError(ObjProxyError, TypeError):
    """An argument cannot be pickled; raised in the caller, before any worker is touched.

    Attributes
    ----------
    method : str
        The method that was called.
    path : str
        The way to the culprit, for instance ``argument 'cfg' -> .model.hooks[0]._lock``; "" if it was not found.
    item : int or None
        Index of the item in its call.
    """

    def __init__(self, method: str, path: str, reason: str, item: int | None = None) -> None:
        self.method = method
        self.path = path
        self.reason = reason
        self.item = item
        which = "" if item is None else f" of item {item}"
        where = f": {path}" if path else ""
        advice = _FOR_CHILDREN if "through inheritance" in reason else ""
        super().__init__(f"cannot send the arguments{which} of {method!r} to a worker{where} ({reason}){advice}")


class ResultPickleError(ObjProxyError, TypeError):
    """A result cannot be pickled, or cannot be rebuilt here; only this item fails, the worker lives.

    Attributes
    ----------
    worker_id : int
        Index of the worker.
    method : str
        The method whose result it is.
    type_name : str
        Type of the result.
    """

    def __init__(self, worker_id: int, method: str, type_name: str, reason: str) -> None:
        self.worker_id = worker_id
        self.method = method
        self.type_name = type_name
        self.reason = reason
        super().__init__(
            f"the result of {method!r} on worker {worker_id} is of type {type_name} and cannot cross to the caller: "
            f"{reason}. "
            "Return something that pickles, or keep it in the worker and return parts of it."
        )

    def told_as(self, label: str) -> ResultPickleError:
        """Return the same error with another name for the method."""
        error = ResultPickleError(self.worker_id, label, self.type_name, self.reason)
        error.__cause__ = self.__cause__
        return error


class RemoteError(ObjProxyError):
    """Stands for an exception of a worker that cannot be rebuilt in the caller.

    Attributes
    ----------
    type_name : str
        Qualified name of the exception's type.
    message : str
        Its text.
    remote_traceback : str
        Its traceback.
    """

    def __init__(self, type_name: str, message: str, remote_traceback: str = "") -> None:
        self.type_name = type_name
        self.message = message
        self.remote_traceback = remote_traceback
        super().__init__(f"{type_name}: {message}")


class SharedMemoryFullError(ObjProxyError, MemoryError):
    """There is no room for a shared segment.

    Attributes
    ----------
    needed : int
        Bytes that were asked for.
    free : int
        Bytes that are free.
    """

    def __init__(self, needed: int, free: int, hint: str) -> None:
        self.needed = needed
        self.free = free
        super().__init__(f"a shared segment needs {needed} bytes and {free} are free. {hint}")


class DeviceError(ObjProxyError, ValueError):
    """A device that does not exist was asked for.

    Parameters
    ----------
    message : str
        What is wrong, and what to write instead.
    asked : object
        The value that was given.
    available : sequence of str
        The devices that there are.
    """

    def __init__(self, message: str, *, asked: Any = None, available: Any = ()) -> None:
        self.asked = asked if isinstance(asked, (str, int, float, type(None))) else repr(asked)
        self.available = tuple(available)
        super().__init__(message)


class NotSupportedError(ObjProxyError, NotImplementedError):
    """An option that this back end cannot honour; raised when the pool or the options are made."""

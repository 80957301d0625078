"""Objects that fail on purpose: when they are made, pickled, rebuilt, called, sent, or deleted; and programs to end.

`fail` knows every way to fail by a name, so that a test can give a fault as an argument, like any other value. A worker's own
modules are changed by the object that lives in it, never by a hook in the library.
"""

from __future__ import annotations

import builtins
import ctypes
import importlib
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from objproxy import current_worker
from objproxy._worker import natives, wire
from targets import PATIENCE_SECONDS, Gate, poll_until

#: Held by a thread of the program across the making of a pool.
program_lock = threading.Lock()


class RequiredArgumentsError(Exception):
    """Pickles, and cannot be unpickled: its constructor wants more than its arguments."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


class BottomError(BaseException):
    """Is none of what ``except Exception`` catches."""


class BadTextError(Exception):
    """Cannot say what it is about."""

    def __str__(self) -> str:
        raise ZeroDivisionError("no text")


class UnpicklableError(Exception):
    """Its ``__reduce__`` raises."""

    def __reduce__(self) -> NoReturn:
        raise LookupError("cannot be reduced")


def _local_error() -> Exception:
    class LocalError(Exception):
        pass

    return LocalError("local")


def _holding_error() -> Exception:
    error = ValueError("holds a lock")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    return error


def _cyclic_error() -> Exception:
    error, cause = ValueError("cyclic"), KeyError("cause")
    error.__cause__, cause.__cause__ = cause, error
    return error


class DeadlyError(Exception):
    """Does something to whoever unpickles it."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how

    def __reduce__(self) -> Any:
        return fail, (self.how,)


#: Errors by name; a name that is not here is that of a built-in exception, or of a way for a process to end.
ERRORS: dict[str, Callable[[], BaseException]] = {
    "PicklingError": lambda: pickle.PicklingError("bad luck"),
    "RequiredArgumentsError": lambda: RequiredArgumentsError("one", "two"),
    "BottomError": lambda: BottomError("bottom"),
    "BadTextError": BadTextError,
    "UnpicklableError": lambda: UnpicklableError("reduce"),
    "LocalError": _local_error,
    "holds a lock": _holding_error,
    "cyclic cause": _cyclic_error,
    "huge": lambda: ValueError("x" * 10_000_000),
    "ExceptionGroup": lambda: ExceptionGroup("several", [ValueError("one"), KeyError("two")]),
    "unpickling exits": lambda: DeadlyError("SystemExit"),
    "unpickling kills": lambda: DeadlyError("SIGKILL"),
}


def fail(how: str) -> NoReturn:
    """Fail in the way that is named: an error, ``"os._exit(7)"``, the C library's ``"exit(0)"``, a signal, deep recursion."""
    if how.startswith("os._exit("):
        os._exit(int(how[9:-1]))
    if how.startswith("exit("):
        ctypes.CDLL(None).exit(int(how[5:-1]))
    if how.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, how))
        while True:
            signal.pause()
    if how == "real RecursionError":
        fail(how)
    if how == "real MemoryError":
        bytearray(1 << 62)
    make = ERRORS.get(how) or (lambda: getattr(builtins, how)("bad luck"))
    raise make()


class FailsAtPickle:
    """Fails whenever it is pickled."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> NoReturn:
        fail(self.how)


class FailsAtUnpickle:
    """Fails when it is rebuilt: everywhere, or only in one process, or everywhere else.

    Called, it makes a `Victim`, so that it can stand for a class.
    """

    def __init__(self, how: str, *, only_in: int | None = None, not_in: int | None = None) -> None:
        self.state = how, only_in, not_in

    def __call__(self) -> Victim:
        return Victim()

    def __reduce__(self) -> Any:
        return _rebuild, self.state


def _rebuild(how: str, only_in: int | None, not_in: int | None) -> FailsAtUnpickle:
    if only_in in (None, os.getpid()) and not_in != os.getpid():
        fail(how)
    return FailsAtUnpickle(how, only_in=only_in, not_in=not_in)


class FailsAtDeletion:
    """Fails when it is deleted in another process than the one that made it."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.home = os.getpid()

    def __del__(self) -> None:
        if self.home != os.getpid():
            fail(self.how)


class NeedsMissingModule:
    """Is rebuilt by a module that is not there."""

    def __reduce__(self) -> Any:
        return importlib.import_module, ("only_in_the_worker",)


class Meeting:
    """Where a test meets a worker: the worker comes, says who it is, and waits until it may go, or for its end.

    Parameters
    ----------
    path : Path
        A name that nobody else uses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def come(self) -> None:
        """Say who is here, and wait."""
        self.say_here()
        Gate(f"{self.path}-over").wait()

    def say_here(self) -> None:
        """Say who is here."""
        mine = self.path.with_name(f"{self.path.name}-{os.getpid()}")
        mine.write_text(str(os.getpid()))
        mine.replace(self.path)

    def pid(self) -> int:
        """Wait until a worker has come; return its process."""
        poll_until(self.path.exists)
        return int(self.path.read_text())

    def end(self) -> None:
        """Let the worker go on."""
        Gate(f"{self.path}-over").open()


class Victim:
    """Does what its calls say, failing included."""

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.n_calls = 0

    def obey(self, order: Any) -> Any:
        """Fail as a text says, come to a meeting, or return anything else."""
        self.n_calls += 1
        if isinstance(order, str):
            fail(order)
        if isinstance(order, Meeting):
            order.come()
            return "met"
        return order

    def try_once(self, token: Path, how: str) -> str:
        """Fail, the first time that anybody comes here with this token."""
        try:
            os.close(os.open(token, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return "done"
        fail(how)

    def note(self, path: Path, order: Any) -> Any:
        """Write down that this was called, in one go, and obey."""
        with open(path, "a") as file:
            file.write(f"{order}\n")
        return self.obey(order)

    def size(self, values: Any) -> int:
        return len(values)

    def make_ones(self, n_values: int) -> Any:
        import numpy as np

        return np.ones(n_values)

    def make_rows(self, n_rows: int) -> list[bytes]:
        return rows(n_rows)

    def make(self, kind: str, how: str, home: int) -> Any:
        """Return an object that fails."""
        kinds = {
            "FailsAtPickle": lambda: FailsAtPickle(how),
            "FailsAtUnpickle": lambda: FailsAtUnpickle(how, only_in=home),
            "FailsAtDeletion": lambda: FailsAtDeletion(how),
            "NeedsMissingModule": NeedsMissingModule,
        }
        made = kinds[kind]()
        if kind == "FailsAtDeletion":
            made.home = home
        return made

    def pid(self) -> int:
        return os.getpid()

    def place(self) -> tuple[int, int]:
        """Return which worker this is, and of which generation."""
        return current_worker().worker_id, current_worker().generation

    def keep(self, value: Any) -> None:
        self.kept.append(value)

    # ---- faults in the channel ---------------------------------------------------------------------------------------

    def end_in_reading(self, n_bytes: int, how: str) -> None:
        """From now on, fail when the beginning of a frame of so many bytes has been read."""
        read = wire.FrameReader.read

        def read_and_fail(reader: wire.FrameReader) -> Any:
            frames = read(reader)
            if len(reader._rest) >= n_bytes:
                fail(how)
            return frames

        wire.FrameReader.read = read_and_fail  # type: ignore[method-assign]

    def end_in_writing(self, n_bytes: int, how: str | Meeting, whole: int = 1) -> None:
        """When this has been answered: of a write of `whole` bytes or more write only `n_bytes` (negative: all but), and fail.

        ``"drop what is kept"`` is a way to fail here too, and happens behind the whole write.
        """
        wire.natives = FailingWrites(n_bytes, how, whole, self.kept)  # type: ignore[assignment]


class FailingWrites:
    """Stands for the module `natives` where a worker's channel looks for it."""

    def __init__(self, n_bytes: int, how: str | Meeting, whole: int, kept: list[Any]) -> None:
        self._n_bytes = n_bytes
        self._how = how
        self._whole = whole
        self._kept = kept
        self._is_armed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(natives, name)

    def write(self, fd: int, data: Any) -> int:
        if not self._is_armed or len(data) < self._whole:
            self._is_armed = True
            return os.write(fd, data)
        rest = memoryview(data)[: self._n_bytes if self._n_bytes >= 0 else len(data) + self._n_bytes]
        while rest:
            try:
                rest = rest[os.write(fd, rest) :]
            except BlockingIOError:
                wire.wait_for_room(fd)
        if isinstance(self._how, Meeting):
            self._how.come()
        elif self._how == "drop what is kept":
            self._kept.clear()
        else:
            fail(self._how)
        return len(data)


class Refuser(Victim):
    """Cannot be made.

    Parameters
    ----------
    how : str
        For `fail`.
    worker_ids : tuple of int or None
        Where; None means everywhere.
    path : Path or None
        Where each attempt is written down.
    """

    def __init__(self, how: str, worker_ids: tuple[int, ...] | None = None, path: Path | None = None) -> None:
        super().__init__()
        worker_id = current_worker().worker_id
        if path is not None:
            with open(path, "a") as file:
                file.write(f"{worker_id}\n")
        if worker_ids is None or worker_id in worker_ids:
            fail(how)


class Locking(Victim):
    """Wants a lock of the program's to be made."""

    def __init__(self) -> None:
        super().__init__()
        if not program_lock.acquire(timeout=PATIENCE_SECONDS):
            raise TimeoutError("the lock was never released")
        program_lock.release()


def rows(n_rows: int) -> list[bytes]:
    """Return what makes one frame of 1 KB a row.

    A large pickle leaves the channel for shared memory, unless it holds a single object that is large and leaves it alone.
    """
    return [bytes(200_000), *(i.to_bytes(4, "little") * 250 for i in range(n_rows))]


def hang(how: str, meeting: Meeting, lock_path: Path) -> None:
    """Hang, after saying so, in a way that is hard to end."""
    import fcntl

    if how == "SIGTERM ignored":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    meeting.say_here()
    if how == "C":
        sum(range(10**12))
    elif how == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif how == "flock":
        with open(lock_path) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            if how != "swallow":
                raise


class Hanger(Victim):
    """Hangs in many ways."""

    def hang(self, how: str | None, meeting: Meeting, lock_path: Path) -> str | None:
        if how is not None:
            hang(how, meeting, lock_path)
        return how

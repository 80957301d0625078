"""Objects whose end is not over with their calls: background work, exit functions, files that are not closed."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import signal
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from faulty import Meeting, fail
from objproxy import current_worker
from targets import CustomError, Gate, poll_until


def append(path: Path, word: str) -> None:
    """Add a line to a file, in one go."""
    with open(path, "a") as file:
        file.write(f"{word}\n")


def wait_and_append(gate: Gate | None, path: Path, word: str) -> None:
    if gate is not None:
        gate.wait()
    append(path, word)


class Background:
    """Begins work that its calls do not wait for, and that ends when a gate is open."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def begin(self, how: str, gate: Gate | None, path: Path) -> None:
        getattr(self, f"_by_{how}")(gate, path, how)

    def _by_thread(self, *work: Any) -> None:
        threading.Thread(target=wait_and_append, args=work).start()

    def _by_executor(self, *work: Any) -> None:
        self.kept.append(ThreadPoolExecutor(1))
        self.kept[-1].submit(wait_and_append, *work)

    def _by_process_executor(self, *work: Any) -> None:
        self.kept.append(ProcessPoolExecutor(1))
        self.kept[-1].submit(wait_and_append, *work)

    def _by_child(self, *work: Any) -> None:
        multiprocessing.get_context("fork").Process(target=wait_and_append, args=work).start()

    def _by_exit_function(self, *work: Any) -> None:
        atexit.register(wait_and_append, *work)

    def _by_finalizer(self, *work: Any) -> None:
        weakref.finalize(self, wait_and_append, *work)

    def _by_file(self, _gate: Gate | None, path: Path, word: str) -> None:
        self.kept.append(open(path, "a"))  # noqa: SIM115 - it is not closed
        self.kept[-1].write(f"{word}\n")

    def _by_daemon(self, *work: Any) -> None:
        threading.Thread(target=wait_and_append, args=work, daemon=True).start()

    def order(self, path: Path) -> None:
        """Have each step of the end leave a line."""

        def run() -> None:
            poll_until(lambda: not threading.main_thread().is_alive())
            append(path, "thread")

        threading.Thread(target=run).start()
        atexit.register(append, path, "exit function 1")
        atexit.register(append, path, "exit function 2")
        self.kept.append(Last(path))

    def make_folder(self) -> str:
        self.kept.append(tempfile.TemporaryDirectory())
        return str(self.kept[-1].name)

    def hang_at_exit(self, meeting: Meeting | None = None) -> int:
        atexit.register(threading.Event().wait)
        if meeting is not None:
            atexit.register(meeting.say_here)
        return os.getpid()

    def work(self, order: Any = None) -> Any:
        if isinstance(order, Meeting):
            order.come()
        return order

    def pid(self) -> int:
        return os.getpid()


class Last:
    """Leaves a line when it is deleted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.append: Callable[[Path, str], None] = append

    def __del__(self) -> None:
        self.append(self.path, "deleted")


class Ordered(Background):
    """Notes its own end too."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def close(self) -> None:
        append(self.path, "close")


class BadEnd:
    """Ends badly, on the workers that are given."""

    def __init__(self, how: str, worker_ids: tuple[int, ...] = (0,)) -> None:
        self.how = how
        self.worker_ids = worker_ids

    def work(self) -> int:
        return 1

    def close(self) -> None:
        if current_worker().worker_id not in self.worker_ids:
            return
        if self.how == "raise":
            raise CustomError(f"not closed by {current_worker().worker_id}")
        if self.how == "hang":
            threading.Event().wait()
        if self.how == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        fail(self.how)


class BadExit:
    """Raises in ``__exit__``."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_exc_info: object) -> None:
        raise CustomError("not left")

    def work(self) -> int:
        return 1


class Session:
    """Has to be entered before it is used."""

    def __init__(self, path: Path, gives: Any = None) -> None:
        self.path = path
        self.gives = gives
        self.calls: list[str] = []

    def __enter__(self) -> Any:
        append(self.path, "enter")
        self.calls.append("enter")
        return self.gives

    def __exit__(self, *_exc_info: object) -> None:
        append(self.path, "exit")

    def ask(self) -> list[str]:
        self.calls.append("ask")
        return self.calls


class Both(Session):
    """Can be closed without having been entered."""

    def close(self) -> None:
        append(self.path, "close")


class BadEnter(Session):
    """Cannot be entered."""

    def __enter__(self) -> Any:
        raise CustomError("no entrance")


class Trader:
    """Has a method that happens to be called close."""

    def close(self, position: str) -> str:
        return f"closed {position}"


@contextlib.contextmanager
def session(path: Path) -> Iterator[list[int]]:
    append(path, "enter")
    yield [1, 2, 3]
    append(path, "exit")

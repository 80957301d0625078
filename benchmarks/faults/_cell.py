"""One fault of one library, in a program of its own, which may hang or be killed: it tells what happens as it happens.

argv: a folder, the fault, the library. What happens is appended to ``events.jsonl`` in the folder, one event a line.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.faults import _tasks
from benchmarks.faults._faults import FAULTS
from benchmarks.faults._systems import OPENERS, Session

_N_TASKS = 4
_LIMIT = 1.0
_N_LAZY = 20_000
_N_POOLS = 8

#: How long a worker may take until it is free again after a time-out was told.
_FREE_SECONDS = 6.0

Open = Callable[..., AbstractContextManager[Session]]


class Stage:
    """What a cell works with: a folder for its notes, and the library.

    Parameters
    ----------
    folder : str
        The folder.
    kind : str
        What goes wrong.
    library : str
        Whose pool is used.
    """

    def __init__(self, folder: str, kind: str, library: str) -> None:
        self.folder = folder
        self.kind = kind
        self._library = library

    def open(self, kind: str = "") -> AbstractContextManager[Session]:
        """Open a pool; `kind` is what its constructor does."""
        return OPENERS[self._library](kind, self.folder)

    def tell(self, event: str, **facts: Any) -> None:
        """Tell whoever has started this program what has happened."""
        line = json.dumps({"event": event, "at": time.monotonic(), **facts}) + "\n"
        with Path(self.folder, "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(line)

    def orders(self, *kinds: str) -> list[_tasks.Order]:
        """Return orders of these kinds, and as many that are fine as make four."""
        return [(kind, self.folder) for kind in (*kinds, *["fine"] * (_N_TASKS - len(kinds)))]

    def seconds_since_fault(self) -> float | None:
        """Return how long ago something went wrong."""
        moment = _tasks.read_note(self.folder, "fault")
        return None if moment is None else time.monotonic() - moment[0]

    def ask(self, ask: Callable[[], Any], expected: Any) -> str:
        """Ask and return what came out: "ok", or the name of the error, or what else there was."""
        try:
            results = list(ask())
        except BaseException as error:
            return type(error).__name__
        if results == expected:
            return "ok"
        strange = [result for result in results if result != 1]
        return f"{type(strange[0]).__name__} as a result" if strange else f"{len(results)} results, no error"


def measure_task(stage: Stage) -> None:
    """Let one task of four go wrong."""
    with stage.open() as session:
        session.map(stage.orders())
        stage.tell("begin")
        outcome = stage.ask(lambda: session.map(stage.orders("fine", stage.kind)), [1] * _N_TASKS)
        stage.tell("told", outcome=outcome, seconds=stage.seconds_since_fault())
        _ask_again(stage, session)
    stage.tell("closed")


def _ask_again(stage: Stage, session: Session) -> None:
    stage.tell("next", outcome=stage.ask(lambda: session.map(stage.orders()), [1] * _N_TASKS))


def measure_limit(stage: Stage) -> None:
    """Let one task of four run past its limit."""
    with stage.open() as session:
        assert session.limited is not None
        limited = session.limited
        with contextlib.suppress(TimeoutError):  # some count the start of the workers, which is why this is done
            limited(stage.orders(), _LIMIT)
        stage.tell("begin")
        outcome = stage.ask(lambda: limited(stage.orders("fine", stage.kind), _LIMIT), [1] * _N_TASKS)
        stage.tell("told", outcome=outcome, seconds=stage.seconds_since_fault())
        stage.tell("freed", is_free=_is_freed(stage))
        _ask_again(stage, session)
    stage.tell("closed")


def _is_freed(stage: Stage) -> bool:
    """Wait a while until the worker has left its task or is gone."""
    note = _tasks.read_note(stage.folder, "fault")
    deadline = time.monotonic() + _FREE_SECONDS
    while note is not None and time.monotonic() < deadline:
        if _tasks.read_note(stage.folder, "left") is not None or _is_gone(note[1]):
            return True
        time.sleep(0.02)
    return False


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def measure_idle(stage: Stage) -> None:
    """Kill all workers while they have nothing to do, then call."""
    with stage.open() as session:
        pids = set(session.map([("pid", stage.folder)] * 8))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while not all(_is_gone(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.001)
        stage.tell("begin")
        _tasks.note(stage.folder, "fault")
        outcome = stage.ask(lambda: session.map(stage.orders()), [1] * _N_TASKS)
        stage.tell("told", outcome=outcome, seconds=stage.seconds_since_fault())
        _ask_again(stage, session)
    stage.tell("closed")


def measure_constructor(stage: Stage) -> None:
    """Let the constructor go wrong; the caller may learn of it there or in the first call."""
    stage.tell("begin")

    def use() -> Any:
        with stage.open(stage.kind) as session:
            return session.map(stage.orders())

    outcome = stage.ask(use, [1] * _N_TASKS)
    stage.tell("told", outcome=outcome, seconds=stage.seconds_since_fault())
    stage.tell("closed")


def measure_parent(stage: Stage) -> None:
    """Wait to be killed, with workers that are idle or busy."""
    with stage.open() as session:
        session.map(stage.orders())
        if stage.kind == "busy":
            threading.Thread(target=_tell_when_busy, args=(stage,), daemon=True).start()
            session.map(stage.orders("sleep", "sleep"))
        stage.tell("begin")
        stage.tell("ready")
        time.sleep(600)


def _tell_when_busy(stage: Stage) -> None:
    while _tasks.read_note(stage.folder, "fault") is None:
        time.sleep(0.01)
    time.sleep(0.5)  # the other worker has begun as well
    stage.tell("begin")
    stage.tell("ready")


def measure_ctrl_c(stage: Stage) -> None:
    """Wait for Ctrl-C in a call that takes long."""
    with stage.open() as session:
        session.map(stage.orders())
        threading.Thread(target=_tell_when_busy, args=(stage,), daemon=True).start()
        session.map(stage.orders("sleep", "sleep"))


def measure_no_close(stage: Stage) -> None:
    """End the program with an open pool."""
    opened = stage.open()
    session = opened.__enter__()
    # Nothing may close it when this function's names go.
    for kept in (opened, session):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
    session.map(stage.orders())
    stage.tell("begin")
    stage.tell("end")


def measure_lazy(stage: Stage) -> None:
    """Count what is pulled from a lazy input while the consumer does not go on."""
    n_pulled = 0

    def make_orders() -> Iterator[_tasks.Order]:
        nonlocal n_pulled
        for n_pulled in range(1, _N_LAZY + 1):  # noqa: B007  (counted for the other function)
            yield "quick", stage.folder

    with stage.open() as session:
        stage.tell("begin")
        assert session.lazy is not None
        results = iter(session.lazy(make_orders()))
        next(results)
        time.sleep(1.0)
        stage.tell("told", outcome="pulled", count=n_pulled)


def measure_leftovers(stage: Stage) -> None:
    """Open, use and close pools, and count what the program has then."""
    counts = []
    stage.tell("begin")
    for number in range(_N_POOLS + 1):
        with stage.open() as session:
            session.map(stage.orders())
        if number in (0, _N_POOLS):
            time.sleep(1.0)
            counts.append((len(os.listdir("/proc/self/fd")), threading.active_count()))
            stage.tell("counted")
    (fds, threads), (last_fds, last_threads) = counts
    stage.tell("told", outcome="counted", text=f"{fds} to {last_fds}, {threads} to {last_threads}")


_WAYS: dict[str, Callable[[Stage], None]] = {
    "task": measure_task,
    "limit": measure_limit,
    "idle": measure_idle,
    "constructor": measure_constructor,
    "parent": measure_parent,
    "ctrl_c": measure_ctrl_c,
    "no_close": measure_no_close,
    "lazy": measure_lazy,
    "leftovers": measure_leftovers,
}


def main() -> None:
    """Be the program of one cell."""
    folder, fault_name, library = sys.argv[1:]
    fault = FAULTS[fault_name]
    stage = Stage(folder, fault.kind, library)
    try:
        partial(_WAYS[fault.way], stage)()
    except (ImportError, SyntaxError) as error:
        stage.tell("not importable", text=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()

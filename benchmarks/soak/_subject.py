"""What the workers hold: an object whose method does what each item says, ending its own process among other things."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.soak._counts import RunCounts
from objproxy import current_worker

#: Result of a task whose number is n: n + bias, so that an object that came back without its state answers wrongly.
BIAS = 1_000_003


class SoakError(Exception):
    """What a task raises; its constructor must be given the number, so that it cannot be rebuilt from its text alone."""

    def __init__(self, number: int, *, reason: str = "planned") -> None:
        super().__init__(number)
        self.number = number
        self.reason = reason


class Unreadable:
    """An argument that raises when it is unpickled, or ends the process that does it.

    Parameters
    ----------
    number : int
        Of the task.
    is_fatal : bool
        Whether it ends the process.
    """

    def __init__(self, number: int, *, is_fatal: bool) -> None:
        self._number = number
        self._is_fatal = is_fatal

    def __reduce__(self) -> Any:
        return _refuse, (self._number, self._is_fatal)


def _refuse(number: int, is_fatal: bool) -> None:
    if is_fatal:
        os._exit(6)
    raise SoakError(number, reason="unreadable")


class Subject:
    """An object that works, fails, hangs and dies as it is told.

    Parameters
    ----------
    counts : RunCounts
        How often the task of each number has begun.
    """

    def __init__(self, counts: RunCounts) -> None:
        self._counts = counts
        self.bias = 0
        self.mark = 0

    def set_bias(self, bias: int) -> None:
        """Give the object a state."""
        self.bias = bias

    def set_mark(self, mark: int) -> int:
        """Give the object a state that changes in the course of a round; return where this runs."""
        self.mark = mark
        return current_worker().worker_id

    def get_mark(self) -> tuple[int, int]:
        """Return where this runs, and the state."""
        return current_worker().worker_id, self.mark

    def work(self, number: int, kind: str, payload: Any = None) -> tuple[int, Any]:
        """Do what `kind` says; return the task's number and its result."""
        n_runs = self._counts.note(number)
        if kind == "once" and n_runs == 1:
            os._exit(9)
        return number, getattr(self, f"_do_{kind}")(number, payload)

    def everywhere(self, first: int, failing: int) -> tuple[int, int]:
        """Return where this runs, and the state; fail on worker `failing`."""
        worker_id = current_worker().worker_id
        self._counts.note(first + worker_id)
        if worker_id == failing:
            raise SoakError(first + worker_id)
        return worker_id, self.bias

    def fill(self, number: int, table: np.ndarray, row: int) -> tuple[int, int]:
        """Write a row of a shared array."""
        self._counts.note(number)
        table[row] = number
        return number, row

    def rows(self, number: int, count: int) -> Iterator[int]:
        """Yield one number after the other."""
        self._counts.note(number)
        for i in range(count):
            yield number + i + self.bias

    # ---- kinds of items ----------------------------------------------------------------------------------------------

    def _do_add(self, number: int, _payload: object) -> int:
        return number + self.bias

    def _do_nap(self, number: int, _payload: object) -> int:
        time.sleep(0.002)
        return number + self.bias

    def _do_array(self, number: int, payload: np.ndarray) -> np.ndarray:
        payload += number % 7 + 1  # an array arrives writable, and is this task's own
        return payload

    def _do_total(self, _number: int, payload: np.ndarray) -> float:
        return float(payload.sum())

    def _do_nothing(self, number: int, _payload: object) -> int:
        """Return what no task has to: the arguments of these kinds never arrive."""
        return number

    _do_unsendable = _do_unreadable = _do_fatal = _do_nothing

    def _do_raise(self, number: int, _payload: object) -> None:
        raise SoakError(number)

    def _do_exit(self, number: int, _payload: object) -> None:
        raise SystemExit(number)

    def _do_lock(self, _number: int, _payload: object) -> Any:
        return threading.Lock()  # does not pickle

    def _do_kill(self, _number: int, _payload: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _do_abort(self, _number: int, _payload: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()  # the signal may be another thread's

    def _do_leave(self, number: int, _payload: object) -> None:
        os._exit(number % 2)

    def _do_once(self, number: int, _payload: object) -> int:
        return number + self.bias

    def _do_sleep(self, _number: int, _payload: object) -> None:
        time.sleep(600)

    def _do_swallow(self, _number: int, _payload: object) -> None:
        while True:
            try:
                time.sleep(600)
            except BaseException:  # a task that lets nothing end it
                continue

    def _do_spin(self, _number: int, _payload: object) -> None:
        sum(range(10**12))  # no bytecode is run for hours

    def _do_stop(self, _number: int, _payload: object) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(600)

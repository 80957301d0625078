"""The books of a round: every task that was handed in ends exactly once, rightly, and ran as often as it may."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.soak._plan import DEADLY, HANGING, Item, Wave
from benchmarks.soak._subject import BIAS, SoakError
from objproxy import ArgumentPickleError, PoisonTaskError, ResultPickleError, TaskTimeoutError, WorkerDiedError

_OPEN, _DONE, _FAILED, _CANCELLED, _UNUSED = range(5)
_NAMES = {_DONE: "done", _FAILED: "failed", _CANCELLED: "cancelled"}

#: Exit codes of the kinds that end their worker; None: that of the task's number.
_EXIT_CODES = {"kill": -9, "abort": -15, "leave": None, "once": 9, "fatal": 6}


class Violation(Exception):
    """Something happened that the library promises not to let happen."""


def demand(is_so: bool, text: str) -> None:
    """Raise `Violation` unless a promise was kept."""
    if not is_so:
        raise Violation(text)


class Ledger:
    """Who has ended, and how; several threads write.

    Parameters
    ----------
    n_numbers : int
        Tasks that may be numbered.
    """

    def __init__(self, n_numbers: int) -> None:
        self.tally: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._next = 0
        self._ends = np.zeros(n_numbers, np.uint8)
        self._low = np.zeros(n_numbers, np.uint8)
        self._high = np.zeros(n_numbers, np.uint8)
        self.n_ended = 0

    def take(self, count: int) -> range:
        """Give the next tasks their numbers."""
        with self._lock:
            numbers = range(self._next, self._next + count)
            self._next += count
        demand(numbers.stop <= len(self._ends), "the soak itself numbered too few tasks")
        return numbers

    def note(self, what: str, count: int = 1) -> None:
        """Count something for the report."""
        with self._lock:
            self.tally[what] += count

    def end(self, number: int, state: int, low: int, high: int) -> None:
        """Write down that a task has ended, having run at least `low` and at most `high` times."""
        with self._lock:
            demand(self._ends[number] == _OPEN, f"task {number} ended twice")
            self._ends[number], self._low[number], self._high[number] = state, low, high
            self.n_ended += 1

    def cancel(self, numbers: Iterable[int], n_tries: int) -> None:
        """Write down that tasks were given up."""
        for number in numbers:
            self.end(number, _CANCELLED, 0, n_tries)

    def drop(self, numbers: Iterable[int]) -> None:
        """Write down that numbers were not used after all; nothing may have run under them."""
        for number in numbers:
            self.end(number, _UNUSED, 0, 0)

    # ---- outcomes ----------------------------------------------------------------------------------------------------

    def settle(self, wave: Wave, item: Item, number: int, index: int | None, outcome: Any) -> None:
        """Check the outcome of a task, and write it down.

        Parameters
        ----------
        wave : Wave
            How it was handed in.
        item : Item
            What it was to do.
        number : int
            Its number.
        index : int or None
            Its place in its call, as the errors have to tell it.
        outcome : object
            Its result, or its exception.
        """
        n_tries = 1 + wave.retries
        if not isinstance(outcome, BaseException):
            _check_result(wave, item, number, outcome)
            self.end(number, _DONE, 1, n_tries)
            return

        who = f"task {number} ({item.kind}, item {index} of a {wave.way})"
        self.note(type(outcome).__name__)
        if self._is_lost_to_others(wave, item, outcome):
            _check_death(who, outcome, index, n_tries)
        else:
            _check_error(who, wave, item, number, index, outcome)
        if isinstance(outcome, ArgumentPickleError) or item.kind in ("unreadable", "fatal"):
            low, high = 0, 0
        elif isinstance(outcome, WorkerDiedError):
            # It may have died before the method's first line.
            low, high = 0, outcome.attempts if outcome.started else 0
        else:
            low, high = (0 if isinstance(outcome, TaskTimeoutError) else 1), n_tries
        self.end(number, _FAILED, low, high)

    def _is_lost_to_others(self, wave: Wave, item: Item, outcome: BaseException) -> bool:
        """Whether a task was hit by what the soak does to its worker from outside; that is counted."""
        if not isinstance(outcome, WorkerDiedError):
            return False
        if not outcome.started:
            self.note("told of a lost state")
            return True
        if item.kind in DEADLY and outcome.exitcode != -9 and not (item.kind == "once" and wave.retries):
            return False
        self.note("lost to a kill" if item.kind != "kill" else "killed themselves")
        return True

    # ---- the end -----------------------------------------------------------------------------------------------------

    def balance(self, counts: np.ndarray) -> Counter[str]:
        """Check the books; return how many were done, failed and cancelled.

        Parameters
        ----------
        counts : ndarray, shape (n_numbers,)
            How often each task has run.
        """
        ends, counts = self._ends[: self._next], counts[: self._next]
        _demand_none(np.flatnonzero(ends == _OPEN), "have no outcome")
        _demand_none(np.flatnonzero(counts < self._low[: self._next]), "have a result and never ran")
        _demand_none(np.flatnonzero(counts > self._high[: self._next]), "ran more often than they may", counts)
        n_killers = int(self.tally["kills"])
        demand(
            self.tally["lost to a kill"] <= n_killers,
            f"{self.tally['lost to a kill']} tasks were lost to {n_killers} kills; a death costs one task at most",
        )
        totals = Counter({name: int((ends == state).sum()) for state, name in _NAMES.items()})
        totals["submitted"] = int((ends != _UNUSED).sum())
        demand(totals["submitted"] == sum(totals[name] for name in _NAMES.values()), f"the books do not balance: {totals}")
        return totals


def _demand_none(numbers: np.ndarray, what: str, counts: np.ndarray | None = None) -> None:
    shown = [int(number) if counts is None else (int(number), int(counts[number])) for number in numbers[:10]]
    demand(len(numbers) == 0, f"{len(numbers)} tasks {what}, the first of them: {shown}")


def _check_result(wave: Wave, item: Item, number: int, outcome: Any) -> None:
    who = f"task {number} ({item.kind}, of a {wave.way})"
    may_end_well = item.kind in ("add", "nap", "array") or (item.kind == "once" and wave.retries > 0)
    demand(may_end_well, f"{who} has a result, where an error had to be: {outcome!r:.200}")
    demand(type(outcome) is tuple and outcome[0] == number, f"{who} has the result of another: {outcome!r:.200}")
    result = outcome[1]
    if item.kind == "array":
        expected = item.make_payload(number) + (number % 7 + 1)
        demand(np.array_equal(result, expected), f"{who}: its array of {item.n_elements} is wrong: {result!r:.200}")
    else:
        demand(
            result == number + BIAS, f"{who}: got {result!r:.200}, not {number + BIAS}; the worker's state was lost in silence"
        )


def _check_death(who: str, error: BaseException, index: int | None, n_tries: int) -> None:
    assert isinstance(error, WorkerDiedError)
    demand(error.attempts <= n_tries, f"{who} was tried {error.attempts} times, with {n_tries} allowed")
    if error.started:
        demand(error.item == index, f"{who} was told that item {error.item} died")
        demand(isinstance(error, PoisonTaskError) or error.attempts == n_tries == 1, f"{who} was given up early: {error}")


def _check_error(who: str, wave: Wave, item: Item, number: int, index: int | None, error: BaseException) -> None:
    """Check that an error is the one that the task asked for."""
    kind, text = item.kind, f"{who}: {type(error).__name__}: {error}"
    if kind in DEADLY:
        code = number % 2 if kind == "leave" else _EXIT_CODES[kind]
        demand(isinstance(error, WorkerDiedError) and error.exitcode == code, text)
        _check_death(who, error, index, 1 + wave.retries)
    elif kind in HANGING:
        demand(isinstance(error, TaskTimeoutError) and error.item == index, text)
    elif kind in ("raise", "unreadable"):
        reason = "planned" if kind == "raise" else kind
        demand(type(error) is SoakError and error.number == number and error.reason == reason, text)
        demand(bool(getattr(error, "__notes__", ())), f"{who}: its error does not say where it happened")
    elif kind == "exit":
        demand(isinstance(error, SystemExit) and error.code == number, text)
    elif kind == "lock":
        demand(isinstance(error, ResultPickleError), text)
    else:
        demand(kind == "unsendable" and isinstance(error, ArgumentPickleError), text)

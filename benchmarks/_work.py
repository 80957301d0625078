"""What the workers do: the same functions bare, for pools of functions, and as methods, for pools of objects.

This module imports next to nothing, because the time of a worker's imports would be measured too.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False  # typing's own would import it
if TYPE_CHECKING:
    from typing import Any


def inc(x: int) -> int:
    """Return the number after `x`: a task that costs nothing."""
    return x + 1


def nap(microseconds: int) -> int:
    """Sleep, and return the argument."""
    time.sleep(microseconds * 1e-6)
    return microseconds


def spin(loops: int) -> int:
    """Keep a processor busy for `loops` rounds of an empty loop, and return the argument."""
    for _ in range(loops):
        pass
    return loops


def echo(record: Any) -> Any:
    """Return the argument."""
    return record


def first(numbers: Any) -> float:
    """Return the first of an array's, or a sequence's, numbers: an argument that nearly nothing is done with."""
    return float(numbers[0])


def total(numbers: Any) -> float:
    """Return an array's sum: every page of it is read."""
    return float(numbers.sum())


def ignore(_anything: object) -> None:
    """Do nothing with the argument."""


class Worker:
    """The functions above as methods."""

    def inc(self, x: int) -> int:
        """Return the number after `x`."""
        return inc(x)

    def nap(self, microseconds: int) -> int:
        """Sleep, and return the argument."""
        return nap(microseconds)

    def spin(self, loops: int) -> int:
        """Keep a processor busy, and return the argument."""
        return spin(loops)

    def echo(self, record: Any) -> Any:
        """Return the argument."""
        return record

    def first(self, numbers: Any) -> float:
        """Return the first of an array's numbers."""
        return first(numbers)

    def total(self, numbers: Any) -> float:
        """Return an array's sum."""
        return total(numbers)

    def ignore(self, anything: object) -> None:
        """Do nothing with the argument."""


class Batch:
    """The functions above over a list, for systems that hand each worker a part of the list."""

    @staticmethod
    def inc(xs: list[int]) -> list[int]:
        """Return the numbers after `xs`."""
        return [inc(x) for x in xs]

    @staticmethod
    def nap(xs: list[int]) -> list[int]:
        """Sleep as long as each of `xs` says."""
        return [nap(x) for x in xs]

    @staticmethod
    def spin(xs: list[int]) -> list[int]:
        """Keep a processor busy as long as each of `xs` says."""
        return [spin(x) for x in xs]

    @staticmethod
    def echo(xs: list[Any]) -> list[Any]:
        """Return the argument."""
        return xs

    @staticmethod
    def first(xs: list[Any]) -> list[float]:
        """Return the first number of each of `xs`."""
        return [first(x) for x in xs]

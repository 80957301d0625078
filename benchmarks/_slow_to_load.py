"""A class and functions whose module takes as long to import as a large library does: a fifth of a second."""

from __future__ import annotations

import time

time.sleep(0.2)


class Tripler:
    """Triples numbers, by any of the names that the systems give to a method."""

    def __init__(self, factor: int = 3) -> None:
        self.factor = factor

    def __call__(self, x: int) -> int:
        """Return the triple."""
        return self.factor * x

    process = __call__
    score = __call__


def triple(x: int) -> int:
    """Return the triple."""
    return 3 * x


def triple_all(xs: list[int]) -> list[int]:
    """Return the triples of a batch."""
    return [3 * x for x in xs]

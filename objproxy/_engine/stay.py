"""A call that submits more than once keeps its workers to its end, also if another thread shrinks the pool meanwhile."""

from __future__ import annotations

from objproxy._engine.calls import Call
from objproxy._engine.driver import Driver


class Stay:
    """A block in which the workers that a pool has at its beginning stay.

    Workers that shall go are not part of calls that begin later, and leave when the last block that needs them has ended.

    Parameters
    ----------
    driver : Driver
        The engine.
    call : Call
        For which they stay.

    Attributes
    ----------
    n_workers : int
        How many they are: those with the numbers below.
    """

    def __init__(self, driver: Driver, call: Call) -> None:
        self._driver = driver
        self._call = call
        self.n_workers = 0

    def __enter__(self) -> Stay:
        try:
            self.n_workers = self._driver.hold(self._call)
        except BaseException:  # an interrupt that came meanwhile
            self._driver.release(self._call)
            raise
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._driver.release(self._call)

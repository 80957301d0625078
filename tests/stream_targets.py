"""A class whose method takes one item, for tests of streams."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

from targets import Gate, poll_until


class Clerk:
    """Does what an item says."""

    def __init__(self) -> None:
        self.n_done = 0

    def do(self, item: Any) -> Any:
        """Double a number; or do as (verb, value, ...) says."""
        self.n_done += 1
        if not isinstance(item, tuple):
            return 2 * item
        return getattr(self, f"do_{item[0]}")(*item[1:])

    def do_wait(self, value: Any, gate: Gate, started: Gate | None = None) -> Any:
        if started is not None:
            started.open()
        gate.wait()
        return value

    def do_raise(self, value: Any) -> Any:
        raise ValueError(f"bad item {value}")

    def do_stop(self) -> Any:
        raise StopIteration

    def do_die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def do_hang(self) -> None:
        poll_until(lambda: False, 600.0)

    def do_return(self, value: Any) -> Any:
        return value

    def do_rows(self, n_rows: int) -> Iterator[int]:
        return iter_rows(n_rows)


def iter_rows(n_rows: int) -> Iterator[int]:
    yield from range(n_rows)

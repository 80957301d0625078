"""The ways in which a pool can run: every back end with every start method."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from objproxy import ProxyPool
from objproxy.backends.simulated import SimulatedBackend

K = TypeVar("K")
V = TypeVar("V")


@dataclasses.dataclass(frozen=True)
class Way:
    """One back end with one start method; a back end that is given as a function is made anew for each pool."""

    name: str
    made_of: dict[str, Any]
    is_process: bool = False
    is_concurrent: bool = True
    environ: tuple[tuple[str, str], ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """Keywords for `ProxyPool`."""
        return {name: value() if callable(value) else value for name, value in self.made_of.items()}


WAYS = (
    Way("serial", {"backend": "serial"}, is_concurrent=False),
    Way("simulated", {"backend": functools.partial(SimulatedBackend, can_kill=False)}, is_concurrent=False),
    Way("thread", {"backend": "thread"}),
    Way("forkserver", {"backend": "process", "start_method": "forkserver"}, is_process=True),
    Way("fork", {"backend": "process", "start_method": "fork"}, is_process=True),
    Way("spawn", {"backend": "process", "start_method": "spawn"}, is_process=True),
    # Without what only Linux has; the variable is read by the pool and by everything that it starts.
    Way("portable", {"backend": "process"}, is_process=True, environ=(("OBJPROXY_PORTABLE", "1"),)),
)


def some(way: Way, cases: Mapping[K, V]) -> list[tuple[K, V]]:
    """Return all cases, or the first where each death of a worker costs the start of an interpreter."""
    return list(cases.items())[: 1 if way.name == "spawn" else None]


MakePool = Callable[..., ProxyPool[Any]]

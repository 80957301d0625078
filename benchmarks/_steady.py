"""Time calls in a steady state, beside a copy of the same size: the unit of everything that moves memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

#: Calls whose median is compared with that of those before.
_WINDOW = 4

#: Until they are no longer faster than that share of those before, nothing is measured.
_STEADY = 0.95

_MAX_WARM_UPS = 40


def time_once(action: Callable[[], Any]) -> float:
    """Return the seconds that an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def warm_up(action: Callable[[], Any]) -> int:
    """Repeat an action until it gets no faster; return how often."""
    seconds: list[float] = []
    while len(seconds) < _MAX_WARM_UPS:
        seconds += [time_once(action) for _ in range(_WINDOW)]
        before, now = seconds[-2 * _WINDOW : -_WINDOW], seconds[-_WINDOW:]
        if before and statistics.median(now) > _STEADY * statistics.median(before):
            break
    return len(seconds)


def time_in_turns(actions: dict[str, Callable[[], Any]], n_turns: int) -> dict[str, list[float]]:
    """Return the seconds of several actions, one after the other in each turn: what disturbs one disturbs all."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(n_turns):
        for name, action in actions.items():
            seconds[name].append(time_once(action))
    return seconds


def make_copier(source: Any) -> Callable[[], None]:
    """Return a function that copies an array into another one, whose memory is there already: a warm memcpy."""
    import numpy as np

    target = source.copy()
    return lambda: np.copyto(target, source)

"""Measure what a progress bar costs at 10,000 items a second.

Command: ``python -m benchmarks.bar_cost``

Two workers compute, each item a fixed amount of work of some 200 microseconds: on two processors, whatever the caller does
takes time from them. Maps without and with a bar take turns in one pool; a bar's cost is its time as a multiple of the time
without, of the same round. The bars are drawn on a terminal that a process of its own empties.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import _work
from benchmarks._command import run_script
from benchmarks._lane import check
from benchmarks._model import OURS, Contender, Experiment, Target, multiple_of

_N_WORKERS = 2
_SECONDS_PER_ITEM = 200e-6

#: What a bar may cost: two per cent.
_LIMIT = 1.02

_RICH = "objproxy, rich"


def time_bar(style: str, n_items: int, n_trials: int) -> tuple[list[float], dict[str, float]]:
    """Return the seconds of maps with a bar, and what the same took without."""
    from tqdm import tqdm

    from objproxy import ProxyPool

    tqdm.get_lock()  # since Python 3.14 this starts a process, which would keep the terminal below, if that were there already
    items = [_calibrate()] * n_items
    plain, with_bar = [], []
    with ProxyPool(_work.Worker, worker_count=_N_WORKERS) as pool, terminal_for_errors():

        def measure(wanted: bool | str) -> float:
            began = time.perf_counter()
            results = pool.spin.options(progress_bar=wanted).map(items)
            seconds = time.perf_counter() - began
            check(results == items, style)
            return seconds

        measure(style)
        for _ in range(n_trials):
            plain.append(measure(wanted=False))
            with_bar.append(measure(style))
    return with_bar, {"plain_s": statistics.median(plain), "items_per_s": n_items / statistics.median(plain)}


def _calibrate() -> int:
    """Return how many rounds of an empty loop take the time of one item here."""
    loops, seconds = 1000, []
    for _ in range(20):
        began = time.perf_counter()
        _work.spin(loops)
        seconds.append(time.perf_counter() - began)
    return max(1, round(loops * _SECONDS_PER_ITEM / min(seconds)))


@contextmanager
def terminal_for_errors() -> Iterator[None]:
    """Let the error stream be a terminal; a process of its own reads what is written there."""
    screen, terminal = os.openpty()
    pid = os.fork()
    if not pid:
        os.close(terminal)
        os.dup2(screen, 0)
        os.execlp("sh", "sh", "-c", "exec cat > /dev/null 2>&1")
    os.close(screen)
    before = os.dup(2)
    os.dup2(terminal, 2)
    os.close(terminal)
    try:
        yield
    finally:
        os.dup2(before, 2)  # the last descriptor of the terminal, so that its reader ends
        os.close(before)
        os.waitpid(pid, 0)


EXPERIMENTS = (
    Experiment(
        "bar_cost",
        "A map of 10,000 items a second with a progress bar",
        "s",
        (
            Contender(OURS, time_bar, {"style": "std"}, is_peer=False),
            Contender(_RICH, time_bar, {"style": "rich"}, is_peer=False),
        ),
        (
            multiple_of("plain_s", _LIMIT, "with a bar of tqdm / without"),
            Target("with a bar of rich / without", _LIMIT, lambda outcomes: outcomes.multiple(_RICH, "plain_s"), unit="x"),
        ),
        sizes={"n_items": 10_000, "n_trials": 5},
        quick_sizes={"n_items": 100, "n_trials": 1},
        rounds=7,
    ),
)

if __name__ == "__main__":
    run_script("bar_cost", __doc__, EXPERIMENTS)

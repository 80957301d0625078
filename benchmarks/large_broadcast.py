"""Measure what an array of 64 MB costs that goes to two workers, beside what it costs to one.

Command: ``python -m benchmarks.large_broadcast``

As in `benchmarks.large_arguments`, the array changes before each call, and each worker answers with its first element.
Each lane times the call of one worker and the broadcast to both, in turn. How a system without broadcasts sends
something to each worker stands in `benchmarks._callers`.
"""

from __future__ import annotations

import statistics

from benchmarks._callers import OPENERS
from benchmarks._command import run_script
from benchmarks._lane import check
from benchmarks._model import Experiment, contenders_of, multiple_of
from benchmarks._steady import make_copier, time_in_turns, warm_up


def time_broadcast(library: str, n_bytes: int, n_calls: int, n_workers: int) -> tuple[list[float], dict[str, float]]:
    """Return seconds of broadcasts, and those of a call of one worker and of a memcpy."""
    import numpy as np

    array = np.ones(n_bytes // 8)
    copy = make_copier(array)
    with OPENERS[library]("first", n_workers) as caller:

        def call() -> None:
            array[0] += 1.0
            check(caller.call(array[:]) == array[0], library)

        def broadcast() -> None:
            array[0] += 1.0
            check(list(caller.broadcast(array[:])) == [array[0]] * n_workers, library)

        warm_up(call)
        warm_up(broadcast)
        seconds = time_in_turns({"memcpy_s": copy, "one_worker_s": call, "broadcast": broadcast}, n_calls)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    total = medians.pop("broadcast")
    facts = {**medians, "x_memcpy": total / medians["memcpy_s"], "x_one_worker": total / medians["one_worker_s"]}
    return seconds["broadcast"], facts


EXPERIMENTS = (
    Experiment(
        "large_broadcast",
        "An array of 64 MB to each of two workers",
        "ms",
        contenders_of(OPENERS, time_broadcast),
        (multiple_of("one_worker_s", 1.3, "at most 1.3 x the same for one worker"),),
        sizes={"n_bytes": 64_000_000, "n_calls": 15, "n_workers": 2},
        quick_sizes={"n_bytes": 4_000_000, "n_calls": 3, "n_workers": 2},
        rounds=3,
        timeout=120.0,
    ),
)

if __name__ == "__main__":
    run_script("large_broadcast", __doc__, EXPERIMENTS)

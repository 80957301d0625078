"""Measure what a large array costs as an argument of a call, and there and back, in the steady state.

Command: ``python -m benchmarks.large_arguments``

One caller sends an array of 64 MB to one worker, again and again, and changes its first element before each call; the
worker's answer must be that element, so nobody can send what was sent before. (For the same reason each call passes a
new view of the array: joblib takes an array that it has seen for unchanged.) Calls are repeated until they get no
faster; then median and quartiles of the following ones count. The unit is a warm memcpy: `numpy.copyto` into an array
that has its memory, measured in the same lane in turn with the calls. Which system sends the array to which function,
how, stands in `benchmarks._callers`.
"""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks._callers import OPENERS
from benchmarks._command import run_script
from benchmarks._lane import check
from benchmarks._model import Experiment, contenders_of, multiple_of, ratio
from benchmarks._steady import make_copier, time_in_turns, warm_up


def time_argument(library: str, n_bytes: int, n_calls: int) -> tuple[list[float], dict[str, float]]:
    """Return seconds of calls with an array as argument, and those of a memcpy."""
    return _time_calls(library, "first", n_bytes, n_calls)


def time_round_trip(library: str, n_bytes: int, n_calls: int) -> tuple[list[float], dict[str, float]]:
    """Return seconds of calls that send an array back, and those of a memcpy."""
    return _time_calls(library, "echo", n_bytes, n_calls)


def _time_calls(library: str, name: str, n_bytes: int, n_calls: int) -> tuple[list[float], dict[str, float]]:
    import numpy as np

    array = np.ones(n_bytes // 8)
    copy = make_copier(array)
    with OPENERS[library](name, 1) as caller:

        def call() -> None:
            array[0] += 1.0
            _check_result(caller.call(array[:]), array, library)

        n_warm_ups = warm_up(call)
        seconds = time_in_turns({"memcpy": copy, "call": call}, n_calls)
    memcpy = statistics.median(seconds["memcpy"])
    facts = {"memcpy_s": memcpy, "x_memcpy": statistics.median(seconds["call"]) / memcpy, "warm_ups": n_warm_ups}
    return seconds["call"], facts


def _check_result(result: Any, array: Any, library: str) -> None:
    """Look at both ends of what came back; reading all of it would be timed too."""
    if isinstance(result, float):
        check(result == array[0], library)
    else:
        check(result.shape == array.shape and result[0] == array[0] and result[-1] == array[-1], library)


_SIZES = {"n_bytes": 64_000_000, "n_calls": 25}
_QUICK_SIZES = {"n_bytes": 4_000_000, "n_calls": 3}

EXPERIMENTS = (
    Experiment(
        "large_argument",
        "An array of 64 MB as argument, one worker",
        "ms",
        contenders_of(OPENERS, time_argument),
        (multiple_of("memcpy_s", 3.0, "at most 3 x memcpy"), ratio("Ray", 0.25)),
        sizes=_SIZES,
        quick_sizes=_QUICK_SIZES,
        rounds=3,
        timeout=120.0,
    ),
    Experiment(
        "large_round_trip",
        "An array of 64 MB there and back, one worker",
        "ms",
        contenders_of(OPENERS, time_round_trip),
        (multiple_of("memcpy_s", 6.0, "at most 6 x memcpy"),),
        sizes=_SIZES,
        quick_sizes=_QUICK_SIZES,
        rounds=3,
        timeout=120.0,
    ),
)

if __name__ == "__main__":
    run_script("large_arguments", __doc__, EXPERIMENTS)

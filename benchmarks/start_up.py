"""Measure how long it takes to make a pool of two and get its first answer.

Command: ``python -m benchmarks.start_up``

*Cold*: a fresh interpreter imports the library, makes the pool and waits for one answer; the interpreter's own start
is not in it. *Warm*: the same for the second pool of a program, after the first was closed. objproxy's constructor
returns when every worker's object exists; the others' first answer needs one worker only. A round before the measured
ones fills the file caches.
"""

from __future__ import annotations

from benchmarks._command import run_script
from benchmarks._model import Experiment, contenders_of, ratio
from benchmarks._start_up_lanes import LIBRARIES, time_cold, time_warm

EXPERIMENTS = (
    Experiment(
        "cold",
        "A pool of 2 and its first answer, cold",
        "ms",
        contenders_of(LIBRARIES, time_cold),
        (ratio("loky", 0.5),),
        sizes={},
        quick_sizes={},
        rounds=9,
        discard_rounds=1,
    ),
    Experiment(
        "warm",
        "A pool of 2 and its first answer, warm",
        "ms",
        contenders_of(LIBRARIES, time_warm),
        (ratio("multiprocessing.Pool, fork", 1.2),),
        sizes={},
        quick_sizes={},
        rounds=9,
        discard_rounds=1,
    ),
)

if __name__ == "__main__":
    run_script("start_up", __doc__, EXPERIMENTS)

"""Measure the task queue of OMPR's users: the same program with OMPR and with `objproxy.ompr`.

Command: ``python -m benchmarks.ompr_queue``

Four tables. *Queue*: 100,000 tasks that cost nothing, two workers, results fetched one by one in order. *Round trip*: one
task there and back. *Start*: from the runner's constructor to the first result of a trivial worker. *Life time*: what the
replacement of an object costs; OMPR may hang here, since it kills a worker that may hold the lock of a queue that all share.

OMPR 1.7.2 needs an older pypaq, which it does not ask for:
``pip install ompr==1.7.2 pypaq==1.18.5``. OMPR 1.7.3 needs Python 3.12.
"""

from __future__ import annotations

from benchmarks._command import run_script
from benchmarks._model import OURS, Experiment, Outcomes, Target, contenders_of, ratio
from benchmarks._ompr_lanes import LIBRARIES, time_lifetime, time_queue, time_round_trip, time_start

#: Milliseconds for the replacement of an object.
_MAX_RESTART_MS = 10.0


def _start_target(version: str, limit: float, words: str) -> Target:
    """Return a target for one version of OMPR: they start in different ways."""

    def measure(outcomes: Outcomes) -> float:
        if "ompr" not in outcomes or outcomes["ompr"].facts.get("version") != version:
            raise LookupError(f"ompr {version} was not measured")
        return outcomes.figure(OURS) / outcomes.figure("ompr")

    return Target(f"{words} ompr {version}", limit, measure, unit="x")


EXPERIMENTS = (
    Experiment(
        "queue",
        "OMPR: tiny tasks, results in order",
        "s",
        contenders_of(LIBRARIES, time_queue),
        (ratio("ompr", 0.05, "at least 20 times as fast as ompr"),),
        sizes={"n_tasks": 100_000, "n_workers": 2},
        quick_sizes={"n_tasks": 1000, "n_workers": 2},
        rounds=3,
        timeout=120.0,
    ),
    Experiment(
        "round_trip",
        "OMPR: one task, round trip",
        "us",
        contenders_of(LIBRARIES, time_round_trip),
        (ratio("ompr", 0.25),),
        sizes={"n_trips": 5000},
        quick_sizes={"n_trips": 50},
        rounds=5,
    ),
    Experiment(
        "start",
        "OMPR: from the constructor to the first result",
        "ms",
        contenders_of(LIBRARIES, time_start),
        (_start_target("1.7.2", 0.2, "at least 5 times as fast as"), _start_target("1.7.3", 1.0, "no worse than")),
        sizes={"n_workers": 2},
        quick_sizes={"n_workers": 2},
        rounds=5,
        discard_rounds=1,
    ),
    Experiment(
        "lifetime",
        "OMPR: an object is replaced at the end of its life time",
        "ms",
        contenders_of(LIBRARIES, time_lifetime),
        (Target("under 10 ms and its own constructor", _MAX_RESTART_MS, lambda outcomes: 1e3 * outcomes.figure(OURS), "ms"),),
        sizes={"n_restarts": 100},
        quick_sizes={"n_restarts": 5},
        rounds=5,
        timeout=60.0,
    ),
)

if __name__ == "__main__":
    run_script("ompr_queue", __doc__, EXPERIMENTS)

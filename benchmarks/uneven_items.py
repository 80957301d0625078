"""Measure how near to the ideal a map over items of very uneven cost comes.

Command: ``python -m benchmarks.uneven_items``

One item in twenty, at places drawn once, takes a hundred times as long as the others. Each system uses the chunks
that it chooses itself; `multiprocessing.Pool` is also shown with ``chunksize=1``, as somebody would use it who knows
that the items are uneven. No system can end before max(sum of the items / workers, longest item). What can be reached
in order, without knowing the costs, is shown too. *Sleeping* items leave the processors alone, so that this is a
plain number. *Computing* items slow each other down on a busy or hyperthreaded machine; there the ideal is measured:
as many bare processes as workers, each with its share of the work given beforehand, nothing sent but a byte at the
start and one at the end.
"""

from __future__ import annotations

import heapq
import os
import random
import time

from benchmarks import _work
from benchmarks._command import run_script
from benchmarks._lane import check
from benchmarks._libraries import LIBRARIES
from benchmarks._model import OURS, Contender, Experiment, Outcomes, Target, contenders_of, ratio_to_best

#: Among this many items one is long.
_ONE_IN = 20

#: How much longer it is.
_FACTOR = 100

_IDEAL = "ideal"
_IN_ORDER = "one by one, no overhead"
_MAX_SHARE = 1.10


def make_costs(n_items: int, short: int) -> list[int]:
    """Return the items' costs, the same in every run."""
    long_ones = set(random.Random(1).sample(range(n_items), n_items // _ONE_IN))
    return [short * _FACTOR if i in long_ones else short for i in range(n_items)]


def ideal_makespan(costs: list[int], n_workers: int) -> float:
    """Return the least time in which `n_workers` can do it, in the unit of the costs."""
    return max(sum(costs) / n_workers, max(costs))


def in_order_makespan(costs: list[int], n_workers: int) -> float:
    """Return the time if a free worker takes the next item at no cost: the best without knowing the costs."""
    free_at = [0.0] * n_workers
    for cost in costs:
        heapq.heapreplace(free_at, free_at[0] + cost)
    return max(free_at)


def time_uneven(library: str, kind: str, n_items: int, n_workers: int, short: int, chunksize: int = 0) -> list[float]:
    """Return seconds of one map, after an unmeasured one of a tenth of the items."""
    costs = make_costs(n_items, short)
    with LIBRARIES[library].open(n_workers) as run:
        run(kind, costs[: max(n_items // 10, n_workers)], chunksize or None)
        began = time.perf_counter()
        results = run(kind, costs, chunksize or None)
        seconds = time.perf_counter() - began
    check(list(results) == costs, results)
    return [seconds]


def time_ideal_nap(n_items: int, n_workers: int, short: int, kind: str) -> list[float]:
    """Return the ideal makespan of sleeping items, in seconds."""
    return [ideal_makespan(make_costs(n_items, short), n_workers) * 1e-6]


def time_in_order_nap(n_items: int, n_workers: int, short: int, kind: str) -> list[float]:
    """Return the makespan of sleeping items that are taken one by one at no cost, in seconds."""
    return [in_order_makespan(make_costs(n_items, short), n_workers) * 1e-6]


def time_ideal_spin(n_items: int, n_workers: int, short: int, kind: str) -> list[float]:
    """Return the seconds in which bare processes do equal shares of the work at the same time."""
    share = round(ideal_makespan(make_costs(n_items, short), n_workers))
    start_read, start_write = os.pipe()
    end_read, end_write = os.pipe()
    pids = [_fork_share(share, short, start_read, end_write) for _ in range(n_workers)]
    time.sleep(0.05)  # all of them wait at the start
    began = time.perf_counter()
    os.write(start_write, b"." * n_workers)
    n_ended = 0
    while n_ended < n_workers:
        n_ended += len(os.read(end_read, n_workers))
    seconds = time.perf_counter() - began
    for pid in pids:
        os.waitpid(pid, 0)
    return [seconds]


def _fork_share(share: int, short: int, start_read: int, end_write: int) -> int:
    pid = os.fork()
    if pid == 0:
        os.read(start_read, 1)
        for _ in range(share // (short * _FACTOR)):
            _work.spin(short * _FACTOR)
        _work.spin(share % (short * _FACTOR))
        os.write(end_write, b".")
        os._exit(0)
    return pid


def calibrate(microseconds: int = 500) -> dict[str, int]:
    """Return the rounds of an empty loop that take so long here and now."""
    loops, rates = 200_000, []
    for _ in range(9):
        began = time.perf_counter()
        _work.spin(loops)
        rates.append(loops / (time.perf_counter() - began))
    return {"short": round(sorted(rates)[len(rates) // 2] * microseconds * 1e-6)}


def _contenders(kind: str) -> tuple[Contender, ...]:
    yardsticks = [Contender(_IDEAL, time_ideal_spin, {"kind": kind}, is_peer=False)]
    if kind == "nap":
        yardsticks = [
            Contender(_IDEAL, time_ideal_nap, {"kind": kind}, is_peer=False),
            Contender(_IN_ORDER, time_in_order_nap, {"kind": kind}, is_peer=False),
        ]
    systems = [
        Contender(each.name, each.function, {**each.arguments, "kind": kind}, is_peer=each.is_peer)
        for each in contenders_of(LIBRARIES, time_uneven)
    ]
    single = {"library": "multiprocessing.Pool", "kind": kind, "chunksize": 1}
    return (
        *systems,
        Contender("multiprocessing.Pool, chunksize=1", time_uneven, single),
        *yardsticks,
    )


def _share_of_ideal(outcomes: Outcomes) -> float:
    return outcomes.figure(OURS) / outcomes.figure(_IDEAL)


_TARGETS = (Target("within 10 % of the ideal makespan", _MAX_SHARE, _share_of_ideal, "x"), ratio_to_best())

EXPERIMENTS = (
    Experiment(
        "sleeping",
        "Uneven items, sleeping",
        "s",
        _contenders("nap"),
        _TARGETS,
        sizes={"n_items": 2000, "n_workers": 4, "short": 500},
        quick_sizes={"n_items": 40, "n_workers": 2, "short": 100},
    ),
    Experiment(
        "computing",
        "Uneven items, computing",
        "s",
        _contenders("spin"),
        _TARGETS,
        sizes={"n_items": 1000, "n_workers": 2},
        quick_sizes={"n_items": 40, "n_workers": 2},
        rounds=7,
        calibrate=calibrate,
    ),
)

if __name__ == "__main__":
    run_script("uneven_items", __doc__, EXPERIMENTS)

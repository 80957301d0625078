"""Measure whether an event of the engine costs more in a larger pool, or with more tasks waiting.

Feeds the state machine alone, with no worker and no driver: the time is that of the rules. Two loads, each with 1 to
10,000 workers and with 100 to 1,000,000 tasks:

- ``idle``: a task is submitted to a pool with free workers, and answered; the cost of one such pair;
- ``queued``: all tasks are submitted at once and then answered, one by one; the cost for each task.

Run it with ``python -m benchmarks.event_cost [--quick] [--output FOLDER]``. It prints a table and writes JSON with the
facts of the machine, and a plot if matplotlib is installed.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._machine import machine_facts
from benchmarks._report import format_table
from objproxy._engine import messages as m
from objproxy._engine.messages import Batch, Rules
from objproxy._engine.state import PoolState

_WORKERS = (1, 10, 100, 1000, 10_000)
_TASKS = (100, 1000, 10_000, 100_000, 1_000_000)

#: The pool in which the number of tasks varies, and the number of tasks in pools of various sizes.
_FEW_WORKERS = 100
_MANY_TASKS = 100_000

_ROUNDS = 5


def open_pool(n_workers: int) -> PoolState:
    """Return a pool whose workers are all up."""
    state = PoolState(n_workers)
    state.begin(0.0)
    for worker_id in range(n_workers):
        state.handle(m.Ready(worker_id, 0), 0.0)
    return state


def answer(send: Any) -> m.Replied:
    """Return a worker's answer; it took a while, so that nothing is sent ahead."""
    return m.Replied(send.worker_id, 0, send.batch.seq, (None,), (), True, 1.0)


def measure_idle(n_workers: int, n_tasks: int) -> float:
    """Return the microseconds of a task that meets a free worker."""
    handle, rules = open_pool(n_workers).handle, Rules("work")
    began = time.perf_counter()
    for item in range(n_tasks):
        (send,) = handle(m.Submitted(Batch(rules, item, 1, None)), 0.0)
        handle(answer(send), 0.0)
    return (time.perf_counter() - began) / n_tasks * 1e6


def measure_queued(n_workers: int, n_tasks: int) -> float:
    """Return the microseconds of a task that has to wait for a worker."""
    handle, rules = open_pool(n_workers).handle, Rules("work")
    sent: deque[Any] = deque()  # actions, all of which are a Send
    began = time.perf_counter()
    for item in range(n_tasks):
        sent += handle(m.Submitted(Batch(rules, item, 1, None)), 0.0)
    while sent:
        for action in handle(answer(sent.popleft()), 0.0):
            if type(action) is m.Send:
                sent.append(action)
    return (time.perf_counter() - began) / n_tasks * 1e6


def best_of(rounds: int, measure: Callable[[int, int], float], n_workers: int, n_tasks: int) -> float:
    """Return the least of several measurements: whatever disturbs a measurement makes it longer."""
    seconds = []
    for _ in range(rounds):
        gc.collect()
        gc.disable()  # its cost is that of a million objects of the benchmark, not of the engine
        try:
            seconds.append(measure(n_workers, n_tasks))
        finally:
            gc.enable()
    return min(seconds)


def run(*, is_quick: bool = False, rounds: int = _ROUNDS) -> list[dict[str, Any]]:
    """Measure both loads; return one record for each size."""
    workers = _WORKERS[:3] if is_quick else _WORKERS
    tasks = _TASKS[:3] if is_quick else _TASKS
    n_tasks = 1000 if is_quick else _MANY_TASKS
    sizes = [("workers", n, n_tasks) for n in workers] + [("tasks", _FEW_WORKERS, n) for n in tasks]
    return [
        {
            "varied": varied,
            "n_workers": n_workers,
            "n_tasks": n,
            "idle_us": best_of(rounds, measure_idle, n_workers, n),
            "queued_us": best_of(rounds, measure_queued, n_workers, n),
        }
        for varied, n_workers, n in sizes
    ]


def format_records(records: list[dict[str, Any]]) -> str:
    """Return the records as a table."""
    rows = [["workers", "tasks", "idle, us a task", "queued, us a task"]]
    rows += [[f"{r['n_workers']:,}", f"{r['n_tasks']:,}", f"{r['idle_us']:.2f}", f"{r['queued_us']:.2f}"] for r in records]
    return format_table(rows)


def write_plot(records: list[dict[str, Any]], path: Path) -> bool:
    """Draw the cost of a task against both sizes; False if matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, both = pyplot.subplots(1, 2, figsize=(9, 3.5), sharey=True)
    for axes, varied in zip(both, ("workers", "tasks"), strict=True):
        chosen = [record for record in records if record["varied"] == varied]
        sizes = [record[f"n_{varied}"] for record in chosen]
        for load in ("idle", "queued"):
            axes.plot(sizes, [record[f"{load}_us"] for record in chosen], marker="o", label=load)
        axes.set(xscale="log", xlabel=f"number of {varied}", ylim=(0, None))
        axes.grid(alpha=0.3)
    both[0].set_ylabel("us a task, in the state machine")
    both[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: whether it works, not how fast")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="measurements of each size; the least counts")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder for the files")
    options = parser.parse_args()

    records = run(is_quick=options.quick, rounds=1 if options.quick else options.rounds)
    print(format_records(records))
    options.output.mkdir(parents=True, exist_ok=True)
    document = {"question": "event_cost", "machine": machine_facts(), "records": records}
    path = options.output / "event_cost.json"
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(f"written: {path}")
    if write_plot(records, path.with_suffix(".png")):
        print(f"written: {path.with_suffix('.png')}")


if __name__ == "__main__":
    main()

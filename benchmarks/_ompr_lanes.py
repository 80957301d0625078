"""What `benchmarks.ompr_queue` measures: the same program with OMPR and with objproxy's face of it.

This module imports as little as it can, so that each library pays for its own imports.
"""

from __future__ import annotations

import importlib.metadata
import logging
import time
from typing import Any

from benchmarks._lane import check

LIBRARIES = ("objproxy", "ompr")

_Answer = tuple[list[float], dict[str, str]]


def _load(library: str) -> tuple[Any, Any, dict[str, str]]:
    """Return a library's runner, a trivial class of workers, and its version."""
    logging.disable(logging.CRITICAL)
    if library == "objproxy":
        from objproxy.ompr.runner import OMPRunner, RunningWorker
    else:
        from ompr.runner import OMPRunner, RunningWorker

    class Adder(RunningWorker):
        def __init__(self) -> None:
            super().__init__()

        def process(self, x: int) -> int:
            return x + 1

    return OMPRunner, Adder, {"version": importlib.metadata.version(library) if library != "objproxy" else "this"}


def _make_tasks(n_tasks: int) -> list[dict[str, int]]:
    return [{"x": x} for x in range(n_tasks)]


def time_queue(library: str, n_tasks: int, n_workers: int) -> _Answer:
    """Return seconds from the first `process` to the last result, in order, after an unmeasured batch of a hundredth."""
    make_runner, cls, facts = _load(library)
    runner = make_runner(rww_class=cls, devices=[None] * n_workers)
    runner.process(_make_tasks(max(n_tasks // 100, n_workers)))
    runner.get_all_results()
    tasks = _make_tasks(n_tasks)
    began = time.perf_counter()
    runner.process(tasks)
    results = [runner.get_result() for _ in range(n_tasks)]
    ended = time.perf_counter()
    check(results == list(range(1, n_tasks + 1)), results)
    runner.exit()
    return [ended - began], facts


def time_round_trip(library: str, n_trips: int) -> _Answer:
    """Return seconds of one task there and back: the median of many."""
    make_runner, cls, facts = _load(library)
    runner = make_runner(rww_class=cls, devices=[None] * 2)
    seconds = []
    for x in range(n_trips + 10):
        began = time.perf_counter()
        runner.process({"x": x})
        result = runner.get_result()
        seconds.append(time.perf_counter() - began)
        check(result == x + 1, result)
    runner.exit()
    return [sorted(seconds[10:])[n_trips // 2]], facts


def time_start(library: str, n_workers: int) -> _Answer:
    """Return seconds from the runner's constructor to the first result; the import of the library is not in it."""
    make_runner, cls, facts = _load(library)
    began = time.perf_counter()
    runner = make_runner(rww_class=cls, devices=[None] * n_workers)
    runner.process({"x": 1})
    result = runner.get_result()
    ended = time.perf_counter()
    check(result == 2, result)
    runner.exit()
    return [ended - began], facts


def time_lifetime(library: str, n_restarts: int) -> _Answer:
    """Return seconds that the replacement of an object takes: those of tasks that each need a fresh one, by their number."""
    make_runner, cls, facts = _load(library)
    runner = make_runner(rww_class=cls, rww_lifetime=1, devices=[None])
    runner.process(_make_tasks(1))
    runner.get_all_results()
    began = time.perf_counter()
    runner.process(_make_tasks(n_restarts))
    results = runner.get_all_results()
    ended = time.perf_counter()
    check(results == list(range(1, n_restarts + 1)), results)
    runner.exit()
    return [(ended - began) / n_restarts], facts

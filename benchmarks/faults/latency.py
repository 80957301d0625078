"""Measure how soon objproxy knows of a fault: a death, a time limit that is over, and when the replaced worker answers again.

Command: ``python -m benchmarks.faults.latency [--repeats 50]``

- *death*: from ``kill -9`` of a worker in mid-task until the caller has the error; wanted: 10 ms;
- *answer*: from the same moment until the worker that takes its place has answered a call, less what the constructor takes
  (20 ms, asleep); wanted: 20 ms, but not of ``spawn``, which starts an interpreter for each worker;
- *time-out*: from the moment when the time limit of 0.2 s is over until the caller has the error, for a task that sleeps,
  swallows exceptions, is in C code, or is stopped; wanted: 50 ms. The task notes when it begins, so that the time until then
  does not count.

Medians, quartiles and the largest of all; what is wanted holds for the medians on an idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks._machine import machine_facts, versions
from benchmarks._pages import write_part
from benchmarks._report import format_table
from benchmarks._rounds import ROOT
from benchmarks.faults import _tasks
from objproxy import ProxyPool, TaskTimeoutError, WorkerDiedError

_LIMIT = 0.2
_CONSTRUCTOR_SECONDS = 0.02
_START_METHODS = ("forkserver", "fork", "spawn")
_HANGING = ("sleep", "swallow", "spin", "stop")

#: Seconds, by what is measured.
_WANTED = {"death": 0.010, "answer": 0.020, "time-out": 0.050}


class Victim:
    """An object that is slow to make, and whose method notes that it has begun and then hangs."""

    def __init__(self) -> None:
        time.sleep(_CONSTRUCTOR_SECONDS)

    def ping(self) -> int:
        """Return where this runs."""
        return os.getpid()

    def hang(self, kind: str, folder: str) -> Any:
        """Hang in one of four ways."""
        if kind == "stop":
            _tasks.note(folder, "fault")
            os.kill(os.getpid(), signal.SIGSTOP)
        return _tasks.run(("sleep" if kind == "stop" else kind, folder))


def measure_death(start_method: str, repeats: int) -> dict[str, list[float]]:
    """Return seconds until a death is known, and until the successor has answered."""
    seconds: dict[str, list[float]] = {"death": [], "answer": []}
    with _open_pool(start_method) as pool, tempfile.TemporaryDirectory(prefix="objproxy-latency-") as folder:
        for number in range(repeats):
            own = Path(folder, str(number))
            own.mkdir()
            killed_at: list[float] = []
            thread = threading.Thread(target=_kill_when_busy, args=(str(own), killed_at))
            thread.start()
            with contextlib.suppress(WorkerDiedError):
                pool[0].hang("sleep", str(own))
            known_at = time.monotonic()
            pool[0].ping()
            answered_at = time.monotonic()
            thread.join()
            seconds["death"].append(known_at - killed_at[0])
            seconds["answer"].append(answered_at - killed_at[0] - _CONSTRUCTOR_SECONDS)
    return seconds


def _kill_when_busy(folder: str, killed_at: list[float]) -> None:
    while (begun := _tasks.read_note(folder, "fault")) is None:
        time.sleep(0.001)
    time.sleep(0.02)  # it sleeps by then, and its caller waits
    killed_at.append(time.monotonic())
    os.kill(begun[1], signal.SIGKILL)


def measure_timeouts(kind: str, repeats: int) -> list[float]:
    """Return by how many seconds time-outs are late."""
    seconds = []
    with _open_pool("forkserver") as pool, tempfile.TemporaryDirectory(prefix="objproxy-latency-") as folder:
        hang = pool.hang.options(timeout=_LIMIT)
        for number in range(repeats):
            own = Path(folder, str(number))
            own.mkdir()
            with contextlib.suppress(TaskTimeoutError):
                hang.map([kind], [str(own)])
            known_at = time.monotonic()
            begun = _tasks.read_note(str(own), "fault")
            assert begun is not None
            seconds.append(known_at - begun[0] - _LIMIT)
            pool.ping.submit().result()
    return seconds


@contextlib.contextmanager
def _open_pool(start_method: str) -> Iterator[Any]:
    with ProxyPool(Victim, worker_count=1, start_method=start_method, max_restarts=(10**6, 1.0)) as pool:
        pool[0].ping()
        yield pool


def main() -> None:
    """Measure, print a table and write ``fault_latency.json``."""
    options = _parse()
    samples: dict[str, list[float]] = {}
    for method in _START_METHODS:
        for what, seconds in measure_death(method, options.repeats).items():
            samples[f"{what}, {method}"] = seconds
    for kind in _HANGING:
        samples[f"time-out, {kind}"] = measure_timeouts(kind, options.repeats)
    rows = [["what", "median ms", "quartiles", "largest", "wanted", ""]]
    rows += [_row(name, seconds) for name, seconds in samples.items()]
    print(format_table(rows))
    if options.page:
        write_part(options.page, "latency", _describe(rows, options.repeats))
    options.output.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine_facts(), "versions": versions(), "wanted": _WANTED, "seconds": samples}
    (options.output / "fault_latency.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=50, help="how often each is measured")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="folder for fault_latency.json")
    parser.add_argument("--page", type=Path, help="page into which the table is written, for instance docs/faults.md")
    return parser.parse_args()


def _describe(rows: list[list[str]], repeats: int) -> str:
    """Return the table in Markdown, with the facts that belong to it."""
    machine = machine_facts()
    lines = [f"| {' | '.join(row)} |" for row in rows]
    facts = (
        f"{machine['time'][:10]}, {machine['usable_cpus']} processors ({machine['processor']}), Python {machine['python']}, "
    )
    facts += f"load {machine['load_average'][0]}; {repeats} of each."
    return "\n".join([facts, "", lines[0], "| --- " * len(rows[0]) + "|", *lines[1:]])


def _row(name: str, seconds: list[float]) -> list[str]:
    median, wanted = statistics.median(seconds), _WANTED[name.partition(",")[0]]
    if name == "answer, spawn":
        wanted = math.inf  # a fresh interpreter has to be started
    lower, _, upper = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else [seconds[0]] * 3
    show: Callable[[float], str] = lambda value: f"{value * 1e3:.1f}"  # noqa: E731
    verdict = "" if wanted == math.inf else "reached" if median <= wanted else "MISSED"
    return [
        name,
        show(median),
        f"{show(lower)} .. {show(upper)}",
        show(max(seconds)),
        "" if wanted == math.inf else show(wanted),
        verdict,
    ]


if __name__ == "__main__":
    main()

"""Soak: use pools for a long time while workers die, hang, are killed, resized and worn out, then count everything.

Command: ``python -m benchmarks.soak [--tasks 10000] [--seed N] [--minutes M]``

Each round makes a pool of 2 to 8 workers and hands it some 10,000 tasks in every way there is: maps, lazy maps with slow
consumers and such as are left half-way, futures of which some are cancelled, broadcasts of which some fail, calls of one
instance, generators, shared arrays, arrays of any size, a journal. Tasks raise, exit, kill their own process, cannot be pickled
or unpickled, or hang in four ways under a time limit; at the same time workers are killed from outside, wear out, become more
and fewer, and are asked where they stand. At the end

- submitted = done + failed + cancelled, each task ended once, as it had to, and ran no more often than allowed;
- results are right, in order, and from objects that still have their state;
- no process, descriptor, thread or shared memory is more than before, and the memory of the program has not grown.

What a round does follows from its seed; when it happens to a pool does not. Whatever is wrong is reported with the command
that does the same round again, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks._machine import machine_facts, versions
from benchmarks._pages import write_part
from benchmarks._rounds import ROOT
from benchmarks.soak import _census
from benchmarks.soak._plan import make_plan
from benchmarks.soak._round import RoundReport, run_round
from objproxy import ProxyPool

#: Bytes by which the program's own memory may differ between rounds for the allocator's reasons; it is compared in medians.
_MEMORY_NOISE = 1_000_000

_N_WARM_UP_TASKS = 300

#: What the report tells of what was counted.
_TOLD = {
    "SoakError": "errors raised",
    "SystemExit": "exits",
    "WorkerDiedError": "deaths told",
    "PoisonTaskError": "items given up after their last attempt",
    "TaskTimeoutError": "time-outs",
    "ResultPickleError": "results that do not pickle",
    "ArgumentPickleError": "arguments that do not pickle",
    "kills": "kills from outside",
    "resizes": "changes of size",
}


def main() -> None:
    """Run rounds until the time is up, print a line for each, and write a report."""
    options = _parse()
    print(f"seed {options.seed}; {'; '.join(f'{key}: {value}' for key, value in machine_facts().items())}", flush=True)
    if options.switch_interval:
        sys.setswitchinterval(options.switch_interval)
    _census.begin()
    before, began, reports = _warm_up(options), time.monotonic(), []
    number = 0
    while number < 1 or time.monotonic() - began < 60 * options.minutes:
        seed = options.seed if options.replay else _seed_of(options.seed, number)
        again = f"python -m benchmarks.soak --replay --seed {seed} --tasks {options.tasks} --timeout {options.timeout:g}"
        again = f"the same round again: {again}"
        reports.append(run_round(make_plan(seed, options.tasks, options.timeout), before, functools.partial(print, again)))
        print(_describe(number, reports[-1]), flush=True)
        number += 1
        if reports[-1].violations:
            print(again)
            break
    violations = [text for report in reports for text in report.violations] + _find_growth(reports)
    summary = _summarize(reports, options, time.monotonic() - began, violations)
    _write(summary, options.output)
    if options.page:
        write_part(options.page, "soak", _describe_all(summary))
    print(json.dumps(summary["totals"]), "nothing left behind" if not violations else f"FAILED: {violations}", sep="\n")
    raise SystemExit(bool(violations))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000, help="tasks in each round")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="from which all rounds follow")
    parser.add_argument("--minutes", type=float, default=0.0, help="begin rounds for so long; at least one")
    parser.add_argument("--timeout", type=float, default=1.0, help="seconds for an item, where there is a limit; more if busy")
    parser.add_argument("--switch-interval", type=float, help="seconds between switches of threads; 1e-6 looks for races")
    parser.add_argument("--replay", action="store_true", help="the seed is that of one round: do it again")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="folder for soak.json")
    parser.add_argument("--page", type=Path, help="page into which the report is written, for instance docs/faults.md")
    return parser.parse_args()


def _seed_of(seed: int, number: int) -> int:
    return random.Random(f"{seed}/{number}").randrange(10**9)


def _warm_up(options: argparse.Namespace) -> _census.Census:
    """Do once what each round does, so that what is made once and for all is there; return what there is then."""
    with ProxyPool(dict, worker_count=1):  # its helper processes stay as long as the program
        pass
    nothing = _census.Census(*[10**12] * 5)
    run_round(
        make_plan(_seed_of(options.seed, -1), min(options.tasks, _N_WARM_UP_TASKS), options.timeout), nothing, lambda: None
    )
    time.sleep(1.0)  # the thread that serves futures stays for half a second
    return _census.take_census()


def _describe(number: int, report: RoundReport) -> str:
    plan, totals, tally = report.plan, report.totals, report.tally
    worn = "" if plan.max_tasks_per_worker is None else f", max_tasks_per_worker={plan.max_tasks_per_worker}"
    counts = ", ".join(f"{totals[name]} {name}" for name in ("submitted", "done", "failed", "cancelled"))
    return (
        f"round {number}, seed {plan.seed}: {plan.n_workers} workers ({plan.start_method}, {plan.on_restart}{worn}), "
        f"{plan.n_lanes} threads, ended by {plan.ending}, {report.seconds:.1f} s\n"
        f"  {counts}; {', '.join(f'{count} {name}' for name, count in sorted(tally.items()))}\n"
        f"  memory {report.memory / 1e6:.1f} MB; {'; '.join(report.violations) or 'nothing left behind'}"
    )


def _find_growth(reports: list[RoundReport]) -> list[str]:
    """Compare the memory after the last third of the rounds with that after the second; in the first, caches still fill."""
    memory = [report.memory for report in reports]
    third = len(memory) // 3
    if not third:
        return []
    growth = statistics.median(memory[-third:]) - statistics.median(memory[third : 2 * third])
    return [f"memory has grown by {growth / 1e6:.1f} MB"] if growth > _MEMORY_NOISE else []


def _summarize(
    reports: list[RoundReport], options: argparse.Namespace, seconds: float, violations: list[str]
) -> dict[str, Any]:
    totals: Counter[str] = Counter()
    tally: Counter[str] = Counter()
    for report in reports:
        totals += report.totals
        tally += report.tally
    return {
        "machine": machine_facts(),
        "versions": versions(),
        "seed": options.seed,
        "tasks": options.tasks,
        "asked_minutes": options.minutes,
        "rounds": len(reports),
        "minutes": round(seconds / 60, 1),
        "totals": dict(totals),
        "tally": dict(sorted(tally.items())),
        "memory": [report.memory for report in reports],
        "violations": violations,
    }


def _describe_all(summary: dict[str, Any]) -> str:
    """Return the report as a paragraph of Markdown."""
    machine, totals, tally = summary["machine"], summary["totals"], summary["tally"]
    memory = [nbytes / 1e6 for nbytes in summary["memory"]]
    third = len(memory) // 3
    held = f"; in the second third of the rounds {statistics.median(memory[third : 2 * third]):.1f} MB" if third else ""
    ends = ", ".join(f"{totals[name]:,} {name}" for name in ("done", "failed", "cancelled"))
    faults = ", ".join(f"{tally.get(name, 0):,} {text}" for name, text in _TOLD.items())
    options = f"--tasks {summary['tasks']} --seed {summary['seed']} --minutes {summary['asked_minutes']:g}"
    return (
        f"`python -m benchmarks.soak {options}`, "
        f"{machine['time'][:10]}, {machine['usable_cpus']} processors ({machine['processor']}), Python {machine['python']}, "
        f"load {machine['load_average'][2]}: "
        f"{summary['rounds']} rounds in {summary['minutes']} minutes, {totals['submitted']:,} tasks submitted = {ends}. "
        f"Among them: {faults}. Memory of the program after the first round {memory[0]:.1f} MB{held}, "
        f"after the last {memory[-1]:.1f} MB. "
        f"{'Wrong: ' + '; '.join(summary['violations']) if summary['violations'] else 'Nothing was left behind.'}"
    )


def _write(summary: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "soak.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

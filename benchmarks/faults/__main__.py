"""Measure what each library does when something goes wrong: seconds until the caller knows, or that it never does.

Command: ``python -m benchmarks.faults [--faults NAME ...] [--libraries NAME ...] [--limit 20] [--page docs/faults.md]``

Each cell of the table is a program of its own with a pool of two workers, as the library's documents show it. A map of four
tasks is asked for, of which one goes wrong; the time runs from just before it goes wrong, in the worker, to the moment when the
caller has a result or an error. Afterwards the pool is used once more, and left. Who gives no news for ``--limit`` seconds
hangs. Whatever came of the program is killed before the next begins. objproxy's figures are medians of ``--repeats`` programs,
the others' of ``--repeats-of-others``.

Results are added to those of earlier runs in ``faults.json``, so that parts may be measured one after another; ``--page``
writes the table of all of them into a page, between two marks. Everything is as it is out of the box, but for what the columns
say, and for a time limit where a row is about one.
"""

from __future__ import annotations

import argparse
import json
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks._machine import machine_facts, versions
from benchmarks._pages import write_part
from benchmarks._rounds import ROOT
from benchmarks.faults._faults import FAULTS, Fault
from benchmarks.faults._runner import run_cell
from benchmarks.faults._systems import OPENERS, OURS
from benchmarks.faults._table import describe, format_page_part


def main() -> None:
    """Measure the cells asked for, print them, and write the file and the page."""
    options = _parse()
    path = options.output / "faults.json"
    document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"cells": {}}
    wanted = [(FAULTS[name], library) for name in options.faults for library in options.libraries]

    def measure(pair: tuple[Fault, str]) -> dict[str, Any]:
        repeats = options.repeats if pair[1] == OURS else options.repeats_of_others
        return _merge([run_cell(*pair, options.limit) for _ in range(repeats)])

    # Programs that mostly wait disturb each other little; ours, whose milliseconds count, run alone.
    for jobs, pairs in (
        (options.jobs, [pair for pair in wanted if pair[1] != OURS]),
        (1, [pair for pair in wanted if pair[1] == OURS]),
    ):
        with ThreadPoolExecutor(jobs) as threads:
            for (fault, library), cell in zip(pairs, threads.map(measure, pairs), strict=True):
                _add(document, fault, library, cell)
    document |= {"machine": machine_facts(), "versions": versions(), "limit": options.limit}
    options.output.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if options.page:
        write_part(options.page, "table", format_page_part(document, list(OPENERS)))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", nargs="*", choices=FAULTS, default=list(FAULTS), metavar="NAME", help="only these faults")
    parser.add_argument("--libraries", nargs="+", choices=OPENERS, default=list(OPENERS), metavar="NAME", help="only these")
    parser.add_argument("--limit", type=float, default=20.0, help="seconds without news that count as hanging")
    parser.add_argument("--repeats", type=int, default=5, help="programs for each of objproxy's cells")
    parser.add_argument("--repeats-of-others", type=int, default=1, help="the same for all others' cells")
    parser.add_argument("--jobs", type=int, default=4, help="programs of other libraries at one time")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="folder for faults.json")
    parser.add_argument("--page", type=Path, help="page into which the table is written, for instance docs/faults.md")
    return parser.parse_args()


def _add(document: dict[str, Any], fault: Fault, library: str, cell: dict[str, Any]) -> None:
    document["cells"].setdefault(fault.name, {})[library] = cell
    detail = cell.get("text", "") if cell["status"] == "ended" else ""
    print(f"{fault.name:14} {library:26} {describe(fault, cell)} {detail}".rstrip(), flush=True)


def _merge(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one cell for those of several programs: the median of the seconds, the worst of the rest, how many hung."""
    told = [cell for cell in cells if cell["status"] == "told"]
    if not told:
        return cells[0]
    worst = max(told, key=lambda cell: (cell.get("exit_hangs", False), cell.get("next") == "hangs", cell.get("alive", 0)))
    merged = {**worst, "n_programs": len(cells), "n_silent": len(cells) - len(told)}
    seconds = [cell["seconds"] for cell in told if cell.get("seconds") is not None]
    return {**merged, "seconds": statistics.median(seconds)} if seconds else merged


if __name__ == "__main__":
    main()

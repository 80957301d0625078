"""The command line that all scripts share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks._machine import machine_facts
from benchmarks._model import Experiment
from benchmarks._report import Result, format_result, write_results
from benchmarks._rounds import ROOT, run_experiment


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return the parser of the options that all scripts have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: whether everything works, not how fast")
    parser.add_argument("--rounds", type=int, help="how often the contenders take turns")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="only these contenders")
    parser.add_argument("--skip", nargs="+", default=[], metavar="NAME", help="not these contenders, for instance: Ray Dask")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="folder for JSON and plots")
    return parser


def answer(name: str, experiments: Sequence[Experiment], options: argparse.Namespace) -> list[Result]:
    """Run the experiments of one question, print their tables and write their files."""
    results = []
    for experiment in experiments:
        outcomes, sizes = run_experiment(
            experiment, is_quick=options.quick, rounds=options.rounds, only=options.only, skip=options.skip
        )
        verdicts = tuple(target.judge(outcomes) for target in experiment.targets)
        results.append(Result(experiment, sizes, outcomes, verdicts))
        print(format_result(results[-1]), end="\n\n", flush=True)
    write_results(name, results, options.output, is_quick=options.quick)
    return results


def run_script(name: str, description: str | None, experiments: Sequence[Experiment]) -> None:
    """Be the main function of one question's script."""
    options = make_parser(description).parse_args()
    print(describe_machine())
    answer(name, experiments, options)


def describe_machine() -> str:
    """Return the machine's facts in one line."""
    return "; ".join(f"{key}: {value}" for key, value in machine_facts().items()) + "\n"

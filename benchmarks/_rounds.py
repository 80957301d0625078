"""Run an experiment: all contenders take turns, A B C A B C, each turn in an interpreter of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks._model import Contender, Experiment, Outcome, Outcomes, merge_facts

ROOT = Path(__file__).resolve().parent.parent

_LANE = "from benchmarks._lane import main; main()"


def run_experiment(
    experiment: Experiment,
    *,
    is_quick: bool = False,
    rounds: int | None = None,
    only: Iterable[str] = (),
    skip: Iterable[str] = (),
) -> tuple[Outcomes, dict[str, int]]:
    """Measure all contenders.

    Parameters
    ----------
    experiment : Experiment
        What to measure.
    is_quick : bool
        Small sizes and one round.
    rounds : int or None
        Instead of the experiment's own number.
    only : iterable of str
        Names of contenders; empty: all.
    skip : iterable of str
        Names of contenders that are left out.

    Returns
    -------
    outcomes : Outcomes
        One for each contender.
    sizes : dict
        The arguments that all contenders had.

    Notes
    -----
    Each round begins with another contender. A contender that fails or hangs takes no further turn.
    """
    sizes = dict(experiment.quick_sizes if is_quick else experiment.sizes)
    if experiment.calibrate is not None:
        sizes |= experiment.calibrate()
    n_rounds, n_discarded = (1, 0) if is_quick else (rounds or experiment.rounds, experiment.discard_rounds)
    wanted = set(only or (contender.name for contender in experiment.contenders)).difference(skip)
    running = [contender for contender in experiment.contenders if contender.name in wanted]
    reports: dict[str, list[dict[str, Any]]] = {contender.name: [] for contender in running}
    failed: dict[str, Outcome] = {}
    for number in range(n_discarded + n_rounds):
        for contender in _turned([each for each in running if each.name not in failed], number):
            report = run_lane(contender, sizes, experiment.timeout)
            if report["status"] != "ok":
                failed[contender.name] = Outcome(contender.name, report["status"], report["message"], is_peer=contender.is_peer)
            elif number >= n_discarded:
                reports[contender.name].append(report)
    return Outcomes({each.name: failed.get(each.name) or _outcome(each, reports[each.name]) for each in running}), sizes


def run_lane(contender: Contender, sizes: Mapping[str, int], timeout: float) -> dict[str, Any]:
    """Measure a contender once, in an interpreter of its own.

    Returns
    -------
    dict
        ``status`` and, by status, ``values`` and ``facts`` or ``message``.
    """
    function = contender.function
    arguments = [f"{key}={value}" for key, value in {**sizes, **contender.arguments}.items()]
    with tempfile.TemporaryDirectory(prefix="objproxy-bench-") as folder:
        path = Path(folder, "report.json")
        address = f"{_module_name(function)}:{function.__qualname__}"
        with Path(folder, "log.txt").open("w+", encoding="utf-8", errors="replace") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _LANE, str(path), address, *arguments],
                cwd=ROOT,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # one signal ends it with all its workers
            )
            status = _wait(process, path, timeout)
            log.seek(0)
            lines = [line.strip() for line in log if line.strip()]
        if status == "ok":
            return dict(json.loads(path.read_text(encoding="utf-8")))
    return {
        "status": status,
        "message": lines[-1][:200] if lines and status == "failed" else f"no answer within {timeout:g} s",
    }


def _wait(process: subprocess.Popen[bytes], path: Path, timeout: float) -> str:
    """Wait for a lane's end and kill what it left behind; return "ok" if it reported."""
    try:
        process.wait(timeout)
        status = "ok" if path.exists() and process.returncode == 0 else "failed"
    except subprocess.TimeoutExpired:
        status = "hangs"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return status


def _module_name(function: Callable[..., Any]) -> str:
    """Return the name to import a function's module by, also if it is the script that runs."""
    spec = getattr(sys.modules[function.__module__], "__spec__", None)
    return function.__module__ if spec is None else spec.name


def _environment() -> dict[str, str]:
    """Return the environment of a lane; bytecode is cached there, as that of every installed library is."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths)}


def _turned(contenders: list[Contender], number: int) -> list[Contender]:
    start = number % max(len(contenders), 1)
    return contenders[start:] + contenders[:start]


def _outcome(contender: Contender, reports: list[dict[str, Any]]) -> Outcome:
    values = tuple(tuple(report["values"]) for report in reports)
    facts = tuple(report["facts"] for report in reports)
    return Outcome(contender.name, "ok", rounds=values, facts=merge_facts(facts), is_peer=contender.is_peer, round_facts=facts)

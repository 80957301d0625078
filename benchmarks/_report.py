"""Tables, JSON files and plots of what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._machine import machine_facts, versions
from benchmarks._model import OURS, UNITS, Experiment, Outcome, Outcomes, Verdict


@dataclass(frozen=True)
class Result:
    """An experiment, the sizes it was run with, what came out, and the verdicts on its targets."""

    experiment: Experiment
    sizes: dict[str, int]
    outcomes: Outcomes
    verdicts: tuple[Verdict, ...]


def format_result(result: Result) -> str:
    """Return an experiment's table: median, smallest, quartiles and ratio to ours for each contender."""
    experiment = result.experiment
    sizes = ", ".join(f"{key}={value}" for key, value in result.sizes.items())
    title = f"{experiment.title} ({sizes})" if sizes else experiment.title
    rows = [["contender", f"median {experiment.unit}", "min", "quartiles", "/ objproxy", "notes"]]
    rows += [_row(outcome, result) for outcome in _ranked(result.outcomes)]
    lines = [title, format_table(rows)]
    lines += [f"  {format_verdict(verdict)}" for verdict in result.verdicts]
    return "\n".join(lines)


def _row(outcome: Outcome, result: Result) -> list[str]:
    if outcome.status != "ok":
        return [outcome.name, outcome.status, "", "", "", outcome.message]
    scale = UNITS[result.experiment.unit]
    lower, upper = outcome.quartiles
    notes = ", ".join(f"{key}={_short(value)}" for key, value in outcome.facts.items())
    return [
        outcome.name,
        _short(outcome.median * scale),
        _short(outcome.values[0] * scale),
        f"{_short(lower * scale)} .. {_short(upper * scale)}",
        _ratio(outcome, result.outcomes),
        notes,
    ]


def _ratio(outcome: Outcome, outcomes: Outcomes) -> str:
    ours = outcomes.get(OURS)
    if ours is None or ours.status != "ok" or ours.median <= 0:
        return ""
    return f"{outcome.median / ours.median:.2f}"


def _ranked(outcomes: Outcomes) -> list[Outcome]:
    return sorted(outcomes.values(), key=lambda outcome: outcome.median if outcome.status == "ok" else float("inf"))


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
    return str(value)


def format_verdict(verdict: Verdict) -> str:
    """Return target, value and verdict in one line."""
    if verdict.value is None:
        return f"{verdict.target.text}: {verdict.text}"
    value, quietest = _with_unit(verdict.value, verdict), _with_unit(verdict.quietest, verdict)
    return f"{verdict.target.text}: {value} (from the smallest values {quietest}): {verdict.text}"


def _with_unit(value: float | None, verdict: Verdict) -> str:
    return "" if value is None else f"{value:.3g} {verdict.target.unit}".rstrip()


def format_summary(results: Iterable[Result]) -> str:
    """Return one table of all targets with their verdicts."""
    rows = [["question", "target", "measured", "smallest", "verdict"]]
    for result in results:
        for verdict in result.verdicts:
            values = [_with_unit(verdict.value, verdict), _with_unit(verdict.quietest, verdict)]
            rows.append([result.experiment.title, verdict.target.text, *values, verdict.text])
    return format_table(rows)


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned columns; the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def write_results(name: str, results: Sequence[Result], folder: Path) -> list[Path]:
    """Write ``<name>.json`` and, if matplotlib is installed, ``<name>.png``.

    Returns
    -------
    list of Path
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    document = {
        "question": name,
        "machine": machine_facts(),
        "versions": versions(),
        "experiments": [_as_document(result) for result in results],
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return [path, *_write_plot(results, folder / f"{name}.png")]


def _as_document(result: Result) -> dict[str, Any]:
    experiment = result.experiment
    return {
        "name": experiment.name,
        "title": experiment.title,
        "unit": "byte" if experiment.unit == "MB" else "s",
        "sizes": result.sizes,
        "contenders": [_outcome_document(outcome) for outcome in result.outcomes.values()],
        "targets": [
            {
                "target": each.target.text,
                "limit": each.target.limit,
                "measured": each.value,
                "from_smallest": each.quietest,
                "verdict": each.text,
            }
            for each in result.verdicts
        ],
    }


def _outcome_document(outcome: Outcome) -> dict[str, Any]:
    document: dict[str, Any] = {"name": outcome.name, "status": outcome.status}
    if outcome.status != "ok":
        return {**document, "message": outcome.message}
    return {
        **document,
        "median": outcome.median,
        "min": outcome.values[0],
        "quartiles": outcome.quartiles,
        "rounds": outcome.rounds,
        "facts": dict(outcome.facts),
    }


def _write_plot(results: Sequence[Result], path: Path) -> list[Path]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return []
    n_bars = sum(max(len(result.outcomes), 1) for result in results)
    figure = Figure(figsize=(8, 1.2 * len(results) + 0.28 * n_bars), layout="constrained")
    heights = [len(result.outcomes) + 2 for result in results]
    all_axes = figure.subplots(len(results), 1, squeeze=False, height_ratios=heights)
    for axes, result in zip(all_axes[:, 0], results, strict=True):
        _draw(axes, result)
    figure.savefig(path, dpi=120)
    return [path]


def _draw(axes: Any, result: Result) -> None:  # Any: matplotlib is optional and brings its own types
    """Draw medians as bars, quartiles as whiskers, on a logarithmic axis where the values lie far apart."""
    outcomes = [outcome for outcome in _ranked(result.outcomes) if outcome.status == "ok"][::-1]
    scale = UNITS[result.experiment.unit]
    medians = [outcome.median * scale for outcome in outcomes]
    below = [(outcome.median - outcome.quartiles[0]) * scale for outcome in outcomes]
    above = [(outcome.quartiles[1] - outcome.median) * scale for outcome in outcomes]
    colors = ["tab:orange" if outcome.name == OURS else "tab:blue" if outcome.is_peer else "tab:gray" for outcome in outcomes]
    axes.barh([outcome.name for outcome in outcomes], medians, xerr=[below, above], color=colors, capsize=2)
    if medians and min(medians) > 0 and max(medians) / min(medians) > 20:
        axes.set_xscale("log")
    axes.set_title(result.experiment.title, fontsize=10, loc="left")
    axes.set_xlabel(f"{result.experiment.unit} (median, quartiles; less is better)", fontsize=8)
    axes.tick_params(labelsize=8)

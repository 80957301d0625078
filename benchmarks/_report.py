"""Tables, JSON files and plots of what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._machine import machine_facts, versions
from benchmarks._model import OURS, UNITS, Experiment, Outcome, Outcomes, Verdict

#: Inches of a plot of curves.
_CURVE_HEIGHT = 4.5

#: What the summary's logarithmic axis shows of a value of nothing, or less.
_SMALLEST_BAR = 0.01


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
    lines = [title, format_table(rows), *(f"  {line}" for line in [describe(result)] if line)]
    lines += [f"  {format_verdict(verdict)}" for verdict in result.verdicts]
    return "\n".join(lines)


def describe(result: Result) -> str:
    """Return what an experiment says of its outcomes as a whole; nothing if it has nothing to say."""
    try:
        return result.experiment.describe(result.outcomes) if result.experiment.describe else ""
    except LookupError:
        return ""


def _row(outcome: Outcome, result: Result) -> list[str]:
    if outcome.status != "ok":
        return [outcome.name, outcome.status, "", "", "", outcome.message]
    scale = UNITS[result.experiment.unit]
    lower, upper = outcome.quartiles
    notes = ", ".join(f"{key}={_short(value)}" for key, value in outcome.facts.items() if not isinstance(value, dict))
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


def write_results(name: str, results: Sequence[Result], folder: Path, *, is_quick: bool = False) -> list[Path]:
    """Write ``<name>.json`` and, if matplotlib is installed, ``<name>.png``.

    Parameters
    ----------
    name : str
        The question.
    results : sequence of Result
        One for each of its experiments.
    folder : Path
        Where the files go.
    is_quick : bool
        Whether the figures tell nothing of speed; the file says so.

    Returns
    -------
    list of Path
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    document = {
        "question": name,
        "is_quick": is_quick,
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
        "description": describe(result),
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
        "facts_of_rounds": [dict(facts) for facts in outcome.round_facts],
    }


def _write_plot(results: Sequence[Result], path: Path) -> list[Path]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return []
    heights = [_CURVE_HEIGHT if result.experiment.curve else 1.2 + 0.28 * len(result.outcomes) for result in results]
    figure = Figure(figsize=(8, sum(heights)), layout="constrained")
    all_axes = figure.subplots(len(results), 1, squeeze=False, height_ratios=heights)
    for axes, result in zip(all_axes[:, 0], results, strict=True):
        draw = _draw_curves if result.experiment.curve else _draw_bars
        draw(axes, result)
        axes.set_title(result.experiment.title, fontsize=10, loc="left")
        axes.tick_params(labelsize=8)
    figure.savefig(path, dpi=120)
    return [path]


def _draw_bars(axes: Any, result: Result) -> None:  # Any: matplotlib is optional and brings its own types
    """Draw medians as bars, quartiles as whiskers, on a logarithmic axis where the values lie far apart."""
    outcomes = [outcome for outcome in _ranked(result.outcomes) if outcome.status == "ok"][::-1]
    scale = UNITS[result.experiment.unit]
    medians = [outcome.median * scale for outcome in outcomes]
    below = [(outcome.median - outcome.quartiles[0]) * scale for outcome in outcomes]
    above = [(outcome.quartiles[1] - outcome.median) * scale for outcome in outcomes]
    colors = [_color(outcome) for outcome in outcomes]
    axes.barh([outcome.name for outcome in outcomes], medians, xerr=[below, above], color=colors, capsize=2)
    if medians and min(medians) > 0 and max(medians) / min(medians) > 20:
        axes.set_xscale("log")
    axes.set_xlabel(f"{result.experiment.unit} (median, quartiles; less is better)", fontsize=8)


def _color(outcome: Outcome) -> str:
    return "tab:orange" if outcome.name == OURS else "tab:blue" if outcome.is_peer else "tab:gray"


def _draw_curves(axes: Any, result: Result) -> None:  # Any: as above
    """Draw medians against sizes, a line for each contender."""
    scale = UNITS[result.experiment.unit]
    for name, outcome in result.outcomes.items():
        if outcome.status != "ok":
            continue
        curve = result.outcomes.curve(name, result.experiment.curve)
        seconds = [value * scale for value in curve.values()]
        axes.plot([int(size) for size in curve], seconds, ".-", label=name, color=_color(outcome) if name == OURS else None)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("bytes", fontsize=8)
    axes.set_ylabel(f"{result.experiment.unit} (median)", fontsize=8)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def write_summary(names: Iterable[str], folder: Path) -> list[Path]:
    """Draw ``summary.png``: how near to its target each question came, from the JSON files of all that were answered so far.

    Parameters
    ----------
    names : iterable of str
        The questions, in the order of the picture; those that have no file yet are left out.
    folder : Path
        Where the files are.

    Returns
    -------
    list of Path
        The picture, if matplotlib is installed and there is anything to draw.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return []
    paths = [path for path in (folder / f"{name}.json" for name in names) if path.exists()]
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    bars = [bar for document in documents for bar in _summary_bars(document)]
    if not bars:
        return []
    figure = Figure(figsize=(11, 1.0 + 0.26 * len(bars)), layout="constrained")
    _draw_summary(figure.subplots(), bars, is_quick=any(document["is_quick"] for document in documents))
    path = folder / "summary.png"
    figure.savefig(path, dpi=120)
    return [path]


def _summary_bars(document: dict[str, Any]) -> list[tuple[str, float, str]]:
    """Return label, measured value in multiples of the limit, and verdict of each target that was measured."""
    return [
        (f"{experiment['title']}: {target['target']}", target["measured"] / target["limit"], target["verdict"])
        for experiment in document["experiments"]
        for target in experiment["targets"]
        if target["measured"] is not None and target["limit"] > 0
    ]


def _draw_summary(axes: Any, bars: list[tuple[str, float, str]], *, is_quick: bool) -> None:  # Any: as above
    labels = [label for label, _, _ in bars]
    values = [max(value, _SMALLEST_BAR) for _, value, _ in bars]
    colors = ["tab:green" if value <= 1 else "tab:red" for value in values]
    places = range(len(bars))
    # From the line outwards: a bar to the left is a target reached, one to the right a target missed.
    axes.barh(places, [value - 1 for value in values], left=1, color=colors)
    for place, value, (_, _, verdict) in zip(places, values, bars, strict=True):
        axes.annotate(verdict, (max(value, 1), place), xytext=(4, 0), textcoords="offset points", fontsize=7, va="center")
    axes.set_yticks(places, labels, fontsize=7)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlim(min(0.5, *values) / 1.2, max(2, *values) ** 1.15 * 2.5)  # room for the verdicts
    axes.set_xlabel("measured / target (less is better)", fontsize=8)
    axes.set_title(
        "Quick sizes: this tells nothing of speed" if is_quick else "How near to its targets objproxy comes", loc="left"
    )

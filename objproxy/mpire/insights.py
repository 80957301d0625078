"""Where the time of the workers went, as the dict and the text that MPIRE's users know."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from objproxy.insights import PARTS, Insights
from objproxy.mpire.utils import format_seconds

#: What calls are part of that are no tasks.
_PART_OF = {"worker_init": "init", "worker_exit": "exit"}


def in_users_words(insights: Insights) -> Insights:
    """Return insights of a pool of performers with the names that a user of maps knows."""

    def rename(method: str) -> str:
        return method if method in _PART_OF or not method else "task"

    return dataclasses.replace(
        insights,
        # The first argument of a performer's method stands for the function.
        slowest=tuple(
            dataclasses.replace(item, method=rename(item.method), arguments=item.arguments.partition(", ")[2])
            for item in insights.slowest
        ),
        timeline=tuple(dataclasses.replace(span, method=rename(span.method)) for span in insights.timeline),
        methods=tuple(dataclasses.replace(total, method=rename(total.method)) for total in insights.methods),
    )


def make_insights(insights: Insights, n_joined: Sequence[int], slowest: Sequence[tuple[float, str]]) -> dict[str, Any]:
    """Return the 29 entries.

    Parameters
    ----------
    insights : Insights
        Of the pool of performers, with its time line.
    n_joined : sequence of int
        For each worker the tasks that were part of a call, but the first of it.
    slowest : sequence of tuple
        (seconds, arguments) of the slowest tasks, slowest first.
    """
    seconds = {part: [getattr(worker, part) for worker in insights.workers] for part in PARTS}
    n_tasks = list(n_joined)
    for total_of in insights.methods:  # worker_init and worker_exit are calls of the performer, too
        part = _PART_OF.get(total_of.method, "working")
        if part == "working":
            n_tasks[total_of.worker_id] += total_of.n_items
        seconds["working"][total_of.worker_id] -= total_of.seconds
        seconds[part][total_of.worker_id] += total_of.seconds
    seconds["working"] = [max(0.0, value) for value in seconds["working"]]
    totals = {part: sum(values) for part, values in seconds.items()}
    total = sum(totals.values())
    made: dict[str, Any] = {"n_completed_tasks": n_tasks}
    for part, values in seconds.items():
        made[_name(part)] = [_text(value) for value in values]
    for part, value in totals.items():
        made[f"total_{_name(part)}"] = _text(value)
    made["total_time"] = _text(total)
    for part, values in seconds.items():
        made[f"{part}_ratio"] = totals[part] / (total + 1e-8)
        made[f"{part}_time_mean"] = _text(statistics.fmean(values))
        made[f"{part}_time_std"] = _text(statistics.pstdev(values))
    made["top_5_max_task_durations"] = [_text(duration) for duration, _ in slowest]
    made["top_5_max_task_args"] = [arguments for _, arguments in slowest]
    return made


def _name(part: str) -> str:
    return f"{part}_time"


def _text(seconds: float) -> str:
    return format_seconds(seconds, with_milliseconds=True)


def describe_insights(insights: dict[str, Any]) -> str:
    """Return them as text."""
    if not insights:
        return "No profiling stats available. Try to run a function first with insights enabled ..."
    lines = ["WorkerPool insights", "-------------------", f"Total number of tasks completed: {_n_tasks(insights)}"]
    for part in PARTS:
        name = part.replace("_", " ")
        lines.append(
            f"Total {name} time: {insights[f'total_{part}_time']}s, mean {insights[f'{part}_time_mean']}s, "
            f"std {insights[f'{part}_time_std']}s, ratio {insights[f'{part}_ratio']:.2%}"
        )
    if insights["working_ratio"] < 0.8:
        lines.append("Efficiency warning: working ratio is < 80%!")
    lines += ["", "Stats per worker", "----------------"]
    for worker, n_tasks in enumerate(insights["n_completed_tasks"]):
        times = ", ".join(f"{part.replace('_', ' ')} {insights[f'{part}_time'][worker]}s" for part in PARTS)
        lines.append(f"Worker {worker}: {n_tasks} tasks, {times}")
    lines += ["", "Top 5 longest tasks", "-------------------"]
    longest = zip(insights["top_5_max_task_durations"], insights["top_5_max_task_args"], strict=True)
    lines += [f"{number}. Time: {duration}s, args: {args}" for number, (duration, args) in enumerate(longest, 1)]
    return "\n".join(lines)


def _n_tasks(insights: dict[str, Any]) -> int:
    return sum(insights["n_completed_tasks"])

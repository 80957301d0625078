"""From what an observer sees of a pool to what is published of it: plain values for JSON, with rates and estimates. Pure."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from objproxy.insights import PARTS, Insights, SlowItem, Span, WorkerInsights, WorkerView
from objproxy.observing import FailureView, PoolView
from objproxy.progress import CallCount

#: Rates are those of the last ten seconds: long enough to be calm, short enough to show what has changed.
_WINDOW_SECONDS = 10.0

#: Workers that are shown of a pool; nobody reads more rows.
_MAX_WORKERS = 256

#: Spans of one worker between two looks, and how far apart two may be to be shown as one. A look is a quarter of a second,
#: some four pixels of the time line.
_MAX_SPANS = 16
_MIN_GAP_SECONDS = 0.002

#: Names and texts are data of the user's; no more of them is sent than can be read.
_MAX_NAME = 120


class Meter:
    """Tells how fast a count grows.

    Parameters
    ----------
    window : float
        Seconds over which it looks back.
    """

    def __init__(self, window: float = _WINDOW_SECONDS) -> None:
        self._window = window
        self._seen: deque[tuple[float, float]] = deque()

    def rate(self, now: float, count: float) -> float:
        """Take a count in and return how much it grew, a second."""
        seen = self._seen
        seen.append((now, count))
        while len(seen) > 2 and seen[1][0] <= now - self._window:
            seen.popleft()
        seconds = now - seen[0][0]
        return max(0.0, (count - seen[0][1]) / seconds) if seconds > 0 else 0.0


class Digest:
    """Makes what is published of one pool, look by look.

    Parameters
    ----------
    shows_arguments : bool
        Whether the arguments of slow items are told.
    shows_tracebacks : bool
        Whether the texts and tracebacks of errors are told, or only their types.
    """

    def __init__(self, *, shows_arguments: bool, shows_tracebacks: bool) -> None:
        self._shows_arguments = shows_arguments
        self._shows_tracebacks = shows_tracebacks
        self._items = Meter()
        self._calls: dict[int, Meter] = {}
        self._busy: dict[int, Meter] = {}

    def make(self, view: PoolView, now: float) -> dict[str, Any]:
        """Return what is published of a look; `now` in seconds of any clock, for the rates."""
        rate = self._items.rate(now, view.n_tasks)
        calls = [self._call(call, now) for call in view.calls]
        self._calls = {call.number: self._calls[call.number] for call in view.calls if call.ended is None}
        return {
            "id": view.number,
            "name": _name(view.name),
            "kind": _name(view.kind),
            "backend": view.backend,
            "phase": view.phase,
            "why": view.why if self._shows_tracebacks else "",
            "began": view.began,
            "ended": view.ended,
            "now": view.seconds,
            "n_tasks": view.n_tasks,
            "n_failed": view.n_failed,
            "n_outstanding": view.n_outstanding,
            "n_workers": len(view.workers),
            "rate": 0.0 if view.ended else rate,
            "workers": self._workers(view, now),
            "calls": calls,
            "failing": {_name(method): count for method, count in view.failing.items()},
            "failures": [self._failure(failure) for failure in view.failures],
            "slowest": [self._slow(item) for item in view.insights.slowest],
            "methods": _sum_methods(view.insights),
            "spans": [_span(*joined) for joined in join_spans(view.insights.timeline)],
        }

    def _call(self, call: CallCount, now: float) -> dict[str, Any]:
        meter = self._calls.setdefault(call.number, Meter())
        rate = meter.rate(now, call.n_done)
        n_left = None if call.total is None or call.ended else call.total - call.n_done
        return {
            "id": call.number,
            "method": _name(call.method),
            "done": call.n_done,
            "total": call.total,
            "began": call.began,
            "ended": call.ended,
            "error": _name(call.error),
            "rate": rate,
            "left": n_left / rate if n_left and rate else None,
        }

    def _workers(self, view: PoolView, now: float) -> list[dict[str, Any]]:
        views = {worker.id: worker for worker in view.workers}
        shown = [worker for worker in view.insights.workers if worker.id in views or not views]
        return [self._worker(worker, views.get(worker.id), now) for worker in shown[:_MAX_WORKERS]]

    def _worker(self, insights: WorkerInsights, view: WorkerView | None, now: float) -> dict[str, Any]:
        parts = {part: getattr(insights, part) for part in PARTS}
        if view is None:
            return {"id": insights.id, "state": "gone", "n_tasks": insights.n_tasks, "parts": parts}
        parts["working"] += view.running_seconds
        parts["waiting"] = max(0.0, parts["waiting"] - view.running_seconds)
        busy = self._busy.setdefault(view.id, Meter()).rate(now, parts["working"])
        return {
            "id": view.id,
            "pid": view.pid,
            "device": view.device,
            "generation": view.generation,
            "state": view.state,
            "n_tasks": view.n_tasks,
            "rss": view.rss,
            "method": _name(view.method),
            "running": view.running_seconds,
            "n_running": view.n_running,
            "busy": min(1.0, busy),
            "parts": parts,
        }

    def _failure(self, failure: FailureView) -> dict[str, Any]:
        return {
            "number": failure.number,
            "at": failure.at,
            "method": _name(failure.method),
            "item": failure.item,
            "worker": failure.worker_id,
            "error": _name(failure.error),
            "text": failure.text if self._shows_tracebacks else "",
            "traceback": failure.traceback if self._shows_tracebacks else "",
        }

    def _slow(self, item: SlowItem) -> dict[str, Any]:
        return {
            "seconds": item.seconds,
            "method": _name(item.method),
            "item": item.item,
            "worker": item.worker_id,
            "arguments": item.arguments if self._shows_arguments else "",
        }


def _name(text: str) -> str:
    return text if len(text) <= _MAX_NAME else text[: _MAX_NAME - 1] + "…"


def _sum_methods(insights: Insights) -> list[dict[str, Any]]:
    """Return for each method how often it ran and for how long, the longest first."""
    sums: dict[str, tuple[int, float]] = {}
    for total in insights.methods:
        count, seconds = sums.get(total.method, (0, 0.0))
        sums[total.method] = count + total.n_items, seconds + total.seconds
    ordered = sorted(sums.items(), key=lambda entry: -entry[1][1])[:20]
    return [{"method": _name(method), "n_tasks": count, "seconds": seconds} for method, (count, seconds) in ordered]


class Joined(NamedTuple):
    """Spans of one worker and method that are shown as one; it was busy for `busy` of the `seconds`."""

    span: Span
    seconds: float
    n_items: int
    busy: float


def join_spans(spans: Iterable[Span]) -> list[Joined]:
    """Join spans of one worker and method that lie close to each other, as closely as it takes for them to be few."""
    by_worker: dict[int, list[Joined]] = {}
    for span in sorted(spans, key=lambda span: span.began):
        joined = Joined(span, span.seconds, span.n_items, span.seconds)
        by_worker.setdefault(span.worker_id, []).append(joined)
    return list(itertools.chain.from_iterable(map(_join_row, by_worker.values())))


def _join_row(row: Sequence[Joined]) -> list[Joined]:
    gap = _MIN_GAP_SECONDS
    result = _join_within(row, gap)
    while len(result) > _MAX_SPANS and gap < 1.0:
        gap *= 4
        result = _join_within(result, gap)
    return result[-4 * _MAX_SPANS :]  # of many methods by turns, or of deaths, the latest


def _join_within(row: Iterable[Joined], gap: float) -> list[Joined]:
    result: list[Joined] = []
    for right in row:
        left = result[-1] if result else None
        if left is None or not _is_alike(left.span, right.span) or right.span.began - left.span.began - left.seconds > gap:
            result.append(right)
            continue
        seconds = max(left.seconds, right.span.began + right.seconds - left.span.began)
        result[-1] = Joined(left.span, seconds, left.n_items + right.n_items, left.busy + right.busy)
    return result


def _is_alike(left: Span, right: Span) -> bool:
    return left.kind == right.kind == "call" and left.method == right.method and left.generation == right.generation


def _span(span: Span, seconds: float, n_items: int, busy: float) -> list[Any]:
    share = min(1.0, busy / seconds) if seconds else 1.0
    return [span.worker_id, span.kind, _name(span.method), round(span.began, 4), round(seconds, 4), n_items, round(share, 2)]

"""What a pool tells of itself: one frozen record a worker, and where the time went."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

from objproxy._worker.descriptors import open_file
from objproxy._worker.platform import resident_bytes

__all__ = ["Insights", "MethodTotal", "PARTS", "SlowItem", "Span", "WorkerInsights", "WorkerView"]  # noqa: RUF022

#: What the time of a worker is made of.
PARTS = ("start_up", "init", "waiting", "working", "exit")


@dataclasses.dataclass(frozen=True)
class WorkerView:
    """One worker at one moment.

    Attributes
    ----------
    id : int
        Index in the pool.
    pid : int or None
        Its process; None for threads and for a worker that is not up.
    device : str or None
        Its device; None for a CPU worker.
    generation : int
        How often it was replaced.
    state : str
        "starting", "idle", "busy", "ending", "gone" or "quarantined".
    n_tasks : int
        Items it has done, over all generations.
    rss : int or None
        Bytes of memory it holds now, where that can be read.
    method : str
        What it runs; "" if it runs nothing.
    running_seconds : float
        For how long; with several tasks at once, since one of them has ended.
    n_running : int
        How many tasks it runs; more than 1 only with ``options(concurrency=...)``.
    """

    id: int
    pid: int | None
    device: str | None
    generation: int
    state: str
    n_tasks: int
    rss: int | None
    method: str = ""
    running_seconds: float = 0.0
    n_running: int = 0

    @property
    def worker_id(self) -> int:
        """The same as `id`."""
        return self.id


@dataclasses.dataclass(frozen=True)
class WorkerInsights:
    """Where the time of one worker went, in seconds.

    Attributes
    ----------
    id : int
        Index in the pool.
    n_tasks : int
        Items it has done.
    start_up, init, waiting, working, exit : float
        Until its process ran; in its constructor; without work; in its methods; ending.
    """

    id: int
    n_tasks: int
    start_up: float
    init: float
    waiting: float
    working: float
    exit: float


@dataclasses.dataclass(frozen=True)
class SlowItem:
    """One of the slowest items.

    Attributes
    ----------
    seconds : float
        How long it took; for an item of a message with several, their mean.
    method : str
        What ran.
    item : int
        Its index in its call.
    worker_id : int
        Where it ran.
    arguments : str
        Its arguments as text, shortened; "" without ``ProxyPool(timeline=True)``.
    """

    seconds: float
    method: str
    item: int
    worker_id: int
    arguments: str = ""


@dataclasses.dataclass(frozen=True)
class Span:
    """A time in the life of a worker.

    Attributes
    ----------
    worker_id, generation : int
        Which worker.
    kind : str
        "start_up", "init", "call", "exit", or "death" for a call in which the worker ended.
    method : str
        What ran; "" unless it is a call.
    item, n_items : int
        Index of the first item of a call, and how many there were.
    began, seconds : float
        When, in seconds since the first worker was started, and how long.
    """

    worker_id: int
    generation: int
    kind: str
    method: str
    item: int
    n_items: int
    began: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class MethodTotal:
    """What one worker spent in one method.

    Attributes
    ----------
    worker_id : int
        Which worker.
    method : str
        What ran.
    n_items : int
        How often.
    seconds : float
        How long in all.
    """

    worker_id: int
    method: str
    n_items: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Insights:
    """Where the time of a pool went.

    Attributes
    ----------
    workers : tuple of WorkerInsights
        One for each worker.
    slowest : tuple of SlowItem
        The slowest items, slowest first; at most five.
    timeline : tuple of Span
        What the workers did when; the latest 100,000 spans. Empty without ``ProxyPool(timeline=True)``.
    methods : tuple of MethodTotal
        Sums for each worker and method. Empty without ``ProxyPool(timeline=True)``.

    Notes
    -----
    ``str(insights)`` is a report to be printed.
    """

    workers: tuple[WorkerInsights, ...]
    slowest: tuple[SlowItem, ...]
    timeline: tuple[Span, ...] = ()
    methods: tuple[MethodTotal, ...] = ()

    def total(self, part: str) -> float:
        """Return the sum over the workers of one part, for instance ``total("working")``."""
        return float(sum(getattr(worker, part) for worker in self.workers))

    def ratio(self, part: str) -> float:
        """Return the share of one part in the time of all workers, 0 to 1."""
        everything = sum(map(self.total, PARTS))
        return self.total(part) / everything if everything else 0.0

    @property
    def working_ratio(self) -> float:
        """Share of the workers' time that they spent in their methods."""
        return self.ratio("working")

    def __str__(self) -> str:
        return describe(self)

    def save_trace(self, path: str | os.PathLike[str]) -> None:
        """Save the time line as a trace file, which https://ui.perfetto.dev and ``chrome://tracing`` open.

        Raises
        ------
        ValueError
            There is no time line.
        """
        import json  # who saves no trace never loads it

        self._check_timeline()
        with open(path, "w", encoding="utf-8", opener=open_file) as file:
            json.dump({"traceEvents": list(_trace_events(self)), "displayTimeUnit": "ms"}, file)

    def save_image(self, path: str | os.PathLike[str]) -> None:
        """Save the time line as an image, one row for each worker; the ending of `path` says of which kind (".png", ".svg").

        Raises
        ------
        ValueError
            There is no time line.
        ImportError
            Matplotlib is not installed.
        """
        self._check_timeline()
        _draw(self, path)

    def _check_timeline(self) -> None:
        if not self.timeline:
            raise ValueError("there is no time line; make the pool with ProxyPool(..., timeline=True), and use it")


def describe(insights: Insights) -> str:
    """Return a report: totals, one line for each worker, the slowest items."""
    lines = [f"{'':>12}" + "".join(f"{part.replace('_', '-'):>12}" for part in PARTS) + f"{'items':>10}"]
    for worker in insights.workers:
        times = "".join(f"{getattr(worker, part):>10.3f} s" for part in PARTS)
        lines.append(f"{f'worker {worker.id}':>12}{times}{worker.n_tasks:>10}")
    n_items = sum(worker.n_tasks for worker in insights.workers)
    lines.append(f"{'all':>12}" + "".join(f"{insights.total(part):>10.3f} s" for part in PARTS) + f"{n_items:>10}")
    lines.append(f"{'share':>12}" + "".join(f"{100 * insights.ratio(part):>10.1f} %" for part in PARTS))
    if insights.slowest:
        lines.append("slowest items:")
    for item in insights.slowest:
        where = f"{item.method}({item.arguments}), item {item.item}" if item.arguments else f"{item.method}, item {item.item}"
        lines.append(f"{item.seconds:>10.4f} s  {where}, on worker {item.worker_id}")
    return "\n".join(lines)


#: Viewers take thread 0 for no thread, and the one whose number is the process's for its main thread.
_TRACE_PID, _FIRST_TRACE_TID = 1, 1000


def _trace_events(insights: Insights) -> Iterator[dict[str, Any]]:
    """Yield the events of a trace: complete events (phase "X") in microseconds, and the names of the rows."""
    yield {"ph": "M", "pid": _TRACE_PID, "name": "process_name", "args": {"name": "objproxy"}}
    for worker_id in sorted({span.worker_id for span in insights.timeline}):
        row = {"ph": "M", "pid": _TRACE_PID, "tid": _FIRST_TRACE_TID + worker_id}
        yield {**row, "name": "thread_name", "args": {"name": f"worker {worker_id}"}}
        yield {**row, "name": "thread_sort_index", "args": {"sort_index": worker_id}}
    for span in insights.timeline:
        began, ended = round(span.began * 1e9), round((span.began + span.seconds) * 1e9)  # so that neighbours never overlap
        yield {
            "ph": "X",
            "pid": _TRACE_PID,
            "tid": _FIRST_TRACE_TID + span.worker_id,
            "name": span.method or span.kind,
            "cat": span.kind,
            "ts": began / 1000,
            "dur": (ended - began) / 1000,
            "args": {"generation": span.generation, "item": span.item, "n_items": span.n_items},
        }


_COLOURS = {"start_up": "#b8b8b8", "init": "#f2b134", "exit": "#7a7a7a", "death": "#c0392b"}
_METHOD_COLOURS = ("#4c72b0", "#55a868", "#8172b3", "#64b5cd", "#937860", "#da8bc3")


def _draw(insights: Insights, path: str | os.PathLike[str]) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise ImportError("an image of the time line needs Matplotlib: pip install 'objproxy[plot]'") from exc

    worker_ids = sorted({span.worker_id for span in insights.timeline})
    rows = {worker_id: row for row, worker_id in enumerate(worker_ids)}
    figure = Figure(figsize=(11, 1.6 + 0.45 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    methods = sorted({span.method for span in insights.timeline if span.kind == "call"})
    colours = {method: _METHOD_COLOURS[i % len(_METHOD_COLOURS)] for i, method in enumerate(methods)}
    bars: dict[tuple[str, int], list[Span]] = {}
    for span in insights.timeline:
        label = span.method if span.kind == "call" else span.kind.replace("_", "-")
        bars.setdefault((label, span.worker_id), []).append(span)
    labelled: set[str] = set()
    for (label, worker_id), spans in bars.items():
        axes.broken_barh(
            [(span.began, span.seconds) for span in spans],
            (rows[worker_id] - 0.4, 0.8),
            facecolors=colours[label] if spans[0].kind == "call" else _COLOURS[spans[0].kind],
            edgecolors="white",
            linewidth=0.3,
            label="" if label in labelled else label,
        )
        labelled.add(label)
    axes.set_yticks(range(len(rows)), [f"worker {worker_id}" for worker_id in worker_ids])
    axes.invert_yaxis()
    axes.set_xlabel("seconds since the first worker was started")
    axes.set_title(f"working {100 * insights.working_ratio:.0f} % of the time", loc="left", fontsize=10)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=6, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def memory_of(pid: int | None) -> int | None:
    """Return the bytes of memory that a process holds, or None where that cannot be read."""
    if pid is None:
        return None
    # Where there is a /proc, nothing else can tell more; and where descriptors are lacking, an import would raise.
    return resident_bytes(pid) or (None if os.path.exists("/proc/self/statm") else _resident_bytes_portably(pid))


def _resident_bytes_portably(pid: int) -> int | None:
    try:
        import psutil  # an extra
    except (ImportError, OSError):  # it is not there, or cannot be read for want of descriptors
        return None
    try:
        memory: Any = psutil.Process(pid).memory_info()
    except (psutil.Error, OSError):
        return None
    return int(memory.rss)

"""Progress bars: one place from which every verb, and every face, gets its bar.

A bar counts items, never messages. It is drawn by tqdm, by rich, or by widgets of a notebook; or a function is told. Drawing is
left to the library's own pace, ten times a second, so that a bar costs next to nothing however many items there are.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from objproxy.handling import is_a, short_name

__all__ = ["CallCount", "Progress", "STYLES"]  # noqa: RUF022

#: Names of the ways to draw a bar.
STYLES = ("std", "rich", "notebook")

#: Seconds between two looks of `rich` at what has changed.
_RICH_SECONDS = 0.1


def check_progress_bar(wanted: Any) -> None:
    """Check that `wanted` says what bar there shall be.

    Raises
    ------
    TypeError
        It says nothing of the kind.
    ValueError
        It names a style that does not exist.
    """
    if isinstance(wanted, str) or (isinstance(wanted, dict) and "style" in wanted):
        style = wanted if isinstance(wanted, str) else wanted["style"]
        if style not in STYLES:
            raise ValueError(f"progress_bar: there is no style {style!r}; expected one of {', '.join(map(repr, STYLES))}")
    elif wanted is not None and not isinstance(wanted, (bool, dict)) and not callable(wanted):
        raise TypeError(
            f"progress_bar={wanted!r}: expected True, False, a style ('std', 'rich', 'notebook'), a dict of tqdm's options "
            "(and 'style'), or a function of (done, total)"
        )


class CallCount(NamedTuple):
    """How far a call of a pool is.

    Attributes
    ----------
    number : int
        Unique in the program; later calls have larger ones.
    method : str
        What it runs.
    n_done : int
        Items that have come back.
    total : int or None
        All of its items, if their number is known; of a stream those that were put so far.
    began : float
        When, in seconds since the epoch.
    ended : float or None
        When it ended; None while it runs.
    error : str
        The type of the error that ended it; "" if none has.
    """

    number: int
    method: str
    n_done: int
    total: int | None
    began: float
    ended: float | None = None
    error: str = ""


_call_numbers = itertools.count(1)


class _Bar(Protocol):
    """What draws."""

    total: int | None

    def update(self, n_items: int) -> Any:
        """Note that more is done."""

    def set_postfix_str(self, text: str) -> Any:
        """Show a text behind the bar."""

    def set_description_str(self, text: str, refresh: bool) -> Any:
        """Show a text in front of it."""

    def close(self) -> Any:
        """Draw a last time."""


class Progress:
    """Counts the items that are done and shows them, or does nothing. Leaving its block closes the bar.

    Parameters
    ----------
    wanted : bool, str, dict or callable
        False: nothing; True: a tqdm bar; a str: a bar of that style; a dict: a bar with these options of tqdm, and "style"; a
        callable: called with (done, total).
    total : int or None
        Number of items, if it is known.
    description : str
        Shown in front of the bar.
    reports : Reports or None
        Of the pool: what tasks tell there is shown behind the bar, and there the call can be seen while it runs.

    Raises
    ------
    ImportError
        What draws bars of this style is not installed; the message says how to.
    """

    def __init__(self, wanted: Any, total: int | None, description: str, reports: Reports | None = None) -> None:
        self.n_done = 0
        self._total = total
        self._description = description
        self._began = time.time()
        self._reports = reports
        self._callback: Callable[[int, int | None], Any] | None = None
        self._bar: _Bar | None = None
        if callable(wanted):
            self._callback = wanted
        elif wanted:
            given = {"style": wanted} if isinstance(wanted, str) else wanted if isinstance(wanted, dict) else {}
            options = {"total": total, "desc": description, **given}
            self._bar = _make_bar(options.pop("style", "std"), options)
            if reports is not None:
                reports.bars.add(self)
        if reports is not None:  # last, since a bar that cannot be made ends the call
            self._number = next(_call_numbers)
            reports.running[self._number] = self

    def expect(self, total: int) -> None:
        """Note that the number of items has changed since the bar was made."""
        if total != self._total:
            self._total = total
            if self._bar is not None:
                self._bar.total = total

    def update(self, n_items: int) -> None:
        """Note that `n_items` more are done."""
        self.n_done += n_items
        if self._bar is not None:
            self._bar.update(n_items)
        elif self._callback is not None:
            self._callback(self.n_done, self._total)

    def show_report(self, text: str) -> None:
        """Show how far the tasks are that run."""
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def count(self, ended: float | None = None, error: BaseException | None = None) -> CallCount:
        """Return how far the call is that this counts for."""
        kind = short_name(error) if error is not None else ""
        return CallCount(self._number, self._description, self.n_done, self._total, self._began, ended, kind)

    def close(self, error: BaseException | None = None) -> None:
        """Close the bar; `error` is why it will never be full."""
        if self._reports is not None:
            self._reports.end(self._number, error)
        bar, self._bar = self._bar, None
        if bar is not None:
            if error is not None:
                what = "interrupted" if is_a(error, KeyboardInterrupt) else f"failed: {short_name(error)}"
                bar.set_description_str(what, refresh=False)
            bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self.close(error)


class Stream(Protocol):
    """What is counted of a stream of tasks."""

    @property
    def n_put(self) -> int:
        """Items that were put."""

    @property
    def n_done(self) -> int:
        """Items whose result has arrived."""


@dataclasses.dataclass(frozen=True)
class StreamCount:
    """Counts a stream, which it does not keep alive."""

    number: int
    method: str
    held: weakref.ref[Stream]
    began: float

    def count(self, ended: float | None = None, error: BaseException | None = None) -> CallCount:
        """Return how far the stream is."""
        stream = self.held()
        n_done, n_put = (0, 0) if stream is None else (stream.n_done, stream.n_put)
        return CallCount(self.number, self.method, n_done, n_put, self.began, ended)


class Reports:
    """Hands what tasks tell of themselves (`objproxy.report_progress`) to the caller's function, and to the bars.

    Parameters
    ----------
    callback : callable
        Called with (worker_id, done, total).

    Attributes
    ----------
    running : dict of int to Progress or StreamCount
        The calls of the pool that run, by their numbers; looked at by other threads.
    ended : deque of CallCount, or None
        Those that have ended lately; None while nobody wants to know.
    """

    def __init__(self, callback: Callable[[int, int, int | None], None]) -> None:
        self.running: dict[int, Progress | StreamCount] = {}
        self.ended: deque[CallCount] | None = None
        self.bars: weakref.WeakSet[Progress] = weakref.WeakSet()
        self._callback = callback
        self._latest: dict[int, str] = {}

    def end(self, number: int, error: BaseException | None = None) -> None:
        """Note that a call has ended."""
        call = self.running.pop(number, None)
        if call is not None and self.ended is not None:
            self.ended.append(call.count(time.time(), error))

    def count_stream(self, method: str, stream: Stream) -> None:
        """Count a stream as long as there is one."""
        number = next(_call_numbers)
        # Nobody may be left to say that it has ended.
        held = weakref.ref(stream, lambda _stream: self.running.pop(number, None))
        self.running[number] = StreamCount(number, method, held, time.time())

    def __call__(self, worker_id: int, done: int, total: int | None) -> None:
        """Take a report in."""
        if self.bars:
            if done == total:
                self._latest.pop(worker_id, None)
            else:
                self._latest[worker_id] = f"{done}" if total is None else f"{done}/{total}"
            text = ", ".join(f"worker {number}: {report}" for number, report in sorted(self._latest.items()))
            for bar in list(self.bars):
                bar.show_report(text)
        else:
            self._latest.clear()
        self._callback(worker_id, done, total)


def _make_bar(style: str, options: dict[str, Any]) -> _Bar:
    """Return what draws; who shows no bar never loads it."""
    if style == "rich":
        return _RichBar(options)
    if style == "notebook":
        try:
            import ipywidgets  # noqa: F401 - tqdm's own error tells of something else
        except ImportError as exc:
            raise ImportError("progress_bar='notebook' needs ipywidgets: pip install 'objproxy[progress]'") from exc
        from tqdm.notebook import tqdm as notebook_tqdm

        return _checked(notebook_tqdm, options)
    from tqdm import tqdm

    if sys.stderr is None and options.get("file") is None:  # the program has closed it, and tqdm would fail
        options = {**options, "disable": True}
    return _checked(tqdm, options)


def _checked(make: Callable[..., Any], options: dict[str, Any]) -> _Bar:
    bar: _Bar = make(**options)
    return bar


def _describe_rate(task: Any) -> str:
    """Return the rate of a task of rich, as tqdm writes it; for one that has hardly begun, that of all its items."""
    rate = task.finished_speed or task.speed or (task.completed / task.elapsed if task.elapsed else 0.0)
    if not rate:
        return "?it/s"
    return f"{rate:.2f}it/s" if rate >= 1 else f"{1 / rate:.2f}s/it"


class _RichBar:
    """One line of rich's display. All bars of the process share one display, since a terminal can have one only."""

    _lock = threading.Lock()
    _display: Any = None
    _n_bars = 0

    def __init__(self, options: dict[str, Any]) -> None:
        try:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                ProgressColumn,
                Task,
                TaskProgressColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )
        except ImportError as exc:
            raise ImportError("progress_bar='rich' needs rich: pip install 'objproxy[progress]'") from exc

        class RateColumn(ProgressColumn):
            """Shows how many items are done in a second."""

            def render(self, task: Task) -> str:
                return f"[progress.data.speed]{_describe_rate(task)}"

        self._leave = options.get("leave", True)
        self._n_unshown = 0
        self._shown_at = time.monotonic()
        with _RichBar._lock:
            if _RichBar._display is None:
                columns = (
                    TextColumn("{task.description}"),
                    TaskProgressColumn(),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TimeElapsedColumn(),
                    TimeRemainingColumn(),
                    RateColumn(),
                    TextColumn("{task.fields[report]}"),
                )
                _RichBar._display = Progress(*columns, console=Console(stderr=True))
                _RichBar._display.start()
            self._progress: Any = _RichBar._display
            _RichBar._n_bars += 1
        description = str(options.get("desc") or "")
        visible = not options.get("disable", False)
        self._task = self._progress.add_task(description, total=options["total"], visible=visible, report="")

    @property
    def total(self) -> int | None:
        """Number of items, if it is known."""
        total: int | None = self._progress.tasks[self._progress.task_ids.index(self._task)].total
        return total

    @total.setter
    def total(self, total: int | None) -> None:
        self._progress.update(self._task, total=total)

    def update(self, n_items: int) -> None:
        """Note that more is done; `rich` itself is told ten times a second, since it takes 20 us to listen."""
        self._n_unshown += n_items
        now = time.monotonic()
        if now - self._shown_at >= _RICH_SECONDS:
            self._show()
            self._shown_at = now

    def _show(self) -> None:
        self._progress.advance(self._task, self._n_unshown)
        self._n_unshown = 0

    def set_postfix_str(self, text: str) -> None:
        """Show a text behind the bar."""
        self._progress.update(self._task, report=text)

    def set_description_str(self, text: str, refresh: bool) -> None:
        """Show a text in front of it."""
        self._progress.update(self._task, description=text, refresh=refresh)

    def close(self) -> None:
        """Draw a last time; the last bar of all ends the display."""
        self._show()
        if self._leave:
            self._progress.stop_task(self._task)
        else:
            self._progress.remove_task(self._task)
        with _RichBar._lock:
            _RichBar._n_bars -= 1
            if not _RichBar._n_bars:
                self._progress.stop()
                _RichBar._display = None

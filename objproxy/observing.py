"""What all pools of this program do at the moment, for whoever watches from outside: a dashboard, an exporter of metrics.

::

    with Observer() as observer:
        for view in observer.look():
            print(view.name, view.phase, view.n_tasks)

Watching is done from beside. A look reads what the engine has written down; it never turns the engine, waits for a worker or
takes a lock, so it can neither delay nor break a call. What it reads may be a moment old, and one of the figures newer than the
next. While nobody observes, a pool counts its calls and nothing else.
"""

from __future__ import annotations

import dataclasses
import os
import time
import weakref
from collections import Counter, deque
from typing import Any, Self

from objproxy import core as _core
from objproxy import handling
from objproxy._engine.messages import Batch
from objproxy._engine.state import PoolState
from objproxy.backends.base import Backend
from objproxy.backends.watched import WatchedBackend, Watcher
from objproxy.core import PoolCore
from objproxy.errors import PoolClosedError
from objproxy.insights import Insights, Span, WorkerView
from objproxy.progress import CallCount
from objproxy.timeline import Timeline
from objproxy.views import all_records, count_seconds, sorted_records, view_workers

__all__ = ["FailureView", "Observer", "PoolView"]

#: Calls that have ended, and failures, that are kept for one look; of what comes on top only the number is known.
_N_ENDED = 10
_N_FAILURES = 20

#: The longest text of an error, and of a traceback; of the latter the end tells most.
_MAX_TEXT = 500
_MAX_TRACEBACK = 8000


@dataclasses.dataclass(frozen=True)
class FailureView:
    """A task that has failed.

    Attributes
    ----------
    number : int
        Counts the failures of the pool, from 1.
    at : float
        When it was told to the caller, in seconds since the epoch.
    method : str
        What failed.
    item : int or None
        Its index in its call.
    worker_id : int or None
        Where it ran.
    error, text : str
        Type and text of the exception.
    traceback : str
        With the worker's part of it; cut in front if it is long.
    """

    number: int
    at: float
    method: str
    item: int | None
    worker_id: int | None
    error: str
    text: str
    traceback: str


@dataclasses.dataclass(frozen=True)
class PoolView:
    """One pool at one moment.

    Attributes
    ----------
    number : int
        Of the pool, unique in the program.
    name, kind, backend : str
        Name of the pool, of its class, and of where its objects live.
    phase : str
        "starting", "open", "closing"; "broken" or "killed", also when no worker is left; or "closed".
    why : str
        What broke it, "" if nothing has.
    began : float
        When it was made, in seconds since the epoch.
    ended : float or None
        When it ended.
    n_tasks, n_failed : int
        Items that came back, and failures among them since it is observed.
    n_outstanding : int
        Items handed in that have not come back.
    workers : tuple of WorkerView
        One for each worker.
    calls : tuple of CallCount
        Calls that run, and those that ended since the last look.
    failures : tuple of FailureView
        Those since the last look, the latest if they are many.
    failing : dict of str to int
        Failures for each method.
    insights : Insights
        Where the time went; `Insights.timeline` is what came since the last look.
    seconds : float
        The moment of the look as the time line counts it.
    """

    number: int
    name: str
    kind: str
    backend: str
    phase: str
    why: str
    began: float
    ended: float | None
    n_tasks: int
    n_failed: int
    n_outstanding: int
    workers: tuple[WorkerView, ...]
    calls: tuple[CallCount, ...]
    failures: tuple[FailureView, ...]
    failing: dict[str, int]
    insights: Insights
    seconds: float


class Observer:
    """Watches every pool of this program, those that are there and those that come, from `start` until `stop`.

    Notes
    -----
    Watching costs a pool a few microseconds a message, as ``ProxyPool(timeline=True)`` does, and some more for each task that
    fails. One observer at a time: `start` raises RuntimeError while there is another. A process that is forked has none.
    """

    _active: Observer | None = None

    def __init__(self) -> None:
        self._watches: dict[int, _Watch] = {}

    def start(self) -> Self:
        """Begin to watch.

        Raises
        ------
        RuntimeError
            Another observer watches.
        """
        if Observer._active is not None:
            raise RuntimeError("the pools of this program are being observed already; stop that observer first")
        Observer._active = self
        _core.greeters.append(self._greet)
        for reference in _core.cores.valuerefs():
            core = reference()
            if core is not None and core.number not in self._watches and core.driver.state.phase != "closed":
                self._greet(core)
        return self

    def _greet(self, core: PoolCore) -> None:
        self._watches[core.number] = _Watch(core)

    def look(self) -> tuple[PoolView, ...]:
        """Return every pool that is there, and for the last time those that have ended since the last look."""
        views = []
        for number, watch in sorted(self._watches.copy().items()):
            if watch.is_over:
                del self._watches[number]
            views.append(watch.view())
        return tuple(views)

    def stop(self) -> None:
        """End it; pools go on as if nobody had watched. Idempotent."""
        if Observer._active is not self:
            return
        Observer._active = None
        _core.greeters.remove(self._greet)
        for watch in self._watches.values():
            watch.detach()
        self._watches.clear()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc_info: object) -> None:
        self.stop()


def _forget_observer() -> None:
    """Forget it in a forked child, whose pools nobody looks at."""
    Observer._active = None
    _core.greeters.clear()


os.register_at_fork(after_in_child=_forget_observer)


class _Watch(Watcher):
    """Watches one pool. It holds the engine, never the pool itself, so that a pool that nobody holds still ends."""

    def __init__(self, core: PoolCore) -> None:
        self.is_over = False
        self._number = core.number
        self._core = weakref.ref(core)
        self._driver, self._recipe, self._reports = core.driver, core.recipe, core.reports
        self._kind = core.recipe.info.name
        self._began = time.time() - _age(core)
        self._ended: float | None = None
        self._final: PoolView | None = None
        self._n_failed = 0
        self._failing: Counter[str] = Counter()
        self._failures: deque[FailureView] = deque(maxlen=_N_FAILURES)
        self._last_span: Span | None = None
        self._line, self._has_own_line = core.timeline or Timeline(), core.timeline is None
        self._reports.ended = deque(maxlen=_N_ENDED)
        core.failure_watch = self
        self._inner = core.driver.backend
        self._outer = self._wrap(self._inner)
        # Between the look at the workers and this line a batch may be sent: it is missing in the time line, no more.
        core.driver.backend = self._outer

    def _wrap(self, inner: Backend) -> Backend:
        if not self._has_own_line:
            return WatchedBackend(inner, [self])
        now = inner.now()
        for record in sorted_records(self._driver.state):
            sent: list[tuple[Batch, float]] = [(batch, record.busy_since) for batch in record.running_batches()]
            self._line.join(record.worker_id, record.generation, sent, now)
        return WatchedBackend(inner, [self._line, self])

    def detach(self) -> None:
        """Take everything away again."""
        if self._driver.backend is self._outer:
            self._driver.backend = self._inner
        self._reports.ended = None
        core = self._core()
        if core is not None:
            core.failure_watch = None

    # ---- what it is told ---------------------------------------------------------------------------------------------

    def note_failure(self, error: BaseException, method: str, item: int | None, worker_id: int | None) -> None:
        """Keep what failed as text: an error would keep alive what its frames hold."""
        self._n_failed += 1
        self._failing[method] += 1
        if len(self._failures) < _N_FAILURES:  # until the next look; texts take time
            text, lines = _describe(error)
            self._failures.append(
                FailureView(self._n_failed, time.time(), method, item, worker_id, handling.short_name(error), text, lines)
            )

    def closed(self) -> None:
        """Take a last look."""
        if not self.is_over:
            self._ended = self._ended or time.time()
            self._final = self._see()
            self.is_over = True

    # ---- what it tells -----------------------------------------------------------------------------------------------

    def view(self) -> PoolView:
        """Return the pool at this moment, or at its last."""
        if self._final is None and self._driver.state.phase == "closed" and self._ended is None:
            self._ended = time.time()  # it broke, and nobody has closed it yet
        return self._final or self._see()

    def _see(self) -> PoolView:
        state, backend = self._driver.state, self._inner
        now = backend.now()
        return PoolView(
            number=self._number,
            name=self._recipe.name,
            kind=self._kind,
            backend=self._inner.name,
            phase=_phase(state),
            why="" if state.failure is None or isinstance(state.failure, PoolClosedError) else _describe(state.failure)[0],
            began=self._began,
            ended=self._ended,
            n_tasks=sum(record.n_tasks for record in all_records(state)),
            n_failed=self._n_failed,
            n_outstanding=state.n_outstanding,
            workers=view_workers(state, backend, self._recipe),
            calls=self._take_calls(),
            failures=_take_all(self._failures),
            failing=dict(self._failing),
            insights=Insights(count_seconds(state, backend), self._line.slowest(), self._take_spans(), self._line.totals()),
            seconds=self._line.seconds_at(now),
        )

    def _take_calls(self) -> tuple[CallCount, ...]:
        ended = self._reports.ended
        running = [call.count() for call in list(self._reports.running.values())]
        return (*(() if ended is None else _take_all(ended)), *running)

    def _take_spans(self) -> tuple[Span, ...]:
        """Return the spans since the last look; the time line keeps its own."""
        spans = self._line.spans()
        n_new = next((i for i, span in enumerate(reversed(spans)) if span is self._last_span), len(spans))
        if spans:
            self._last_span = spans[-1]
        return spans[len(spans) - n_new :]


def _take_all(kept: deque[Any]) -> tuple[Any, ...]:
    """Take everything out of a deque to which other threads append."""
    return tuple(kept.popleft() for _ in range(len(kept)))


def _phase(state: PoolState) -> str:
    if state.phase != "closed" or state.failure is None:
        return state.phase
    return "killed" if isinstance(state.failure, PoolClosedError) else "broken"


def _age(core: PoolCore) -> float:
    """Return for how many seconds a pool has been there."""
    records = sorted_records(core.driver.state)
    return max((core.backend.now() - record.created_at for record in records), default=0.0)


def _describe(error: BaseException) -> tuple[str, str]:
    """Return the text of an error and its traceback."""
    text, lines = handling.text_of(error), handling.format_error(error)
    return _cut(text, _MAX_TEXT), lines if len(lines) <= _MAX_TRACEBACK else "…" + lines[-_MAX_TRACEBACK:]


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "…"

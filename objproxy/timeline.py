"""What each worker of a pool did, and when: kept while the pool runs, looked at afterwards."""

from __future__ import annotations

import dataclasses
import heapq
import reprlib
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Any

from objproxy._engine import messages as m
from objproxy._engine.messages import Batch, Event
from objproxy.backends.base import WorkerInfo
from objproxy.backends.watched import Watcher
from objproxy.handling import repr_of
from objproxy.insights import MethodTotal, SlowItem, Span

#: Spans that are kept; older ones go.
_MAX_SPANS = 100_000

_N_SLOWEST = 5

_text = reprlib.Repr()
_text.maxstring = _text.maxother = 100


@dataclasses.dataclass
class _Lane:
    """What is going on at one worker."""

    generation: int = 0
    started_at: float = 0.0
    ending_at: float | None = None
    free_at: float = 0.0  # when it had done what it was sent before
    sent: deque[tuple[Batch, float]] = dataclasses.field(default_factory=deque)
    tasks: dict[int, tuple[Batch, float]] = dataclasses.field(default_factory=dict)  # concurrent ones, by their numbers


class Timeline(Watcher):
    """Keeps the spans of a pool's workers.

    A worker tells how long a message took, not when; it begins a message when it has it and is done with the one before. For
    the items of a message only their mean time is known; a message is short unless its items are long.
    """

    def __init__(self) -> None:
        self._origin: float | None = None
        self._spans: deque[Span] = deque(maxlen=_MAX_SPANS)
        self._lanes: dict[int, _Lane] = defaultdict(_Lane)
        self._totals: dict[tuple[int, str], list[float]] = {}
        self._slowest: list[tuple[float, int, SlowItem]] = []
        self._n_replies = 0

    # ---- what it is told ---------------------------------------------------------------------------------------------

    def started(self, worker_id: int, generation: int, now: float) -> None:
        """Begin a lane."""
        if self._origin is None:
            self._origin = now
        self._lanes[worker_id] = _Lane(generation, now, free_at=now)

    def sent(self, worker_id: int, batch: Batch, now: float) -> None:
        """Note what will be answered."""
        lane = self._lanes[worker_id]
        if batch.rules.concurrency:
            lane.tasks[batch.seq] = batch, now
        else:
            lane.sent.append((batch, now))

    def ending(self, worker_id: int, generation: int, how: str, now: float) -> None:
        """Note since when a worker is ending."""
        self._lanes[worker_id].ending_at = now

    def happened(self, event: Event, info: WorkerInfo, now: float) -> None:
        """Note what came of it."""
        kind = type(event)
        if kind is m.Replied:
            self._take_reply(event, now)  # type: ignore[arg-type]
        elif kind is m.Ready:
            self._take_ready(event, info, now)  # type: ignore[arg-type]
        elif kind is m.Died:
            self._take_death(event, now)  # type: ignore[arg-type]

    def _take_ready(self, event: m.Ready, info: WorkerInfo, now: float) -> None:
        lane = self._lanes[event.worker_id]
        began = max(lane.started_at, now - info.init_seconds)
        self._add(event.worker_id, lane, "start_up", "", lane.started_at, began)
        self._add(event.worker_id, lane, "init", "", began, now)
        lane.free_at = now

    def _take_reply(self, event: m.Replied, now: float) -> None:
        lane = self._lanes[event.worker_id]
        if not event.is_last or lane.generation != event.generation:
            return
        if event.seq in lane.tasks:
            batch, began = lane.tasks.pop(event.seq)  # it begins when it comes
            lane.free_at = now
        else:
            while lane.sent:
                batch, sent_at = lane.sent.popleft()
                if batch.seq == event.seq:
                    break
            else:
                return
            if batch.rules.is_chore:
                return
            began = max(lane.free_at, sent_at)
            lane.free_at = min(now, began + event.seconds)
        method, count = batch.rules.method, batch.count
        self._add(event.worker_id, lane, "call", method, began, lane.free_at, batch.start, count)
        total = self._totals.setdefault((event.worker_id, method), [0, 0.0])
        total[0] += count
        total[1] += event.seconds
        self._note_slow(event.seconds / count, batch, event.worker_id)

    def _take_death(self, event: m.Died, now: float) -> None:
        lane = self._lanes[event.worker_id]
        if lane.generation != event.generation:
            return
        if lane.sent and event.started_seq is not None:
            batch, sent_at = lane.sent[0]
            began = max(lane.free_at, sent_at)
            self._add(event.worker_id, lane, "death", batch.rules.method, began, now, batch.start, batch.count)
        elif event.begun:
            for seq in sorted(event.begun & lane.tasks.keys()):
                batch, sent_at = lane.tasks[seq]
                self._add(event.worker_id, lane, "death", batch.rules.method, sent_at, now, batch.start, batch.count)
        elif lane.ending_at is not None:
            self._add(event.worker_id, lane, "exit", "", max(lane.ending_at, lane.free_at), now)
        lane.sent.clear()
        lane.tasks.clear()

    def _add(
        self, worker_id: int, lane: _Lane, kind: str, name: str, began: float, ended: float, item: int = 0, n_items: int = 0
    ) -> None:
        origin = self._origin or 0.0
        self._spans.append(Span(worker_id, lane.generation, kind, name, item, n_items, began - origin, max(0.0, ended - began)))

    def _note_slow(self, seconds: float, batch: Batch, worker_id: int) -> None:
        if len(self._slowest) == _N_SLOWEST and seconds <= self._slowest[0][0]:
            return
        self._n_replies += 1  # breaks ties, so that items are never compared
        item = SlowItem(seconds, batch.rules.method, batch.start, worker_id, describe_arguments(batch))
        heapq.heappush(self._slowest, (seconds, self._n_replies, item))
        if len(self._slowest) > _N_SLOWEST:
            heapq.heappop(self._slowest)

    def join(self, worker_id: int, generation: int, sent: Iterable[tuple[Batch, float]], now: float) -> None:
        """Begin a lane of a worker that is there already, and has been sent these batches."""
        self.started(worker_id, generation, now)
        for batch, sent_at in sent:
            self.sent(worker_id, batch, sent_at)

    # ---- what it tells -----------------------------------------------------------------------------------------------

    def spans(self) -> tuple[Span, ...]:
        """Return the spans, in the order in which they ended."""
        return tuple(self._spans)

    def seconds_at(self, now: float) -> float:
        """Return a moment as the spans tell it: in seconds since the first worker was started."""
        return 0.0 if self._origin is None else now - self._origin

    def slowest(self) -> tuple[SlowItem, ...]:
        """Return the slowest items, slowest first."""
        return tuple(item for _, _, item in sorted(self._slowest, reverse=True))

    def totals(self) -> tuple[MethodTotal, ...]:
        """Return the sums for each worker and method."""
        return tuple(
            MethodTotal(worker_id, method, int(n_items), seconds)
            for (worker_id, method), (n_items, seconds) in sorted(self._totals.items())
        )


def describe_arguments(batch: Any) -> str:
    """Return the arguments of the first item of a batch as text."""
    operation = batch.payload.operation
    if operation.verb == "map":
        values = [column[0] for column in operation.args]
        n_args, names = len(values) - len(operation.kwargs), operation.kwargs
        pairs = list(zip(names, values[n_args:], strict=True))
        values = values[:n_args]
    else:
        values, pairs = list(operation.args), list(operation.kwargs.items())
    named = [f"{name}={repr_of(value, _text.repr)}" for name, value in pairs]
    return ", ".join([*(repr_of(value, _text.repr) for value in values), *named])

"""What becomes of concurrent tasks: the events that tell of them."""

from __future__ import annotations

from collections.abc import Callable

from objproxy._engine import messages as m
from objproxy._engine.concurrency import Concurrency
from objproxy._engine.settlement import Settlement
from objproxy._engine.workers import WorkerRecord


class Tasks:
    """Takes the events of concurrent tasks in.

    Parameters
    ----------
    concurrency : Concurrency
        Knows the tasks.
    settlement : Settlement
        Ends their items.
    find : callable
        Gives the record of a worker, by its number and generation.
    """

    def __init__(
        self, concurrency: Concurrency, settlement: Settlement, find: Callable[[int, int], WorkerRecord | None]
    ) -> None:
        self._concurrency = concurrency
        self._settlement = settlement
        self._find = find

    def end(self, record: WorkerRecord, event: m.Replied) -> None:
        """Take in that a task has ended."""
        batch, is_told = self._concurrency.end(record, event.seq)
        self._settlement.finish_task(record, batch, event, is_told=is_told)
        self._concurrency.hear_from(record)

    def on_stopping(self, event: m.Stopping) -> None:
        """Take in that a task is being cancelled: because its time is over, or because its caller has cancelled it."""
        record = self._find(event.worker_id, event.generation)
        if record is None or event.seq not in record.concurrent:
            return
        self._concurrency.hear_from(record)
        slot = record.concurrent[event.seq]
        if slot.is_asked and not slot.is_unwanted:
            self._settlement.time_out_task(slot, event.stack)

    def on_not_due(self, event: m.NotDue) -> None:
        """Take in that a task was not stopped, since it has time left."""
        record = self._find(event.worker_id, event.generation)
        if record is not None and event.seq in record.concurrent and record.phase == "busy":
            self._concurrency.grant_rest(record.concurrent[event.seq], event.began)

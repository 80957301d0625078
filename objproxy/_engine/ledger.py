"""What one event has brought about, and how many items have no outcome yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from objproxy._engine import messages as m
from objproxy._engine.messages import Batch, Failure, Rules


class Ledger:
    """Counts items in when they are submitted and out when they end, so that each ends exactly once.

    Attributes
    ----------
    now : float
        The moment of the event that is being handled.
    actions : list of Action
        What shall be done because of it.
    n_outstanding : int
        Items of all calls that were submitted and have no outcome yet.
    """

    __slots__ = ("_n_admitted", "actions", "n_outstanding", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self.actions: list[m.Action] = []
        self.n_outstanding = 0
        self._n_admitted = 0

    def admit(self, batch: Batch) -> None:
        """Count a new batch in, and give it its place in the order."""
        self._n_admitted += 1
        batch.order = self._n_admitted
        batch.rules.outstanding += batch.count
        self.n_outstanding += batch.count

    def deliver(self, batch: Batch, offset: int, outcomes: Sequence[Any], has_failures: bool, worker_id: int | None) -> None:
        """End the items of `batch` from `offset` on."""
        rules = batch.rules
        count = len(outcomes)
        rules.outstanding -= count
        self.n_outstanding -= count
        self.actions.append(m.Deliver(rules, batch.start + offset, outcomes, has_failures, worker_id))

    def fail(
        self,
        batch: Batch,
        start: int,
        stop: int,
        make_error: Callable[[int], BaseException],
        worker_id: int | None = None,
    ) -> None:
        """End the items ``start <= i < stop`` of a batch, each with an error of its own."""
        failures = [Failure(make_error(batch.start + i)) for i in range(start, stop)]
        if failures:
            self.deliver(batch, start, failures, True, worker_id)

    def drop(self, rules: Rules) -> None:
        """Nobody waits for a call any more: what is queued of it ends here and now, without a word."""
        if not rules.is_dropped:
            rules.is_dropped = True
            rules.outstanding -= rules.n_queued
            self.n_outstanding -= rules.n_queued

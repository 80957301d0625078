"""Ask all workers where their threads stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from objproxy._engine import messages as m
from objproxy._engine.state import PoolState
from objproxy._engine.watch import LOOK_SECONDS
from objproxy._engine.workers import WorkerRecord
from objproxy.backends.base import Backend


class _Driver(Protocol):
    """The part of `Driver` that is needed here."""

    state: PoolState
    backend: Backend

    def take_in(self, event: m.Event) -> None: ...

    def wait_until(self, is_true: Callable[[], bool], deadline: float | None = None) -> bool: ...


def collect_stacks(driver: _Driver, deadline: float) -> dict[int, str]:
    """Return where the threads of each worker stand; "" for one that has not told by the deadline."""
    now = driver.backend.now
    before = {record: record.n_stacks for record in list(driver.state.workers.values())}

    def has_told(record: WorkerRecord) -> bool:
        return record.n_stacks > before[record]

    def silent() -> list[int]:
        over = ("gone", "quarantined")
        return [record.worker_id for record in before if not has_told(record) and record.phase not in over]

    while worker_ids := silent():
        driver.take_in(m.StacksAsked(worker_ids))
        driver.wait_until(lambda: not silent(), min(deadline, now() + LOOK_SECONDS))
        if now() >= deadline:
            break
    return {record.worker_id: record.stack if has_told(record) else "" for record in before}

"""Ask every worker of a pool where its threads stand, and wait for the answers."""

from __future__ import annotations

from objproxy._engine.driver import Driver
from objproxy._engine.watch import LOOK_SECONDS
from objproxy._engine.workers import WorkerRecord


def collect(driver: Driver, deadline: float) -> dict[int, str]:
    """Return where the threads of each worker stand; "" for one that has not told by the deadline."""
    driver.check_usable()
    before = {record: record.n_stacks for record in list(driver.state.workers.values())}

    def has_told(record: WorkerRecord) -> bool:
        return record.n_stacks > before[record]

    def silent() -> list[int]:
        over = ("gone", "quarantined")
        return [record.worker_id for record in before if not has_told(record) and record.phase not in over]

    while worker_ids := silent():
        driver.ask_for_stacks(worker_ids)
        driver.wait_until(lambda: not silent(), min(deadline, driver.backend.now() + LOOK_SECONDS))
        if driver.backend.now() >= deadline:
            break
    return {record.worker_id: record.stack if has_told(record) else "" for record in before}

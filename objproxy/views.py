"""From the engine's records of the workers to what a pool tells of them; nothing here waits, or turns the engine."""

from __future__ import annotations

from objproxy._engine.state import PoolState
from objproxy._engine.workers import WorkerRecord
from objproxy.backends.base import Backend
from objproxy.insights import WorkerInsights, WorkerView, memory_of
from objproxy.recipe import PoolRecipe


def view_workers(state: PoolState, backend: Backend, recipe: PoolRecipe) -> tuple[WorkerView, ...]:
    """Return one record for each worker of a pool."""
    now = backend.now()
    return tuple(_view(record, backend, recipe, now) for record in sorted_records(state))


def sorted_records(state: PoolState) -> list[WorkerRecord]:
    """Return the records of the workers that are part of a pool, in order; the pool may be changing them."""
    return [record for _, record in sorted(state.workers.copy().items())]


def all_records(state: PoolState) -> list[WorkerRecord]:
    """Return each record of a pool once, those that have left among them.

    A worker may leave or come back meanwhile. It is in its new place before it leaves the old one, so the third look finds what
    came back between the first two.
    """
    records = state.workers | state.removed | state.workers
    return [records[worker_id] for worker_id in sorted(records)]


def _view(record: WorkerRecord, backend: Backend, recipe: PoolRecipe, now: float) -> WorkerView:
    pid = backend.info(record.worker_id).pid
    sent = record.running_batches()
    # Of a batch whose outcomes have all come, the end may not be taken in yet: the caller has what it wanted, and nobody turns.
    running = next((batch for batch in sent if batch.received < batch.count), None)
    state = "idle" if record.phase == "busy" and running is None else record.phase
    return WorkerView(
        record.worker_id,
        pid,
        recipe.describe_device(record.worker_id),
        record.generation,
        state,
        record.n_tasks,
        memory_of(pid),
        "" if running is None else running.rules.method,
        0.0 if running is None else max(0.0, now - record.busy_since),
        0 if running is None else max(1, len(record.concurrent)),
    )


def count_seconds(state: PoolState, backend: Backend) -> tuple[WorkerInsights, ...]:
    """Return where the time of each worker went, also of those that have left the pool."""
    keep_start_times(state, backend)
    now = backend.now()
    return tuple(_count_seconds(record, now) for record in all_records(state))


def keep_start_times(state: PoolState, backend: Backend) -> None:
    """Note how long the workers took to come up, as long as the back end knows it."""
    for record in list(state.workers.values()):
        info = backend.info(record.worker_id)
        record.start_up_seconds = info.start_up_seconds or record.start_up_seconds
        record.init_seconds = info.init_seconds or record.init_seconds


def _count_seconds(record: WorkerRecord, now: float) -> WorkerInsights:
    alive = (record.ended_at or now) - record.created_at
    known = record.start_up_seconds + record.init_seconds + record.working_seconds + record.exit_seconds
    return WorkerInsights(
        record.worker_id,
        record.n_tasks,
        record.start_up_seconds,
        record.init_seconds,
        max(0.0, alive - known),
        record.working_seconds,
        record.exit_seconds,
    )

"""The errors that the rules of a pool give to items: who died, of what, and what was lost."""

from __future__ import annotations

from collections.abc import Callable

from objproxy import handling
from objproxy._engine import messages as m
from objproxy._engine.messages import Batch
from objproxy._engine.workers import WorkerRecord
from objproxy.errors import (
    ArgumentPickleError,
    PoisonTaskError,
    PoolBrokenError,
    PoolClosedError,
    RemoteError,
    RemoteTraceback,
    SharedMemoryFullError,
    TaskTimeoutError,
    WorkerDiedError,
    WorkerInitError,
    describe_exit,
)

#: Makes the error of the item with the given index.
MakeError = Callable[[int], BaseException]


def argument(method: str, find_path: Callable[[], str], cause: Exception, item: int | None = None) -> BaseException:
    """Return the error for arguments that cannot be sent, because of `cause`; lack of memory is told as it is."""
    if handling.is_a(cause, SharedMemoryFullError):
        return cause
    error = ArgumentPickleError(method, find_path(), handling.describe(cause), item)
    error.__cause__ = cause
    return error


def death(record: WorkerRecord, event: m.Died, batch: Batch | None, item: int | None, device: str | None) -> WorkerDiedError:
    """Return the error for an item that ran when its worker died; without a batch, for the loss of its state."""
    is_poison = batch is not None and batch.attempts > 1 and batch.attempts > batch.rules.retries
    kind = PoisonTaskError if is_poison else WorkerDiedError
    return kind(
        record.worker_id,
        pid=event.pid,
        device=device,
        generation=record.generation,
        exitcode=event.exitcode,
        method=None if batch is None else batch.rules.method,
        item=item,
        started=batch is not None,
        attempts=1 if batch is None else batch.attempts,
        detail=event.detail,
        peak_rss=event.peak_rss,
        stack=event.trace,
        advice="" if batch is None else batch.rules.advice,
    )


#: What a worker does in a step of its end.
END_STEPS = {
    "asked": "it did not answer, or was running its exit functions",
    "finishing": "it was running the close() or __exit__ of its object",
    "joining": "it was waiting for threads, executors or child processes of its object",
    "leaving": "it was running its exit functions",
}


def death_at_end(record: WorkerRecord, event: m.Died, step: str, device: str | None) -> WorkerDiedError:
    """Return the error for a worker that was asked to end and died before it had."""
    return WorkerDiedError(
        record.worker_id,
        pid=event.pid,
        device=device,
        generation=record.generation,
        exitcode=event.exitcode,
        method="close" if step == "finishing" else None,
        ending=END_STEPS[step],
        detail=event.detail,
        peak_rss=event.peak_rss,
        stack=event.trace,
    )


def late_end(record: WorkerRecord, step: str, seconds: float) -> TaskTimeoutError:
    """Return the error for a worker that was killed in the midst of its end, `seconds` after ``close(timeout=seconds)``."""
    return TaskTimeoutError(record.worker_id, "close", None, seconds, record.stack, ending=END_STEPS[step])


def death_in_constructor(event: m.Died, device: str | None) -> WorkerInitError:
    """Return the error for a worker that died while it built its object."""
    reason = event.detail or f"its process {describe_exit(event.exitcode)} in the constructor"
    return WorkerInitError(event.worker_id, reason, device=device, exitcode=event.exitcode, remote_traceback=event.trace)


def raised_in_constructor(worker_id: int, cause: BaseException, device: str | None) -> WorkerInitError:
    """Return the error for a constructor that raised `cause`, which has the worker's traceback as its own cause."""
    trace = handling.cause_of(cause)
    text = trace.text if isinstance(trace, RemoteTraceback) else ""
    reason = f"its constructor raised {handling.describe(cause)}"
    error = WorkerInitError(worker_id, reason, device=device, remote_traceback=text)
    error.__cause__ = cause
    return error


def gone_worker(worker_id: int | None) -> MakeError:
    """Return the maker of errors for items that only a worker could run that has left the pool."""

    def make_error(_item: int) -> BaseException:
        detail = f"worker {worker_id} is no longer part of this pool (see resize); the other workers go on"
        error = WorkerDiedError(-1 if worker_id is None else worker_id, started=False, detail=detail, is_replaced=False)
        error.args = (detail,)
        return error

    return make_error


def quarantined_worker(record: WorkerRecord, method: str | None, limit: tuple[int, float], device: str | None) -> MakeError:
    """Return the maker of errors for items that only a worker could run that died too often."""
    count, seconds = limit
    detail = f"It died more than {count} times within {seconds:g} s and is quarantined"
    if record.n_failed_starts > 1:
        detail = f"Its constructor failed {record.n_failed_starts} times in a row; it is quarantined"

    def make_error(item: int) -> BaseException:
        if record.init_error is not None:
            return WorkerInitError(record.worker_id, f"{record.init_error}. {detail}", device=device)
        return WorkerDiedError(
            record.worker_id,
            device=device,
            generation=record.generation,
            exitcode=record.exitcode,
            method=method,
            item=item,
            started=False,
            detail=detail,
            is_replaced=False,
        )

    return make_error


def no_room(record: WorkerRecord, cause: BaseException, device: str | None) -> MakeError:
    """Return the maker of errors for items that wait for a worker for which the system has had no room for long."""

    def make_error(_item: int) -> BaseException:
        reason = f"it cannot be started ({type(cause).__name__}: {cause}). It is tried again once a second; call again then"
        error = WorkerInitError(record.worker_id, reason, device=device)
        error.__cause__ = cause
        return error

    return make_error


def ended_pool(failure: BaseException | None, *, is_broken: bool) -> MakeError:
    """Return the maker of errors for items that the end of the pool has cost."""

    def make_error(_item: int) -> BaseException:
        if failure is None:
            return PoolClosedError("the pool is closed; make a new one")
        if not is_broken:
            return type(failure)(*failure.args)
        error = PoolBrokenError(f"the pool is broken: {handling.text_of(failure)}")
        error.__cause__ = failure
        return error

    return make_error


def missing_answers(batch: Batch, worker_id: int) -> MakeError:
    """Return the maker of errors for items that a worker left out of its answer."""
    text = f"worker {worker_id} answered {batch.received} of the {batch.count} items that it was sent"
    return lambda _item: RemoteError("ProtocolError", text)

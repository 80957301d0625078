"""What is done when a worker cannot be started, since the system has no room at the moment.

Descriptors, processes and memory run out and come back. Such a refusal is no fault of the constructor, and does not count
for the restart limit.

Rules that live here:

- a worker that is refused is started again after a while that doubles each time, up to a second, for as long as the pool lives;
- if it takes long, what waits for that worker fails, and if no worker is left, what waits for any of them.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping

from objproxy._engine import failures
from objproxy._engine.backlog import Backlog
from objproxy._engine.ledger import Ledger
from objproxy._engine.watch import Watch
from objproxy._engine.workers import WorkerRecord

_FIRST_SECONDS, _MAX_SECONDS = 0.02, 1.0

#: What waits for a worker is told after this.
PATIENCE_SECONDS = 10.0

_PASSING = {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.ETOOMANYREFS}


def is_passing(error: BaseException) -> bool:
    """Return whether an error says that there is no room now, and may be later."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _PASSING)


class Shortage:
    """Knows which workers wait for room.

    Parameters
    ----------
    ledger : Ledger
        Has the time.
    watch : Watch
        Has the deadlines.
    shared : Backlog
        What waits for any worker.
    describe : callable
        Gives the text for a worker's device, for errors.
    """

    def __init__(self, ledger: Ledger, watch: Watch, shared: Backlog, describe: Callable[[int], str | None]) -> None:
        self._ledger = ledger
        self._retries = watch.retries
        self._shared = shared
        self._describe = describe
        self._refused: dict[WorkerRecord, tuple[float, float, int]] = {}  # since when, when last, how often

    def wait(self, record: WorkerRecord, error: BaseException, workers: Mapping[int, WorkerRecord]) -> None:
        """Have a worker started later; it is "gone" until then."""
        now = self._ledger.now
        since, last, count = self._refused.get(record, (now, now, 0))
        if now - last > 2 * _MAX_SECONDS:  # it has been up meanwhile
            since, count = now, 0
        self._refused[record] = since, now, count + 1
        self._retries.set(record, now + min(_FIRST_SECONDS * 2**count, _MAX_SECONDS))
        if now - since >= PATIENCE_SECONDS:
            self._tell(record, error, workers)

    def _tell(self, record: WorkerRecord, error: BaseException, workers: Mapping[int, WorkerRecord]) -> None:
        make_error = failures.no_room(record, error, self._describe(record.worker_id))
        batches = record.queue.take_all()
        if all(other.phase in ("gone", "quarantined") for other in workers.values()):
            batches += self._shared.take_all()
        for batch in batches:
            self._ledger.fail(batch, 0, batch.count, make_error, record.worker_id)

    def take_due(self, workers: Mapping[int, WorkerRecord]) -> Iterator[WorkerRecord]:
        """Yield the workers that shall be started now."""
        while (record := self._retries.pop_due(self._ledger.now)) is not None:
            if record.phase == "gone" and workers.get(record.worker_id) is record:
                yield record

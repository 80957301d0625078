"""The record that the state machine keeps of one worker."""

from __future__ import annotations

from collections import deque

from objproxy._engine.backlog import Backlog
from objproxy._engine.messages import Batch
from objproxy.errors import WorkerDiedError

#: A constructor that has failed more often in a row than this (or than the restart limit's count) is not tried again, however
#: long each failure takes and however many restarts are allowed: nothing has changed that would let the next one succeed.
_MAX_FAILED_STARTS = 4


class Slot:
    """Room for one concurrent task in a worker; it is used again, so that a timer has at most one entry for each.

    Parameters
    ----------
    record : WorkerRecord
        The worker.

    Attributes
    ----------
    batch : Batch or None
        The task.
    sent_at : float
        When it was sent.
    is_asked : bool
        Whether the worker was asked to stop it.
    is_told : bool
        Whether the worker has said that it stops it; its item has an outcome then.
    is_loading : bool
        Whether its time is over because its arguments took too long to unpickle.
    """

    __slots__ = ("batch", "is_asked", "is_loading", "is_told", "record", "sent_at")

    def __init__(self, record: WorkerRecord) -> None:
        self.record = record
        self.batch: Batch | None = None
        self.sent_at = 0.0
        self.is_asked = self.is_told = self.is_loading = False

    def begin(self, batch: Batch, now: float) -> None:
        """Take a task in that is being sent."""
        self.batch = batch
        self.sent_at = now
        self.is_asked = self.is_told = self.is_loading = False

    @property
    def is_unwanted(self) -> bool:
        """Whether no caller waits for the task any more."""
        return self.is_told or self.batch is None or self.batch.rules.is_dropped


class WorkerRecord:
    """One place in the pool; its worker may be replaced, the place stays.

    Attributes
    ----------
    phase : str
        ``starting`` (building its object), ``idle``, ``busy``, ``ending`` (asked or killed), ``gone``, ``quarantined``.
    generation : int
        How often the worker was replaced.
    end_reason : str or None
        Why the pool itself is ending it; None while it is not.
    queue : Backlog
        Batches that only this worker may run.
    inflight : deque of Batch
        What was sent and is not answered in full; the first is running.
    concurrent : dict of int to Slot
        Tasks that run at the same time, by their numbers, the oldest first; empty while there is anything in `inflight`.
    limits : dict of int to int
        What the calls of these tasks allow (`Rules.concurrency`), and how many tasks are of such calls.
    slots : list of Slot
        Slots that are free.
    n_assigned : int
        Items sent to this generation.
    max_tasks : int or None
        Items after which this generation is replaced, as the call has it that was sent last.
    n_tasks : int
        Items answered, all generations.
    loss : WorkerDiedError or None
        A death that nobody has been told of yet.
    death : WorkerDiedError or None
        The last one, told or not.
    deaths : deque of float
        When it died lately.
    n_failed_starts : int
        How many of its constructors have failed since the last that did not.
    is_outgrown : bool
        Whether it holds more memory than it may, and is replaced when it is idle.
    is_retiring : bool
        Whether it leaves the pool when its own queue is empty.
    end_step : str
        Where a worker stands that was asked to end, see `endings`; "" for every other.
    end_step_since : float
        When that began.
    is_end_told : bool
        Whether a warning was given that this takes long.
    was_stopped : bool
        Whether the last look has found its process stopped.
    is_end_failed : bool
        Whether an error of its end is known.
    n_looks : int
        How often its stack was asked for because its time is over.
    is_loading : bool
        Whether its time is over because the arguments of its task took too long to unpickle.
    stack : str
        The stacks of its threads when it was last asked for them.
    n_stacks : int
        How often it has told them.
    """

    __slots__ = (
        "busy_since",
        "concurrent",
        "created_at",
        "death",
        "deaths",
        "end_reason",
        "end_step",
        "end_step_since",
        "ended_at",
        "ending_since",
        "exit_seconds",
        "exitcode",
        "generation",
        "inflight",
        "init_error",
        "init_seconds",
        "is_end_failed",
        "is_end_told",
        "is_loading",
        "is_outgrown",
        "is_retiring",
        "limits",
        "loss",
        "max_tasks",
        "n_assigned",
        "n_failed_starts",
        "n_looks",
        "n_stacks",
        "n_tasks",
        "phase",
        "queue",
        "slots",
        "stack",
        "start_up_seconds",
        "started_at",
        "was_stopped",
        "worker_id",
        "working_seconds",
    )

    def __init__(self, worker_id: int) -> None:
        self.worker_id = worker_id
        self.generation = 0
        self.phase = "starting"
        self.queue = Backlog()
        self.inflight: deque[Batch] = deque()
        self.concurrent: dict[int, Slot] = {}
        self.limits: dict[int, int] = {}
        self.slots: list[Slot] = []
        self.deaths: deque[float] = deque()
        self.loss: WorkerDiedError | None = None
        self.death: WorkerDiedError | None = None
        self.init_error: BaseException | None = None
        self.n_failed_starts = 0
        self.exitcode: int | None = None
        self.end_reason: str | None = None
        self.end_step = ""
        self.end_step_since = 0.0
        self.is_end_told = self.was_stopped = self.is_end_failed = False
        self.is_retiring = False
        self.is_outgrown = False
        self.n_looks = 0
        self.is_loading = False
        self.stack = ""
        self.n_stacks = 0
        self.n_assigned = 0
        self.max_tasks: int | None = None
        self.n_tasks = 0
        self.working_seconds = 0.0
        self.busy_since = 0.0
        self.started_at = 0.0
        self.created_at = 0.0
        self.ending_since: float | None = None
        self.ended_at: float | None = None
        self.exit_seconds = 0.0
        self.start_up_seconds = 0.0
        self.init_seconds = 0.0

    def running_batches(self) -> list[Batch]:
        """Return what the worker was sent and has not answered, the oldest first; another thread may be changing it."""
        slots = list(self.concurrent.values())
        return [*self.inflight, *(batch for slot in slots if (batch := slot.batch) is not None)]

    def reset(self, phase: str, now: float) -> None:
        """Begin a new generation."""
        self.phase = phase
        self.end_reason = None
        self.end_step = ""
        self.is_end_failed = False
        self.n_assigned = 0
        self.max_tasks = None
        self.n_looks = 0
        self.is_outgrown = False
        self.started_at = now
        self.ending_since = None

    def has_died_too_often(self, now: float, max_restarts: tuple[int, float]) -> bool:
        """Note a death; whether there were too many lately (a restart intensity, as in Erlang/OTP), or in a row."""
        count, seconds = max_restarts
        self.deaths.append(now)
        while self.deaths[0] < now - seconds:
            self.deaths.popleft()
        return len(self.deaths) > count or self.n_failed_starts > min(count, _MAX_FAILED_STARTS)

    def come_back(self, now: float) -> None:
        """Rejoin a pool that it had left; it goes on counting where it ended."""
        assert self.ended_at is not None
        self.generation += 1
        self.created_at += now - self.ended_at
        self.ended_at = None
        self.is_retiring = False
        self.loss = self.init_error = None
        self.deaths.clear()
        self.n_failed_starts = 0

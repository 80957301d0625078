"""What goes into the state machine and what comes out: batches, events and actions. Plain records, no behaviour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from objproxy._engine.policy import PLAIN as PLAIN
from objproxy._engine.policy import Policy
from objproxy._worker.outcome import Failure


class Payload(Protocol):
    """The arguments of a batch; the state machine never looks inside, it only cuts."""

    def slice(self, start: int, stop: int) -> Payload:
        """Return the arguments of the items ``start <= i < stop``."""
        ...


class Rules:
    """How the tasks of one call are treated, and the count of those that have no outcome yet.

    Attributes
    ----------
    method : str
        Name that errors give.
    timeout, retries, retry_on, priority, max_tasks, advice, concurrency
        As in `Policy`.
    call_number : int
        Number of the map, or of the task for any worker, in its pool, for random streams; 0 for everything else.
    needs_state : bool
        Whether the tasks count on what the object holds: a broadcast, ``pool[i]``, an attribute.
    is_task : bool
        Whether the tasks count for ``max_tasks_per_worker``.
    outstanding : int
        Items that were submitted and have no outcome yet.
    n_queued : int
        Those of them that stand in a queue.
    running : set of int
        Workers whose oldest batch, or one of whose concurrent tasks, is of this call.
    is_chore : bool
        Nobody ever waits for the outcome: a worker is told to let something go.
    is_dropped : bool
        Nobody waits for the outcomes any more.
    seconds_per_batch : float or None
        Mean time of its batches so far.
    """

    __slots__ = (
        "advice",
        "call_number",
        "concurrency",
        "is_chore",
        "is_dropped",
        "is_task",
        "max_tasks",
        "method",
        "n_queued",
        "needs_state",
        "outstanding",
        "priority",
        "retries",
        "retry_on",
        "running",
        "seconds_per_batch",
        "timeout",
    )

    def __init__(
        self,
        method: str,
        policy: Policy = PLAIN,
        *,
        call_number: int = 0,
        needs_state: bool = False,
        is_task: bool = True,
    ) -> None:
        self.timeout, self.retries, self.retry_on, self.priority, self.max_tasks = policy[:5]
        label, self.advice, self.concurrency = policy[5:]
        self.method = label or method
        self.call_number = call_number
        self.needs_state = needs_state
        self.is_task = is_task
        self.outstanding = 0
        self.n_queued = 0
        self.running: set[int] = set()
        self.is_chore = False
        self.is_dropped = False
        self.seconds_per_batch: float | None = None

    def learn(self, count: int, seconds: float) -> None:
        """Note that a batch of `count` items took `seconds` of a worker."""
        mean = self.seconds_per_batch
        self.seconds_per_batch = seconds if mean is None else mean + 0.3 * (seconds - mean)


class Batch:
    """Consecutive items of one call that travel together.

    Attributes
    ----------
    rules : Rules
        The call.
    start, count : int
        The items ``start <= i < start + count``.
    payload : Payload
        Their arguments.
    worker_id : int or None
        The only worker that may run it; None for any.
    attempts : int
        1 for the first try.
    order : int
        Place in the queue among batches of one priority.
    seq : int
        Number of its last sending, unique in the pool.
    received : int
        Items of it that have an outcome.
    """

    __slots__ = ("attempts", "count", "order", "payload", "received", "rules", "seq", "start", "worker_id")

    def __init__(
        self, rules: Any, start: int, count: int, payload: Any, worker_id: int | None = None, attempts: int = 1
    ) -> None:
        self.rules = rules
        self.start = start
        self.count = count
        self.payload = payload
        self.worker_id = worker_id
        self.attempts = attempts
        self.order = 0
        self.seq = 0
        self.received = 0

    def cut(self, start: int, stop: int, attempts: int | None = None) -> Batch:
        """Return a batch of the items at ``start <= i < stop`` of this one, at the same place in the queue."""
        payload = self.payload if stop - start == self.count else self.payload.slice(start, stop)
        part = Batch(self.rules, self.start + start, stop - start, payload, self.worker_id, attempts or self.attempts)
        part.order = self.order
        return part

    def __lt__(self, other: Batch) -> bool:
        """Whether it comes first; the parts of a batch that was cut have one place, and are ordered by their items."""
        return (-self.rules.priority, self.order, self.start) < (-other.rules.priority, other.order, other.start)


# ---- events: what has happened ---------------------------------------------------------------------------------------


class Submitted(NamedTuple):
    """A caller hands a batch in; its arguments are pickled already."""

    batch: Batch


class Ready(NamedTuple):
    """A worker has built its object."""

    worker_id: int
    generation: int


class InitFailed(NamedTuple):
    """A worker could not build its object; it is ending by itself."""

    worker_id: int
    generation: int
    error: BaseException


class Replied(NamedTuple):
    """A worker answered the next items of its oldest batch.

    `outcomes` has a `Failure` at each offset of `failed`; `is_last` says that the batch is answered in full.
    """

    worker_id: int
    generation: int
    seq: int
    outcomes: Sequence[Any]
    failed: Sequence[int]
    is_last: bool
    seconds: float


class Unreadable(NamedTuple):
    """A worker could not unpickle the arguments of its oldest batch, which has several items; none of them has run."""

    worker_id: int
    generation: int
    seq: int


class Outgrown(NamedTuple):
    """A worker holds more memory than it may; it shall be replaced when it has done what it was sent."""

    worker_id: int
    generation: int


class Died(NamedTuple):
    """A worker is gone.

    Attributes
    ----------
    started_seq : int or None
        The batch that it was running, if any.
    is_unpickling : bool
        Whether it was still unpickling the arguments of that batch.
    recovered : Sequence
        Results of that batch that it left in its journal, after those that were received.
    failed : Sequence of int
        Offsets of those that are a `Failure`.
    running : int or None
        Offset in that batch of the item that ran; None if none did.
    detail : str
        What else is known of the death.
    peak_rss : int or None
        The most memory that it ever held, in bytes.
    trace : str
        Where its threads stood, if it had time to tell.
    begun : frozenset of int
        Concurrent tasks that had begun and were not answered.
    """

    worker_id: int
    generation: int
    exitcode: int | None = None
    pid: int | None = None
    recovered: Sequence[Any] = ()
    failed: Sequence[int] = ()
    running: int | None = None
    started_seq: int | None = None
    is_unpickling: bool = False
    detail: str = ""
    peak_rss: int | None = None
    trace: str = ""
    begun: frozenset[int] = frozenset()


class StartFailed(NamedTuple):
    """A worker could not be started: the system has no room for it."""

    worker_id: int
    generation: int
    error: Exception


class Ending(NamedTuple):
    """A worker that was asked to end tells its step: ``"finishing"``, ``"joining"`` or ``"leaving"``; see `endings`."""

    worker_id: int
    generation: int
    step: str


class EndFailed(NamedTuple):
    """The object's own end, `method` (``close`` or ``__exit__``), has raised; its worker goes on ending."""

    worker_id: int
    generation: int
    method: str
    error: BaseException


class Inspected(NamedTuple):
    """A worker has told where its threads stand, "" if it could not; or it was not asked, since its task has time left.

    Attributes
    ----------
    stack : str
        The stacks of its threads.
    activity : str or None
        What its process does: ``"stopped"``, ``"running"`` or ``"sleeping"``; None if that is not known.
    began : float or None
        When its task began, if it was not asked; infinity if the arguments are still being unpickled.
    """

    worker_id: int
    generation: int
    stack: str
    activity: str | None = None
    began: float | None = None


class Stopping(NamedTuple):
    """A worker is cancelling a concurrent task, which stood at `stack`; an answer follows when the task has ended."""

    worker_id: int
    generation: int
    seq: int
    stack: str


class NotDue(NamedTuple):
    """A concurrent task was not stopped, since it has time left: it began at `began`; infinity if it has not begun."""

    worker_id: int
    generation: int
    seq: int
    began: float


class SendFailed(NamedTuple):
    """A batch could not be sent after all; the worker knows nothing of it."""

    worker_id: int
    seq: int
    error: BaseException


class Cancelled(NamedTuple):
    """Nobody wants the outcomes of a call any more; `and_running` ends the workers that run its items."""

    rules: Rules
    and_running: bool


class Ticked(NamedTuple):
    """Time has passed."""


class StacksAsked(NamedTuple):
    """Somebody wants to know where the threads of some workers stand."""

    worker_ids: Sequence[int]


class CloseAsked(NamedTuple):
    """Finish what was submitted, then end the workers politely."""


class KillAsked(NamedTuple):
    """End everything now; what has no outcome yet fails with `error`.

    Attributes
    ----------
    error : BaseException
        Why.
    is_broken : bool
        Whether the pool has failed.
    is_polite : bool
        Whether workers may run their exit functions: those that are idle are asked to leave, what runs is interrupted. Another
        event, without this, ends it.
    seconds : float or None
        The time-out of ``close()`` that has passed.
    """

    error: BaseException
    is_broken: bool = False
    is_polite: bool = False
    seconds: float | None = None


class Resized(NamedTuple):
    """The pool shall have `n_workers` workers."""

    n_workers: int


class Held(NamedTuple):
    """A call submits more than once: the workers of now stay until it is `Released`, also if the pool shrinks meanwhile."""

    rules: Rules


class Released(NamedTuple):
    """A call that was `Held` has ended."""

    rules: Rules


Event = (
    Submitted
    | Ready
    | InitFailed
    | Replied
    | SendFailed
    | Unreadable
    | Outgrown
    | Died
    | StartFailed
    | Ending
    | EndFailed
    | Inspected
    | Stopping
    | NotDue
    | StacksAsked
    | Cancelled
    | Ticked
    | CloseAsked
    | KillAsked
    | Resized
    | Held
    | Released
)

# ---- actions: what shall be done -------------------------------------------------------------------------------------


class Start(NamedTuple):
    """Start a worker."""

    worker_id: int
    generation: int


class Send(NamedTuple):
    """Send a batch to a worker."""

    worker_id: int
    batch: Batch


class End(NamedTuple):
    """End a worker.

    ``"ask"`` it, when it has done what it was sent; have it ``"leave"`` without the object's own end; ``"interrupt"`` what it
    runs; or ``"kill"`` it.
    """

    worker_id: int
    generation: int
    how: str


class Stop(NamedTuple):
    """Have a worker cancel one of its concurrent tasks; with a `limit`, only if that has run for so many seconds."""

    worker_id: int
    generation: int
    seq: int
    limit: float | None = None


class Inspect(NamedTuple):
    """Have a worker tell where its threads stand; if this `is_last_call`, with what it has told so far, at once.

    With a `limit`, only if its task has run for so many seconds.
    """

    worker_id: int
    generation: int
    is_last_call: bool = False
    limit: float | None = None


class Warn(NamedTuple):
    """Say that a worker has been silent for long."""

    worker_id: int
    method: str
    item: int
    seconds: float


class WarnOfEnd(NamedTuple):
    """Say that a worker takes long to end, in which step it is, and whether it is killed for that."""

    worker_id: int
    step: str
    seconds: float
    activity: str | None
    stack: str
    is_killed: bool


class TellEndFailed(NamedTuple):
    """Say that the end of a worker that was recycled, or has left the pool, has failed."""

    worker_id: int
    error: BaseException


class Deliver(NamedTuple):
    """Hand outcomes of the items from `start` on to the caller."""

    rules: Rules
    start: int
    outcomes: Sequence[Any]
    has_failures: bool
    worker_id: int | None


Action = Start | Send | End | Deliver | Stop | Inspect | Warn | WarnOfEnd | TellEndFailed

__all__ = [
    "Action",
    "Batch",
    "Cancelled",
    "CloseAsked",
    "Deliver",
    "Died",
    "End",
    "EndFailed",
    "Ending",
    "Event",
    "Failure",
    "Held",
    "InitFailed",
    "KillAsked",
    "NotDue",
    "Outgrown",
    "Payload",
    "Policy",
    "Ready",
    "Released",
    "Replied",
    "Resized",
    "Rules",
    "Send",
    "SendFailed",
    "Start",
    "Stop",
    "Stopping",
    "Submitted",
    "Ticked",
]

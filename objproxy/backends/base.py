"""The seam: what a back end must be able to do. The engine knows nothing else of processes, threads or clusters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from objproxy._engine.messages import Batch, Event
from objproxy._worker.wire import Operation


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """What a back end can and cannot do; options that need more are refused when they are given.

    Attributes
    ----------
    can_kill : bool
        Whether a running call can be ended. Without it there is no ``timeout`` and no ``max_rss``.
    crosses_processes : bool
        Whether arguments and results are copies.
    binds_devices : bool
        Whether a worker's environment can be set before the user's imports.
    start_methods : tuple of str
        The ``start_method`` values that make sense; the first is the default.
    can_run_concurrently : bool
        Whether a worker can be sent several tasks that run at the same time (`Rules.concurrency`), and stop one of them.
    """

    can_kill: bool
    crosses_processes: bool
    binds_devices: bool
    start_methods: tuple[str, ...] = ()
    can_run_concurrently: bool = False


@dataclasses.dataclass(frozen=True)
class WorkerInfo:
    """What a back end knows of one worker: its process, and how long it took to come up."""

    pid: int | None = None
    start_up_seconds: float = 0.0
    init_seconds: float = 0.0
    attributes: tuple[str, ...] = ()


class Recipe(Protocol):
    """Knows how to build the object of each worker."""

    name: str

    def boot(self, worker_id: int, generation: int, *, with_pickles: bool = True) -> Any:
        """Return what the worker needs to come up (`objproxy._worker.boot.Boot`)."""
        ...

    def cargo(self, worker_id: int, generation: int) -> Sequence[Any]:
        """Return what follows it, packed: arguments or snapshot, operations to carry out again."""
        ...

    def device(self, worker_id: int) -> Any:
        """Return the device of a worker; None for a CPU worker."""
        ...

    @property
    def is_of_factory(self) -> bool:
        """Whether a function makes the objects, and not a class."""
        ...

    def build(self, worker_id: int, generation: int) -> Any:
        """Build the object here, for back ends that share the caller's memory."""
        ...

    def replay(self, worker_id: int) -> Sequence[Operation]:
        """Return the operations that it carries out again then."""
        ...


def _ignore_progress(_worker_id: int, _done: int, _total: int | None) -> None:
    pass


def _ignore_log(_fields: dict[str, Any]) -> None:
    pass


@dataclasses.dataclass
class PoolContext:
    """What a pool gives to its back end.

    Attributes
    ----------
    recipe : Recipe
        Builds the objects.
    on_progress : callable
        To be called with (worker_id, done, total) when a worker reports progress.
    on_log : callable
        To be called with the fields of a log record that a worker has sent.
    start_method : str
        One of the back end's own; "" for its default.
    preload : callable
        Gives the pickled class, if it is safe to load it once, before the workers are made.
    modules : tuple of str
        Modules that every worker will load.
    argument_modules : callable
        Gives the modules that the constructor's arguments need.
    environ : dict
        Variables for every worker; None removes one.
    init_timeout : float or None
        Seconds for a constructor.
    shared_memory_limit : int or None
        Most bytes that the arguments on their way may hold, and the results of any one worker.
    on_forget : callable
        To be called with (worker_id, key) when a shared object was closed that the worker has open; it may be called anywhere.
    """

    recipe: Recipe
    on_progress: Callable[[int, int, int | None], None] = _ignore_progress
    on_log: Callable[[dict[str, Any]], None] = _ignore_log
    start_method: str = ""
    preload: Callable[[], bytes | None] = lambda: None
    modules: tuple[str, ...] = ()
    argument_modules: Callable[[], list[str]] = list
    environ: dict[str, str | None] = dataclasses.field(default_factory=dict)
    init_timeout: float | None = None
    shared_memory_limit: int | None = None
    on_forget: Callable[[int, int], None] = lambda _worker_id, _key: None


class Backend(Protocol):
    """Starts workers, carries batches to them, and tells what happened.

    Only the thread that drives the engine calls `wait`; `start`, `send`, `end` and `inspect` are called by any thread, one at a
    time, and never wait for a worker.
    """

    name: str
    capabilities: Capabilities

    def open(self, context: PoolContext) -> None:
        """Take over what the pool gives; called once, before everything else."""
        ...

    def now(self) -> float:
        """Return the time in seconds; a simulation has its own."""
        ...

    def encode(self, operation: Operation) -> Any:
        """Return `operation` in the form in which it travels; called in the caller's thread, before a worker is chosen."""
        ...

    def pack(self, value: Any) -> Any:
        """Return a value (arguments of a constructor) in the form in which it travels."""
        ...

    def start(self, worker_id: int, generation: int) -> None:
        """Start a worker; how it went is an event."""
        ...

    def send(self, worker_id: int, batch: Batch) -> None:
        """Send a batch to a worker, behind those that were sent before.

        One with ``batch.rules.concurrency`` runs at once, beside others of that kind, if `Capabilities` say that it may. It is
        one item, and is answered when it has ended.
        """
        ...

    def stop(self, worker_id: int, generation: int, seq: int, limit: float | None) -> None:
        """Have a worker cancel a concurrent task; a `Stopping` event follows, and an answer when the task has ended.

        With a `limit`, only if it has run for so many seconds; else a `NotDue` event says when it began. Nothing follows if the
        task has ended already, or is never sent.
        """
        ...

    def end(self, worker_id: int, generation: int, how: str) -> None:
        """End a worker, as `End` says; a `Died` event follows in any case, if it does what it is asked to.

        A worker that is asked and takes long tells its steps by `Ending` events; one that tells none hangs and is killed.
        """
        ...

    def inspect(self, worker_id: int, generation: int, is_last_call: bool, limit: float | None = None) -> None:
        """Have a worker tell where its threads stand; an `Inspected` event follows, at once if this `is_last_call`.

        It may be called again before that: as long as the worker may have more to say, there need not be an event. With a
        `limit`, an event that says when the task began is the answer, if that is fewer than so many seconds ago.
        """
        ...

    def wait(self, timeout: float | None) -> Sequence[Event]:
        """Wait until something happens, at most `timeout` seconds, and return the events in order.

        What blocks does so within `interrupts.waiting`, and takes nothing there that an interrupt could lose.
        """
        ...

    def wake(self) -> None:
        """Make `wait` return soon; may be called by any thread."""
        ...

    def info(self, worker_id: int) -> WorkerInfo:
        """Return what is known of a worker."""
        ...

    def close(self) -> None:
        """Give everything back; every worker has ended. Idempotent."""
        ...

    def abandon(self) -> None:
        """Let go in a forked child: close what was inherited and leave the workers, which are the parent's, alone."""
        ...

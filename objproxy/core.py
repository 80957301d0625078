"""What stands behind a pool, its methods and its instances: the engine of one pool and the meaning of its outcomes."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import sys
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from objproxy import handling
from objproxy._engine.calls import Call
from objproxy._engine.driver import Driver
from objproxy._engine.futures import CallFuture
from objproxy._engine.messages import PLAIN, Batch, Failure, Policy
from objproxy._engine.outbox import Outbox
from objproxy._engine.state import PoolState
from objproxy._engine.verbs import Verbs
from objproxy._engine.workers import WorkerRecord
from objproxy._pickle_path import explain_operation
from objproxy._worker import lineage
from objproxy._worker.outcome import StreamHandle
from objproxy._worker.platform import process_state
from objproxy._worker.waits import Helper, is_hub, make_patient_lock
from objproxy._worker.wire import Operation
from objproxy.backends.base import Backend, PoolContext
from objproxy.errors import ArgumentPickleError, ObjProxyError, PoolBrokenError, PoolClosedError, ResultPickleError
from objproxy.insights import Insights, SlowItem, WorkerView
from objproxy.loggers import handle_record
from objproxy.options import CallOptions, Label
from objproxy.progress import Reports
from objproxy.recipe import PoolRecipe
from objproxy.settings import PoolSettings
from objproxy.shared import SharedValue
from objproxy.streams import RemoteStream
from objproxy.views import count_seconds, keep_start_times, sorted_records, view_workers

if TYPE_CHECKING:
    from objproxy.timeline import Timeline

#: The pools of this program by their numbers; whoever looks at all of them keeps none alive.
cores: weakref.WeakValueDictionary[int, PoolCore] = weakref.WeakValueDictionary()

#: Are told of every pool that is made, before it starts.
greeters: list[Callable[[PoolCore], None]] = []

_numbers = itertools.count(1)

#: Workers have this long to run their exit functions when the program ends without closing its pools, when a pool is forgotten,
#: and when its ``with`` block is left by an error. All processes of a program shall be gone two seconds after its end.
_LEAVE_SECONDS = 1.0

_registered_in = 0  # the process in which `_end_all` is registered


class FailureWatch(Protocol):
    """Wants to know what has failed."""

    def note_failure(self, error: BaseException, method: str, item: int | None, worker_id: int | None) -> None:
        """Take notice of the error of a task."""


class PoolCore:
    """The engine of one pool; it lives as long as anything of the pool does, an iterator or a future among them.

    Parameters
    ----------
    recipe : PoolRecipe
        How the objects are made.
    backend : Backend
        Where they live.
    settings : PoolSettings
        The checked options of the pool.
    timeline : Timeline or None
        Watches the back end.
    """

    def __init__(self, recipe: PoolRecipe, backend: Backend, settings: PoolSettings, timeline: Timeline | None = None) -> None:
        self.recipe = recipe
        self.backend = backend
        self.settings = settings
        self.is_dedicated = settings.dedicated
        self.timeline = timeline
        self.reports = Reports(settings.on_progress)
        outbox = Outbox()
        backend.open(_context(recipe, backend, settings, self.reports, outbox, weakref.WeakMethod(self.forget_shared)))
        recipe.pack_with(backend.pack)
        self._check_recipe(recipe.n_workers)
        state = PoolState(
            recipe.n_workers,
            max_restarts=settings.max_restarts,
            max_tasks_per_worker=settings.max_tasks_per_worker,
            init_timeout=settings.init_timeout,
            stall_warning=settings.stall_warning,
            describe=recipe.describe_device,
        )
        self.driver = Driver(state, backend, outbox)
        self.verbs = Verbs(self.driver, explain_operation)
        # What is to be ended in its worker because nobody holds it here any more: generators, shared objects.
        self._forgotten: deque[tuple[int, Operation]] = deque()
        self._finalizer = weakref.finalize(
            self, _end_forgotten, self.driver, recipe.name if settings.warn_unclosed else None, os.getpid()
        )
        self._finalizer.atexit = False  # at the end of the program all pools end together
        _end_all_at_exit()
        # Held while the size changes, and by broadcasts that a new worker has to carry out again: it misses none of them.
        self.changing = make_patient_lock()
        self.failure_watch: FailureWatch | None = None
        self.number = next(_numbers)
        cores[self.number] = self
        for greet in greeters:
            greet(self)

    def __repr__(self) -> str:
        method = self.settings.start_method or next(iter(self.backend.capabilities.start_methods), "")
        where = f"{self.backend.name}/{method}" if method else self.backend.name
        phase = self.driver.state.phase
        return f"<ProxyPool {self.recipe.name!r} of {self.recipe.info.name}, {self.n_workers} workers, {where}, {phase}>"

    @property
    def n_workers(self) -> int:
        """Number of workers."""
        return self.driver.state.n_workers

    # ---- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start every worker; see `Driver.start`."""
        try:
            self.driver.start()
        except BaseException:
            self._finalizer.detach()
            raise

    def close(self, timeout: float | None) -> None:
        """Finish and end."""
        self._finalizer.detach()
        keep_start_times(self.driver.state, self.backend)
        self.driver.close(timeout)
        self.recipe.forget()
        self._raise_end_errors()

    def _raise_end_errors(self) -> None:
        """Raise what has failed in the ends of the workers: the error of the lowest number, which names the others."""
        errors = self.driver.state.take_end_errors()
        noted = []
        for worker_id, (method, error) in sorted(errors.items()):
            noted.append((worker_id, self.with_note(error, method, None, worker_id)))
        if noted:
            raise with_others(noted)

    def join(self) -> None:
        """Wait for the end of a pool that is being closed, in another thread perhaps.

        Raises
        ------
        ValueError
            The pool is not being closed.
        """
        if self.driver.state.phase in ("starting", "open"):
            raise ValueError("the pool is still running; call close() or kill() before join()")
        self.close(None)

    def kill(self) -> None:
        """End now."""
        self._finalizer.detach()
        keep_start_times(self.driver.state, self.backend)
        self.driver.kill(PoolClosedError("the pool was killed before this was done"))
        self.recipe.forget()

    def leave(self) -> None:
        """End what runs; workers have a moment to run their exit functions, but the objects' own ends are not run."""
        self._finalizer.detach()
        keep_start_times(self.driver.state, self.backend)
        _leave([self.driver], PoolClosedError("the pool was killed before this was done"))
        self.recipe.forget()

    def resize(self, n_workers: int) -> None:
        """Change the number of workers, and wait until those that come are up and those that go are gone."""
        self.driver.check_usable()
        with self.changing:
            self._check_recipe(n_workers)
            self.driver.resize(n_workers, lambda: self._note_size(n_workers))
            if self.driver.is_holding():
                return  # the items of a call with rounds, say, come from here: those that go wait for that call, and it for us
            state = self.driver.state
            joined = {record: record.generation for record in sorted_records(state) if record.phase == "starting"}
            self.driver.wait_until(lambda: self._is_resized(n_workers, joined))
            self.driver.check_usable()

    def _check_recipe(self, n_workers: int) -> None:
        """Raise the error that says why workers cannot be made, if they cannot."""
        if self.backend.capabilities.crosses_processes:
            self.recipe.check(n_workers)
        for worker_id in range(n_workers):
            self.recipe.arguments(worker_id)

    def _note_size(self, n_workers: int) -> None:
        """Have the recipe ready for new workers; no worker is started meanwhile."""
        for worker_id in range(n_workers):
            if worker_id not in self.driver.state.workers:
                self.recipe.join(worker_id)
        self.recipe.n_workers = n_workers

    def _is_resized(self, n_workers: int, joined: dict[WorkerRecord, int]) -> bool:
        """Whether those that go have left, and each that joins has been up or was given up."""
        state = self.driver.state
        if state.phase not in ("starting", "open") or state.n_workers != n_workers:  # a hook has resized it again
            return True
        return len(state.workers) <= n_workers and not any(
            record.phase in ("starting", "gone") and (record.generation == generation or record.n_failed_starts > 0)
            for record, generation in joined.items()
            if record.worker_id < n_workers
        )

    def wait_ready(self, timeout: float | None) -> bool:
        """Wait until no worker is being replaced; False if `timeout` came first."""
        self.driver.check_usable()
        deadline = None if timeout is None else self.backend.now() + timeout
        self.driver.look()
        return self.driver.wait_until(lambda: not self._is_anyone("starting", "ending", "gone"), deadline)

    def _is_anyone(self, *phases: str) -> bool:
        return any(record.phase in phases for record in list(self.driver.state.workers.values()))

    # ---- calls -------------------------------------------------------------------------------------------------------

    def submit(self, operation: Operation, options: CallOptions, policy: Policy, worker_id: int | None = None) -> CallFuture:
        """Submit one operation; return its future."""
        name = options.label or operation.name

        def finish(outcome: Any, worker_id: int | None) -> Any:
            return self.settle_one(outcome, name, worker_id, options.concurrency)

        return self.verbs.future(operation, finish, policy, worker_id=worker_id)

    def ask(self, worker_id: int, operation: Operation, policy: Policy = PLAIN) -> Any:
        """Carry one operation out on one worker; return its result, or raise its error."""
        return self.settle_one(self.verbs.one(worker_id, operation, policy, is_task=False), operation.name, worker_id)

    def ask_later(self, worker_id: int, operation: Operation, policy: Policy = PLAIN) -> CallFuture:
        """Carry one operation out on one worker; return the future of its result."""

        def finish(outcome: Any, worker_id: int | None) -> Any:
            return self.settle_one(outcome, operation.name, worker_id)

        return self.verbs.future(operation, finish, policy, worker_id=worker_id, is_task=False)

    def settle_one(self, outcome: Any, name: str, worker_id: int | None, concurrency: int | None = None) -> Any:
        """Return the result of one task, or raise its error; `concurrency` as its options have it."""
        if type(outcome) is Failure:
            raise self.with_note(outcome.error, name, None, worker_id)
        return self.settle_value(outcome, name, concurrency)

    def settle_value(self, value: Any, name: str = "", concurrency: int | None = None) -> Any:
        """Return a value; a handle to a generator becomes a stream."""
        return RemoteStream(self, value, name, concurrency or 1) if type(value) is StreamHandle else value

    def forget_stream(self, handle: StreamHandle) -> None:
        """End a generator that nobody holds any more, without waiting for it."""
        self._forget(handle.worker_id, Operation("drop", "close", (handle.stream_id, handle.generation), {}))

    def forget_shared(self, worker_id: int, key: int) -> None:
        """Have a worker close a shared object, without waiting for it."""
        self._forget(worker_id, Operation("forget", "close", (key,), {}))

    def _forget(self, worker_id: int, operation: Operation) -> None:
        """Send something that nobody waits for.

        This is called when an object is deleted, which may happen anywhere: also in a thread that is in the state
        machine at this moment. Then the operation is kept for the next time.
        """
        self._forgotten.append((worker_id, operation))
        while self._forgotten and not self.driver.is_locked:
            try:
                worker_id, operation = self._forgotten.popleft()
            except IndexError:  # another thread took it
                return
            payload = self.verbs.encode(operation)
            call = Call(operation.name, is_task=False)
            call.is_chore = True
            with contextlib.suppress(PoolClosedError, PoolBrokenError):  # then the worker itself is gone
                self.driver.submit([Batch(call, 0, 1, payload, worker_id)])

    def put(self, value: Any) -> SharedValue:
        """Ship a value once; see `ProxyPool.put`."""
        self.driver.check_usable()
        try:
            return SharedValue(value, beside=self.backend.capabilities.crosses_processes)
        except Exception as exc:
            path = explain_operation(Operation("call", "put", (value,), {}), exc)
            if not path:  # it can be pickled, but there is no room for it, or it holds a SharedArray
                raise
            raise ArgumentPickleError("put", path, handling.describe(exc)) from exc

    def settle_every(self, outcomes: list[Any], name: str, options: CallOptions) -> list[Any]:
        """Return the results of a broadcast; or raise the first failing worker's error, which names the others."""
        failing = [worker_id for worker_id, outcome in enumerate(outcomes) if type(outcome) is Failure]
        if not failing:
            return [self.settle_value(outcome, name, options.concurrency) for outcome in outcomes]
        told = options.label or name
        errors = {worker_id: self.with_note(outcomes[worker_id].error, told, None, worker_id) for worker_id in failing}
        if options.on_error == "raise":
            raise with_others(list(errors.items()))
        return self._with_errors(outcomes, name, options)

    def settle_pieces(self, pieces: list[Sequence[Any]], name: str, options: CallOptions) -> list[Sequence[Any]]:
        """Return the results of a map in pieces; errors among them are returned or left out, as the options say."""
        settled: list[Sequence[Any]] = []
        for piece in pieces:
            is_plain = type(piece) is not list or not any(type(value) in (Failure, StreamHandle) for value in piece)
            settled.append(piece if is_plain else self._with_errors(piece, name, options))
        return settled

    def _with_errors(self, outcomes: Sequence[Any], name: str, options: CallOptions) -> list[Any]:
        results: list[Any] = []
        for outcome in outcomes:
            if type(outcome) is not Failure:
                results.append(self.settle_value(outcome, name, options.concurrency))
            elif options.on_error == "return":
                results.append(outcome.error)
        return results

    def with_note(self, error: BaseException, name: str, item: int | None, worker_id: int | None) -> BaseException:
        """Add to a user's error where it happened; errors of our own say it themselves."""
        if not handling.is_a(error, ObjProxyError):
            where = (
                ""
                if worker_id is None
                else f" on worker {worker_id} (device {self.recipe.describe_device(worker_id) or 'cpu'})"
            )
            which = "" if item is None else f", item {item}"
            what = str.__repr__(name) if isinstance(name, Label) else f"method {name!r}"
            handling.add_note(error, f"raised{where} by {what}{which}")
        elif handling.is_a(error, ResultPickleError) and error.method != name:  # the worker knows no label
            error = error.told_as(name)
        if self.failure_watch is not None:
            self.failure_watch.note_failure(error, name, item, worker_id)
        return error

    def journal(self, operation: Operation) -> Callable[[int], None]:
        """Return what notes that a worker has carried out a broadcast which its successors have to carry out again."""
        encoded = self.backend.encode(operation)
        return lambda worker_id: self.recipe.replays[worker_id].append(encoded)

    def checkpoint(self) -> None:
        """Take a snapshot of every object, for ``on_restart="snapshot"``."""
        with self.verbs.staying():  # a worker that has left must not give its snapshot to a later one of its number
            outcomes = self.verbs.every(Operation("snapshot", "checkpoint", (), {}), is_task=False)
            taken = {number: self.settle_one(outcome, "checkpoint", number) for number, outcome in enumerate(outcomes)}
            self.driver.do_between(lambda: self.recipe.snapshots.update(taken))

    # ---- what it tells -----------------------------------------------------------------------------------------------

    def views(self) -> tuple[WorkerView, ...]:
        """Return one record for each worker."""
        self.driver.look()
        return view_workers(self.driver.state, self.backend, self.recipe)

    def dump_stacks(self, timeout: float) -> dict[int, str]:
        """Return where the threads of each worker stand; for one that does not tell, what its process does."""
        found = self.driver.ask_for_stacks(self.backend.now() + timeout)
        return {worker_id: stack or self._describe_silence(worker_id) for worker_id, stack in found.items()}

    def _describe_silence(self, worker_id: int) -> str:
        pid = self.backend.info(worker_id).pid
        state = None if pid is None else process_state(pid)
        return f"worker {worker_id} (pid {pid}) has not told where it stands; its process is {state or 'not known'}\n"

    def insights(self) -> Insights:
        """Return where the time went."""
        state = self.driver.state
        workers = count_seconds(state, self.backend)
        if self.timeline is not None:
            return Insights(workers, self.timeline.slowest(), self.timeline.spans(), self.timeline.totals())
        return Insights(workers, tuple(SlowItem(*item) for item in sorted(state.slowest, reverse=True)))


def with_others(errors: Sequence[tuple[int, BaseException]]) -> BaseException:
    """Return the first of the errors of several workers, with a note of each other."""
    (_, error), *others = errors
    for worker_id, other in others:
        handling.add_note(error, f"worker {worker_id} failed too: {handling.describe(other)}")
    return error


def _context(
    recipe: PoolRecipe,
    backend: Backend,
    settings: PoolSettings,
    reports: Reports,
    outbox: Outbox,
    forget: weakref.WeakMethod[Callable[[int, int], None]],
) -> PoolContext:
    """Return what the back end gets to know; the pool itself is not part of it, so that it can be forgotten."""

    def on_forget(worker_id: int, key: int) -> None:
        method = forget()
        if method is not None:
            method(worker_id, key)

    is_gpu_pool = any(recipe.device(worker_id) is not None for worker_id in range(recipe.n_workers))
    crosses = backend.capabilities.crosses_processes
    return PoolContext(
        recipe=recipe,
        on_progress=outbox.later(_guarded(reports)),
        on_log=outbox.later(_guarded(handle_record)),
        start_method=settings.start_method or "",
        # A class that touches a GPU when it is imported must meet its own device mask, so each worker imports it by
        # itself.
        preload=lambda: recipe.factory if crosses and not is_gpu_pool else None,
        modules=tuple(recipe.modules),
        argument_modules=recipe.argument_modules,
        environ={**settings.thread_environ(recipe.n_workers), lineage.DEPTH: str(recipe.depth)},
        init_timeout=settings.init_timeout,
        shared_memory_limit=settings.shared_memory_limit,
        on_forget=on_forget,
    )


def _guarded(hook: Callable[..., None]) -> Callable[..., None]:
    """Return a function that calls `hook` and reports its exceptions: the caller that happens to call it has not made them."""

    def call(*args: Any) -> None:
        try:
            hook(*args)
        except Exception:
            sys.excepthook(*sys.exc_info())

    return call


def _end_forgotten(driver: Driver, name: str | None, owner_pid: int) -> None:
    """End a pool that nobody holds any more, or that the program leaves open when it ends; warn if it has a name."""
    if os.getpid() != owner_pid or driver.state.phase == "closed":
        return
    try:
        _warn_unclosed(name)
    finally:  # also where warnings are errors
        error = PoolClosedError("the pool was forgotten without being closed")
        if driver.is_in_use_here() or is_hub():
            # Garbage is collected wherever something is allocated: here, in the middle of this pool's own engine.
            Helper(lambda: _leave([driver], error), "objproxy-end").start()
        else:
            _leave([driver], error)


def _warn_unclosed(name: str | None) -> None:
    if name is not None:
        warnings.warn(f"the pool {name!r} was never closed; use it in a with block", ResourceWarning, stacklevel=3)


def _leave(drivers: Sequence[Driver], error: BaseException) -> None:
    """End what runs in some pools and let their workers run their exit functions; kill what is left when the time is over."""
    for driver in drivers:
        driver.ask_to_leave(error)
    deadline = time.monotonic() + _LEAVE_SECONDS
    for driver in drivers:
        seconds = max(0.0, deadline - time.monotonic())
        driver.wait_until(lambda driver=driver: driver.state.phase == "closed", driver.backend.now() + seconds)  # type: ignore[misc]
        driver.kill(error)


def _end_all_at_exit() -> None:
    """See that the end of this program ends its pools; a forked child of it registers its own.

    It is registered behind the first finalizer, so that it runs before all of them.
    """
    global _registered_in
    if _registered_in != os.getpid():
        _registered_in = os.getpid()
        atexit.register(_end_all)


def _end_all() -> None:
    """End the pools that are open when the program ends, together, so that the grace period is there once."""
    left = []
    for core in list(cores.values()):
        if core._finalizer.detach() is None or core.driver.state.phase == "closed" or not core.driver.is_owned_here():
            continue
        left.append(core)
    try:
        for core in left:
            _warn_unclosed(core.recipe.name if core.settings.warn_unclosed else None)
    finally:
        _leave([core.driver for core in left], PoolClosedError("the program ended without closing the pool"))

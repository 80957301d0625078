"""The workers of a `WorkerPool`, from their start to their end."""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from types import BuiltinFunctionType, FunctionType
from typing import Any

from objproxy import PoolBrokenError, ProxyPool, WorkerDiedError, WorkerInitError
from objproxy.handling import block, is_a
from objproxy.insights import Insights
from objproxy.mpire.apart import split_if_shared
from objproxy.mpire.carry import Inherited, crossing_locks
from objproxy.mpire.checks import Functions, PoolParams
from objproxy.mpire.insights import in_users_words, make_insights
from objproxy.mpire.performer import N_SLOWEST, Noted, Performer, Setup, Task, UnknownTaskError

#: A task of a user may kill its worker often before the worker is given up; a map ends with the first death anyway.
_MAX_RESTARTS = (20, 5.0)

#: For a worker that is started anew: what its process may take to come up, besides its ``worker_init``.
_START_SECONDS = 30.0

#: What the errors of lost workers recommend.
_ADVICE_OF_MAP = "The other tasks of the map are ended; the pool can be used again"
_ADVICE_OF_APPLY = "The worker is replaced and the pool goes on; apply the function again if it may run twice"

#: Functions that `apply` keeps with the workers: by handles, the latest, and by numbers, the first.
_MAX_KEPT = 32
_MAX_NUMBERED = 128

#: Methods with options, which `apply` keeps.
_MAX_METHODS = 1024


class Session:
    """A `ProxyPool` of performers, and what they were given.

    Parameters
    ----------
    params : PoolParams
        Of the pool.
    functions : Functions
        Of the call that starts the workers.
    lifespan : int or None
        Tasks of a worker before it is replaced; maps may change it.

    Raises
    ------
    Exception
        Whatever ``worker_init`` raised; no worker is left.
    """

    def __init__(self, params: PoolParams, functions: Functions, lifespan: int | None) -> None:
        self.owner_pid = os.getpid()
        self.functions = functions
        self.lifespan = self._first_lifespan = lifespan
        self.exit_results: list[Any] = []
        self.n_joined = [0] * params.n_workers  # tasks beyond the first of each chunk that was one call
        self.slowest: list[tuple[float, str]] = []
        self.n_workers = params.n_workers
        self._is_timed = params.enable_insights
        self._is_thread = params.start_method == "threading"
        self._inherited: list[Inherited] = []
        self._kept: OrderedDict[tuple[Callable[..., Any], int | None], Any] = OrderedDict()
        self._free = deque(range(params.n_workers))
        self._pending: set[Future[Any]] = set()
        self._is_broken = False
        self._n_maps = 0
        self._has_replacements = lifespan is not None
        self._methods: dict[tuple[Any, ...], Any] = {}
        self._numbers: dict[Callable[..., Any], int] = {}  # by which workers know functions of `call`
        self._taught: set[tuple[int, int | None]] = set()  # which worker knows which
        self._first_handle: Any = None  # stands for the function that the first workers were forked with
        self._pool = self._start(params)
        try:
            self._begin()
        except BaseException:
            self.kill()
            raise

    # ---- life --------------------------------------------------------------------------------------------------------

    def _start(self, params: PoolParams) -> ProxyPool[Performer]:
        functions = self.functions
        setup: Any = Setup(
            params.shared_objects,
            params.pass_worker_id,
            params.use_worker_state,
            functions.worker_init,
            functions.worker_exit,
            functions.worker_init_timeout if self._is_thread else None,
        )
        if params.start_method == "fork":
            setup, self._first_handle = Inherited(setup), Inherited(self.task(functions))
            self._inherited = [setup, self._first_handle]
        limit = functions.worker_init_timeout
        try:
            with crossing_locks() if params.start_method in ("forkserver", "spawn") else contextlib.nullcontext():
                return ProxyPool(
                    Performer,
                    worker_count=params.n_workers,
                    init_args=(setup,),
                    backend="thread" if self._is_thread else "process",
                    start_method=None if self._is_thread else params.start_method,
                    cpu_ids=params.cpu_ids,
                    max_restarts=_MAX_RESTARTS,
                    on_restart="replay",
                    timeline=params.enable_insights,
                    name=getattr(functions.func, "__qualname__", None),  # a dashboard shows it: whose pool this is
                    init_timeout=None if limit is None or self._is_thread else limit + _START_SECONDS,
                )
        except WorkerInitError as exc:
            self._forget()
            raise exc if exc.__cause__ is None else exc.__cause__ from None
        except BaseException:
            self._forget()
            raise

    def _begin(self) -> None:
        """Run ``worker_init`` in every worker; one that is replaced runs it again."""
        if self.functions.worker_init is not None:
            limit = self.limit_of(self.functions.worker_init_timeout)
            self._pool.begin.options(journal=True, counts=False, timeout=limit, label="worker_init")()

    def close(self, functions: Functions) -> None:
        """Wait for what was submitted, run ``worker_exit`` in every worker and keep the results, and end the workers."""
        try:
            self.wait_for_tasks()
            if functions.worker_exit is not None:
                self._collect_exits(functions)
            self._pool.close()
        except BaseException:
            self.kill()
            raise
        self._forget()

    def wait_for_tasks(self) -> None:
        """Wait for every task of `submit`."""
        for future in list(self._pending):
            future.exception()

    def _collect_exits(self, functions: Functions) -> None:
        is_first = functions.worker_exit is self.functions.worker_exit
        worker_exit = None if is_first else functions.worker_exit  # the first one is there
        limit = self.limit_of(functions.worker_exit_timeout)
        finish = self._pool.finish.options(
            counts=False, timeout=limit, return_exceptions=True, stack_results=False, label="worker_exit"
        )
        own_limit = functions.worker_exit_timeout if self._is_thread else None
        for outcome in finish(worker_exit, own_limit, has_lifespan=self._has_replacements):
            if is_a(outcome, WorkerDiedError) and not outcome.started:
                continue  # it died with nothing to do, and what it would have returned with it
            if is_a(outcome, BaseException):
                raise outcome
            self.exit_results += outcome

    def kill(self) -> None:
        """End the workers now."""
        self._pool.kill()
        self._forget()

    def _forget(self) -> None:
        for inherited in self._inherited:
            inherited.close()
        for handle in self._kept.values():
            handle.close()
        self._kept.clear()

    @property
    def is_owned(self) -> bool:
        """Whether the workers are those of this process, not of one that it was forked from."""
        return self.owner_pid == os.getpid()

    @property
    def is_usable(self) -> bool:
        """Whether this process owns the workers, and nobody was told that all of them were given up."""
        return self.is_owned and not self._is_broken

    @property
    def is_idle(self) -> bool:
        """Whether nothing of `submit` is on its way."""
        return not self._pending

    def limit_of(self, timeout: float | None) -> float | None:
        """Return a time limit for a method; a thread keeps its limits itself, as well as it can."""
        return None if self._is_thread else timeout

    def insights(self) -> Insights:
        """Return where the time of the workers went, in the users' words."""
        return in_users_words(self._pool.insights())

    def insights_dict(self) -> dict[str, Any]:
        """Return the same as MPIRE's users know it, with the slowest tasks."""
        return make_insights(self._pool.insights(), self.n_joined, self.slowest)

    @property
    def has_notes(self) -> bool:
        """Whether workers tell more of a task than its result."""
        return self._is_timed or self.lifespan is not None

    # ---- tasks -------------------------------------------------------------------------------------------------------

    def live_for(self, lifespan: int | None) -> None:
        """Change after how many tasks a worker is replaced; those that are there stay, with what they hold."""
        if lifespan != self.lifespan:
            self.lifespan = lifespan
            self._has_replacements |= lifespan is not None
            self._taught.clear()  # workers know functions together with the lifespan

    def task(self, functions: Functions) -> Task:
        """Return what workers have to know of a function."""
        limit = functions.task_timeout if self._is_thread else None
        return Task(functions.func, functions.worker_exit, self.lifespan, limit, self._is_timed)

    @block
    def carrying(self, functions: Functions) -> Generator[Any, None, None]:
        """Give what stands for a function in calls, as long as the block runs."""
        first = self.functions
        is_first = functions.func is first.func and functions.worker_exit is first.worker_exit
        is_first = is_first and self.lifespan == self._first_lifespan
        self._n_maps += 1
        try:
            if self._is_thread:
                yield self.task(functions)
            elif is_first and self._first_handle is not None:
                yield self._first_handle
            else:
                with self._pool.put(self.task(functions)) as handle:
                    yield handle
        finally:
            self._n_maps -= 1

    def method(self, function: Callable[..., Any], **options: Any) -> Any:
        """Return the method that runs one item, with options."""
        name = "run_noted" if self.has_notes or self._is_thread else "run"
        return getattr(self._pool, name).options(**self._told(function, _ADVICE_OF_MAP), **options)

    def _told(self, function: Callable[..., Any], advice: str) -> dict[str, Any]:
        """Return the options that errors are told with, in the words of this face, and the lifespan."""
        return {"label": function, "advice": advice, "max_tasks_per_worker": self.lifespan}

    def in_turn(
        self, function: Callable[..., Any], handle: Any, chunks: Iterable[Any], window: int, timeout: float | None
    ) -> Iterator[list[Any]]:
        """Give chunk i to worker ``i % n``; yield the results of each chunk, in order.

        At most `window` chunks are on their way.
        """
        instances: list[Any] = list(self._pool)
        told = self._told(function, _ADVICE_OF_MAP)
        methods = [instance.run_chunk.options(timeout=timeout, **told) for instance in instances]
        pending: deque[Future[Any]] = deque()
        try:
            for number, chunk in enumerate(chunks):
                worker_id = number % len(methods)
                for part in split_if_shared(chunk):
                    pending.append(methods[worker_id].submit(handle, part))
                    self.n_joined[worker_id] += len(part) - 1
                    if len(pending) >= window:
                        yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.forget()  # type: ignore[attr-defined]

    def unpack(self, value: Any) -> Any:
        """Return the result of a task; keep what else its worker told."""
        if type(value) is not Noted:
            return value
        self.exit_results += value.exits
        if value.slow:
            self.slowest = sorted([*self.slowest, *value.slow], reverse=True)[:N_SLOWEST]
        return value.result

    def unpack_all(self, values: list[Any]) -> list[Any]:
        """Return the results of tasks."""
        return [self.unpack(value) for value in values] if self.has_notes else values

    def call(self, functions: Functions, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function in a worker that is free, and wait for its result."""
        worker_id = self._take_free()
        if worker_id is None:
            return self.unpack(self.submit(functions, args, kwargs).result())
        try:
            return self.unpack(self._call_on(worker_id, functions, args, kwargs))
        except PoolBrokenError:
            self._is_broken = True
            raise
        except WorkerDiedError as exc:
            if exc.started:
                raise
            return self.unpack(self.submit(functions, args, kwargs).result())
        finally:
            self._free.append(worker_id)

    def _take_free(self) -> int | None:
        """Return a worker that has nothing to do, as far as that is known here; None if there is none."""
        if self._pending or self._n_maps:
            return None
        try:
            return self._free.pop()  # the one that was used last: it may still be awake
        except IndexError:
            return None

    def _call_on(self, worker_id: int, functions: Functions, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function in one worker, which knows it by a number from the second time on."""
        number = self._number_of(functions.func)
        if (worker_id, number) in self._taught and not kwargs:
            try:
                return self._method_on(worker_id, "call_known", functions)(number, *args)
            except UnknownTaskError:  # the worker was replaced
                pass
        result = self._method_on(worker_id, "call", functions)(self._keep(functions), args, kwargs, number)
        if number is not None:
            self._taught.add((worker_id, number))
        return result

    def _number_of(self, function: Callable[..., Any]) -> int | None:
        """Return the number by which workers know a function; None if they shall be sent it each time."""
        number = self._numbers.get(function) if is_constant(function) else None
        if number is None and not self._is_thread and len(self._numbers) < _MAX_NUMBERED and is_constant(function):
            number = self._numbers[function] = len(self._numbers)
        return number

    def _method_on(self, worker_id: int, name: str, functions: Functions) -> Any:
        """Return a method of one worker, which is made once for each function: that takes as long as a call."""
        function, timeout = functions.func, functions.task_timeout
        key = (worker_id, name, timeout, self.lifespan, getattr(function, "__qualname__", None) or type(function))
        method = self._methods.get(key)
        if method is None:
            if len(self._methods) >= _MAX_METHODS:
                self._methods.clear()
            told = self._told(function, _ADVICE_OF_APPLY)
            method = getattr(self._pool[worker_id], name).options(timeout=self.limit_of(timeout), **told)
            self._methods[key] = method
        return method

    def submit(self, functions: Functions, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        """Have a function called in a worker that is free; return a future."""
        limit, told = self.limit_of(functions.task_timeout), self._told(functions.func, _ADVICE_OF_APPLY)
        try:
            future: Future[Any] = self._pool.call.options(timeout=limit, **told).submit(self._keep(functions), args, kwargs)
        except PoolBrokenError:
            self._is_broken = True
            raise
        self._pending.add(future)
        future.add_done_callback(self._note_end)
        return future

    def _note_end(self, future: Future[Any]) -> None:
        self._pending.discard(future)
        if not future.cancelled() and is_a(future.exception(), PoolBrokenError):
            self._is_broken = True

    def _keep(self, functions: Functions) -> Any:
        """Return what stands for a function in a call.

        One that has to travel by value, which takes longer than the call, is sent once and kept, unless it encloses something
        that may change.
        """
        function = functions.func
        task = self.task(functions)._replace(worker_exit=self.functions.worker_exit)
        if self._is_thread or not is_constant(function) or not _goes_by_value(function):
            return task
        key = function, self.lifespan
        handle = self._kept.pop(key, None)
        if handle is None:
            handle = self._pool.put(task)
            if len(self._kept) >= _MAX_KEPT:
                self._kept.popitem(last=False)[1].close()
        self._kept[key] = handle
        return handle


def is_constant(function: Callable[..., Any]) -> bool:
    """Whether a function is the same every time it is sent: a plain one that encloses nothing."""
    kind = type(function)
    return (kind is FunctionType and not function.__closure__) or kind is BuiltinFunctionType


def _goes_by_value(function: Callable[..., Any]) -> bool:
    return function.__module__ == "__main__" or "<" in function.__qualname__

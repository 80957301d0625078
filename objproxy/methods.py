"""``pool.method`` and ``pool[i].method``: calls, verbs and options of one method."""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self

from objproxy._checks import check_count
from objproxy._engine.calls import Arrival
from objproxy._engine.futures import CallFuture
from objproxy._engine.mapping import SKIP, ResultIterator
from objproxy._engine.messages import Failure, Policy
from objproxy._engine.streaming import TaskStream
from objproxy._engine.verbs import make_source
from objproxy._worker.wire import Operation
from objproxy.awaiting import wait_for
from objproxy.errors import ArgumentPickleError
from objproxy.handling import is_a
from objproxy.options import CALL_KEYWORDS, DEFAULTS, CallOptions, advise, find_options, make_options
from objproxy.progress import Progress
from objproxy.results import shape_results
from objproxy.signatures import MethodInfo

if TYPE_CHECKING:
    from objproxy.core import PoolCore

#: Tasks of `aimap` on their way for each worker, where no ``buffersize`` is given.
_ASYNC_TASKS_PER_WORKER = 4

#: The same beside those that run at the same time, with ``concurrency``.
_ASYNC_TASKS_AHEAD = 2

_NO_LOCK = contextlib.nullcontext()


class _Method:
    """What the methods of a pool and of one instance have in common."""

    def __init__(self, core: PoolCore, info: MethodInfo, options: CallOptions = DEFAULTS, *, has_options: bool = False) -> None:
        self._core = core
        self._info = info
        self._options = options
        self._has_options = has_options
        self.__name__ = info.name
        self.__doc__ = info.doc
        if info.signature is not None:
            self.__signature__ = info.signature

    def __get__(self, _instance: object, _owner: type | None = None) -> Self:
        """Stay as it is: a method of a pool is bound already. For `inspect`, having this makes it a routine."""
        return self

    def _changed(self, changes: dict[str, Any]) -> CallOptions:
        options = make_options(self._options, changes)
        options.check_for(self._core.backend.name, self._core.backend.capabilities)
        return options

    @property
    def _label(self) -> str:
        """The name of the method in errors."""
        return self._options.label or self._info.name

    def _policy(self, options: CallOptions, *, is_single: bool = True) -> Policy:
        """Return what the engine needs to know of a call.

        A call of a coroutine method that travels alone is a task that can be stopped: a time limit, or ``cancel()``, ends the
        coroutine, and the worker keeps its object with sessions and connections. In a map without a time limit many items
        travel in one message, and run one after another.
        """
        policy = options.policy
        if not self._info.is_coroutine or policy.concurrency or not (is_single or policy.timeout is not None):
            return policy
        can_stop = getattr(self._core.backend.capabilities, "can_run_concurrently", False)
        return policy._replace(concurrency=1) if can_stop else policy

    def _operation(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Operation:
        self._info.check(args, kwargs)
        return Operation("call", self._info.name, args, kwargs)


class PoolMethod(_Method):
    """One method of the instances of a pool.

    Calling it runs it once on every instance, or once for each item with ``map_args=True``. The other verbs are its
    methods.
    """

    def __repr__(self) -> str:
        return f"<method {self._info.name!r} of {self._core!r}>"

    def options(self, **changes: Any) -> PoolMethod:
        """Return this method with options; in a call of it every argument is the method's own.

        Parameters
        ----------
        **changes
            Fields of `objproxy.options.CallOptions`.

        Raises
        ------
        TypeError, ValueError
            An option that does not exist, or a value that makes no sense.
        NotSupportedError
            An option that the pool's back end cannot honour.
        """
        return PoolMethod(self._core, self._info, self._changed(changes), has_options=True)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the method on every instance, or fan items out; see `ProxyPool`."""
        options = self._options
        if kwargs and not self._has_options:
            options, kwargs = self._split_keywords(kwargs)
        if options.map_args:
            return self._fan_out(args, kwargs, options)
        return self._broadcast(args, kwargs, options)

    def _split_keywords(self, kwargs: dict[str, Any]) -> tuple[CallOptions, dict[str, Any]]:
        self._info.check_keywords(kwargs)
        changes = {name: kwargs[name] for name in CALL_KEYWORDS if name in kwargs}
        if not changes:
            return self._options, kwargs
        return self._changed(changes), {name: value for name, value in kwargs.items() if name not in changes}

    def _progress(self, options: CallOptions, total: int | None) -> Progress:
        return Progress(options.progress_bar, total, self._info.name, self._core.reports)

    # ---- broadcast ---------------------------------------------------------------------------------------------------

    def broadcast(self, /, *args: Any, **kwargs: Any) -> list[Any]:
        """Run the method once on every instance.

        Returns
        -------
        list
            What each returned, in the order of the workers, untouched.
        """
        results = self._broadcast(args, kwargs, self._changed({"stack_results": False, "map_args": False}))
        assert isinstance(results, list)
        return results

    def _broadcast(self, args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions) -> Any:
        core = self._core
        operation = self._operation(args, kwargs)
        with self._progress(options, core.n_workers) as progress, core.changing if options.journal else _NO_LOCK:
            outcomes = core.verbs.every(
                operation,
                self._policy(options),
                is_task=options.counts,
                on_begin=progress.expect,
                on_arrival=lambda arrival: progress.update(len(arrival.outcomes)),
                on_done=core.journal(operation) if options.journal else None,
            )
        results = core.settle_every(outcomes, self._info.name, options)
        return shape_results([results], options.stack_results)

    # ---- maps --------------------------------------------------------------------------------------------------------

    def map(self, /, *args: Iterable[Any], **kwargs: Iterable[Any]) -> list[Any]:
        """Run the method once for each item.

        Parameters
        ----------
        *args, **kwargs : iterable
            Zipped to the shortest; ``itertools.repeat(x)`` is a constant.

        Returns
        -------
        list
            Results in the order of the items.
        """
        results = self._fan_out(args, kwargs, self._changed({"stack_results": False}))
        assert isinstance(results, list)
        return results

    def _fan_out(self, args: Sequence[Any], kwargs: dict[str, Any], options: CallOptions) -> Any:
        core = self._core
        core.driver.check_usable()
        self._info.check_items(tuple(args), kwargs)
        source = make_source(self._info.name, args, kwargs)
        if source.is_endless:
            raise ValueError(
                f"{self._info.name}: all iterables are endless, and so would be the results; give one that ends, or take the "
                f"results one by one with pool.{self._info.name}.imap(...)"
            )

        def on_arrival(arrival: Arrival) -> None:
            if arrival.has_failures:
                self._note_failures(arrival, must_raise=options.on_error == "raise")
            progress.update(len(arrival.outcomes))

        with self._progress(options, source.total) as progress:
            if core.is_dedicated:
                pieces = core.verbs.dedicated(source, on_arrival, self._policy(options))
            elif options.synchronize:
                pieces = core.verbs.rounds(source, on_arrival, self._policy(options))
            else:
                policy = self._policy(options, is_single=False)
                run = core.verbs.run(source, core.n_workers, policy, chunksize=options.chunksize)
                pieces = core.verbs.map(run, on_arrival)
        return shape_results(core.settle_pieces(pieces, self._info.name, options), options.stack_results)

    def _note_failures(self, arrival: Arrival, *, must_raise: bool) -> None:
        """Note in each error where it happened; only here the worker is known."""
        for index, outcome in enumerate(arrival.outcomes, arrival.start):
            if type(outcome) is Failure:
                error = self._core.with_note(outcome.error, self._label, index, arrival.worker_id)
                if must_raise:
                    raise error

    def imap(self, /, *args: Iterable[Any], **kwargs: Iterable[Any]) -> ResultIterator:
        """Run the method once for each item, lazily.

        Returns
        -------
        ResultIterator
            Results in the order of the items. At most ``options(buffersize=...)`` items are pulled and not yet yielded,
            so endless input is fine. An item that fails raises when its turn comes; the iteration goes on behind it.
        """
        return self._stream(args, kwargs, is_ordered=True)

    def imap_unordered(self, /, *args: Iterable[Any], **kwargs: Iterable[Any]) -> ResultIterator:
        """Run the method once for each item, lazily; results as they come."""
        return self._stream(args, kwargs, is_ordered=False)

    def _check_is_free(self) -> None:
        """Refuse what lazy verbs cannot keep: their items go to whichever worker is free."""
        if self._core.is_dedicated or self._options.synchronize:
            rule = "a dedicated pool" if self._core.is_dedicated else "synchronize=True"
            raise ValueError(
                f"lazy verbs hand each item to whichever worker is free, which {rule} forbids; "
                f"use pool.{self._info.name}.map(...) or map_args=True"
            )

    def _stream(self, args: Sequence[Any], kwargs: dict[str, Any], *, is_ordered: bool) -> ResultIterator:
        core, options = self._core, self._options
        core.driver.check_usable()
        self._check_is_free()
        self._info.check_items(tuple(args), kwargs)
        source = make_source(self._info.name, args, kwargs)
        run = core.verbs.run(
            source,
            core.n_workers,
            self._policy(options, is_single=False),
            chunksize=options.chunksize,
            buffersize=options.buffersize,
            is_lazy=True,
        )
        progress = self._progress(options, source.total)

        def on_failure(index: int, error: BaseException, worker_id: int | None) -> Any:
            error = core.with_note(error, self._label, index, worker_id)
            if options.on_error == "skip":
                return SKIP
            if options.on_error == "return":
                return error
            if is_a(error, StopIteration):
                raise RuntimeError(f"item {index} of {self._label!r} raised StopIteration") from error
            raise error

        return ResultIterator(
            run,
            is_ordered=is_ordered,
            on_failure=on_failure,
            on_progress=progress.update,
            on_end=progress.close,
            on_value=functools.partial(core.settle_value, concurrency=options.concurrency),
        )

    def stream(
        self,
        *,
        ordered: bool = True,
        maxsize: int | None = None,
        on_error: str | Callable[[int, Any, BaseException], Any] | None = None,
        **others: Any,
    ) -> TaskStream:
        """Return a stream: items are put, and results got, at any time and from any thread.

        Parameters
        ----------
        ordered : bool
            Results in the order of the items, or as they come.
        maxsize : int or None
            Most items in the queue: put and not yet on their way to a worker; None for no bound. ``options(buffersize=...)``
            bounds those that are on their way or have a result that nobody has got.
        on_error : str or callable or None
            As in `options`, which gives the default; or ``on_error(index, item, error)``, which gives the result in
            place of the error, or raises.
        **others
            Are refused: other options belong into `options`, and arguments are put into the stream.

        Returns
        -------
        TaskStream
            ``put(items)``, ``get(timeout=None)``, ``take(n=None)``, iteration, ``end()``, ``close()``. Each item is the one
            argument of a call. It works while the caller does something else: a thread feeds the workers then.

        Raises
        ------
        ValueError
            The pool is dedicated, or the options ask for rounds or a progress bar.
        TypeError
            There is another keyword.

        Examples
        --------
        >>> from objproxy import ProxyPool
        >>> with ProxyPool(str, worker_count=2, init_args=("a",)) as pool:
        ...     stream = pool.join.stream()
        ...     stream.put(["xyz", "12"])
        ...     stream.put(["no"])
        ...     stream.get(), stream.get(), stream.get()
        ('xayaz', '1a2', 'nao')
        """
        core, options, name, label = self._core, self._options, self._info.name, self._label
        if others:
            found = find_options(others)
            said = advise(name, found) if found else "what the method takes is put into the stream"
            raise TypeError(f"{name}.stream() got unexpected keyword arguments {', '.join(map(repr, others))}; {said}")
        core.driver.check_usable()
        self._check_is_free()
        if options.progress_bar:
            raise ValueError("a stream has no length, so it cannot have a progress_bar; count the results you get")
        check_count("maxsize", maxsize)
        answer = self._changed({"on_error": on_error}).on_error if isinstance(on_error, str) else options.on_error

        def on_failure(index: int, item: Any, error: BaseException, worker_id: int | None) -> Any:
            error = core.with_note(error, label, index, worker_id)
            if callable(on_error):
                return on_error(index, item, error)
            if answer == "raise":
                raise (RuntimeError(f"item {index} of {label!r} raised StopIteration") if is_a(error, StopIteration) else error)
            return SKIP if answer == "skip" else error

        run = core.verbs.stream(
            name,
            core.n_workers,
            self._policy(options, is_single=False),
            chunksize=options.chunksize,
            buffersize=options.buffersize,
        )
        on_value = functools.partial(core.settle_value, concurrency=options.concurrency)
        stream = TaskStream(run, is_ordered=ordered, maxsize=maxsize, on_failure=on_failure, on_value=on_value)
        core.reports.count_stream(name, stream)
        return stream

    # ---- futures and event loops -----------------------------------------------------------------------------------------

    def submit(self, /, *args: Any, **kwargs: Any) -> CallFuture:
        """Run the method once, on whichever instance is free.

        Returns
        -------
        concurrent.futures.Future
            Its ``cancel()`` also stops a call that runs.

        Notes
        -----
        ``close()``, and leaving the pool's ``with`` block, finish what was submitted. The end of the program does not, other
        than with executors of `concurrent.futures`: calls that have not run by then are dropped.
        """
        return self._core.submit(self._operation(args, kwargs), self._options, self._policy(self._options))

    async def aio(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the method once, on whichever instance is free, and await its result; to cancel that cancels the call."""
        return await wait_for(self.submit(*args, **kwargs))

    async def aimap(self, /, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """Run the method once for each item, lazily, for ``async for``; results in the order of the items.

        Parameters
        ----------
        *args, **kwargs : iterable or async iterable
            As for `imap`.
        """
        self._check_is_free()
        self._info.check_items(args, kwargs)
        n_tasks = max(_ASYNC_TASKS_PER_WORKER, (self._options.concurrency or 0) + _ASYNC_TASKS_AHEAD)
        limit = self._options.buffersize or n_tasks * self._core.n_workers
        limit = limit(None) if callable(limit) else limit
        pending: deque[CallFuture | ArgumentPickleError] = deque()
        try:
            async with contextlib.aclosing(_zip_async(args, kwargs)) as items:
                async for item_args, item_kwargs in items:
                    pending.append(self._submit_item(item_args, item_kwargs))
                    if len(pending) >= limit and (result := await self._settle(pending.popleft())) is not SKIP:
                        yield result
            while pending:
                if (result := await self._settle(pending.popleft())) is not SKIP:
                    yield result
        finally:
            for future in pending:
                if not isinstance(future, ArgumentPickleError):
                    future.forget()  # as with imap(); to cancel what runs would cost the state of its workers

    def _submit_item(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> CallFuture | ArgumentPickleError:
        """Submit one item of a lazy map; what cannot be sent is the error of that item."""
        try:
            return self.submit(*args, **kwargs)
        except ArgumentPickleError as exc:
            return exc

    async def _settle(self, future: CallFuture | ArgumentPickleError) -> Any:
        """Await one result; an error is raised, returned or skipped, as the options say."""
        try:
            if isinstance(future, ArgumentPickleError):
                raise future
            return await wait_for(future)
        except BaseException as exc:
            if self._options.on_error == "raise" or not _is_of_task(exc, future):
                raise
            return exc if self._options.on_error == "return" else SKIP


class InstanceMethod(_Method):
    """One method of one instance of a pool; calling it returns the plain result."""

    def __init__(
        self,
        core: PoolCore,
        info: MethodInfo,
        worker_id: int,
        options: CallOptions = DEFAULTS,
        *,
        has_options: bool = False,
    ) -> None:
        super().__init__(core, info, options, has_options=has_options)
        self._worker_id = worker_id

    def __repr__(self) -> str:
        return f"<method {self._info.name!r} of worker {self._worker_id} of {self._core!r}>"

    def options(self, **changes: Any) -> InstanceMethod:
        """Return this method with options (see `PoolMethod.options`)."""
        return InstanceMethod(self._core, self._info, self._worker_id, self._changed(changes), has_options=True)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the method on this instance and return its result."""
        self._info.check(args, kwargs)
        policy = self._policy(self._options) if self._info.is_coroutine else self._options.policy
        outcome = self._core.verbs.one(self._worker_id, Operation("call", self._info.name, args, kwargs), policy)
        if type(outcome) is Failure and self._options.on_error == "return":
            return self._core.with_note(outcome.error, self._label, None, self._worker_id)
        return self._core.settle_one(outcome, self._label, self._worker_id, self._options.concurrency)

    def submit(self, /, *args: Any, **kwargs: Any) -> CallFuture:
        """Run the method on this instance; return a future."""
        return self._core.submit(self._operation(args, kwargs), self._options, self._policy(self._options), self._worker_id)

    async def aio(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the method on this instance and await its result."""
        return await wait_for(self.submit(*args, **kwargs))


def _is_of_task(error: BaseException, future: CallFuture | ArgumentPickleError) -> bool:
    """Whether `error`, caught while `future` was awaited, is its own and not that of the caller."""
    if isinstance(future, ArgumentPickleError) or is_a(error, Exception):
        return True
    return future.done() and not future.cancelled() and future.exception() is error


async def _zip_async(
    args: Sequence[Any], kwargs: dict[str, Any]
) -> AsyncGenerator[tuple[tuple[Any, ...], dict[str, Any]], None]:
    """Zip iterables and async iterables to the shortest."""
    pulls = [_puller(source) for source in (*args, *kwargs.values())]
    while pulls:
        values = []
        for pull in pulls:
            try:
                values.append(await pull())
            except StopAsyncIteration:
                return
        yield tuple(values[: len(args)]), dict(zip(kwargs, values[len(args) :], strict=True))


def _puller(source: Any) -> Any:
    if isinstance(source, AsyncIterable):
        return source.__aiter__().__anext__
    iterator = iter(source)

    async def pull() -> Any:
        try:
            return next(iterator)
        except StopIteration:
            raise StopAsyncIteration from None

    return pull

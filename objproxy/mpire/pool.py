"""`WorkerPool`: MPIRE's maps and applies on the workers of a `ProxyPool`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from objproxy.insights import Insights
from objproxy.mpire.async_result import AsyncResult
from objproxy.mpire.checks import Functions, PoolParams, check_concatenation, gather
from objproxy.mpire.context import DEFAULT_START_METHOD, find_context
from objproxy.mpire.crew import Crew
from objproxy.mpire.insights import describe_insights
from objproxy.mpire.maps import concatenate


class WorkerPool:
    """Workers that run functions.

    Parameters
    ----------
    n_jobs : int or None
        Number of workers; None or 0: one for each CPU.
    daemon : bool
        Accepted. Workers may have pools of their own, and end with the program, whatever it says.
    cpu_ids : list or None
        For each worker the processor, or the list of processors, that it is pinned to; one entry stands for all.
    shared_objects : object
        Given to every function, if it is not None. No worker has a copy: forked workers share the memory until they write,
        threads share the object; with the other start methods large buffers cross once and are mapped copy-on-write. It may
        hold locks and other things of ``pool.ctx``.
    pass_worker_id : bool
        Whether every function gets the number of its worker.
    use_worker_state : bool
        Whether every function gets a dict that stays with its worker.
    start_method : str
        "fork" (default where there is one), "forkserver", "spawn" or "threading".
    keep_alive : bool
        Whether workers stay for the next map, with their states.
    use_dill : bool
        Accepted. Functions and objects that cannot be imported by a worker travel by value in any case.
    enable_insights : bool
        Whether to keep where the time went, see `get_insights`.
    order_tasks : bool
        Whether chunk i goes to worker ``i % n_jobs``.

    Raises
    ------
    TypeError, ValueError
        A parameter that makes no sense.

    Notes
    -----
    A function is called with the number of the worker, the shared objects and the worker's state, those of them that are
    asked for, in this order, and then its own arguments. If a worker dies, its task raises `objproxy.WorkerDiedError`, a
    ``RuntimeError``. Several threads may use `apply` and `apply_async` at a time.

    Examples
    --------
    >>> from objproxy.mpire import WorkerPool
    >>> with WorkerPool(n_jobs=2) as pool:
    ...     pool.map(divmod, [(7, 2), (9, 4)])
    [(3, 1), (2, 1)]
    """

    def __init__(
        self,
        n_jobs: int | None = None,
        daemon: bool = True,
        cpu_ids: Any = None,
        shared_objects: Any = None,
        pass_worker_id: bool = False,
        use_worker_state: bool = False,
        start_method: str = DEFAULT_START_METHOD,
        keep_alive: bool = False,
        use_dill: bool = False,
        enable_insights: bool = False,
        order_tasks: bool = False,
    ) -> None:
        self.pool_params = PoolParams(
            n_jobs,
            daemon,
            cpu_ids,
            shared_objects,
            pass_worker_id,
            use_worker_state,
            start_method,
            keep_alive,
            use_dill,
            enable_insights,
            order_tasks,
        )
        self.ctx = find_context(start_method)
        self._crew = Crew(self.pool_params)
        self._last_functions: Functions | None = None  # of `apply`
        self._last_others: tuple[Any, ...] = ()

    # ---- settings ----------------------------------------------------------------------------------------------------

    def pass_on_worker_id(self, pass_on: bool = True) -> None:
        """Say whether functions get the number of their worker."""
        self._change("pass_worker_id", pass_on)

    def set_shared_objects(self, shared_objects: Any = None) -> None:
        """Say what all functions get; see `WorkerPool`."""
        self._change("shared_objects", shared_objects)

    def set_use_worker_state(self, use_worker_state: bool = True) -> None:
        """Say whether functions get the state of their worker."""
        self._change("use_worker_state", use_worker_state)

    def set_keep_alive(self, keep_alive: bool = True) -> None:
        """Say whether workers stay for the next map."""
        self.pool_params.keep_alive = keep_alive

    def set_order_tasks(self, order_tasks: bool = True) -> None:
        """Say whether chunk i goes to worker ``i % n_jobs``."""
        self.pool_params.order_tasks = order_tasks

    def _change(self, name: str, value: Any) -> None:
        """Change what workers start with; those that are there are started anew when they are needed next."""
        if getattr(self.pool_params, name) is not value:
            setattr(self.pool_params, name, value)
            self._crew.has_changed = True

    # ---- maps --------------------------------------------------------------------------------------------------------

    def map(
        self,
        func: Callable[..., Any],
        iterable_of_args: Iterable[Any],
        iterable_len: int | None = None,
        max_tasks_active: int | None = None,
        chunk_size: int | float | None = None,
        n_splits: int | None = None,
        worker_lifespan: int | None = None,
        progress_bar: bool = False,
        concatenate_numpy_output: bool = True,
        worker_init: Callable[..., Any] | None = None,
        worker_exit: Callable[..., Any] | None = None,
        task_timeout: float | None = None,
        worker_init_timeout: float | None = None,
        worker_exit_timeout: float | None = None,
        progress_bar_options: dict[str, Any] | None = None,
        progress_bar_style: str | None = None,
    ) -> Any:
        """Run a function once for each item.

        Parameters
        ----------
        func : callable
            The function.
        iterable_of_args : iterable
            The items. A dict holds keyword arguments; the parts of another iterable are positional arguments; text, bytes,
            arrays and everything else are one argument. An array of NumPy is cut into pieces, each of which is one item.
        iterable_len : int or None
            How many items there are, if they do not tell, or if only so many are wanted.
        max_tasks_active : int or None
            Most items that are on their way.
        chunk_size : int, float or None
            Items that travel together; by default what suits the time that they take.
        n_splits : int or None
            Number of chunks, if there is no `chunk_size`.
        worker_lifespan : int or None
            Tasks after which a worker is replaced by a fresh one.
        progress_bar : bool
            Whether to show one.
        concatenate_numpy_output : bool
            Whether results that are arrays become one array.
        worker_init, worker_exit : callable or None
            Run once in each worker, before its first and after its last task. What `worker_exit` returns, see
            `get_exit_results`.
        task_timeout, worker_init_timeout, worker_exit_timeout : float or None
            Seconds; past them TimeoutError is raised, whatever the function is doing. Threads cannot be stopped.
        progress_bar_options : dict or None
            Options of `tqdm`.
        progress_bar_style : str or None
            "std", "rich", "notebook" or "dashboard".

        Returns
        -------
        list or ndarray
            The results, in the order of the items.

        Raises
        ------
        Exception
            What a function raised; a note says where, and with which arguments. The workers are ended, the pool can be used
            again.
        RuntimeError
            A worker died (`objproxy.WorkerDiedError`); another map of this pool is running.
        TimeoutError
            A function ran too long.
        TypeError, ValueError
            A parameter that makes no sense; there were fewer items than `iterable_len`.
        """
        check_concatenation(concatenate_numpy_output)
        functions, params = gather(locals())
        with self._crew.running_map("map", functions, params) as run:
            results = run.collect()
        return concatenate(results) if concatenate_numpy_output else results

    def map_unordered(
        self,
        func: Callable[..., Any],
        iterable_of_args: Iterable[Any],
        iterable_len: int | None = None,
        max_tasks_active: int | None = None,
        chunk_size: int | float | None = None,
        n_splits: int | None = None,
        worker_lifespan: int | None = None,
        progress_bar: bool = False,
        worker_init: Callable[..., Any] | None = None,
        worker_exit: Callable[..., Any] | None = None,
        task_timeout: float | None = None,
        worker_init_timeout: float | None = None,
        worker_exit_timeout: float | None = None,
        progress_bar_options: dict[str, Any] | None = None,
        progress_bar_style: str | None = None,
    ) -> list[Any]:
        """Run a function once for each item; return the results in the order in which they came. For the rest see `map`."""
        functions, params = gather(locals())
        with self._crew.running_map("map_unordered", functions, params) as run:
            return list(run.iterate(is_ordered=False))

    def imap(
        self,
        func: Callable[..., Any],
        iterable_of_args: Iterable[Any],
        iterable_len: int | None = None,
        max_tasks_active: int | None = None,
        chunk_size: int | float | None = None,
        n_splits: int | None = None,
        worker_lifespan: int | None = None,
        progress_bar: bool = False,
        worker_init: Callable[..., Any] | None = None,
        worker_exit: Callable[..., Any] | None = None,
        task_timeout: float | None = None,
        worker_init_timeout: float | None = None,
        worker_exit_timeout: float | None = None,
        progress_bar_options: dict[str, Any] | None = None,
        progress_bar_style: str | None = None,
    ) -> Iterator[Any]:
        """Run a function once for each item; yield the results in the order of the items.

        Yields
        ------
        object
            The results. This is a generator: nothing happens before the first is asked for, and parameters are checked then.
            At most `max_tasks_active` items are pulled and not yet yielded. To drop the generator early is fine. For the rest
            see `map`.
        """
        functions, params = gather(locals())
        with self._crew.running_map("imap", functions, params) as run:
            yield from run.iterate(is_ordered=True)

    def imap_unordered(
        self,
        func: Callable[..., Any],
        iterable_of_args: Iterable[Any],
        iterable_len: int | None = None,
        max_tasks_active: int | None = None,
        chunk_size: int | float | None = None,
        n_splits: int | None = None,
        worker_lifespan: int | None = None,
        progress_bar: bool = False,
        worker_init: Callable[..., Any] | None = None,
        worker_exit: Callable[..., Any] | None = None,
        task_timeout: float | None = None,
        worker_init_timeout: float | None = None,
        worker_exit_timeout: float | None = None,
        progress_bar_options: dict[str, Any] | None = None,
        progress_bar_style: str | None = None,
    ) -> Iterator[Any]:
        """Run a function once for each item; yield the results as they come. For the rest see `imap`."""
        functions, params = gather(locals())
        with self._crew.running_map("imap_unordered", functions, params) as run:
            yield from run.iterate(is_ordered=False)

    # ---- single tasks ------------------------------------------------------------------------------------------------

    def apply(
        self,
        func: Callable[..., Any],
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
        worker_init: Callable[..., Any] | None = None,
        worker_exit: Callable[..., Any] | None = None,
        task_timeout: float | None = None,
        worker_init_timeout: float | None = None,
        worker_exit_timeout: float | None = None,
    ) -> Any:
        """Run a function once, in a worker that is free, and return its result.

        Parameters
        ----------
        func : callable
            The function.
        args : object
            Positional arguments; a dict holds keyword arguments; anything else that is no iterable, and text, bytes and
            arrays, is one argument.
        kwargs : dict or None
            Keyword arguments.
        callback, error_callback : callable or None
            Called with the result, or with the error.
        worker_init, worker_exit, worker_init_timeout, worker_exit_timeout
            As in `map`, for workers that are started now; those that are there keep theirs.
        task_timeout : float or None
            Seconds; past them TimeoutError is raised, and the worker is replaced.

        Raises
        ------
        Exception
            What the function raised. The pool goes on, and so it does after a time-out or the death of the worker.
        """
        functions = self._last_functions  # to check the same again would take a fifth of the call
        others = (worker_init, worker_exit, task_timeout, worker_init_timeout, worker_exit_timeout)
        if functions is None or functions.func is not func or others != self._last_others:
            functions = self._last_functions = Functions(func, *others)
            self._last_others = others
        arguments, names = _split_arguments(args, kwargs)
        session = self._crew.obtain_for_apply(functions)
        if callback is not None or error_callback is not None:
            future = session.submit(functions, arguments, names)
            return AsyncResult(future, callback, error_callback, session.unpack).get()
        return session.call(functions, arguments, names)

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
        worker_init: Callable[..., Any] | None = None,
        worker_exit: Callable[..., Any] | None = None,
        task_timeout: float | None = None,
        worker_init_timeout: float | None = None,
        worker_exit_timeout: float | None = None,
    ) -> AsyncResult:
        """Run a function once, in a worker that is free; return at once. For the rest see `apply`."""
        functions = Functions(func, worker_init, worker_exit, task_timeout, worker_init_timeout, worker_exit_timeout)
        arguments, names = _split_arguments(args, kwargs)
        session = self._crew.obtain_for_apply(functions)
        return AsyncResult(session.submit(functions, arguments, names), callback, error_callback, session.unpack)

    # ---- life --------------------------------------------------------------------------------------------------------

    def stop_and_join(self, keep_alive: bool = False) -> None:
        """Wait for all tasks; then run ``worker_exit`` and end the workers, unless `keep_alive`."""
        self._crew.finish(keep_alive=keep_alive)

    def join(self, keep_alive: bool = False) -> None:
        """Do the same as `stop_and_join`."""
        self.stop_and_join(keep_alive)

    def terminate(self) -> None:
        """End the workers now; tasks that have no result yet fail with `objproxy.PoolClosedError`, a ``RuntimeError``."""
        self._crew.terminate()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_exc_info: object) -> None:
        """End the workers.

        Workers that have nothing to do run their ``worker_exit``. Tasks of `apply_async` without a result are ended: get their
        results, or call `stop_and_join`, before the block ends. Left by an exception, everything ends at once.
        """
        if exc_type is None:
            self._crew.leave()
        else:
            self._crew.terminate()

    def __repr__(self) -> str:
        return f"<WorkerPool of {self.pool_params.n_jobs} jobs, {self.pool_params.start_method}>"

    # ---- what it tells -----------------------------------------------------------------------------------------------

    def get_exit_results(self) -> list[Any]:
        """Return what ``worker_exit`` returned, once for each worker that has ended since the workers were started."""
        return list(self._crew.exit_results)

    def get_insights(self) -> dict[str, Any]:
        """Return where the time of the workers went; an empty dict unless ``enable_insights``."""
        return self._crew.insights_dict()

    def insights(self) -> Insights | None:
        """Return where the time of the workers went, as `objproxy.ProxyPool.insights` does; None unless ``enable_insights``.

        Its ``save_image`` and ``save_trace`` draw the time line of the workers.
        """
        return self._crew.insights()

    def print_insights(self) -> None:
        """Print them."""
        print(describe_insights(self.get_insights()))  # noqa: T201 - it is what it is for


def _split_arguments(args: Any, kwargs: dict[str, Any] | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments of an apply."""
    if isinstance(args, dict):
        return (), {**args, **(kwargs or {})}
    is_array = any(base.__name__ in ("ndarray", "SharedArray") for base in type(args).__mro__)
    is_single = is_array or isinstance(args, (str, bytes)) or not isinstance(args, Iterable)
    return ((args,) if is_single else tuple(args)), dict(kwargs or {})

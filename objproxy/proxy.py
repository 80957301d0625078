"""`ProxyPool`: one class, many live instances."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from objproxy import backends
from objproxy._checks import check_count, check_seconds
from objproxy._worker import lineage

if TYPE_CHECKING:
    from objproxy.core import PoolCore
    from objproxy.insights import Insights, WorkerView
    from objproxy.instances import Instance
    from objproxy.names import PoolNames
    from objproxy.shared import SharedValue

T = TypeVar("T")

#: The pool's own public names. They win over the class's; ``pool.remote.<name>`` always reaches the class's.
POOL_NAMES = frozenset(
    {"checkpoint", "close", "dump_stacks", "insights", "kill", "put", "remote", "resize", "wait_ready", "workers"}
)

#: A class commonly has these itself, and the pool's does what one expects: it runs the class's own at the end.
_EXPECTED_TWICE = frozenset({"close"})


class ProxyPool(Generic[T]):
    """One live instance of a class in every worker, used as if they were one object.

    Parameters
    ----------
    cls : type or callable
        Any class, or a function that makes an object; importable or not. It is called in each worker.
    devices : object
        One worker for each device that this stands for, see `objproxy.devices.resolve_devices`. Default: one CPU worker
        for each CPU that this process may use.
    worker_count : int or None
        Number of workers; over `devices` round robin if both are given, else CPU workers.
    init_args, init_kwargs : tuple, dict
        Arguments of the constructor. A parameter ``device`` or ``devices`` that is not given gets the worker's device.
    init_args_each : sequence of tuple or dict, or None
        One for each worker, in place of `init_args` (a tuple) or added to `init_kwargs` (a dict).
    dedicated : bool
        In a map, item i always goes to worker i; the numbers of items and workers must be equal.
    separate_processes : bool
        False: threads, as with ``backend="thread"``.
    backend : str or object
        "process" (default), "thread", "serial", or an object with the methods of `objproxy.backends.base.Backend`.
        Default: the environment variable OBJPROXY_BACKEND, else "process".
    start_method : str or None
        "forkserver" (default: clean and fast), "fork" or "spawn"; shown by ``repr(pool)``. "fork-if-safe" is "fork", the
        fastest, on Linux, in a program that has one thread, those of compiled code counted too, with no GPU among the devices;
        else the default.
    seed : int or None
        Root of all random streams: each worker's ``random`` and ``numpy.random`` state, and ``current_worker().rng``. Each item
        of a fan-out, and each ``submit`` to any worker, has a stream of its own for all three, which does not depend on the
        workers (``random`` and ``numpy.random`` in processes only). Without a seed all streams differ.
    max_tasks_per_worker : int or None
        Items after which a worker is replaced by a fresh one.
    max_rss : int or None
        Bytes of memory above which a worker is replaced by a fresh one, when it has finished what it was sent.
    max_restarts : tuple
        (count, seconds): a worker that dies more often than `count` times within `seconds` is given up. So is one whose
        constructor fails more than `count` times in a row, or more than four times, whatever time that takes.
    on_restart : str
        What a replaced worker starts from: "fresh" (the constructor), "replay" (and the broadcasts made with
        ``options(journal=True)``), or "snapshot" (the last `checkpoint`).
    init_timeout : float or None
        Seconds for a constructor.
    stall_warning : float or None
        Seconds after which a busy worker that has sent nothing is worth a warning, on the logger ``"objproxy"``, with its
        number, the method and how long it runs; once for each silence. A worker that takes as long to end is told of with its
        stacks, once, after five seconds where this is None.
    threads_per_worker : int, "auto" or None
        Threads of numerical libraries in a worker (BLAS, OpenMP, numba, polars, OpenCV, duckdb, PyTorch, Arrow, ...), set
        before anything of the user is imported; "auto" shares the CPUs out. A variable that is set already wins. With
        ``start_method="fork"`` a warning or a log record tells which libraries of the program cannot be bounded any more.
    shared_memory_limit : int or None
        Most bytes of shared memory that the arguments on their way to the workers may hold, and the results of any one worker;
        past it a call fails with `SharedMemoryFullError`. Default: what the machine has.
    cpu_ids : sequence or None
        Processors of each worker: an int, or a list of them, for each.
    on_progress : callable or None
        Called with (worker_id, done, total) when a worker calls `objproxy.report_progress`.
    init_progress_bar : bool, str, dict or callable
        A bar, as ``options(progress_bar=...)`` of a method has it, of the workers that are ready; it is shown if that takes
        longer than a second.
    timeline : bool
        Keep what each worker did when, and the arguments of the slowest items, for `insights`. Costs a few microseconds a
        message.
    name : str or None
        Name of the pool, for logs and errors.
    warn_unclosed : bool
        A pool that nobody holds any more, or that is open when the program ends, ends its workers; True tells by a
        ``ResourceWarning`` that it was never closed.

    Raises
    ------
    WorkerInitError
        A constructor raised, died or took too long; no worker is left.
    ArgumentPickleError
        The class or its arguments cannot be sent; nothing was started.
    DeviceError
        A device that does not exist.
    NotSupportedError
        An option that the back end cannot honour.
    NestedPoolError
        There are too many pools above this one, see Notes.
    TypeError, ValueError
        An option that makes no sense.

    Notes
    -----
    ``pool.method(*args)`` runs the method exactly once on each instance and returns the results in the order of the
    workers. ``pool.method(*iterables, map_args=True)`` runs it once for each item, on whichever worker is free; results
    in the order of the items. Numbers and arrays come back stacked, tuples and lists of one length as rows;
    ``stack_results=False`` gives a list. ``pool[i]`` is one instance; iterating gives all of them; ``len(pool)`` is their
    number. Data attributes are read from, and set on, all instances.

    A worker may make pools, in a method or in a constructor, up to four deep (environment variable OBJPROXY_MAX_DEPTH). A pool
    that a module makes when it is imported works in the program. In the workers, which import the module to load the class, it
    is not started: to use it there raises `NestedPoolError`.

    Several threads may use one pool. If a worker dies while it runs an item, that item fails with `WorkerDiedError`,
    the worker is replaced, and everything else goes on.

    Examples
    --------
    >>> from collections import Counter
    >>> with ProxyPool(Counter, worker_count=2) as pool:
    ...     _ = pool.update("abca")
    ...     pool.get("a")
    array([2, 2])
    """

    _core: PoolCore
    _names: PoolNames
    _instances: dict[int, Instance]

    def __init__(
        self,
        cls: Callable[..., T],
        *,
        devices: Any = "all",
        worker_count: int | None = None,
        init_args: Sequence[Any] = (),
        init_kwargs: Mapping[str, Any] | None = None,
        init_args_each: Sequence[Any] | None = None,
        dedicated: bool = False,
        separate_processes: bool = True,
        backend: Any = None,
        start_method: str | None = None,
        seed: Any = None,
        max_tasks_per_worker: int | None = None,
        max_rss: int | None = None,
        max_restarts: tuple[int, float] = (3, 5.0),
        on_restart: str = "fresh",
        init_timeout: float | None = None,
        stall_warning: float | None = None,
        threads_per_worker: int | str | None = "auto",
        shared_memory_limit: int | None = None,
        cpu_ids: Any = None,
        on_progress: Callable[[int, int, int | None], None] | None = None,
        init_progress_bar: Any = False,
        timeline: bool = False,
        name: str | None = None,
        warn_unclosed: bool = True,
    ) -> None:
        if not callable(cls):
            raise TypeError(f"ProxyPool needs a class, or a function that makes an object; got {cls!r}")
        shares_memory = backends.chosen_name(backend, separate_processes=separate_processes) in ("thread", "serial")
        reason = lineage.find_reason(starts_processes=not shares_memory)
        if reason is not None:
            self._stay_unstarted(reason)
            return
        backends.warm_up(backend, separate_processes=separate_processes, start_method=start_method)
        # All that a pool is made of is loaded only here, while the root nursery is starting.
        from objproxy.making import make_core
        from objproxy.names import PoolNames

        core = make_core(
            cls,
            pool_names=POOL_NAMES - _EXPECTED_TWICE,
            devices=devices,
            worker_count=worker_count,
            init_args=init_args,
            init_kwargs=init_kwargs,
            init_args_each=init_args_each,
            dedicated=dedicated,
            separate_processes=separate_processes,
            backend=backend,
            start_method=start_method,
            seed=seed,
            max_tasks_per_worker=max_tasks_per_worker,
            max_rss=max_rss,
            max_restarts=max_restarts,
            on_restart=on_restart,
            init_timeout=init_timeout,
            stall_warning=stall_warning,
            threads_per_worker=threads_per_worker,
            shared_memory_limit=shared_memory_limit,
            cpu_ids=cpu_ids,
            on_progress=on_progress,
            init_progress_bar=init_progress_bar,
            timeline=timeline,
            name=name,
            warn_unclosed=warn_unclosed,
        )
        self.__dict__["_core"] = core
        self.__dict__["_names"] = PoolNames(core)
        self.__dict__["_instances"] = {}
        self._core.start()

    def _stay_unstarted(self, reason: lineage.Reason) -> None:
        """Be a pool that can be made and ended, and nothing else; raise the error if it cannot be made either."""
        from objproxy.making import stand_in

        self.__dict__["_core"] = self.__dict__["_names"] = stand_in(reason)
        self.__dict__["_instances"] = {}

    # ---- the pool's own names ----------------------------------------------------------------------------------------

    @property
    def workers(self) -> tuple[WorkerView, ...]:
        """One frozen record for each worker: id, pid, device, generation, state, n_tasks, rss."""
        return self._core.views()

    @property
    def remote(self) -> Remote:
        """The instances' names, all of them, also those that the pool has itself: ``pool.remote.close()``."""
        return Remote(self)

    def close(self, timeout: float | None = None) -> None:
        """Finish what was submitted, run each instance's own ``close()`` or ``__exit__``, and end the workers.

        Parameters
        ----------
        timeout : float or None
            Seconds; past them the workers are killed. None waits as long as it takes.

        Raises
        ------
        Exception
            What an instance's own end has raised: that of the worker of lowest number, whose notes name the others.
        WorkerDiedError
            A worker died before it had ended.
        TaskTimeoutError
            A worker was killed, past `timeout`, in its instance's own end or while it waited for background work. What was
            submitted and had not ended by then fails with `PoolClosedError`.

        Notes
        -----
        When it returns or raises, no worker is left. Closing twice is harmless; the second time raises nothing. Using the
        pool afterwards raises `PoolClosedError`. ``join()`` after it, a habit from `multiprocessing.Pool`, finds nothing left
        to wait for; a class that has a ``join`` itself keeps its own.

        A worker ends as an interpreter does: threads that are no daemons, executors and child processes of
        ``multiprocessing`` are waited for, then the functions of `atexit` run. A worker that takes long is told of on the
        logger ``"objproxy"``, with its stacks (see ``stall_warning``). One that is stopped, or hangs in an exit function, is
        told of and killed after five seconds.

        An instance whose class has a ``close()`` that can be called without arguments is closed. Else one with ``__exit__``
        is entered (``__enter__``) when it was built, also after a restart, and left. What ``__enter__`` returns is the
        instance only where a function, and no class, has made it (``@contextlib.contextmanager``, say).
        """
        self._core.close(timeout)

    def kill(self) -> None:
        """End every worker now; what has no result yet fails with `PoolClosedError`."""
        self._core.kill()

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait until every worker is up again after a replacement; False if `timeout` seconds came first."""
        return self._core.wait_ready(timeout)

    def dump_stacks(self, timeout: float = 1.0) -> dict[int, str]:
        """Return where the threads of every worker stand at this moment, also of one that is stuck in compiled code.

        Parameters
        ----------
        timeout : float
            Seconds to wait for the workers.

        Returns
        -------
        dict of int to str
            For each worker the stacks of its threads, the innermost call first, as ``faulthandler`` writes them. For one that
            does not tell in time (it is stopped, say), what its process does. With ``backend="serial"`` there is nothing to
            tell: the caller's own thread runs the methods.
        """
        if timeout is None:
            raise TypeError("dump_stacks(None): expected the seconds to wait for the workers")
        check_seconds("timeout", timeout)
        return self._core.dump_stacks(timeout)

    def resize(self, n_workers: int) -> None:
        """Change the number of workers.

        Parameters
        ----------
        n_workers : int
            New number. Workers that go (those with the highest numbers) finish what they run and end politely; new ones
            are made as the first were, and with ``on_restart="replay"`` carry out the broadcasts that worker 0 has.
        """
        if n_workers is None:
            raise TypeError("resize(None): expected the number of workers")
        check_count("n_workers", n_workers)
        self._core.resize(n_workers)

    def checkpoint(self) -> None:
        """Take a snapshot of every instance, from which ``on_restart="snapshot"`` builds replacements.

        A snapshot is a pickle: an array in it that lies in a `SharedArray` comes back as an array of the instance's own.

        Raises
        ------
        TypeError
            An instance cannot be pickled.
        """
        self._core.checkpoint()

    def put(self, value: Any) -> SharedValue:
        """Ship a value once, and pass it to any number of calls at no further cost.

        Parameters
        ----------
        value : object
            Anything that can be pickled. What is put is a copy: later changes are not seen.

        Returns
        -------
        SharedValue
            Stands for the value in calls, also deep in a container. A worker's method gets the value itself, with its arrays
            read-only, on every back end. `SharedValue.close`, or dropping it, gives the memory back.

        Raises
        ------
        SharedMemoryFullError
            There is not enough memory.
        ArgumentPickleError
            The value cannot be pickled.

        Examples
        --------
        >>> import numpy as np
        >>> class Model:
        ...     def dot(self, data, weight):
        ...         return float(data.sum() * weight)
        >>> with ProxyPool(Model, worker_count=2) as pool:
        ...     data = pool.put(np.ones(1_000_000))
        ...     pool[0].dot(data, 2.0), pool[1].dot(data, 3.0)
        (2000000.0, 3000000.0)
        """
        return self._core.put(value)

    def insights(self) -> Insights:
        """Return where the time of each worker went (start, constructor, waiting, work, end), and the slowest items.

        Returns
        -------
        Insights
            To be printed; with ``ProxyPool(timeline=True)`` also to be saved as an image (``save_image``) or as a trace for
            Perfetto (``save_trace``). It can be asked for when the pool is closed, too.
        """
        return self._core.insights()

    # ---- instances ---------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the number of workers."""
        return self._core.n_workers

    def __getitem__(self, index: int) -> T:
        """Return one instance; its methods return plain results.

        Raises
        ------
        IndexError
            There is no such worker.
        """
        if type(index) is int:  # the usual way, without delay
            instance = self._instances.get(index)
            if instance is not None and index < self._core.n_workers:
                return cast(T, instance)
        n_workers = self._core.n_workers
        if not hasattr(index, "__index__"):
            raise TypeError(f"pool[{index!r}]: expected the number of a worker, 0 to {n_workers - 1}")
        if not -n_workers <= index < n_workers:
            raise IndexError(f"pool[{index}]: there are {n_workers} workers, 0 to {n_workers - 1}")
        # For a type checker the instance is what it stands for: pool[0].method(x) has the method's own type.
        return cast(T, self._instance(int(index) % n_workers))

    def _instance(self, worker_id: int) -> Instance:
        """Return the one stand-in for an instance: it keeps its methods, and ``pool[0].method(x)`` is called often."""
        instance = self._instances.get(worker_id)
        if instance is None:
            instance = self._instances[worker_id] = self._names.instance(worker_id)
        return instance

    def __iter__(self) -> Iterator[T]:
        """Iterate over the instances of now, whatever becomes of the pool's size meanwhile."""
        return iter([cast(T, self._instance(worker_id)) for worker_id in range(self._core.n_workers)])

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call every instance, as any of its methods."""
        return self._names.call()(*args, **kwargs)

    # ---- names of the class ------------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        """Return a method of the instances, or what they hold under this name."""
        if name.startswith("_"):
            raise AttributeError(f"ProxyPool forwards no underscored names; {name!r} is not reached through it")
        if name == "join":
            return self._names.find_join()
        return self._names.find(name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a data attribute on every instance; ``pool.n += 1`` applies the operator to what each instance holds."""
        if name.startswith("_"):
            raise AttributeError(f"ProxyPool forwards no underscored names; {name!r} cannot be set through it")
        if name in POOL_NAMES:
            raise AttributeError(f"{name!r} is the pool's own name; pool.remote.{name} = ... sets it on the instances")
        self._names.write(name, value)

    def __dir__(self) -> list[str]:
        """Return the pool's own names and those of the class and its instances."""
        return sorted({*POOL_NAMES, *self._names.all()})

    # ---- life --------------------------------------------------------------------------------------------------------

    def __enter__(self) -> ProxyPool[T]:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_exc_info: object) -> None:
        """Finish and close; left by an exception, end what runs."""
        if exc_type is None:
            self.close()
        else:
            self._core.leave()

    def __repr__(self) -> str:
        return repr(self._core)

    def __reduce__(self) -> Any:
        raise TypeError("a ProxyPool cannot be pickled: its workers belong to this process; make a pool where it is needed")


class Remote:
    """The names of the instances of a pool, without the pool's own; see `ProxyPool.remote`."""

    def __init__(self, pool: ProxyPool[Any]) -> None:
        self.__dict__["_pool"] = pool

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"underscored names are not forwarded: {name!r}")
        return self.__dict__["_pool"]._names.find(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise AttributeError(f"underscored names are not forwarded: {name!r}")
        self.__dict__["_pool"]._names.write(name, value)

    def __dir__(self) -> list[str]:
        return sorted(self.__dict__["_pool"]._names.all())

    def __repr__(self) -> str:
        return f"<names of the instances of {self.__dict__['_pool']!r}>"

"""`OMPRunner`: a queue of tasks, fed at any time, for objects of one class; a thin face of `objproxy.ProxyPool`."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from objproxy import (
    ArgumentPickleError,
    PoolBrokenError,
    PoolClosedError,
    ProxyPool,
    TaskTimeoutError,
    WorkerDiedError,
    preload,
)
from objproxy.devices import resolve_devices
from objproxy.handling import describe, is_a
from objproxy.ompr.helpers import OMPRException
from objproxy.ompr.report import Progress, Reporter, is_shown, show
from objproxy.ompr.spellings import accept_older_spellings
from objproxy.ompr.worker import Host, RunningWorker

__all__ = ["OMPRException", "OMPRunner", "RunningWorker"]

#: A worker may die this often, in so many seconds, before it is given up. Each death of a task is told by its result, reruns
#: are bounded, and constructors that fail in a row end a worker soon: so this is a large number in a long time.
_MAX_RESTARTS = (1000, 600.0)

#: What the errors of lost workers recommend.
_ADVICE = "The worker is replaced and the runner goes on; rerun_crashed=True tries such tasks again, max_reruns= times"

#: Seconds between two reports for ``report_interval="auto"``: usually, and with a log level of at most DEBUG.
_AUTO_INTERVAL, _AUTO_DEBUG_INTERVAL = 30.0, 10.0

preload()  # who imports this is going to make a runner


class OMPRunner:
    """Runs tasks on objects of one class: one in each worker process, one worker for each device.

    Tasks are dicts: keyword arguments of ``process``. They are given at any time with `process`, which never blocks, and
    results are taken with `get_result` or `get_all_results`.

    Parameters
    ----------
    rww_class : type
        A subclass of `RunningWorker`, or any class with a method ``process``. Its objects are made in the workers.
    rww_init_kwargs : mapping or None
        Arguments of its constructor. A parameter ``device`` (else ``devices``) that is not given gets the worker's device:
        None for the CPU, the int number of a GPU as that worker counts them (each sees its own alone).
    rww_lifetime : int or None
        Tasks after which an object is replaced by a fresh one, in a fresh process; None or 0: never.
    rww_init_sync : bool
        Tasks begin when all objects are made. This is always so here: the constructor returns then.
    devices : object
        As for `objproxy.ProxyPool`. Floats beyond 0..1 count too, as in OMPR: 2.0 is two workers for each CPU.
    ordered_results : bool
        Results in the order of the tasks, or as they come.
    task_timeout : float or None
        Seconds for one task, whatever it does, in compiled code too; its worker is replaced. None or 0: no limit.
    rerun_crashed : bool
        Whether a task that failed (an exception, a time-out, the death of its worker) is tried again.
    log_rww_exception : bool
        Whether the failure of a task is logged, as a warning.
    raise_rww_exception : bool
        Whether a failure is raised when its result is asked for, in place of an `OMPRException` as the result.
    report_interval : float, "auto", "none" or None
        Seconds between two reports (progress, speed, queue, time left, memory) in the log; None or "none": no reports.
    loglevel_worker : int or None
        Level of the logger that a constructor with a parameter ``logger`` is given.
    loglevel_subproc : int
        Messages of the runner below this level are not logged.
    max_reruns : int
        How often a task is tried again with `rerun_crashed`.
    max_tasks_queued : int or None
        Most tasks that wait in the queue; `process` refuses more with ``queue.Full``. None for no bound.
    max_results_kept : int or None
        Most tasks that are being processed or have a result that nobody has taken. None for no bound.
    name : str or None
        Name of the pool, for logs and errors.
    logger : logging.Logger or None
        Where the runner logs; default: the logger "objproxy.ompr".
    shows_reports : bool
        Write the reports to the standard error if no handler is set up that would show them. ``report_delay=`` turns it on, as
        in the generations of OMPR that have it, unless a `logger` is given.
    pool_options : mapping or None
        Further options of `objproxy.ProxyPool`: ``start_method`` (default here: "fork-if-safe", as quick as OMPR's own forks),
        ``seed``, ``init_timeout``, ``max_rss``, ...

    Raises
    ------
    WorkerInitError
        A constructor failed; nothing is left running.
    TypeError, ValueError
        An option that makes no sense; two spellings of one option.

    Notes
    -----
    The spellings of all generations of OMPR are understood: ``rw_class``, ``rw_init_kwargs``, ``rw_lifetime``,
    ``report_delay``, ``log_RWW_exception``, ``raise_RWW_exception``, ``loglevel``.

    A task that raises costs no object: the worker lives on. A task that runs out of time, or kills its worker, costs the
    worker, which is replaced by a fresh one, and nothing else. Any number of threads may use one runner.

    Examples
    --------
    >>> from objproxy.ompr import OMPRunner, RunningWorker
    >>> class Scaler(RunningWorker):
    ...     def __init__(self, factor):
    ...         self.factor = factor
    ...     def process(self, x):
    ...         return self.factor * x
    >>> with OMPRunner(Scaler, {"factor": 10}, devices=[None] * 2) as runner:
    ...     runner.process([{"x": 1}, {"x": 2}])
    ...     runner.process({"x": 3})
    ...     runner.get_result(), runner.get_all_results()
    (10, [20, 30])
    """

    @accept_older_spellings
    def __init__(
        self,
        rww_class: Any,
        rww_init_kwargs: Mapping[str, Any] | None = None,
        rww_lifetime: int | None = None,
        rww_init_sync: bool = False,
        devices: Any = "all",
        ordered_results: bool = True,
        task_timeout: float | None = None,
        rerun_crashed: bool = True,
        log_rww_exception: bool = True,
        raise_rww_exception: bool = False,
        report_interval: float | str | None = None,
        loglevel_worker: int | None = None,
        loglevel_subproc: int = logging.INFO,
        *,
        max_reruns: int = 3,
        max_tasks_queued: int | None = None,
        max_results_kept: int | None = None,
        name: str | None = None,
        logger: logging.Logger | None = None,
        shows_reports: bool = False,
        pool_options: Mapping[str, Any] | None = None,
    ) -> None:
        _check_class(rww_class)
        interval = _interval(report_interval, loglevel_subproc)
        self._logger = logger or logging.getLogger("objproxy.ompr")
        self._log_level = loglevel_subproc
        self._shows_reports = shows_reports and logger is None
        self._logs_failures = log_rww_exception or loglevel_subproc < logging.INFO
        self._raises_failures = raise_rww_exception
        self._attempts = 1 + max_reruns if rerun_crashed else 1
        self._returned: deque[Any] = deque()  # results that were taken for a call which then raised
        self._reporter: Reporter | None = None
        self._exit_lock = threading.Lock()
        self._is_over = False
        host_kwargs = {
            "init_kwargs": dict(rww_init_kwargs or {}),
            "logger_name": self._logger.name,
            "log_level": loglevel_worker,
        }
        options = {"max_restarts": _MAX_RESTARTS, "name": name, "start_method": "fork-if-safe", **(pool_options or {})}
        # The user's class is part of what is called to make an object, not an argument of it: so a pool loads it once, for all
        # workers and those that replace them, and not anew in each.
        make_host = functools.partial(Host, rww_class)
        label = getattr(rww_class, "__qualname__", type(rww_class).__qualname__)
        vars(make_host)["__qualname__"] = label  # for errors
        self._pool: ProxyPool[Host] = ProxyPool(
            make_host, init_kwargs=host_kwargs, devices=_devices(devices), max_tasks_per_worker=rww_lifetime or None, **options
        )
        try:
            run: Any = self._pool.run
            run = run.options(timeout=task_timeout or None, retries=self._attempts - 1, retry_on=BaseException)
            run = run.options(buffersize=max_results_kept, label=f"{label}.process", advice=_ADVICE)
            self._stream = run.stream(ordered=ordered_results, maxsize=max_tasks_queued, on_error=self._on_failure)
        except BaseException:
            self._pool.kill()
            raise
        if interval is not None:
            self._reporter = Reporter(self._look, interval, self._report)

    # ---- tasks and results -------------------------------------------------------------------------------------------

    def process(self, tasks: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> None:
        """Add tasks to the queue; this never waits, for room or for a result.

        Parameters
        ----------
        tasks : dict or iterable of dict
            One task, or any number of them. A list or tuple is taken at once; any other iterable is read by a thread, no
            faster than the workers need its tasks, so it may be endless. The dict of a task may be changed and given again;
            what it holds must not be changed before its result is there.

        Raises
        ------
        TypeError
            A task is not a dict; nothing was added.
        queue.Full
            There is no room for them (`max_tasks_queued`); nothing was added.
        PoolClosedError
            The runner has exited.
        """
        if self._is_over:
            raise PoolClosedError("the runner has exited; make a new one")
        if isinstance(tasks, Mapping):
            self._stream.put([dict(tasks)])
        elif isinstance(tasks, (list, tuple)):
            self._stream.put([_copy_task(task) for task in tasks])
        elif isinstance(tasks, Iterable) and not isinstance(tasks, (str, bytes)):
            self._stream.put(map(_copy_task, tasks))
        else:
            raise _wrong_task(tasks)

    def get_result(self, block: bool = True) -> Any:
        """Return the next result: in the order of the tasks, or as they come.

        Parameters
        ----------
        block : bool
            Whether to wait for it.

        Returns
        -------
        object
            What ``process`` returned, or an `OMPRException`; None if every result was returned already, or, without
            `block`, if none is ready.

        Raises
        ------
        Exception
            What ``process`` raised, with ``raise_rww_exception=True``; what an iterable of tasks raised.
        """
        if self._returned:
            with contextlib.suppress(IndexError):  # another thread was faster
                return self._returned.popleft()
        try:
            return self._stream.get(None if block else 0)
        except queue.Empty:
            return None

    def get_all_results(self, pop_ex_results: bool = False) -> list[Any]:
        """Wait for all tasks that were given up to now, and return their results.

        Parameters
        ----------
        pop_ex_results : bool
            Whether failed tasks are left out.

        Returns
        -------
        list
            The results that were not returned yet.

        Raises
        ------
        Exception
            As for `get_result`; the results before it are returned by the next call.
        """
        n_wanted = self._stream.n_outstanding
        results: list[Any] = []
        while self._returned:
            with contextlib.suppress(IndexError):  # another thread was faster
                results.append(self._returned.popleft())
        try:
            with contextlib.suppress(queue.Empty):
                self._take(results, None if n_wanted is None else len(results) + n_wanted)
        except BaseException:
            self._returned.extendleft(reversed(results))
            raise
        return [result for result in results if not isinstance(result, OMPRException)] if pop_ex_results else results

    def _take(self, results: list[Any], n_wanted: int | None) -> None:
        """Fill `results` up to `n_wanted`, or until nothing is outstanding (``queue.Empty``)."""
        while n_wanted is None or len(results) < n_wanted:
            results.append(self._stream.get())
            results += self._stream.take(None if n_wanted is None else n_wanted - len(results))

    def _on_failure(self, index: int, task: Any, error: BaseException) -> OMPRException:
        """Return what stands for a failed task; or raise."""
        exception = self._describe(index, task, error)
        if self._logs_failures:
            self._log(logging.WARNING, str(exception))
        if self._raises_failures:
            raise error
        return exception

    def _describe(self, index: int, task: Any, error: BaseException) -> OMPRException:
        is_unsent = is_a(error, (ArgumentPickleError, PoolBrokenError, PoolClosedError))
        attempts = error.attempts if is_a(error, WorkerDiedError) else 0 if is_unsent else self._attempts
        what = "RWW timeout" if is_a(error, TaskTimeoutError) else describe(error)
        times = f" (attempts: {attempts})" if attempts > 1 else ""
        exception = OMPRException(f"exception while processing task #{index}: {what}{times}", task=task, attempts=attempts)
        exception.__cause__ = error
        return exception

    # ---- what it tells -----------------------------------------------------------------------------------------------

    def get_tasks_stats(self) -> dict[str, int]:
        """Return the numbers of tasks received and of results returned."""
        n_returned = self._stream.n_given - len(self._returned)
        return {"n_tasks_received": self._stream.n_put, "n_results_returned": n_returned}

    def get_num_workers(self) -> int:
        """Return the number of workers: that of the devices."""
        return len(self._pool)

    def _look(self) -> Progress:
        try:
            sizes = [worker.rss for worker in self._pool.workers if worker.rss is not None]
        except (PoolBrokenError, PoolClosedError):
            sizes = []
        stream = self._stream
        return Progress(stream.n_put, stream.n_done, stream.n_queued, sum(sizes) if sizes else None)

    def _report(self, level: int, text: str) -> None:
        if self._shows_reports and level >= self._log_level and not is_shown(self._logger, level):
            show(text)
        else:
            self._log(level, text)

    def _log(self, level: int, text: str) -> None:
        if level >= self._log_level:
            self._logger.log(level, "%s", text)

    # ---- life --------------------------------------------------------------------------------------------------------

    def exit(self) -> None:
        """End the workers: politely when every result was returned, else at once, with a warning.

        Exiting twice is harmless. Results that were ready can still be taken.
        """
        with self._exit_lock:
            if self._is_over:
                return
            self._is_over = True
            is_done = self._stream.n_outstanding == 0
            if not is_done:
                self._log(logging.WARNING, "the runner exits with results that were not returned; tasks that run are ended")
            if self._reporter is not None:
                self._reporter.close()
            self._stream.close()
            if is_done:
                self._pool.close()
            else:
                self._pool.kill()

    def __enter__(self) -> OMPRunner:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.exit()

    def __repr__(self) -> str:
        state = "exited" if self._is_over else f"{self._stream.n_put} tasks received, {self._stream.n_given} results returned"
        return f"<OMPRunner on {self._pool!r}, {state}>"


def _check_class(rww_class: Any) -> None:
    if not callable(rww_class):
        raise TypeError(f"rww_class={rww_class!r}: expected a class with a method 'process'")
    if inspect.isclass(rww_class) and not callable(getattr(rww_class, "process", None)):
        raise TypeError(f"rww_class={rww_class.__name__}: it has no method 'process', which every task is given to")


def _copy_task(task: Any) -> dict[str, Any]:
    """Return a task as it is now: programs change one dict and give it again."""
    if not isinstance(task, Mapping):
        raise _wrong_task(task)
    return dict(task)


def _wrong_task(task: Any) -> TypeError:
    return TypeError(f"a task is a dict of the keyword arguments of process(); got {task!r}")


def _interval(wanted: float | str | None, log_level: int) -> float | None:
    """Return the seconds between two reports; None for no reports."""
    if wanted is None or wanted == "none":
        return None
    if wanted == "auto":
        return _AUTO_DEBUG_INTERVAL if log_level <= logging.DEBUG else _AUTO_INTERVAL
    if isinstance(wanted, bool) or not isinstance(wanted, (int, float)) or not wanted > 0:
        raise ValueError(f"report_interval={wanted!r}: expected a number of seconds, 'auto', 'none' or None")
    return float(wanted)


def _devices(devices: Any) -> Any:
    """Return OMPR's ways to name devices as `ProxyPool` understands them; most are the same."""
    if isinstance(devices, list) and devices:
        return [device for given in devices for device in _flat(_devices(given))]
    if isinstance(devices, str) and "cpu" in devices:
        return "cpu"
    if isinstance(devices, float) and not 0 <= devices <= 1:
        return [None] * max(1, round(len(resolve_devices("all")) * devices))
    return devices


def _flat(devices: Any) -> Iterator[Any]:
    yield from devices if isinstance(devices, list) and devices else [devices]

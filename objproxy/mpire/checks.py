"""Checks of what a `WorkerPool` and its maps are given, before any worker is touched."""

from __future__ import annotations

import dataclasses
import multiprocessing
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from objproxy.mpire.context import DEFAULT_START_METHOD, RUNNING_MACOS, find_context
from objproxy.mpire.tqdm_utils import check_options, find_style

#: The shortest time limit in seconds.
_MIN_SECONDS = 1e-8


@dataclasses.dataclass
class PoolParams:
    """The parameters of a `WorkerPool`; see there."""

    n_jobs: int | None = None
    daemon: bool = True
    cpu_ids: Any = None
    shared_objects: Any = None
    pass_worker_id: bool = False
    use_worker_state: bool = False
    start_method: str = DEFAULT_START_METHOD
    keep_alive: bool = False
    use_dill: bool = False
    enable_insights: bool = False
    order_tasks: bool = False

    def __post_init__(self) -> None:
        check_number("n_jobs", self.n_jobs, (int,), 0)
        self.n_jobs = self.n_jobs or multiprocessing.cpu_count()
        find_context(self.start_method)
        self.cpu_ids = check_cpu_ids(self.cpu_ids, self.n_jobs)
        if self.cpu_ids is not None and self.start_method == "threading":
            raise ValueError("cpu_ids needs workers that are processes; with start_method='threading' leave it out")

    @property
    def n_workers(self) -> int:
        """Number of workers."""
        assert self.n_jobs is not None
        return self.n_jobs


@dataclasses.dataclass(frozen=True)
class Functions:
    """The functions of one call, and their time limits.

    Attributes
    ----------
    func, worker_init, worker_exit : callable or None
        As in `WorkerPool.map`.
    task_timeout, worker_init_timeout, worker_exit_timeout : float or None
        Seconds.
    """

    func: Callable[..., Any]
    worker_init: Callable[..., Any] | None = None
    worker_exit: Callable[..., Any] | None = None
    task_timeout: float | None = None
    worker_init_timeout: float | None = None
    worker_exit_timeout: float | None = None

    def __post_init__(self) -> None:
        for name in ("func", "worker_init", "worker_exit"):
            value = getattr(self, name)
            if not callable(value) and (name == "func" or value is not None):
                raise TypeError(f"{name}={value!r}: expected a function")
        for name in ("task_timeout", "worker_init_timeout", "worker_exit_timeout"):
            check_number(name, getattr(self, name), (int, float), _MIN_SECONDS)


@dataclasses.dataclass(frozen=True)
class MapParams:
    """How one map treats its items; the fields are parameters of `WorkerPool.map`."""

    iterable_of_args: Iterable[Any]
    iterable_len: int | None = None
    max_tasks_active: int | None = None
    chunk_size: int | float | None = None
    n_splits: int | None = None
    worker_lifespan: int | None = None
    progress_bar: bool = False
    progress_bar_options: dict[str, Any] | None = None
    progress_bar_style: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.iterable_of_args, Iterable) and not hasattr(self.iterable_of_args, "__getitem__"):
            raise TypeError(f"iterable_of_args={self.iterable_of_args!r}: expected an iterable with the arguments of each task")
        check_number("iterable_len", self.iterable_len, (int,), 0)
        check_number("chunk_size", self.chunk_size, (int, float), 1)
        check_number("n_splits", self.n_splits, (int,), 1)
        check_number("max_tasks_active", self.max_tasks_active, (int,), 1)
        check_number("worker_lifespan", self.worker_lifespan, (int,), 1)
        find_style(self.progress_bar_style)
        check_options(self.progress_bar_options)


def gather(arguments: Mapping[str, Any]) -> tuple[Functions, MapParams]:
    """Return what a map was given, from its arguments by their names."""
    functions = {field.name: arguments[field.name] for field in dataclasses.fields(Functions)}
    params = {field.name: arguments[field.name] for field in dataclasses.fields(MapParams)}
    return Functions(**functions), MapParams(**params)


def check_number(name: str, value: Any, kinds: tuple[type, ...], smallest: float) -> None:
    """Check that `value` is None or a number of one of `kinds` that is not too small.

    Raises
    ------
    TypeError, ValueError
        It is something else; it is too small.
    """
    if value is None:
        return
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    if not is_number:
        names = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{name} should be of type {names}, or None; got {value!r}")
    if value < smallest:
        raise ValueError(f"{name} should be >= {smallest}; got {value!r}")


def check_concatenation(value: Any) -> None:
    """Check that `concatenate_numpy_output` is True or False.

    Raises
    ------
    TypeError
        It is something else, such as the ``progress_bar_position`` that stood in its place before MPIRE 2.10.
    """
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise TypeError(
            f"concatenate_numpy_output={value!r}: expected True or False; before MPIRE 2.10 progress_bar_position stood in "
            "this place, which is progress_bar_options={'position': ...} now"
        )


def check_cpu_ids(cpu_ids: Any, n_jobs: int) -> list[list[int]] | None:
    """Check which processors each worker is pinned to; return a list of them for each entry.

    Raises
    ------
    TypeError
        An entry is neither an int nor a list of them.
    ValueError
        There are as many entries as neither workers nor one; a processor does not exist.
    """
    if not cpu_ids:
        return None
    if RUNNING_MACOS:
        warnings.warn("macOS cannot pin processes to processors; cpu_ids is ignored", RuntimeWarning, stacklevel=4)
        return None
    if not isinstance(cpu_ids, Sequence) or isinstance(cpu_ids, (str, bytes)):
        raise TypeError(f"cpu_ids={cpu_ids!r}: expected a list with a CPU ID, or a list of them, for each worker")
    if len(cpu_ids) not in (1, n_jobs):
        raise ValueError(f"Number of CPU IDs ({len(cpu_ids)}) does not match number of jobs ({n_jobs})")
    lists: list[list[Any]] = [list(entry) if isinstance(entry, (list, tuple)) else [entry] for entry in cpu_ids]
    highest = multiprocessing.cpu_count() - 1
    for cpu in (cpu for entry in lists for cpu in entry):
        if not isinstance(cpu, int):
            raise TypeError(f"CPU ID(s) must be either a list or a single integer; got {cpu!r}")
        if cpu < 0:
            raise ValueError(f"CPU IDs cannot be negative; got {cpu}")
        if cpu > highest:
            raise ValueError(f"CPU ID {cpu} exceeds the maximum CPU ID available on your system: {highest}")
    return lists

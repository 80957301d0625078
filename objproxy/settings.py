"""Options of a pool, checked before anything is started."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from objproxy._checks import check_count, check_flag, check_seconds
from objproxy._cpus import usable_cpu_count
from objproxy.backends.base import Capabilities, _ignore_progress
from objproxy.errors import NotSupportedError

#: What numerical libraries read, once, when they are loaded.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
    "TOKIO_WORKER_THREADS",
    "OPENCV_FOR_THREADS_NUM",
    "ARROW_IO_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "BLOSC_NTHREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)

#: Threads of Arrow's pool for input and output where no variable says another number.
_ARROW_IO_THREADS = 8


@dataclasses.dataclass(frozen=True)
class PoolSettings:
    """The options of `ProxyPool` that are neither class, arguments nor devices; see there."""

    dedicated: bool = False
    start_method: str | None = None
    max_tasks_per_worker: int | None = None
    max_rss: int | None = None
    max_restarts: tuple[int, float] = (3, 5.0)
    on_restart: str = "fresh"
    init_timeout: float | None = None
    stall_warning: float | None = None
    shared_memory_limit: int | None = None
    threads_per_worker: int | str | None = "auto"
    on_progress: Callable[[int, int, int | None], None] = _ignore_progress
    warn_unclosed: bool = True

    def __post_init__(self) -> None:
        check_count("max_tasks_per_worker", self.max_tasks_per_worker)
        check_count("max_rss", self.max_rss)
        check_count("shared_memory_limit", self.shared_memory_limit)
        check_seconds("init_timeout", self.init_timeout)
        check_seconds("stall_warning", self.stall_warning)
        check_flag("warn_unclosed", self.warn_unclosed)
        if self.on_restart not in ("fresh", "replay", "snapshot"):
            raise ValueError(f"on_restart={self.on_restart!r}: expected 'fresh', 'replay' or 'snapshot'")
        if self.threads_per_worker not in ("auto", None):
            check_count("threads_per_worker", self.threads_per_worker)
        self._check_max_restarts()

    def _check_max_restarts(self) -> None:
        try:
            count, seconds = self.max_restarts
            is_good = count >= 0 and seconds > 0
        except (TypeError, ValueError):
            is_good = False
        if not is_good:
            raise ValueError(f"max_restarts={self.max_restarts!r}: expected (count, seconds), for instance (3, 5.0)")

    def check_for(self, backend: str, capabilities: Capabilities) -> None:
        """Refuse what the back end cannot do.

        Raises
        ------
        NotSupportedError
            It names the option and the back end.
        """
        refused = {
            "start_method": self.start_method is not None and not capabilities.start_methods,
            "max_rss": self.max_rss is not None and not capabilities.can_kill,
            "shared_memory_limit": self.shared_memory_limit is not None and not capabilities.crosses_processes,
            "init_timeout": self.init_timeout is not None and not capabilities.can_kill,
            "threads_per_worker": isinstance(self.threads_per_worker, int) and not capabilities.binds_devices,
        }
        for name, is_refused in refused.items():
            if is_refused:
                value = getattr(self, name)
                raise NotSupportedError(f"{name}={value!r} cannot be honoured by backend={backend!r}; use backend='process'")
        methods = capabilities.start_methods
        if self.start_method is not None and self.start_method not in methods:
            names = ", ".join(map(repr, methods))
            raise ValueError(f"start_method={self.start_method!r}: expected one of {names}, 'fork-if-safe' or None")

    @functools.cached_property
    def _n_cpus(self) -> int:
        return usable_cpu_count()

    def n_threads(self, n_workers: int) -> int | None:
        """Return the threads of numerical libraries in each worker; None leaves them alone."""
        if self.threads_per_worker is None:
            return None
        if self.threads_per_worker == "auto":
            return max(1, self._n_cpus // n_workers)
        return int(self.threads_per_worker)

    def thread_environ(self, n_workers: int) -> dict[str, str | None]:
        """Return the variables that limit threads; one that the user has set wins."""
        n_threads = self.n_threads(n_workers)
        if n_threads is None:
            return {}
        most = {"ARROW_IO_THREADS": _ARROW_IO_THREADS}  # more than it would have anyway
        return {name: str(min(n_threads, most.get(name, n_threads))) for name in THREAD_VARIABLES if name not in os.environ}


def check_cpu_ids(cpu_ids: Any, n_workers: int) -> tuple[tuple[int, ...], ...] | None:
    """Check and complete ``cpu_ids``: an int or a list of them for each worker; one entry stands for all.

    Raises
    ------
    TypeError
        It is something else.
    ValueError
        The number of entries is wrong, or a processor does not exist.
    """
    if cpu_ids is None:
        return None
    if isinstance(cpu_ids, (str, bytes)) or not isinstance(cpu_ids, Iterable):
        raise TypeError(f"cpu_ids={cpu_ids!r}: expected a list with a processor, or a list of processors, for each worker")
    entries = tuple(_check_cpus(entry) for entry in cpu_ids)
    if len(entries) not in (1, n_workers):
        raise ValueError(f"cpu_ids has {len(entries)} entries for {n_workers} workers; expected 1 or {n_workers}")
    return entries


def _check_cpus(entry: Any) -> tuple[int, ...]:
    cpus: Sequence[Any] = tuple(entry) if isinstance(entry, Iterable) and not isinstance(entry, str) else (entry,)
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    for cpu in cpus:
        if isinstance(cpu, bool) or not hasattr(cpu, "__index__"):
            raise TypeError(f"cpu_ids: {cpu!r} is no processor; expected an int")
        if cpu not in allowed:
            raise ValueError(f"cpu_ids: processor {cpu} is not among those that this process may use: {sorted(allowed)}")
    return tuple(int(cpu) for cpu in cpus)

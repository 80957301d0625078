"""From the arguments of ``ProxyPool`` to the engine of a pool."""

from __future__ import annotations

import importlib
import itertools
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from objproxy import backends
from objproxy._checks import check_count, check_flag
from objproxy._cpus import usable_cpu_count
from objproxy._worker import lineage
from objproxy._worker.native_threads import find_unbounded
from objproxy.backends.base import Backend
from objproxy.backends.nurseries import is_root_forked, settle_start_method
from objproxy.backends.watched import WatchedBackend, Watcher
from objproxy.core import PoolCore
from objproxy.devices import Device, resolve_devices
from objproxy.errors import NotSupportedError
from objproxy.progress import check_progress_bar
from objproxy.recipe import PoolRecipe
from objproxy.settings import PoolSettings, check_cpu_ids
from objproxy.signatures import ClassInfo
from objproxy.startup import StartUpBar
from objproxy.unstarted import UnstartedPool, make_error

if TYPE_CHECKING:
    from objproxy.timeline import Timeline

_pool_numbers = itertools.count(1)
_logger = logging.getLogger("objproxy")

#: Libraries of which was told that forked workers cannot limit their threads.
_told_unbounded: set[str] = set()

#: What a pool of processes loads when it is made, and this module does not.
_LOADED_LATER = (
    "objproxy._engine.streaming",
    "objproxy._worker.code_pickler",
    "objproxy._worker.logs",
    "objproxy._worker.loop",
    "objproxy.backends.choice",
    "objproxy.backends.process",
    "objproxy.names",
)


def preload() -> None:
    """Load what a program's first pool would otherwise load while it is made: a few hundredths of a second.

    Call it where waiting hurts less than where the pool is made. No process is started. To call it again does nothing, nor
    does it in a worker.
    """
    if lineage.here.is_helper:  # a class's module may call this, and workers seldom make pools
        return
    for name in _LOADED_LATER:
        importlib.import_module(name)


def stand_in(reason: lineage.Reason) -> Any:
    """Return what takes the place of the engine of a pool that a worker makes while it imports a module.

    Raises
    ------
    NestedPoolError
        It is no import.
    """
    if not reason.is_import:
        raise make_error(reason)
    return UnstartedPool(reason)


def make_core(
    cls: Callable[..., Any],
    *,
    pool_names: frozenset[str],
    devices: Any,
    worker_count: int | None,
    init_args: Sequence[Any],
    init_kwargs: Mapping[str, Any] | None,
    init_args_each: Sequence[Any] | None,
    dedicated: bool,
    separate_processes: bool,
    backend: Any,
    start_method: str | None,
    seed: Any,
    max_tasks_per_worker: int | None,
    max_rss: int | None,
    max_restarts: tuple[int, float],
    on_restart: str,
    init_timeout: float | None,
    stall_warning: float | None,
    threads_per_worker: int | str | None,
    shared_memory_limit: int | None,
    cpu_ids: Any,
    on_progress: Callable[[int, int, int | None], None] | None,
    init_progress_bar: Any,
    timeline: bool,
    name: str | None,
    warn_unclosed: bool,
) -> PoolCore:
    """Check the arguments of a pool and make its engine; nothing is started yet.

    Parameters
    ----------
    cls : callable
        The class.
    pool_names : frozenset of str
        Names that the class had better not have, because they are the pool's.
    **kwargs
        As for `objproxy.ProxyPool`.
    """
    _check_seed(seed)
    check_flag("timeline", timeline)
    check_progress_bar(init_progress_bar)
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name={name!r}: expected a str")
    engine = backends.resolve(backend, separate_processes=separate_processes)
    try:
        resolved, n_workers = _resolve_workers(devices, worker_count, init_args_each)
        settings = PoolSettings(
            dedicated=dedicated,
            start_method=_choose_start_method(start_method, engine, resolved),
            max_tasks_per_worker=max_tasks_per_worker,
            max_rss=max_rss,
            max_restarts=max_restarts,
            on_restart=on_restart,
            init_timeout=init_timeout,
            stall_warning=stall_warning,
            threads_per_worker=threads_per_worker,
            shared_memory_limit=shared_memory_limit,
            warn_unclosed=warn_unclosed,
            **({"on_progress": on_progress} if on_progress is not None else {}),
        )
        settings.check_for(engine.name, engine.capabilities)
        if settings.start_method == "fork":
            _tell_unbounded(settings, n_workers)
        recipe = PoolRecipe(
            ClassInfo(cls),
            name=name or f"pool-{next(_pool_numbers)}",
            devices=resolved,
            n_workers=n_workers,
            arguments=_arguments(init_args, init_kwargs, init_args_each, n_workers),
            seed=seed,
            cpu_ids=_check_pinning(cpu_ids, n_workers, engine),
            n_threads=settings.n_threads(n_workers),
            is_masked=engine.capabilities.binds_devices,
            on_restart=on_restart,
            max_rss=max_rss,
        )
        line = _make_timeline() if timeline else None
        core = PoolCore(recipe, _watched(engine, line, init_progress_bar, recipe), settings, line)
        _warn_of_hidden_names(recipe.info, pool_names)
    except BaseException:
        engine.close()  # it holds descriptors from the beginning
        raise
    return core


def _tell_unbounded(settings: PoolSettings, n_workers: int) -> None:
    """Tell of libraries whose threads forked workers cannot limit, each once."""
    n_threads = settings.n_threads(n_workers)
    if n_threads is None or n_threads >= usable_cpu_count():
        return
    for name, reason in find_unbounded(settings.thread_environ(n_workers)).items():
        if name in _told_unbounded:
            continue
        _told_unbounded.add(name)
        said = (
            f"start_method='fork': the program has loaded {name} already, so its threads in workers cannot be limited to "
            f"{n_threads}: {reason}. Use the default start method, or import {name} in the workers only."
        )
        is_asked_for = isinstance(settings.threads_per_worker, int)
        # Too many threads of BLAS cost time, and nearly every program has it loaded; others may hang.
        is_harmless = name == "numpy"
        if is_asked_for and not is_harmless:
            warnings.warn(said, UserWarning, stacklevel=4)
        else:
            _logger.log(logging.INFO if is_harmless and not is_asked_for else logging.WARNING, said)


def _make_timeline() -> Timeline:
    from objproxy.timeline import Timeline  # few pools want one

    return Timeline()


def _watched(engine: Backend, timeline: Timeline | None, init_progress_bar: Any, recipe: PoolRecipe) -> Backend:
    """Return the back end with those who want to know what happens to its workers."""
    watchers: list[Watcher] = [] if timeline is None else [timeline]
    if init_progress_bar:
        watchers.append(StartUpBar(init_progress_bar, recipe.name, recipe.n_workers))
    return WatchedBackend(engine, watchers) if watchers else engine


def _resolve_workers(
    devices: Any, worker_count: int | None, init_args_each: Sequence[Any] | None
) -> tuple[list[Device | None], int]:
    """Return the devices, and the number of workers that share them."""
    check_count("worker_count", worker_count)
    is_default = isinstance(devices, str) and devices == "all"
    if worker_count is None and is_default and init_args_each is not None:
        worker_count = max(len(init_args_each), 1)
    if worker_count is not None and is_default:
        return [None], worker_count
    resolved = resolve_devices(devices, cpu_count=usable_cpu_count())
    return resolved, worker_count or len(resolved)


def _choose_start_method(wanted: str | None, engine: Backend, devices: Sequence[Device | None]) -> str | None:
    """Return ``start_method=`` for these devices: calls into a CUDA context that was forked fail, or hang."""
    has_gpus = any(device is not None for device in devices)
    if wanted == "fork" and has_gpus:
        raise NotSupportedError(
            "start_method='fork' cannot be used with CUDA devices, since a CUDA context does not survive a fork; "
            "leave start_method out, or give 'forkserver' or 'spawn'"
        )
    if has_gpus and engine.capabilities.start_methods and is_root_forked():
        raise NotSupportedError(
            "CUDA devices need worker processes that are no forks of this program, and there is no interpreter to start them; "
            "name one by multiprocessing.set_executable()"
        )
    return settle_start_method(wanted, may_fork=bool(engine.capabilities.start_methods) and not has_gpus)


def _arguments(
    init_args: Sequence[Any], init_kwargs: Mapping[str, Any] | None, each: Sequence[Any] | None, n_workers: int
) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Return (args, kwargs) for each worker, or one entry that stands for all."""
    if isinstance(init_args, (str, bytes)) or not isinstance(init_args, Sequence):
        raise TypeError(
            f"init_args={init_args!r}: expected a tuple of the constructor's arguments, for instance ({init_args!r},)"
        )
    if init_kwargs is not None and not isinstance(init_kwargs, Mapping):
        raise TypeError(f"init_kwargs={init_kwargs!r}: expected a dict of the constructor's keyword arguments")
    common, names = tuple(init_args), dict(init_kwargs or {})
    if each is None:
        return [(common, names)]
    if len(each) != n_workers:
        raise ValueError(f"init_args_each has arguments for {len(each)} workers, the pool has {n_workers}")
    return [_one_of_each(entry, common, names) for entry in each]


def _one_of_each(entry: Any, common: tuple[Any, ...], names: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(entry, Mapping):
        return common, {**names, **entry}
    if isinstance(entry, (tuple, list)):
        return tuple(entry), names
    raise TypeError(f"init_args_each: expected a tuple or a dict for each worker, got {entry!r}")


def _check_seed(seed: Any) -> None:
    """Check that `seed` is None, or an int as `numpy.random.SeedSequence` takes it."""
    if seed is None:
        return
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise TypeError(f"seed={seed!r}: expected an int, or None for streams that nobody can repeat")
    if seed < 0:
        raise ValueError(f"seed={seed!r}: expected an int of at least 0")


def _check_pinning(cpu_ids: Any, n_workers: int, engine: Any) -> tuple[tuple[int, ...], ...] | None:
    checked = check_cpu_ids(cpu_ids, n_workers)
    if checked is not None and not engine.capabilities.binds_devices:
        raise NotSupportedError(f"cpu_ids cannot be honoured by backend={engine.name!r}; use backend='process'")
    return checked


def _warn_of_hidden_names(info: ClassInfo, pool_names: frozenset[str]) -> None:
    hidden = sorted(pool_names & set(info.public_names()))
    if hidden:
        names = ", ".join(f"pool.remote.{name}" for name in hidden)
        warnings.warn(
            f"{info.name} has names that the pool has too; reach the class's own as {names}", UserWarning, stacklevel=4
        )

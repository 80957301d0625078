"""Bring a worker up: environment, threads, seeds, log records, then the user's object, in this order."""

from __future__ import annotations

import contextlib
import os
import pickle
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from objproxy._worker import lineage, reducers
from objproxy._worker.context import Worker
from objproxy._worker.event_loop import EventLoop
from objproxy._worker.execute import Host
from objproxy._worker.heritage import Heritage, take_heritage
from objproxy._worker.native_threads import limit_threads
from objproxy._worker.seeding import ItemStreams, seed_worker
from objproxy._worker.shared_values import register_packed
from objproxy._worker.wire import Operation


class Boot(NamedTuple):
    """Everything that a worker needs to come up; one pickle, the first frame on its channel.

    Attributes
    ----------
    worker_id, n_workers, generation, pool_name
        As in ``current_worker()``.
    device : bytes
        Pickled device; opened after the environment is set.
    environ : dict
        Variables to set before anything of the user is imported; None removes one.
    cpu_ids : tuple of int or None
        Processors that the worker may use.
    n_threads : int or None
        Limit for libraries that have to be told by a call; see `native_threads`.
    entropy : int
        Root of the random streams.
    seed_words : tuple of int or None
        State for ``random`` and ``numpy.random``, from ``SeedSequence(seed).spawn``; None without a seed.
    log_levels : dict
        Levels of the parent's loggers; "" is the root's.
    factory : bytes
        Pickled class (or factory).
    registered : dict
        Functions that the program has given to `register_buffers`, pickled, by module and name of the type.
    has_snapshot : bool
        Whether a pickled object to start from follows this message, and not (args, kwargs) for the constructor.
    n_replays : int
        Number of operations that follow, to be carried out after the constructor.
    max_rss : int or None
        Bytes of memory above which the worker asks to be replaced.
    depth : int
        How many pools are above the worker's code; see `lineage`.
    heritage : Heritage or None
        What it takes over as a child of `multiprocessing` does.
    shared_types : tuple
        Types whose objects cross once; see `shared_values`.
    segments_prefix, segments_base, shared_memory_limit : str, int, int or None
        Where the worker's shared memory is, and how much it may hold; see `WorkerPlane`.
    """

    worker_id: int
    n_workers: int
    generation: int
    pool_name: str
    device: bytes
    environ: dict[str, str | None]
    cpu_ids: tuple[int, ...] | None
    n_threads: int | None
    entropy: int
    seed_words: tuple[int, ...] | None
    log_levels: dict[str, int]
    factory: bytes
    registered: dict[tuple[str, str], bytes]
    has_snapshot: bool = False
    n_replays: int = 0
    max_rss: int | None = None
    depth: int = 1
    heritage: Heritage | None = None
    shared_types: tuple[tuple[str, str, Any], ...] = ()
    segments_prefix: str = ""
    segments_base: int = 0
    shared_memory_limit: int | None = None


class Ready(NamedTuple):
    """The first answer of a worker.

    Attributes
    ----------
    pid : int
        Its process.
    init_seconds : float
        Time that the constructor took.
    attributes : tuple of str
        Names that the new object holds itself.
    """

    pid: int
    init_seconds: float
    attributes: tuple[str, ...]


def apply_environment(boot: Boot) -> None:
    """Set the variables, the processors and the keys of this worker, before anything of the user is imported."""
    for name, value in boot.environ.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if boot.cpu_ids is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, boot.cpu_ids)
    take_heritage(boot.heritage, f"{boot.pool_name}-{boot.worker_id}")


#: The class that the nursery has loaded, by its pickle; its workers inherit it.
_loaded: dict[bytes, Any] = {}


def load_factory(pickled: bytes, *, keep: bool = False) -> Any:
    """Unpickle a class, or take the one that was loaded before this process was forked."""
    factory = _loaded.get(pickled)
    if factory is None:
        factory = pickle.loads(pickled)
        if keep:
            _loaded[pickled] = factory
    return factory


def build_host(boot: Boot, worker: Worker, read_cargo: Callable[[], Any]) -> tuple[Host, Ready]:
    """Build the user's object; whatever its constructor raises passes through.

    `read_cargo` gives what follows the boot message, one after the other: it may be large, and travels like arguments of calls.
    """
    reducers.hear(boot.registered)
    limit_threads(boot.n_threads)
    factory = load_factory(boot.factory)
    register_packed(boot.shared_types)  # behind those that the module of the class registers
    lineage.here.is_loading = False  # the constructor may make a pool
    seed_worker(boot.seed_words)
    began = time.perf_counter()
    if boot.has_snapshot:
        instance = _load_snapshot(read_cargo())
    else:
        args, kwargs = read_cargo()
        instance = factory(*args, **kwargs)
        del args, kwargs

    replays = [Operation(*read_cargo()) for _ in range(boot.n_replays)]
    streams = None if boot.seed_words is None else ItemStreams(worker)
    loop = EventLoop(is_of_thread=True)
    host = make_host(instance, worker, replays, is_of_factory=not isinstance(factory, type), item_streams=streams, loop=loop)
    return host, Ready(os.getpid(), time.perf_counter() - began, own_attributes(host.instance))


def make_host(
    instance: Any,
    worker: Worker,
    replays: Iterable[Operation],
    *,
    is_of_factory: bool,
    item_streams: ItemStreams | None = None,
    loop: EventLoop | None = None,
) -> Host:
    """Enter an object that was just made, or rebuilt from a snapshot, and carry out again what its predecessor had."""
    host = Host(instance, worker, is_of_factory=is_of_factory, item_streams=item_streams, loop=loop)
    try:
        host.enter()
    except BaseException:
        with contextlib.suppress(BaseException):
            host.loop.close()
        raise
    try:
        for operation in replays:
            host.perform(operation)
    except BaseException:
        with contextlib.suppress(BaseException):  # the error of the constructor is the one to tell
            host.finish()
        raise
    return host


@lineage.unpickles_arguments
def _load_snapshot(snapshot: bytes) -> Any:
    return pickle.loads(snapshot)


def own_attributes(instance: Any) -> tuple[str, ...]:
    """Return the public names that the object itself holds, as far as it lets one look."""
    try:
        return tuple(name for name in vars(instance) if type(name) is str and not name.startswith("_"))
    except Exception:
        return ()

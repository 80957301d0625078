"""``current_worker()``: what code inside a worker may know about itself."""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
from collections.abc import Callable
from typing import Any

from objproxy._worker import forking, lineage
from objproxy._worker.hubs import get_ident

__all__ = ["Worker", "current_worker", "report_progress"]

#: Second element of the spawn key of a stream of an item; worker streams use the worker's number alone.
_ITEM_STREAM = 2**31

#: Seconds between two reports of progress of one worker.
_REPORT_SECONDS = 0.1


class _Reports:
    """Sends the latest report of progress, and not too often.

    Parameters
    ----------
    send : callable
        Called with (done, total).
    """

    def __init__(self, send: Callable[[int, int | None], None]) -> None:
        self._send = send
        self._n_forks = forking.count
        self._lock = threading.Lock()  # guards the other fields: any thread of a task may report
        self._latest: tuple[int, int | None] | None = None
        self._sent_at = float("-inf")
        self._timer: threading.Timer | None = None  # sends the latest report when its time has come

    def tell(self, done: int, total: int | None) -> None:
        """Send a report, now or soon; a later one takes its place. In a forked child do nothing."""
        if self._n_forks != forking.count:
            return
        with self._lock:
            self._latest = done, total
            wait = self._sent_at + _REPORT_SECONDS - time.monotonic()
            if done == total or wait <= 0:
                self._send_latest()
            elif self._timer is None:
                self._timer = threading.Timer(wait, self._send_late)
                self._timer.daemon = True  # a worker that ends does not wait for it
                self._timer.start()

    def _send_late(self) -> None:
        with self._lock:
            self._timer = None
            if self._latest is not None:
                with contextlib.suppress(ConnectionError):  # the parent is gone
                    self._send_latest()

    def _send_latest(self) -> None:
        assert self._latest is not None
        latest, self._latest = self._latest, None
        self._sent_at = time.monotonic()
        self._send(*latest)


class ItemOfTask:
    """The item of a concurrent task, and its random stream: tasks that overlap draw by turns, each from its own.

    Parameters
    ----------
    key : (int, int)
        Number of the call and index of the item.
    """

    __slots__ = ("key", "rng")

    def __init__(self, key: tuple[int, int]) -> None:
        self.key = key
        self.rng: Any = None


#: The item of the concurrent task that runs the calling code; a thread of `asyncio.to_thread` has it too.
item_of_task: contextvars.ContextVar[ItemOfTask | None] = contextvars.ContextVar("objproxy_item", default=None)


class Worker:
    """The worker that runs the calling code.

    Attributes
    ----------
    worker_id : int
        Index of the worker in its pool, ``0 <= worker_id < n_workers``.
    n_workers : int
        Number of workers of the pool when this worker started.
    device : Device or None
        The device it is bound to; None for a CPU worker.
    generation : int
        0 for the first worker of this index, +1 for each replacement.
    pool_name : str
        Name of the pool.
    """

    def __init__(
        self,
        worker_id: int,
        n_workers: int,
        *,
        device: Any = None,
        generation: int = 0,
        pool_name: str = "",
        entropy: int = 0,
        on_progress: Callable[[int, int | None], None] | None = None,
        depth: int = 1,
    ) -> None:
        self.worker_id = worker_id
        self.n_workers = n_workers
        self.device = device
        self.generation = generation
        self.pool_name = pool_name
        self._entropy = entropy
        self._depth = depth  # how many pools are above its code, this one among them
        self._reports = None if on_progress is None else _Reports(on_progress)
        self._own_rng: Any = None
        self._item_rng: Any = None
        self._item_key: tuple[int, int] | None = None
        # Set by the loop: (call number, index of the running item), or None outside of a fan-out.
        self._locate_item: Callable[[], tuple[int, int] | None] = lambda: None

    @property
    def rng(self) -> Any:
        """A ``numpy.random.Generator``.

        Each item of a map, and each ``submit`` to whichever worker is free, has a stream of its own. It depends on the pool's
        seed, the number of the call and the item's index, and not on the workers. Elsewhere it is the worker's own stream,
        different for every worker and generation.
        """
        item = item_of_task.get()
        if item is not None:
            if item.rng is None:
                item.rng = self._make_rng((_ITEM_STREAM, *item.key))
            return item.rng

        key = self._locate_item()
        if key is None:
            if self._own_rng is None:
                self._own_rng = self._make_rng(worker_spawn_key(self.worker_id, self.generation))
            return self._own_rng

        if key != self._item_key:
            self._item_key = key
            self._item_rng = self._make_rng((_ITEM_STREAM, *key))
        return self._item_rng

    def begin_calls(self) -> None:
        """Begin a new message: an item of it that was tried here before has its stream from the start."""
        self._item_key = None

    def item_seed_words(self) -> Any:
        """Return eight words for the global generators, from the first child of the stream of the item that runs."""
        item = item_of_task.get()
        key = self._locate_item() if item is None else item.key
        assert key is not None, "no item is running"
        return self._seed_sequence((_ITEM_STREAM, *key, 0)).generate_state(8)

    def _make_rng(self, spawn_key: tuple[int, ...]) -> Any:
        import numpy

        return numpy.random.default_rng(self._seed_sequence(spawn_key))

    def _seed_sequence(self, spawn_key: tuple[int, ...]) -> Any:
        import numpy

        return numpy.random.SeedSequence(self._entropy, spawn_key=spawn_key)

    def __repr__(self) -> str:
        return (
            f"<worker {self.worker_id} of {self.n_workers} in {self.pool_name!r}, "
            f"device {self.device or 'cpu'}, generation {self.generation}>"
        )


def worker_spawn_key(worker_id: int, generation: int) -> tuple[int, ...]:
    """Return the key under which ``SeedSequence(seed).spawn`` finds the stream of a worker.

    The first generation has exactly the child number `worker_id` of the pool's seed, a replacement one child of that child.
    """
    return (worker_id, generation) if generation else (worker_id,)


_of_thread: dict[int, Worker] = {}  # those that are threads, or greenlets, by their identifiers
_of_process: Worker | None = None


def enter_worker(worker: Worker, *, whole_process: bool) -> None:
    """Say who this is: for every thread of a worker process, or for the calling thread alone."""
    global _of_process
    if whole_process:
        _of_process = worker
    else:
        _of_thread[get_ident()] = worker


def leave_worker() -> None:
    """Forget who the calling thread is."""
    _of_thread.pop(get_ident(), None)


def worker_of_thread() -> Worker | None:
    """Return the worker that the calling thread is; None for a thread of the program, or of a worker process."""
    return _of_thread.get(get_ident()) if _of_thread else None


def find_worker() -> Worker | None:
    """Return the worker that runs the calling code, None for a program's own code."""
    return worker_of_thread() or _of_process


def _find_depth() -> int | None:
    worker = find_worker()
    return None if worker is None else worker._depth


lineage.depth_of_worker = _find_depth


def current_worker() -> Worker:
    """Return the worker that runs the calling code.

    Returns
    -------
    Worker
        With ``worker_id, n_workers, device, generation, rng, pool_name``.

    Raises
    ------
    RuntimeError
        The calling code does not run inside a worker.
    """
    worker = find_worker()
    if worker is None:
        raise RuntimeError("current_worker() was called outside of a worker; only code that a pool runs has one")
    return worker


def report_progress(done: int, total: int | None = None) -> None:
    """Tell the caller how far a long task is; outside of a worker this does nothing.

    Parameters
    ----------
    done : int
        How many steps are done.
    total : int or None
        How many there are.

    Notes
    -----
    Call it as often as you like: at most ten reports a second are sent, the latest each time, and the last, with
    ``done == total``, at once. They reach ``ProxyPool(on_progress=...)``, and the progress bar of the running call shows them.
    """
    worker = find_worker()
    if worker is not None and worker._reports is not None:
        worker._reports.tell(done, total)

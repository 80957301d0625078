"""Measure how long one call takes, there and back, with one worker.

Command: ``python -m benchmarks.round_trip``

One caller sends ``inc(x)`` to one worker and waits for the answer, again and again. The yardsticks are a proxy of
`multiprocessing.managers`, the standard library's way to call a live object in another process, and a bare `os.pipe`
with pickle, the least that two processes can do.
"""

from __future__ import annotations

import os
import pickle
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from benchmarks import _work
from benchmarks._command import run_script
from benchmarks._lane import check
from benchmarks._model import Contender, Experiment, contenders_of, ratio
from benchmarks._pipe import forked

#: ``caller(x)`` is one round trip.
Caller = Callable[[int], int]

#: Parts that the calls are timed in, so that a disturbance spoils one part and not the median.
_N_PARTS = 10


def time_calls(library: str, n_calls: int) -> list[float]:
    """Return seconds per call for each of ten parts of `n_calls` calls; a fifth as many go before, unmeasured."""
    with _OPENERS[library]() as call:
        for x in range(n_calls // 5):
            check(call(x) == x + 1, library)
        return [_time_part(call, n_calls // _N_PARTS) for _ in range(_N_PARTS)]


def _time_part(call: Caller, n_calls: int) -> float:
    xs = range(n_calls)
    began = time.perf_counter()
    results = [call(x) for x in xs]
    ended = time.perf_counter()
    check(results == list(range(1, n_calls + 1)), results)
    return (ended - began) / n_calls


@contextmanager
def _open_objproxy() -> Iterator[Caller]:
    from objproxy import ProxyPool

    with ProxyPool(_work.Worker, worker_count=1) as pool:
        yield lambda x: pool[0].inc(x)


@contextmanager
def _open_manager() -> Iterator[Caller]:
    from multiprocessing.managers import BaseManager

    class Manager(BaseManager):
        pass

    Manager.register("Worker", _work.Worker)
    with Manager() as manager:
        proxy = manager.Worker()  # type: ignore[attr-defined]
        yield lambda x: proxy.inc(x)


@contextmanager
def _open_pipe() -> Iterator[Caller]:
    with forked(_serve) as (there_write, back_read):

        def call(x: int) -> int:
            _send(there_write, ("inc", (x,), {}))
            return _receive(back_read)

        yield call


def _serve(there_read: int, back_write: int) -> None:
    """Answer calls until the other end is closed."""
    worker = _work.Worker()
    try:
        while True:
            name, args, kwargs = _receive(there_read)
            _send(back_write, getattr(worker, name)(*args, **kwargs))
    finally:
        os._exit(0)


def _send(descriptor: int, message: object) -> None:
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    os.write(descriptor, struct.pack("<I", len(data)) + data)


def _receive(descriptor: int) -> Any:
    """Read one message: its length, then itself; messages this small are written, and come, in one piece."""
    data = os.read(descriptor, 65536)
    (length,) = struct.unpack_from("<I", data)
    assert len(data) == length + 4
    return pickle.loads(memoryview(data)[4:])


@contextmanager
def _open_pool() -> Iterator[Caller]:
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(1) as pool:
        yield lambda x: pool.apply(_work.inc, (x,))


@contextmanager
def _open_executor() -> Iterator[Caller]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as executor:
        yield lambda x: executor.submit(_work.inc, x).result()


@contextmanager
def _open_loky() -> Iterator[Caller]:
    from loky import get_reusable_executor

    executor = get_reusable_executor(max_workers=1)
    yield lambda x: executor.submit(_work.inc, x).result()
    executor.shutdown()


@contextmanager
def _open_pebble() -> Iterator[Caller]:
    from pebble import ProcessPool

    with ProcessPool(max_workers=1) as pool:
        yield lambda x: pool.schedule(_work.inc, args=(x,)).result()


@contextmanager
def _open_mpire() -> Iterator[Caller]:
    from mpire import WorkerPool

    with WorkerPool(n_jobs=1, keep_alive=True) as pool:
        yield lambda x: pool.apply(_work.inc, x)
        pool.stop_and_join()


@contextmanager
def _open_objectproxypool() -> Iterator[Caller]:
    from objectproxypool import ProxyPool

    with ProxyPool(_work.Worker, 1, separate_processes=True) as pool:
        yield lambda x: pool.inc(x)[0]


_MANAGER = "multiprocessing.managers"
_PIPE = "os.pipe + pickle"

_OPENERS: dict[str, Callable[[], AbstractContextManager[Caller]]] = {
    "objproxy": _open_objproxy,
    _MANAGER: _open_manager,
    _PIPE: _open_pipe,
    "multiprocessing.Pool": _open_pool,
    "ProcessPoolExecutor": _open_executor,
    "loky": _open_loky,
    "pebble": _open_pebble,
    "mpire": _open_mpire,
    "objectproxypool": _open_objectproxypool,
}

EXPERIMENTS = (
    Experiment(
        "round_trip",
        "Round trip of one call, one worker",
        "us",
        tuple(
            Contender(each.name, each.function, each.arguments, is_peer=each.name not in ("objproxy", _PIPE))
            for each in contenders_of(_OPENERS, time_calls)
        ),
        (ratio(_MANAGER, 0.6), ratio(_PIPE, 1.5)),
        sizes={"n_calls": 3000},
        quick_sizes={"n_calls": 100},
        rounds=15,
    ),
)

if __name__ == "__main__":
    run_script("round_trip", __doc__, EXPERIMENTS)

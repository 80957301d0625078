"""Measure programs that make many short pools of a class, or a function, from a module that takes 0.2 seconds to import.

Command: ``python -m benchmarks.short_pools``

Every value is one program: 48 pools of two workers, one after the other, four items each, the first pool included. The program
has imported the module itself, as it has to. The peers fork their workers, which thus have the module. OMPR before 1.7.3 takes
five seconds to make a runner, and 1.7.3 needs Python 3.12.
"""

from __future__ import annotations

import importlib
import itertools
import time
from collections.abc import Callable
from typing import Any

from benchmarks._command import run_script
from benchmarks._lane import check
from benchmarks._model import OURS, Contender, Experiment, ratio

_N_WORKERS = 2
_ITEMS = [0, 1, 2, 3]
_RESULTS = [0, 3, 6, 9]


def time_pools(library: str, kind: str, n_pools: int) -> list[float]:
    """Return seconds to make, use and end so many pools."""
    run_one = _KINDS[kind](library)
    began = time.perf_counter()
    for _ in range(n_pools):
        results = run_one()
        check(list(results) == _RESULTS, results)
    return [time.perf_counter() - began]


def _load(library: str, peer: str, part: str = "") -> tuple[Any, Any]:
    """Return the module of a system, ours or the peer's own, and the module that is slow to load."""
    name = f"objproxy.{peer}" if library == OURS else peer
    return importlib.import_module(name + part), importlib.import_module("benchmarks._slow_to_load")


def _proxy_pool(library: str) -> Callable[[], Any]:
    slow = importlib.import_module("benchmarks._slow_to_load")
    pool_class = importlib.import_module("objproxy" if library == OURS else "objectproxypool").ProxyPool

    def run_one() -> Any:
        with pool_class(slow.Tripler, worker_count=_N_WORKERS, separate_processes=True) as pool:
            return pool.score(_ITEMS, map_args=True)

    return run_one


def _ompr(library: str) -> Callable[[], Any]:
    ompr, slow = _load(library, "ompr", ".runner")
    worker = type("Worker", (slow.Tripler, ompr.RunningWorker), {"__module__": __name__})

    def run_one() -> Any:
        runner = ompr.OMPRunner(worker, devices=[None] * _N_WORKERS)
        runner.process([{"x": x} for x in _ITEMS])
        results = runner.get_all_results()
        runner.exit()
        return results

    return run_one


def _mpire(library: str, n_maps: int) -> Callable[[], Any]:
    mpire, slow = _load(library, "mpire")

    def run_one() -> Any:
        with mpire.WorkerPool(_N_WORKERS, keep_alive=True) as pool:
            for _ in range(n_maps):
                results = pool.map(slow.triple, _ITEMS)
            return results

    return run_one


def _mtasklite(library: str) -> Callable[[], Any]:
    mtasklite, slow = _load(library, "mtasklite")
    delayed = mtasklite.delayed_init(slow.Tripler)

    def run_one() -> Any:
        with mtasklite.Pool([delayed(3) for _ in range(_N_WORKERS)]) as pool:
            return list(pool(_ITEMS))

    return run_one


def _multi_worker(library: str) -> Callable[[], Any]:
    workercontext, slow = _load(library, "workercontext")

    def run_one() -> Any:
        with workercontext.MultiWorker(slow.triple_all, _N_WORKERS, batched_arg="xs") as run:
            return list(itertools.chain.from_iterable(run(_ITEMS)))

    return run_one


_KINDS: dict[str, Callable[[str], Callable[[], Any]]] = {
    "proxy_pool": _proxy_pool,
    "ompr": _ompr,
    "mpire": lambda library: _mpire(library, 1),
    "mpire_maps": lambda library: _mpire(library, 3),
    "mtasklite": _mtasklite,
    "multi_worker": _multi_worker,
}

_PEERS = {
    "proxy_pool": ("objectproxypool", "ProxyPool"),
    "ompr": ("OMPR", "OMPRunner"),
    "mpire": ("MPIRE", "WorkerPool, a map each"),
    "mpire_maps": ("MPIRE", "WorkerPool, three maps each"),
    "mtasklite": ("mtasklite", "mtasklite's Pool"),
    "multi_worker": ("MultiWorker", "MultiWorker"),
}

EXPERIMENTS = tuple(
    Experiment(
        kind,
        f"48 short pools: {title}",
        "s",
        (
            Contender(OURS, time_pools, {"library": OURS, "kind": kind}, is_peer=False),
            Contender(peer, time_pools, {"library": peer, "kind": kind}),
        ),
        (ratio(peer, 1.3, f"at most 1.3 times {peer}"),),
        sizes={"n_pools": 48},
        quick_sizes={"n_pools": 2},
        rounds=5,
    )
    for kind, (peer, title) in _PEERS.items()
)

if __name__ == "__main__":
    run_script("short_pools", __doc__, EXPERIMENTS)

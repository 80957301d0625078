"""Functions that the workers of a `WorkerPool` run in tests."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from objproxy import current_worker
from objproxy.mpire import WorkerPool
from targets import Gate

#: Changed by a test before workers are forked.
setting = "as it was imported"


def square(x: int) -> int:
    return x * x


def add(a: int, b: int = 10) -> int:
    return a + b


def collect(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    return (*args, *sorted(kwargs.items()))


def kind_of(*args: Any) -> str:
    return ",".join(type(arg).__name__ for arg in args)


def fail_at(x: int, bad: int = 3) -> int:
    if x == bad:
        raise ValueError("bad item", x)
    return x


def exit_at(x: int, bad: int = 3) -> int:
    if x == bad:
        os._exit(7)
    return x


def read_setting(_: int) -> str:
    return setting


def append(items: list[Any], x: Any) -> int:
    items.append(x)
    return len(items)


def worker_of(_: Any = None) -> int:
    return current_worker().worker_id


def pid_of(_: Any = None) -> int:
    return os.getpid()


def init_state(state: dict[str, Any]) -> None:
    state["seen"] = []


def see(state: dict[str, Any], item: int) -> int:
    state.setdefault("seen", []).append(item)
    return len(state["seen"])


def exit_state(state: dict[str, Any]) -> list[int]:
    return list(state.get("seen", []))


def say_bye() -> str:
    return "bye"


def raise_error(*_: Any) -> None:
    raise LookupError("from a function that sets up or ends")


def all_leading(worker_id: int, shared: Any, state: dict[str, Any], *args: Any) -> tuple[Any, ...]:
    state["calls"] = state.get("calls", 0) + 1
    return worker_id, shared, state["calls"], args


def mean_of_shared(shared: np.ndarray, _: int) -> float:
    return float(shared.mean())


def write_shared(shared: np.ndarray, x: int) -> float:
    shared[0] = x
    return float(shared[0])


def read_shared(shared: dict[str, np.ndarray], _: int) -> tuple[int, int, bool]:
    """Return how much shared memory (KiB) this process has in use, before and after it reads all of an array."""
    before = _n_shared_kib()
    shared["data"].sum()
    return before, _n_shared_kib(), bool(shared["data"].flags.writeable)


def _n_shared_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssShmem"))


def count_up(shared: Any, n: int) -> None:
    lock, value, numbers = shared
    for _ in range(n):
        with lock:
            value.value += 1
            numbers[current_worker().worker_id] += 1


def wait_for_all(barrier: Any, _: int) -> int:
    """Return after as many workers as the barrier wants are here."""
    return int(barrier.wait(30))


def scale(chunk: np.ndarray) -> np.ndarray:
    return chunk * 2


def row_sum(chunk: np.ndarray) -> float:
    return float(chunk.sum())


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def sleep_setup(*_: Any) -> None:
    time.sleep(60)


def deaf_sleep(seconds: float) -> float:
    """Sleep, whatever is raised meanwhile: no exception ends this."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            sum(range(1_000_000))
        except BaseException:
            continue
    return seconds


def wait_at(gate: str, x: int) -> int:
    Gate(gate).wait()
    return x


def return_lambda(_: int) -> Any:
    return lambda: 1


class Unloadable:
    """Pickles, and raises when it is unpickled."""

    def __reduce__(self) -> Any:
        return raise_error, ()


def return_unloadable(x: int) -> Any:
    return Unloadable() if x == 1 else x


def return_nul(_: int) -> str:
    return "\0"


def nested(x: int) -> list[int]:
    with WorkerPool(n_jobs=2, start_method="fork") as pool:
        result: list[int] = pool.map(square, range(x))
    return result


def affinity(_: int) -> set[int]:
    return set(os.sched_getaffinity(0))


class TwoPartError(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)
        self.second = second


def raise_two_parts(_: int) -> None:
    raise TwoPartError("one", "two")


class Unpicklable(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


def raise_unpicklable(_: int) -> None:
    raise Unpicklable("one")

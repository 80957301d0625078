"""A program without some of its standard streams; it writes what is wrong into a file. Run by ``test_descriptors.py``."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

# What others keep open shall not take the places of the streams: the file of libffi on some systems, and the pipe of the
# resource tracker of multiprocessing.
places = []
while (place := os.open(os.devnull, os.O_RDWR)) <= 2:
    places.append(place)
importlib.import_module("ctypes")
resource_tracker.ensure_running()
for taken in (place, *places):
    os.close(taken)

import numpy as np  # noqa: E402

from objproxy import OMPRunner, ProxyPool, SharedArray, WorkerDiedError  # noqa: E402


class Chatty:
    """Writes to its standard streams in all ways."""

    def square(self, x: int) -> int:
        for fd in (1, 2):
            os.write(fd, b"done\n")
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            assert stream is not None
            stream.write("done\n")
            print("done", file=stream, flush=True)
        assert sys.stdin is not None
        logging.getLogger("chatty").warning("done with %d", x)
        warnings.warn("done", UserWarning, stacklevel=1)
        return x * x

    def process(self, x: int) -> int:
        return self.square(x)

    def total(self, array: Any) -> float:
        return float(np.sum(array))

    def make(self, n: int) -> Any:
        return np.ones(n)

    def die(self) -> None:
        os._exit(3)


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from _tree(int(child))


def _wrong_streams(where: str, closed: list[int]) -> Iterator[str]:
    """Yield the descriptors among 0, 1, 2 of all processes that are not as they should be."""
    for pid in _tree(os.getpid()):
        name = Path(f"/proc/{pid}/cmdline").read_text()
        if "multiprocessing.resource_tracker" in name:
            continue
        for fd in (0, 1, 2):
            try:
                target = os.readlink(f"/proc/{pid}/fd/{fd}")
            except FileNotFoundError:
                target = None
            is_right = target is None if pid == os.getpid() else target == "/dev/null"
            if name and fd in closed and not is_right:  # a process that has just ended has no name
                yield f"{where}: descriptor {fd} of {name[:40]!r} is {target}"


def use_pools(start_method: str, closed: list[int]) -> list[str]:
    """Use what makes descriptors; return what was wrong with the standard streams."""
    wrong: list[str] = []
    options: Any = {"start_method": start_method, "init_progress_bar": True, "stall_warning": 10}
    with ProxyPool(Chatty, worker_count=2, **options) as pool, SharedArray.zeros(1000) as shared:
        wrong += _wrong_streams("new", closed)
        squares = pool.square.options(map_args=True, progress_bar=True, timeout=60)(range(200))
        assert squares.tolist() == [x * x for x in range(200)]
        assert pool.total(np.ones(1_000_000)).tolist() == [1e6, 1e6]
        assert pool.make(1_000_000).shape == (2, 1_000_000)
        assert pool.total(shared).tolist() == [0, 0]
        assert pool.total(pool.put(np.ones(100_000))).tolist() == [1e5, 1e5]
        wrong += _wrong_streams("used", closed)
        try:
            pool[0].die()
        except WorkerDiedError:
            pool.wait_ready()
        wrong += _wrong_streams("replaced", closed)
        assert pool.square.submit(3).result() == 9
        assert set(pool.dump_stacks()) == {0, 1}
        with OMPRunner(Chatty, devices=[None] * 2, pool_options={"start_method": start_method}) as runner:
            runner.process([{"x": x} for x in range(20)])
            assert runner.get_all_results() == [x * x for x in range(20)]
            wrong += _wrong_streams("two pools", closed)
    return wrong


if __name__ == "__main__":
    report, start_method, closed = sys.argv[1:]
    try:
        result = use_pools(start_method, json.loads(closed))
    except BaseException:
        result = [traceback.format_exc()]
    Path(report).write_text(json.dumps(result))

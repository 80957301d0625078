"""A program whose resources are limited. Run by ``test_limits.py``."""

from __future__ import annotations

import functools
import resource
import signal
import sys
from typing import Any

import numpy as np

from objproxy import ProxyPool, SharedArray, SharedMemoryFullError

_FILE_BYTES = 2_000_000


class Worker:
    """Takes and gives large things."""

    def double(self, array: Any) -> Any:
        return 2 * array

    def write(self, array: Any) -> Any:
        array[0] = 7
        return array

    def echo(self, value: Any) -> Any:
        return value


def _use(pool: ProxyPool) -> None:
    """Send what is smaller than a file may be, what is just as large, and what is larger."""
    for n_items in (1000, 200_000, _FILE_BYTES // 8, _FILE_BYTES // 8 + 1, 500_000):
        ones = np.ones(n_items)
        assert pool[0].double(ones).sum() == 2 * n_items
        assert pool[0].write(ones)[0] == 7
        assert ones[0] == 1
    for value in (b"x" * (_FILE_BYTES + 1), "x" * (_FILE_BYTES + 1)):
        assert pool[0].echo(value) == value
    assert [len(result) for result in pool.double.map([np.ones(100_000)] * 8)] == [100_000] * 8
    assert pool[0].double(pool.put(np.ones(500_000))).sum() == 1_000_000
    with SharedArray(np.ones(200_000)) as shared:
        assert pool[0].double(shared).sum() == 400_000


def limit_files(start_method: str) -> None:
    """Files may have two megabytes: from the start, or from a moment when the program has had a pool already."""
    make = functools.partial(ProxyPool, Worker, worker_count=2, start_method=start_method)
    if start_method == "later":
        make = functools.partial(ProxyPool, Worker, worker_count=2)
        with make() as pool:
            resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
            _use(pool)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
    with make() as pool:
        _use(pool)
    if start_method != "later":
        _expect_full(lambda: SharedArray.zeros(_FILE_BYTES), "ulimit -f")


def limit_files_of_a_host(start_method: str) -> None:
    """A host that has started Python without its signals is killed by the attempt to make a file too large."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    limit_files(start_method)


def limit_files_to_nothing(start_method: str) -> None:
    """Where the size of files is too small for a worker's tables, or for its journal, that is said."""
    for nbytes in (300_000, 1000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, resource.RLIM_INFINITY))
        _expect_full(lambda: ProxyPool(Worker, worker_count=1, start_method=start_method), "ulimit -f")


def limit_addresses(start_method: str) -> None:
    """What needs more addresses than there are fails with an error that says so; the pool goes on."""
    with ProxyPool(Worker, worker_count=1, start_method=start_method) as pool:
        ones = np.ones(10_000_000)
        with open("/proc/self/statm") as statm:
            used = int(statm.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 40_000_000, resource.RLIM_INFINITY))
        _expect_full(lambda: pool[0].double(ones), "ulimit -v")
        _expect_full(lambda: SharedArray.zeros(10_000_000), "ulimit -v")
        assert pool[0].double(np.ones(100_000)).sum() == 200_000


def _expect_full(function: Any, text: str) -> None:
    try:
        function()
    except SharedMemoryFullError as exc:
        if text in str(exc):
            return
        raise
    raise AssertionError("there was no error")


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])

"""Objects that tell how many threads libraries use, and that use GNU's OpenMP themselves."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def open_openmp() -> Any:
    return ctypes.CDLL("libgomp.so.1")


def run_parallel(n_threads: int) -> int:
    """Run an empty parallel region; return in how many threads it ran."""
    ran: list[int] = []
    kernel = _KERNEL(lambda _data: ran.append(1))
    open_openmp().GOMP_parallel(kernel, None, n_threads, 0)
    return len(ran)


class OpenMP:
    """Uses GNU's OpenMP."""

    def run(self, n_threads: int) -> int:
        return run_parallel(n_threads)


#: How many threads a library would use, by its name.
COUNTS: dict[str, Callable[[Any], Any]] = {
    "cv2": lambda cv2: cv2.getNumThreads(),
    "duckdb": lambda duckdb: [
        one.execute("select current_setting('threads')").fetchall()[0][0] for one in (duckdb, duckdb.connect())
    ],
    "numba": lambda numba: numba.get_num_threads(),
    "numexpr": lambda numexpr: numexpr.set_num_threads(1),  # returns what it was
    "polars": lambda polars: polars.thread_pool_size(),
    "pyarrow": lambda pyarrow: [pyarrow.cpu_count(), pyarrow.io_thread_count()],
    "threadpoolctl": lambda threadpoolctl: [
        found["num_threads"] for found in threadpoolctl.threadpool_info() if found["user_api"] == "blas"
    ],
    "torch": lambda torch: [torch.get_num_threads(), torch.get_num_interop_threads()],
}


class Counter:
    """Imports libraries, and counts."""

    def count(self, name: str) -> Any:
        return COUNTS[name](importlib.import_module(name))

    def load_stand_in(self, folder: str) -> tuple[list[int], str, bool]:
        sys.path.insert(0, folder)
        sys.modules.pop("cv2", None)
        assert importlib.util.find_spec("cv2").loader.get_filename("cv2") == f"{folder}/cv2.py"  # type: ignore[union-attr]
        module = importlib.import_module("cv2")
        return module.told, type(module.__loader__).__name__, module.__spec__.loader is module.__loader__

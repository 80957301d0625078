"""Threads of compiled libraries: how many workers have, and that they survive forks."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import thread_targets
from objproxy import ProxyPool, making
from objproxy._worker import native_threads
from objproxy.settings import THREAD_VARIABLES
from optional import need
from thread_targets import COUNTS, Counter, OpenMP


def _has_openmp() -> bool:
    try:
        return hasattr(thread_targets.open_openmp(), "omp_pause_resource_all")
    except OSError:
        return False


needs_openmp = pytest.mark.skipif(not _has_openmp(), reason="this needs libgomp.so.1")

INSTALLED = [name for name in COUNTS if name != "threadpoolctl" and importlib.util.find_spec(name)]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have everything be told as for the first time."""
    monkeypatch.setattr(making, "_told_unbounded", set())


@pytest.mark.slow
def test_libraries_that_a_worker_imports_have_so_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with ProxyPool(Counter, worker_count=1, threads_per_worker=1) as pool:
        counts = {name: pool[0].count(name) for name in INSTALLED}
    assert counts == {name: [1, 1] if name in ("duckdb", "pyarrow", "torch") else 1 for name in INSTALLED}


@pytest.mark.parametrize("start_method", [None, "spawn", "fork"])
def test_a_library_is_told_when_it_is_imported(tmp_path: Path, start_method: str | None) -> None:
    """Played by a stand-in for OpenCV, which finds its own loader."""
    (tmp_path / "cv2.py").write_text("told = []\nsetNumThreads = told.append\nseen = __loader__\n")
    with ProxyPool(Counter, worker_count=1, threads_per_worker=3, start_method=start_method) as pool:
        assert pool[0].load_stand_in(str(tmp_path)) == ([3], "SourceFileLoader", True)


def test_what_the_user_has_set_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCV_FOR_THREADS_NUM", "7")
    (tmp_path / "cv2.py").write_text("told = []\nsetNumThreads = told.append\n")
    with ProxyPool(Counter, worker_count=1, threads_per_worker=3) as pool:
        assert pool[0].load_stand_in(str(tmp_path))[0] == []


def test_a_library_that_is_told_wrongly_fails_no_worker(tmp_path: Path) -> None:
    (tmp_path / "cv2.py").write_text("told = []\n")
    with ProxyPool(Counter, worker_count=1, threads_per_worker=3) as pool:
        assert pool[0].load_stand_in(str(tmp_path))[0] == []


@needs_openmp
@pytest.mark.parametrize("start_method", [None, "fork"])
def test_openmp_of_a_worker_does_not_wait_for_threads_of_its_parent(start_method: str | None) -> None:
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import thread_user
from objproxy import ProxyPool
with ProxyPool(thread_user.Early, worker_count=2, start_method={start_method!r}) as pool:
    print(pool.run.options(timeout=60, stack_results=False)(4), thread_user.run_parallel(5))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == ("[4, 4] 5\n", "")


NUMBA_SCRIPT = """
import os, sys
sys.path.insert(0, {folder!r})
import numba_user
from objproxy import ProxyPool
for start_method in ("fork", "forkserver"):
    with ProxyPool(numba_user.Summing, worker_count=2, start_method=start_method) as pool:
        print(pool.sum.options(timeout=60, stack_results=False)(1000), pool.sum.map([10, 20]))
"""

NUMBA_USER = """
import numba
@numba.njit(parallel=True, cache=True)
def total(n):
    found = 0
    for i in numba.prange(n):
        found += i
    return found
FIRST = total(10)
class Summing:
    def sum(self, n):
        return total(n)
"""


@pytest.mark.slow
def test_numba_works_in_workers_though_it_has_run_in_their_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("numba")
    monkeypatch.setenv("NUMBA_THREADING_LAYER_PRIORITY", "omp tbb workqueue")
    (tmp_path / "numba_user.py").write_text(NUMBA_USER)
    script = NUMBA_SCRIPT.format(folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240, check=False)
    assert (done.stdout, done.stderr) == ("[499500, 499500] [45, 190]\n" * 2, "")


def test_a_fork_tells_what_it_cannot_limit(
    monkeypatch: pytest.MonkeyPatch, told: None, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "polars", sys)
    monkeypatch.delenv("POLARS_MAX_THREADS", raising=False)
    monkeypatch.setattr(making, "usable_cpu_count", lambda: 8)
    with pytest.warns(UserWarning, match="has loaded polars already, so its threads in workers cannot be limited to 1"):
        ProxyPool(OpenMP, worker_count=1, start_method="fork", threads_per_worker=1).close()
    ProxyPool(OpenMP, worker_count=1, start_method="fork", threads_per_worker=1).close()  # once is enough

    making._told_unbounded.clear()
    ProxyPool(OpenMP, worker_count=1, threads_per_worker=1).close()
    ProxyPool(OpenMP, worker_count=1, start_method="fork", threads_per_worker=None).close()
    assert not [record for record in caplog.records if "polars" in record.getMessage()]
    with caplog.at_level(logging.WARNING, "objproxy"):
        ProxyPool(OpenMP, worker_count=2, start_method="fork").close()
    assert [record.levelname for record in caplog.records if "loaded polars" in record.getMessage()] == ["WARNING"]


def test_a_variable_of_the_user_needs_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", sys)
    assert "polars" in native_threads.find_unbounded(["POLARS_MAX_THREADS"])
    assert native_threads.find_unbounded([]) == {}


def test_pools_of_threads_that_outlast_no_fork_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not native_threads.must_not_be_forked()
    monkeypatch.setattr(native_threads, "_thread_name", lambda _thread_id: "polars-3\n")
    assert native_threads.must_not_be_forked()


def test_a_connection_keeps_the_threads_that_its_configuration_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Played by a stand-in for duckdb."""
    duckdb: Any = type("duckdb", (), {})()
    said: list[Any] = []

    class Connection:
        def execute(self, text: str) -> None:
            said.append(text)

    duckdb.connect = lambda database=":memory:", read_only=False, config=None: Connection()
    duckdb.execute = said.append
    native_threads._LIMITS["duckdb"](duckdb, 2)
    duckdb.connect()
    duckdb.connect("file", config={"threads": 5})
    assert said == ["SET threads TO 2"] * 2


def test_what_the_program_has_loaded_is_limited_in_forked_workers() -> None:
    """The BLAS of NumPy, which reads its variable only when it is loaded."""
    need("threadpoolctl")
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy
from thread_targets import Counter
from objproxy import ProxyPool
for n_threads in (1, None):
    with ProxyPool(Counter, worker_count=1, start_method="fork", threads_per_worker=n_threads) as pool:
        print(pool[0].count("threadpoolctl"))
"""
    env = {**os.environ, "OMP_NUM_THREADS": "2"}
    env.pop("OPENBLAS_NUM_THREADS", None)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False, env=env)
    assert done.stderr == ""
    limited, free = map(json.loads, done.stdout.splitlines())
    assert set(limited) <= {1}
    assert len(free) == len(limited)


def test_blas_that_is_loaded_is_told_in_the_log(
    monkeypatch: pytest.MonkeyPatch, told: None, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native_threads, "_has_threadpoolctl", lambda: False)
    monkeypatch.setattr(making, "usable_cpu_count", lambda: 8)
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    need("numpy")
    with caplog.at_level(logging.INFO, "objproxy"):
        ProxyPool(OpenMP, worker_count=1, start_method="fork", threads_per_worker=1).close()
        making._told_unbounded.clear()
        ProxyPool(OpenMP, worker_count=8, start_method="fork").close()
    records = [record for record in caplog.records if "loaded numpy" in record.getMessage()]
    assert [record.levelname for record in records] == ["WARNING", "INFO"]
    assert all("threadpoolctl" in record.getMessage() for record in records)

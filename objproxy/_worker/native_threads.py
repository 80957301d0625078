"""Threads of compiled libraries: how many a worker may have, and what becomes of them when a process is forked.

Most libraries read a variable when they are loaded; those variables are set before (`settings.THREAD_VARIABLES`). The rest has
to be told by a call:

- a library that has no such variable is told when the worker imports it. Nothing is imported for that;
- a library that the program has loaded already reads no variable any more in a worker that is forked from it.

A variable that the user has set wins: its value is not the one that a pool would set.

Forked processes have none of these threads. OpenBLAS, LLVM's OpenMP and Arrow start theirs again in the child. GNU's OpenMP
does not, and waits for ever: it is asked to end its idle threads before the fork, and then it starts new ones on both sides.
Pools of Rust libraries cannot be ended: a nursery that has such threads starts fresh interpreters.

References
----------
.. [1] OpenMP 5.0, section 3.2.44, ``omp_pause_resource_all``.
.. [2] numba, "Threading layers": the layer on GNU OpenMP ends a process that was forked after its first use.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import sys
from collections.abc import Callable, Iterable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

#: Names of threads whose pools do not survive a fork, and cannot be started anew.
_LASTING_POOLS = re.compile(r"polars-\d|rayon|tokio")

_SOFT_PAUSE = 1

#: Whether this process was forked from the program, by ``start_method="fork"``.
is_forked_from_program = False


# ---- limits -----------------------------------------------------------------------------------------------------------------


def limit_threads(n_threads: int | None) -> None:
    """Tell libraries that read no variable how many threads they may use: those that are loaded now, others when they are."""
    if n_threads is None:
        return
    later = {}
    for name, limit in _LIMITS.items():
        module = sys.modules.get(name)
        if module is not None:
            _tell(limit, module, n_threads)
        elif name in _WITHOUT_VARIABLE:
            later[name] = functools.partial(_tell, limit, n_threads=n_threads)
    sys.meta_path.insert(0, _Finder(later))  # type: ignore[arg-type]  # it needs no base class
    if is_forked_from_program:
        _limit_loaded(n_threads)


def _tell(limit: Callable[[Any, int], None], module: Any, n_threads: int) -> None:
    # A library that is too old, or half imported, is no reason for a worker to fail.
    with contextlib.suppress(Exception):
        limit(module, n_threads)


def _is_ours(variable: str, n_threads: int) -> bool:
    """Whether a variable has the value that the pool gives it, and not another one of the user's."""
    return os.environ.get(variable) == str(n_threads)


def _limit_torch(torch: Any, n_threads: int) -> None:
    if _is_ours("OMP_NUM_THREADS", n_threads):
        torch.set_num_threads(n_threads)
    if torch.get_num_interop_threads() > n_threads:
        torch.set_num_interop_threads(n_threads)


def _limit_opencv(cv2: Any, n_threads: int) -> None:
    if _is_ours("OPENCV_FOR_THREADS_NUM", n_threads):
        cv2.setNumThreads(n_threads)


def _limit_duckdb(duckdb: Any, n_threads: int) -> None:
    """Have new connections, and the one of the module, use so many threads, where their configuration does not say."""
    connect = duckdb.connect

    @functools.wraps(connect)
    def connect_limited(database: Any = ":memory:", read_only: bool = False, config: Any = None) -> Any:
        connection = connect(database, read_only, dict(config or {}))
        if "threads" not in (config or {}):
            connection.execute(f"SET threads TO {n_threads}")
        return connection

    duckdb.connect = connect_limited
    duckdb.execute(f"SET threads TO {n_threads}")


def _limit_arrow(pyarrow: Any, n_threads: int) -> None:
    if _is_ours("OMP_NUM_THREADS", n_threads) and pyarrow.cpu_count() > n_threads:
        pyarrow.set_cpu_count(n_threads)
    if _is_ours("ARROW_IO_THREADS", n_threads) and pyarrow.io_thread_count() > n_threads:
        pyarrow.set_io_thread_count(n_threads)


def _limit_numexpr(numexpr: Any, n_threads: int) -> None:
    if _is_ours("NUMEXPR_NUM_THREADS", n_threads):
        numexpr.set_num_threads(n_threads)


def _limit_numba(numba: Any, n_threads: int) -> None:
    config, parallel = numba.config, sys.modules["numba.np.ufunc.parallel"]
    if not _is_ours("NUMBA_NUM_THREADS", n_threads) or n_threads >= config.NUMBA_NUM_THREADS:
        return
    if _has_started(parallel):
        numba.set_num_threads(n_threads)
    else:  # it starts them with the first parallel function; to ask it now would start them
        config.NUMBA_NUM_THREADS = parallel.NUM_THREADS = n_threads  # type: ignore[attr-defined]


def _has_started(parallel: Any) -> bool:
    return bool(getattr(parallel, "_is_initialized", False))


_LIMITS: dict[str, Callable[[Any, int], None]] = {
    "torch": _limit_torch,
    "cv2": _limit_opencv,
    "duckdb": _limit_duckdb,
    "pyarrow": _limit_arrow,
    "numexpr": _limit_numexpr,
    "numba": _limit_numba,
}

#: Those that read no variable, or not in each of their builds.
_WITHOUT_VARIABLE = frozenset({"torch", "cv2", "duckdb"})


def _limit_loaded(n_threads: int) -> None:
    """Limit the BLAS and OpenMP libraries that the program has loaded, if threadpoolctl is installed."""
    kinds = [kind for kind, variable in _KINDS.items() if _is_ours(variable, n_threads)]
    if kinds and "numpy" in sys.modules:
        with contextlib.suppress(Exception):  # as in _tell
            _load_threadpoolctl().threadpool_limits(dict.fromkeys(kinds, n_threads))


def prepare_limits() -> None:
    """Load what workers need to limit loaded libraries, once for all that are forked from this process."""
    if is_forked_from_program and "numpy" in sys.modules and any(variable in os.environ for variable in _KINDS.values()):
        with contextlib.suppress(ImportError):
            _load_threadpoolctl()


_KINDS = {"blas": "OPENBLAS_NUM_THREADS", "openmp": "OMP_NUM_THREADS"}


def _load_threadpoolctl() -> Any:
    import threadpoolctl

    return threadpoolctl


def find_unbounded(environ: Iterable[str]) -> dict[str, str]:
    """Return the loaded libraries whose threads nothing can limit in a child of this process, with the reason.

    Parameters
    ----------
    environ : iterable of str
        Variables that would limit them if they were loaded later.
    """
    found = {}
    if "polars" in sys.modules and "POLARS_MAX_THREADS" in environ:
        found["polars"] = "its threads do not survive a fork, and queries of a worker may hang or fail"
    has_blas = "numpy" in sys.modules and "OPENBLAS_NUM_THREADS" in environ
    if has_blas and not _has_threadpoolctl():
        found["numpy"] = "its BLAS is loaded; with the package threadpoolctl it can be limited all the same"
    return found


@functools.cache
def _has_threadpoolctl() -> bool:
    return _find_spec("threadpoolctl") is not None


class _Finder:
    """Calls functions when modules have been imported, and leaves no trace in them.

    Parameters
    ----------
    hooks : dict of str to callable
        By the names of the modules.
    """

    def __init__(self, hooks: dict[str, Callable[[Any], None]]) -> None:
        self._hooks = hooks

    def find_spec(self, fullname: str, _path: Any = None, _target: Any = None) -> ModuleSpec | None:
        """Return the spec that the finders behind this one give, with a loader that calls the function."""
        hook = self._hooks.get(fullname)  # stays: others may only ask whether the module can be found
        if hook is None:
            return None
        spec = _find_spec(fullname)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader, hook)  # type: ignore[assignment]  # it needs no base class
        return spec


def _find_spec(name: str) -> ModuleSpec | None:
    """Return the spec of a module at the top, as the import system finds it."""
    specs = (finder.find_spec(name, None) for finder in sys.meta_path if type(finder) is not _Finder)
    return next((spec for spec in specs if spec is not None), None)


class _Loader:
    """Loads a module as another loader does, and calls a function with it then."""

    def __init__(self, loader: Any, hook: Callable[[Any], None]) -> None:
        self._loader = loader
        self._hook = hook

    def __getattr__(self, name: str) -> Any:
        """Return what the other loader has."""
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Make the module."""
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        """Run the module; it sees its own loader."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._hook(module)


# ---- forks ------------------------------------------------------------------------------------------------------------------


def release_openmp() -> None:
    """Have GNU's OpenMP end its idle threads: a child of this process would wait for them for ever."""
    if len(_thread_ids()) < 2:
        return
    for path in _find_libraries("libgomp"):
        with contextlib.suppress(OSError, AttributeError):  # it is older than OpenMP 5
            ctypes.CDLL(path).omp_pause_resource_all(_SOFT_PAUSE)


def must_not_be_forked() -> bool:
    """Whether a library has threads in this process that a child cannot do without, and cannot start anew."""
    return _is_numba_on_gnu() or any(map(_LASTING_POOLS.match, map(_thread_name, _thread_ids())))


def _is_numba_on_gnu() -> bool:
    """Whether numba has run a parallel function on GNU's OpenMP: it ends each child of this process that runs another."""
    layer = sys.modules.get("numba.np.ufunc.omppool")
    return getattr(layer, "openmp_vendor", None) == "GNU" and _has_started(sys.modules.get("numba.np.ufunc.parallel"))


def _thread_ids() -> list[str]:
    """Return the threads of this process, those of compiled code too; none where nothing tells."""
    try:
        return os.listdir("/proc/self/task")
    except OSError:
        return []


def _thread_name(thread_id: str) -> str:
    try:
        with open(f"/proc/self/task/{thread_id}/comm") as file:
            return file.read()
    except OSError:  # it has ended meanwhile
        return ""


def _find_libraries(name: str) -> set[str]:
    """Return the paths of the loaded libraries whose file names begin so."""
    try:
        with open("/proc/self/maps") as file:
            paths = {line[line.index("/") :].rstrip("\n") for line in file if f"/{name}" in line}
    except OSError:
        return set()
    return {path for path in paths if os.path.basename(path).startswith(name)}

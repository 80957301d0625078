"""Stop pools that would start themselves without end.

There are three ways to do that, and each is refused with an error that names the line:

- A module makes a pool when it is imported. Its workers import the module to load the class, so each would make a pool.
  While a nursery or a worker loads what it needs, no pool is started.
- An object's constructor, or a method, makes a pool of the same class. Each process knows from its environment how many pools
  are above it (OBJPROXY_DEPTH), each thread of a pool of threads from its worker. Beyond OBJPROXY_MAX_DEPTH no pool is started.
- A helper does not become what it should. It is started as an interpreter with some code, or as a frozen application
  (`entrance`), and may run the program once more. So its environment has a mark (OBJPROXY_HELPER), which a helper removes
  before everything else. A process that still has it starts no pool.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any, NamedTuple, TypeVar

DEPTH, MAX_DEPTH, HELPER = "OBJPROXY_DEPTH", "OBJPROXY_MAX_DEPTH", "OBJPROXY_HELPER"

#: Pools of pools of pools of pools. Each level multiplies the processes by the number of workers.
_DEFAULT_MAX_DEPTH = 4

#: The beginning of what a helper's interpreter runs.
REMOVE_MARK = f"import os; os.environ.pop({HELPER!r}, None)"

_IMPORT_SYSTEM = "<frozen importlib"

_WHAT_TO_DO = 'Make the pool in a function or a method, or below `if __name__ == "__main__":`'

_F = TypeVar("_F", bound=Callable[..., Any])


class Reason(NamedTuple):
    """Why a pool must not start: the text of the error, the line that makes the pool, and how many pools are above it."""

    text: str
    where: str
    depth: int
    is_import: bool = False


class _Here:
    """What this process is.

    Attributes
    ----------
    is_helper : bool
        A nursery or a worker, no program.
    is_loading : bool
        It loads what a worker's object needs: modules are imported that the program has imported before. A nursery always does.
    """

    is_helper = False
    is_loading = False


here = _Here()


def _no_worker() -> int | None:
    return None


#: Returns how many pools are above the worker whose code calls; None outside of workers. `context` sets it when it is loaded,
#: which a program need not wait for before its first pool.
depth_of_worker: Callable[[], int | None] = _no_worker

#: The code of the functions that unpickle arguments. Each may import modules, at any time in the life of a worker.
_unpickling: set[CodeType] = set()


def unpickles_arguments(function: _F) -> _F:
    """Mark a function: modules that are imported while it runs are imported for arguments."""
    _unpickling.add(function.__code__)
    return function


def enter_helper() -> None:
    """Note that this process is a nursery, or a worker that loads its class."""
    here.is_helper = here.is_loading = True


def find_depth() -> int:
    """Return how many pools are above the calling code; 0 in a program."""
    depth = depth_of_worker()
    if depth is not None:
        return depth
    try:
        return max(0, int(os.environ.get(DEPTH, 0)))
    except ValueError:
        return 0


def mark_helper(environ: dict[str, str]) -> dict[str, str]:
    """Return the environment of a helper's interpreter."""
    return {**environ, HELPER: str(os.getpid()), DEPTH: str(find_depth() + 1)}


def find_reason(*, starts_processes: bool = True) -> Reason | None:
    """Return why the pool that the calling code makes must not start; None if it may.

    Parameters
    ----------
    starts_processes : bool
        Whether its workers are processes, which import modules once more. Threads may be made while a module is imported.

    Raises
    ------
    ValueError
        OBJPROXY_MAX_DEPTH is no number.
    """
    if starts_processes and here.is_helper and (here.is_loading or _imports_for_arguments()):
        return _import_reason(_find_line())
    if HELPER in os.environ:
        return _helper_reason(_find_line(), os.environ[HELPER])
    depth, limit = find_depth(), _find_limit()
    return _depth_reason(_find_line(), depth, limit) if depth >= limit else None


def _import_reason(where: str) -> Reason:
    return Reason(
        f"{where} makes a pool when it is imported. A worker has imported it to load its class or arguments of it. No pool is "
        f"started there: its workers would import the module too, without end. {_WHAT_TO_DO}",
        where,
        find_depth(),
        is_import=True,
    )


def _helper_reason(where: str, starter: str) -> Reason:
    return Reason(
        f"{where} makes a pool in a process that process {starter} has started as a helper of its own pool. The helper runs "
        f"the program once more: {sys.executable!r} does not run the code that -c gives it, as an interpreter does. Likely "
        "cause: a frozen application that runs other code before it imports objproxy or calls "
        "multiprocessing.freeze_support(). No pool is started, since each would start the next",
        where,
        find_depth(),
    )


def _depth_reason(where: str, depth: int, limit: int) -> Reason:
    return Reason(
        f"{where} makes a pool in a worker that has {depth} pools above it, and {MAX_DEPTH}={limit} is the limit. Likely "
        "cause: a constructor or a method that makes a pool of its own class, without end. If so many levels are meant, set "
        f"{MAX_DEPTH} in the environment of the program",
        where,
        depth,
    )


def _find_limit() -> int:
    given = os.environ.get(MAX_DEPTH) or str(_DEFAULT_MAX_DEPTH)
    if not given.strip().isdecimal() or int(given) < 1:
        raise ValueError(f"{MAX_DEPTH}={given!r}: expected how many pools may be nested, an int of at least 1")
    return int(given)


def _imports_for_arguments() -> bool:
    """Return whether this thread imports a module because arguments are being unpickled."""
    is_import = False
    for frame in _frames():
        is_import = is_import or frame.f_code.co_filename.startswith(_IMPORT_SYSTEM)
        if frame.f_code in _unpickling:
            return is_import
    return False


def _find_line() -> str:
    """Return the file and the line of the user's code that is running."""
    frame = next((frame for frame in _frames() if _is_users(frame.f_globals.get("__name__"))), None)
    return "the program" if frame is None else f"{frame.f_code.co_filename}, line {frame.f_lineno},"


def _is_users(module: object) -> bool:
    """Return whether code is neither of this package nor of the standard library, whose helpers may stand between."""
    package = str(module).partition(".")[0]
    return package != "objproxy" and package not in sys.stdlib_module_names


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back

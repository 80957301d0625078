"""What every test gets: a check that nothing is left behind, and tools to wait."""

from __future__ import annotations

import gc
import glob
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from objproxy import ProxyPool
from targets import PATIENCE_SECONDS, Gate, poll_until

try:
    import psutil
except ImportError:  # tests that need it are skipped, and of no test the processes are counted that it leaves behind
    psutil = None  # type: ignore[assignment]

pytest_plugins = ["repeating"]

# A run that was started in the background has SIGINT ignored, and so would have everything that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes, or the making of one, says how busy the machine is, and nothing else.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

_SHARED_MEMORY = Path("/dev/shm")
_DESCRIPTORS = Path("/proc/self/fd")
_HAS_LISTS = bool(glob.glob("/proc/self/task/*/children"))

#: The engine's first stays for half a second after the last future, its second while any pool holds shared memory (also one of
#: a module's tests), and tests show that they go. The last is tqdm's, for ever.
_LINGERING_THREADS = ("objproxy-pump", "objproxy-trim", "TMonitor")


#: The processes below this one when they were last looked at, and those of them that must end. To tell the latter costs ten
#: milliseconds, and most tests leave the processes as they were.
_last_seen: tuple[list[int], set[int]] = ([], set())


def _look_at_children() -> tuple[list[int], set[int]]:
    """Return the processes below this one, and those of them that must end."""
    global _last_seen
    pids = _descendants()
    if pids != _last_seen[0]:
        _last_seen = pids, _children(pids)
    return _last_seen


def _children(pids: list[int]) -> set[int]:
    """Leave out the root nursery, which lives as long as the program, and its spare."""
    children = [process for pid in pids if (process := _process(pid)) is not None]
    below_root = [pid for child in children if _is_root(child) for pid in _pids_below(child)]
    # The root makes its spare a moment after it has given one away: until then the youngest serves a pool, and has workers.
    spares = [pid for pid in below_root if (process := _process(pid)) is None or not _pids_below(process)][-1:]
    return {child.pid for child in children if not _may_stay(child)} - {*spares}


def _descendants() -> list[int]:
    """Return the processes below this one; looked at until two looks agree, since one that ends may hide its neighbour."""
    if psutil is None:
        return []
    found = list(_walk(os.getpid()))
    while (again := list(_walk(os.getpid()))) != found:
        found = again
    return found


def _walk(pid: int) -> Iterator[int]:
    """Yield the processes below one from the kernel's own lists: a look at every process of the machine costs far more."""
    if not _HAS_LISTS:
        yield from (child.pid for child in psutil.Process(pid).children(recursive=True))
        return
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        try:
            with open(path) as lists:
                children = [int(child) for child in lists.read().split()]
        except OSError:  # it has just ended
            continue
        for child in children:
            yield child
            yield from _walk(child)


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _may_stay(process: psutil.Process) -> bool:
    return not process.is_running() or _is_root(process) or "resource_tracker" in _command(process)


def _is_root(process: psutil.Process) -> bool:
    try:
        return "run_root(" in _command(process) and process.ppid() == os.getpid()
    except psutil.Error:  # it has just ended
        return False


def _pids_below(process: psutil.Process) -> list[int]:
    """Return the children of a process, the youngest last."""
    try:
        return [child.pid for child in sorted(process.children(), key=psutil.Process.create_time)]
    except psutil.Error:  # it, or one of them, has ended
        return []


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if not {thread.name, type(thread).__name__} & {*_LINGERING_THREADS}}


def _n_descriptors() -> int:
    return len(list(_DESCRIPTORS.iterdir())) if _DESCRIPTORS.exists() else 0


def _segments() -> set[str]:
    """Return the names of this program's own; other programs, another run of the tests among them, have theirs."""
    return {path.name for path in _SHARED_MEMORY.glob(f"objproxy-{os.getpid()}-*")} if _SHARED_MEMORY.exists() else set()


@pytest.fixture(scope="session", autouse=True)
def root_nursery() -> None:
    """Start what lives as long as the program, so that no test seems to leave it behind.

    The resource tracker is that of ``multiprocessing``: since Python 3.14 any lock of its needs it, tqdm's among them.
    """
    resource_tracker.ensure_running()
    with ProxyPool(dict, worker_count=1, backend="process"):
        pass


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail if a test leaves children, threads, descriptors or shared memory behind."""
    pids, children = _look_at_children()
    before = children, _threads(), _n_descriptors(), _segments()
    yield
    checks = {
        "children": lambda: (now := _descendants()) == pids or _children(now) <= before[0],
        "threads": lambda: _threads() <= before[1],
        "descriptors": lambda: _n_descriptors() <= before[2],
        "shared memory": lambda: _segments() <= before[3],
    }
    for what, is_clean in checks.items():
        if is_clean():
            continue
        gc.collect()  # what is only reachable through a cycle is not left behind
        try:
            poll_until(is_clean, PATIENCE_SECONDS)
        except TimeoutError:
            left = {
                "children": _children(_descendants()) - before[0],
                "threads": _threads() - before[1],
                "shared memory": _segments(),
            }
            pytest.fail(f"the test left {what} behind: {left.get(what, _n_descriptors() - before[2])}")


@pytest.fixture
def gates(tmp_path: Path) -> Iterator[type[Gate]]:
    """Give a maker of gates by name; when the test ends, every gate is open, so that nobody waits for ever."""
    made: list[Gate] = []

    def make(name: str) -> Gate:
        made.append(Gate(tmp_path / f"gate-{name}"))
        return made[-1]

    yield make  # type: ignore[misc]
    for gate in made:
        gate.open()

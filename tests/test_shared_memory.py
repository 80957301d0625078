"""Shared memory in real pools: nothing leaks, nothing is used again too early, and nothing stays behind whoever is killed."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contained import NAMESPACE, needs_namespaces
from objproxy import ProxyPool, SharedArray, SharedMemoryFullError, WorkerDiedError, shared
from objproxy._worker.segments import NamedSegments
from objproxy.backends import plane as planes
from objproxy.backends import process
from objproxy.backends.plane import ProgramPlane
from programs import is_gone
from targets import PATIENCE_SECONDS, poll_until

ROOT = Path(__file__).resolve().parent.parent

#: Above the threshold from which arrays are mapped, and a good deal larger.
MAPPED, LARGE = 300_000, 8_000_000


class Keeper:
    """An object that makes, keeps and drops arrays."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def pid(self) -> int:
        return os.getpid()

    def make(self, number: int, nbytes: int = MAPPED) -> Any:
        return np.full(nbytes // 8, number, dtype="i8")

    def keep(self, value: Any) -> int:
        self.kept.append(value)
        return len(self.kept)

    def sums(self) -> list[int]:
        return [int(array.sum()) for array in self.kept]

    def drop(self) -> None:
        self.kept.clear()

    def total(self, array: Any) -> int:
        return int(array.sum())

    def echo(self, value: Any) -> Any:
        return value

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()

    def n_descriptors(self) -> int:
        return len(os.listdir("/proc/self/fd"))

    def set_cold_seconds(self, seconds: float) -> None:
        from objproxy._worker import arena, plane

        arena.COLD_SECONDS = plane.COLD_SECONDS = seconds


class Bearer:
    """An object that is made of an array."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def total(self) -> int:
        return int(self.array.sum())


def made(number: int, nbytes: int = MAPPED) -> Any:
    return np.full(nbytes // 8, number, dtype="i8")


@pytest.fixture(params=["memory", "portable"])
def plane(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProgramPlane]:
    """Give a program's shared memory that is made for the test: as Linux has it, and as other systems do."""
    if request.param == "portable":
        monkeypatch.setenv("OBJPROXY_PORTABLE", "1")
    plane = ProgramPlane()
    assert isinstance(plane.segments, NamedSegments) == (request.param == "portable")
    for module in (process, shared, planes):
        monkeypatch.setattr(module, "program_plane", lambda: plane)
    yield plane
    gc.collect()
    plane.segments.close()


@pytest.fixture
def pool(plane: ProgramPlane) -> Iterator[ProxyPool[Keeper]]:
    with ProxyPool(Keeper, worker_count=2, backend="process") as opened:
        yield opened


def bytes_in_use(plane: ProgramPlane) -> int:
    """Return the memory that all segments have now, whoever made them."""
    if plane.segments.fd is not None:
        return os.stat(plane.segments.fd).st_blocks * 512
    start = Path(plane.segments.prefix)
    return sum(map(_bytes_of, start.parent.glob(f"{start.name}*")))


def _bytes_of(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:  # it was given back after we had found its name
        return 0


def trim(pool: ProxyPool[Any]) -> int:
    """Have the arguments' arena give back what it can; return what is left."""
    arena = pool._core.backend._arena
    arena.trim(0.0)
    held: int = arena.held
    return held


# ---- what a process holds -------------------------------------------------------------------------------------------------


def test_live_results_cost_no_descriptors(pool: ProxyPool[Keeper]) -> None:
    pool.make.map(range(4))
    before = len(os.listdir("/proc/self/fd"))
    results = pool.make.map(range(2000))
    assert len(os.listdir("/proc/self/fd")) <= before
    assert all((array[0], array[-1]) == (i, i) for i, array in enumerate(results))


def test_a_worker_has_few_descriptors_whatever_it_keeps(pool: ProxyPool[Keeper]) -> None:
    pool[0].keep(made(0))
    before = pool[0].n_descriptors()
    for i in range(1, 200):
        pool[0].keep(made(i))
    assert pool[0].n_descriptors() <= before
    assert before < 15
    assert pool[0].sums() == [i * (MAPPED // 8) for i in range(200)]


def test_what_a_worker_has_let_go_is_used_again(pool: ProxyPool[Keeper], plane: ProgramPlane) -> None:
    for i in range(20):
        assert pool[0].total(made(i, LARGE)) == i * LARGE // 8
    assert pool._core.backend._arena.held <= 3 * LARGE


def test_results_that_were_dropped_are_used_again(pool: ProxyPool[Keeper], plane: ProgramPlane) -> None:
    for i in range(20):
        assert pool[0].make(i, LARGE)[-1] == i
    assert bytes_in_use(plane) <= 4 * LARGE


def test_a_broadcast_fills_memory_once(plane: ProgramPlane) -> None:
    with ProxyPool(Keeper, worker_count=4, backend="process") as pool:
        pool.keep(made(3, LARGE))
        assert LARGE <= pool._core.backend._arena.held < 1.5 * LARGE
        assert pool.sums().tolist() == [[3 * LARGE // 8]] * 4


def test_memory_is_not_used_again_under_a_worker_that_keeps_it(pool: ProxyPool[Keeper]) -> None:
    for i in range(30):
        pool[0].keep(made(i)[10:-10])
        pool[0].total(made(99))
    assert pool[0].sums() == [i * (MAPPED // 8 - 20) for i in range(30)]


# ---- memory goes back -----------------------------------------------------------------------------------------------------


def test_what_a_worker_keeps_is_held_until_it_drops_it(pool: ProxyPool[Keeper]) -> None:
    pool[0].keep(made(1, LARGE))
    assert trim(pool) >= LARGE
    pool[0].drop()
    poll_until(lambda: trim(pool) == 0)


def test_a_killed_worker_has_nothing_on_loan(pool: ProxyPool[Keeper]) -> None:
    for i in range(5):
        pool[0].keep(made(i, LARGE))
    assert trim(pool) >= 5 * LARGE
    with pytest.raises(WorkerDiedError):
        pool[0].die()
    poll_until(lambda: trim(pool) == 0)
    assert pool[0].total(made(5, LARGE)) == 5 * LARGE // 8


def test_results_of_a_killed_worker_stay_and_the_rest_of_its_memory_goes(pool: ProxyPool[Keeper], plane: ProgramPlane) -> None:
    base = bytes_in_use(plane)
    results = [pool[0].make(i, LARGE) for i in range(10)]
    del results[::2]
    view = results[0][1000:1010]
    with pytest.raises(WorkerDiedError):
        pool[0].die()
    poll_until(lambda: bytes_in_use(plane) - base < 6 * LARGE)
    for i in range(4):
        pool[0].make(100 + i, LARGE)  # its successor fills memory, but not this
    assert [array[-1] for array in results] == [1, 3, 5, 7, 9]
    del results[:]
    assert view.tolist() == [1] * 10
    with pytest.raises(WorkerDiedError):
        pool[0].die()
    del view
    poll_until(lambda: bytes_in_use(plane) - base < LARGE)


def test_results_outlive_their_pool_and_give_their_memory_back(plane: ProgramPlane) -> None:
    with ProxyPool(Keeper, worker_count=2, backend="process") as pool:
        results = pool.make.map(range(6), [LARGE] * 6)
        pool.keep(made(1, LARGE))
    assert [array[-1] for array in results] == list(range(6))
    assert bytes_in_use(plane) >= 6 * LARGE
    results[0][...] = 77
    del results[1:]
    assert bytes_in_use(plane) < 2 * LARGE
    assert (results[0] == 77).all()
    del results[0]
    assert bytes_in_use(plane) < LARGE // 4


def test_a_killed_pool_leaves_no_memory(plane: ProgramPlane) -> None:
    pool = ProxyPool(Keeper, worker_count=2, backend="process")
    pool.keep(made(1, LARGE))
    result = pool[0].make(5, LARGE)
    pool.kill()
    assert result[-1] == 5
    poll_until(lambda: bytes_in_use(plane) < 1.5 * LARGE)
    del result
    poll_until(lambda: bytes_in_use(plane) < LARGE // 4)


def test_a_closed_pool_holds_no_memory_for_arguments_of_constructors(plane: ProgramPlane) -> None:
    pool = ProxyPool(Bearer, worker_count=2, backend="process", init_args=(made(1, LARGE),))
    assert pool.total().tolist() == [LARGE // 8] * 2
    pool.close()
    assert bytes_in_use(plane) < LARGE // 4


def test_many_pools_one_after_another_leave_no_memory(plane: ProgramPlane) -> None:
    kept = []
    for i in range(4):
        with ProxyPool(Keeper, worker_count=1, backend="process") as pool:
            kept.append(pool[0].make(i, MAPPED))
            pool.keep(made(1, LARGE))
    assert [array[-1] for array in kept] == [0, 1, 2, 3]
    kept.clear()
    assert bytes_in_use(plane) < MAPPED


def test_memory_that_nobody_uses_goes_back_while_the_pool_is_idle(plane: ProgramPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planes, "COLD_SECONDS", 0.01)
    with ProxyPool(Keeper, worker_count=1, backend="process") as pool:
        pool[0].set_cold_seconds(0.01)
        assert pool[0].echo(made(1, LARGE))[-1] == 1
        # The argument, which this process holds, and the result, which the worker does.
        poll_until(lambda: bytes_in_use(plane) < LARGE // 4)
        kept = pool[0].make(2, LARGE)
        poll_until(lambda: pool._core.backend._arena.held == 0)
        assert (kept == 2).all()


def test_a_shared_array_gives_its_memory_back_when_all_have_let_go(pool: ProxyPool[Keeper], plane: ProgramPlane) -> None:
    base = bytes_in_use(plane)
    shared_array = SharedArray(made(4, LARGE))
    view = shared_array.array[:10]
    pool[0].keep(shared_array)
    shared_array.close()
    del view
    assert pool[0].sums() == [4 * LARGE // 8]
    assert bytes_in_use(plane) - base >= LARGE
    pool[0].drop()

    def is_back() -> bool:
        plane.arena.trim(0.0)
        return bytes_in_use(plane) - base < LARGE // 4

    poll_until(is_back)


def test_a_shared_array_that_nobody_closes_gives_its_memory_back(plane: ProgramPlane) -> None:
    arrays = [SharedArray.zeros(LARGE // 8) for _ in range(3)]
    assert bytes_in_use(plane) >= 3 * LARGE
    arrays.clear()
    assert bytes_in_use(plane) < LARGE // 4
    assert plane.arena.held == 0


# ---- there is not enough --------------------------------------------------------------------------------------------------


@pytest.fixture
def small_pool(plane: ProgramPlane) -> Iterator[ProxyPool[Keeper]]:
    with ProxyPool(Keeper, worker_count=2, backend="process", shared_memory_limit=LARGE) as opened:
        yield opened


def test_an_argument_over_the_limit_is_refused_and_the_pool_goes_on(small_pool: ProxyPool[Keeper]) -> None:
    for _ in range(3):
        with pytest.raises(SharedMemoryFullError, match="shared_memory_limit=8000000") as caught:
            small_pool.total(made(1, 2 * LARGE))
        assert caught.value.needed >= 2 * LARGE
        assert caught.value.free == LARGE
        assert isinstance(caught.value, MemoryError)
    assert small_pool.total(made(1, LARGE // 2)).tolist() == [LARGE // 16] * 2
    pids = small_pool.pid.broadcast()
    with pytest.raises(SharedMemoryFullError):
        small_pool[1].total(made(1, 2 * LARGE))
    assert small_pool.pid.broadcast() == pids


def test_an_item_over_the_limit_is_refused_and_the_pool_goes_on(small_pool: ProxyPool[Keeper]) -> None:
    with pytest.raises(SharedMemoryFullError):
        small_pool.total.map([made(1, LARGE // 2), made(1, 2 * LARGE), made(2, LARGE // 2)])
    assert small_pool.total.map([made(3)] * 3) == [3 * (MAPPED // 8)] * 3


def test_arguments_that_fit_one_by_one_pass_one_by_one(small_pool: ProxyPool[Keeper]) -> None:
    """Nothing is kept that would make a pool with a limit stop after a while."""
    for i in range(10):
        assert small_pool[i % 2].total(made(i, 3 * LARGE // 4)) == i * (3 * LARGE // 32)


def test_a_result_over_the_limit_is_the_error_of_its_call(small_pool: ProxyPool[Keeper]) -> None:
    pids = small_pool.pid.broadcast()
    with pytest.raises(SharedMemoryFullError, match="shared_memory_limit=8000000") as caught:
        small_pool[0].make(1, 2 * LARGE)
    assert caught.value.needed >= 2 * LARGE
    assert small_pool[0].make(2, LARGE // 2)[-1] == 2
    outcomes = small_pool.make.options(on_error="return").map([1, 2, 3], [MAPPED, 2 * LARGE, MAPPED])
    assert [type(outcome) for outcome in outcomes] == [np.ndarray, SharedMemoryFullError, np.ndarray]
    assert small_pool.pid.broadcast() == pids


def test_results_that_are_kept_count_and_those_that_are_dropped_do_not(small_pool: ProxyPool[Keeper]) -> None:
    kept = [small_pool[0].make(i, LARGE // 4) for i in range(3)]
    with pytest.raises(SharedMemoryFullError):
        small_pool[0].make(4, LARGE // 2)
    assert small_pool[1].make(5, LARGE // 2)[-1] == 5
    del kept[1:]
    assert small_pool[0].make(6, LARGE // 2)[-1] == 6
    assert (kept[0] == 0).all()


def test_a_machine_without_free_memory_refuses_and_the_pool_goes_on(
    pool: ProxyPool[Keeper], plane: ProgramPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(plane.segments, "free_bytes", lambda: 1000)
        with pytest.raises(SharedMemoryFullError, match="shm-size"):
            pool.total(made(1, LARGE))
        with pytest.raises(SharedMemoryFullError):
            pool.put(made(1, LARGE))
        with pytest.raises(SharedMemoryFullError):
            SharedArray.zeros(LARGE // 8)
    assert pool[0].total(made(1, LARGE)) == LARGE // 8


# ---- threads --------------------------------------------------------------------------------------------------------------


def test_threads_that_share_a_pool_get_their_own_values(pool: ProxyPool[Keeper]) -> None:
    wrong: list[Any] = []

    def use(number: int) -> None:
        try:
            kept = []
            for i in range(25):
                value = 1000 * number + i
                array = pool.echo.map([made(value), made(-value)])
                kept.append(array[1])
                if (array[0] != value).any() or pool[number % 2].total(made(value)) != value * (MAPPED // 8):
                    wrong.append((number, i))
            if any((array != -(1000 * number + i)).any() for i, array in enumerate(kept)):
                wrong.append((number, "kept"))
        except BaseException as exc:
            wrong.append(exc)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_arrays_may_be_dropped_by_any_thread(pool: ProxyPool[Keeper], plane: ProgramPlane) -> None:
    base = bytes_in_use(plane)
    results = pool.make.map(range(200))
    halves = [results[::2], results[1::2]]
    del results
    threads = [threading.Thread(target=half.clear) for half in halves]
    for thread in threads:
        thread.start()
    pool.total.map([made(1)] * 20)
    for thread in threads:
        thread.join()
    pool.make.map(range(200))  # no more than before
    assert bytes_in_use(plane) - base < 300 * MAPPED


# ---- programs -------------------------------------------------------------------------------------------------------------

PREAMBLE = """
    import gc, os, signal, sys, time, warnings
    # Python 3.12 counts a thread that has been joined and that the kernel has not taken down yet.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    import numpy as np
    from objproxy import ProxyPool, SharedArray
    from objproxy.backends import nurseries
    from objproxy.backends.plane import program_plane

    class Keeper:
        kept = None
        def pid(self): return os.getpid()
        def make(self, number, size): return np.full(size, number, dtype="i8")
        def keep(self, value): self.kept = value
        def total(self, array): return int(array.sum())
        def sleep(self): time.sleep(600)

    pool = ProxyPool(Keeper, worker_count=2)
    result = pool[0].make(7, 1_000_000)
    pool.keep(np.ones(1_000_000))
    shared = SharedArray.zeros(1_000_000)
    pool.keep(shared)
    put = pool.put(np.ones(1_000_000))
    pool.keep(put)
    print(os.getpid(), program_plane().segments.prefix or "-", nurseries._root._process.pid, *pool.pid.broadcast(), flush=True)
"""


def start(rest: str, portable: bool) -> tuple[subprocess.Popen[str], str, list[int]]:
    """Start a program with a pool and arrays of all kinds; return it, the prefix of its files, its root and its workers."""
    environ = {**os.environ, "OBJPROXY_PORTABLE": "1" if portable else "0"}
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PREAMBLE) + textwrap.dedent(rest)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**environ, "OPENBLAS_NUM_THREADS": "1"},  # its threads would make Python 3.13 warn of the fork
        start_new_session=True,
    )
    assert program.stdout is not None
    fields = program.stdout.readline().split()
    if not fields:
        raise AssertionError(program.communicate()[1])
    assert (fields[1] == "-") != portable
    return program, fields[1], [int(field) for field in fields[2:]]


def files(prefix: str) -> list[Path]:
    return list(Path(prefix).parent.glob(f"{Path(prefix).name}*")) if prefix != "-" else []


def check_nothing_is_left(prefix: str, pids: list[int]) -> None:
    poll_until(lambda: all(is_gone(pid) for pid in pids))
    poll_until(lambda: not files(prefix))


ENDS = {
    "it closes its pool": "pool.close()",
    "it leaves everything open": "pass",
    "it is killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "a worker is killed and it goes on": "os.kill(pool[0].pid(), signal.SIGKILL); pool.wait_ready(30); pool.resize(1)",
    "all workers are killed and then it": "[os.kill(pid, 9) for pid in (*pool.pid.broadcast(), os.getpid())]",
    "it is asked to end": "os.kill(os.getpid(), signal.SIGTERM)",
}


@pytest.mark.parametrize("portable", [False, True], ids=["memory", "portable"])
@pytest.mark.parametrize("rest", ENDS.values(), ids=ENDS)
def test_however_a_program_ends_no_memory_is_left(rest: str, portable: bool) -> None:
    program, prefix, pids = start(rest, portable)
    _, errors = program.communicate(timeout=PATIENCE_SECONDS)
    check_nothing_is_left(prefix, pids)
    if rest in ("pass", "pool.close()"):
        assert (program.returncode, errors) == (0, "")


@pytest.mark.parametrize("portable", [False, True], ids=["memory", "portable"])
def test_files_whose_root_nursery_is_killed_first_go_with_the_program(portable: bool) -> None:
    program, prefix, pids = start("sys.stdin.read()\n", portable)
    os.kill(pids[0], signal.SIGKILL)
    program.send_signal(signal.SIGTERM)
    program.communicate(timeout=PATIENCE_SECONDS)
    poll_until(lambda: all(is_gone(pid) for pid in pids))
    with start_next() as next_program:
        next_program.communicate(timeout=PATIENCE_SECONDS)
    assert files(prefix) == []


def test_when_everything_is_killed_the_next_program_sweeps_the_files() -> None:
    program, prefix, pids = start("time.sleep(600)", portable=True)
    assert files(prefix)
    for pid in (pids[0], program.pid, *pids[1:]):
        with contextlib.suppress(ProcessLookupError):  # the workers go with the first two
            os.kill(pid, signal.SIGKILL)
    program.communicate(timeout=PATIENCE_SECONDS)
    poll_until(lambda: all(is_gone(pid) for pid in pids))
    with start_next() as next_program:
        next_program.communicate(timeout=PATIENCE_SECONDS)
        assert next_program.returncode == 0
    assert files(prefix) == []


def start_next(*before: str) -> subprocess.Popen[str]:
    code = "from objproxy import SharedArray; SharedArray.zeros(3).close()"
    return subprocess.Popen(
        [*before, sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OBJPROXY_PORTABLE": "1"},
    )


@pytest.mark.parametrize("before", [(), pytest.param(NAMESPACE, marks=needs_namespaces)], ids=["here", "in a container"])
def test_a_sweep_leaves_the_files_of_programs_that_live(before: Sequence[str]) -> None:
    """Containers may share ``/dev/shm`` and not see each other's processes."""
    program, prefix, pids = start("sys.stdin.read(1) if False else time.sleep(600)", portable=True)
    try:
        there = sorted(files(prefix))
        with start_next(*before) as next_program:
            next_program.communicate(timeout=PATIENCE_SECONDS)
            assert next_program.returncode == 0
        assert sorted(files(prefix)) == there
    finally:
        program.kill()
        program.communicate(timeout=PATIENCE_SECONDS)
    check_nothing_is_left(prefix, pids)


FORK = """
    held_before = pool._core.backend._arena.held
    view = result[10:20]
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write_end)
        os.read(read_end, 1)  # until the parent has dropped its own, and the workers have used the memory again
        seen = {int(value) for value in np.unique(result)}
        result[...] = 5
        try:
            pool.make(1, 2)
            closed = "open"
        except Exception as exc:
            closed = type(exc).__name__
        print(seen, shared.array[0], closed, flush=True)
        del result, view, shared, put
        gc.collect()
        LEAVE
    os.close(read_end)
    if KEEP:
        kept = pool[1].make(3, 1_000_000)
    else:
        del result, view
    shared.array[0] = 42
    for i in range(100, 112):
        assert pool[0].make(i, 1_000_000)[-1] == i
    os.write(write_end, b"x")
    assert os.waitpid(child, 0)[1] == 0
    if KEEP:
        for i in range(200, 212):
            pool.make(i, 1_000_000)
        assert (result == 7).all() and (view == 7).all(), "the child gave back what the parent has"
        assert (kept == 3).all()
    assert (shared.array[1:] == 0).all() and shared.array[0] == 42
    assert pool.total(put).tolist() == [1_000_000] * 2
    assert pool.total(shared).tolist() == [42] * 2
    pool.close()
    print("parent done")
"""


@pytest.mark.parametrize("portable", [False, True], ids=["memory", "portable"])
@pytest.mark.parametrize(
    ("keep", "leave"), [(True, "sys.exit(0)"), (False, "os._exit(0)")], ids=["the parent keeps", "the parent drops"]
)
def test_a_forked_child_reads_what_its_parent_had_and_gives_nothing_back(keep: bool, leave: str, portable: bool) -> None:
    program, prefix, pids = start(FORK.replace("KEEP", str(keep)).replace("LEAVE", leave), portable)
    output, errors = program.communicate(timeout=PATIENCE_SECONDS)
    assert (program.returncode, errors) == (0, "")
    assert output.splitlines() == ["{7} 42.0 PoolClosedError", "parent done"]
    check_nothing_is_left(prefix, pids)


@pytest.mark.parametrize("portable", [False, True], ids=["memory", "portable"])
def test_a_forked_child_can_open_a_pool_of_its_own(portable: bool) -> None:
    code = """
    child = os.fork()
    if child == 0:
        with ProxyPool(Keeper, worker_count=1) as mine, SharedArray.zeros(100_000) as own:
            assert mine.total(np.ones(1_000_000)).tolist() == [1_000_000]
            own.array[...] = 2
            assert mine.total(own).tolist() == [200_000]
            assert mine[0].make(4, 100_000)[-1] == 4
        print("child done", program_plane().segments.prefix, flush=True)
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert pool[0].total(result) == 7_000_000
    assert pool[0].total(shared) == 0
    assert pool[0].total(put) == 1_000_000
    """
    program, prefix, pids = start(code, portable)
    output, errors = program.communicate(timeout=PATIENCE_SECONDS)
    assert (program.returncode, errors) == (0, "")
    assert output.startswith("child done")
    check_nothing_is_left(prefix, pids)
    if portable:
        assert output.split()[2] != prefix
        poll_until(lambda: not files(output.split()[2]), 10.0)

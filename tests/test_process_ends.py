"""The ends of processes: of workers in every way, of the nursery, and of the program, in which nothing may stay behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from objproxy import PoolBrokenError, ProxyPool, WorkerDiedError, WorkerInitError, current_worker
from objproxy._worker.control_channel import receive_message
from objproxy.backends.nurseries import PoolNursery
from optional import need
from programs import is_gone
from targets import PATIENCE_SECONDS, poll_until

psutil = need("psutil")

ROOT = Path(__file__).resolve().parent.parent


class Mortal:
    """An object whose methods end its process in various ways."""

    def echo(self, value: Any) -> Any:
        return value

    def pid(self) -> int:
        return os.getpid()

    def leave(self, code: int) -> None:
        os._exit(code)

    def signal_self(self, number: int) -> None:
        os.kill(os.getpid(), number)

    def own_sockets(self) -> list[int]:
        return [int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}") and _is_socket(int(fd))]

    def close_sockets(self) -> None:
        for fd in self.own_sockets():
            os.close(fd)

    def send_raw(self, data: bytes) -> None:
        """Write to the parent what is no frame, and end."""
        for fd in self.own_sockets():
            os.write(fd, data)
        os._exit(0)

    def fork_and_leave(self, path: Path) -> None:
        """Leave while a child holds every descriptor of this process; the child's number is in a file.

        A child of a worker gives its copy of the channel back, so it is given another.
        """
        for fd in self.own_sockets():
            os.dup(fd)
        if os.fork() == 0:
            os.setpgid(0, 0)  # out of the reach of whoever ends this process's group
            path.with_name("half").write_text(str(os.getpid()))
            path.with_name("half").rename(path)
            signal.pause()
        poll_until(path.exists)
        os._exit(5)

    def start_child(self) -> int:
        return subprocess.Popen(["sleep", "600"]).pid


def _is_socket(fd: int) -> bool:
    try:
        with socket.socket(fileno=os.dup(fd)) as copy:
            return copy.family == socket.AF_UNIX
    except OSError:
        return False


@pytest.fixture(params=["forkserver", "fork", "spawn"])
def pool(request: pytest.FixtureRequest) -> Iterator[ProxyPool[Mortal]]:
    with ProxyPool(Mortal, worker_count=2, start_method=request.param, max_restarts=(50, 5.0)) as made:
        yield made


@pytest.mark.parametrize("code", [0, 1, 7])
def test_an_exit_code_is_told_and_zero_is_no_success(pool: ProxyPool[Mortal], code: int) -> None:
    with pytest.raises(WorkerDiedError) as caught:
        pool[1].leave(code)
    assert (caught.value.exitcode, caught.value.worker_id, caught.value.started) == (code, 1, True)
    assert pool[1].echo(3) == 3


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM, signal.SIGBUS])
def test_a_signal_is_told_by_its_name(pool: ProxyPool[Mortal], number: signal.Signals) -> None:
    pids = pool.pid.broadcast()  # type: ignore[attr-defined]
    with pytest.raises(WorkerDiedError, match=number.name) as caught:
        pool[0].signal_self(number)
    assert caught.value.signal == number.name
    assert pool[1].pid() == pids[1]
    assert pool[0].pid() != pids[0]


def test_a_worker_that_closes_its_channel_is_dead(pool: ProxyPool[Mortal]) -> None:
    with pytest.raises(WorkerDiedError):
        pool[0].close_sockets()
    assert pool[0].echo(1) == 1


def test_a_death_is_seen_though_a_child_of_the_worker_holds_its_channel(pool: ProxyPool[Mortal], tmp_path: Path) -> None:
    path = tmp_path / "child"
    with pytest.raises(WorkerDiedError) as caught:
        pool[0].fork_and_leave(path)
    assert caught.value.exitcode == 5
    os.kill(int(path.read_text()), signal.SIGKILL)  # it left the worker's group on purpose: it is the test's to end


@pytest.mark.parametrize(
    "data", [b"\0" * 5, b"\xff" * 12, b"\x0c\0\0\0" + (2**63 - 1).to_bytes(8, "little"), b"\x63\0\0\0" + b"\0" * 8]
)
def test_bytes_that_are_no_frame_end_the_worker_and_nobody_else(pool: ProxyPool[Mortal], data: bytes) -> None:
    with pytest.raises(WorkerDiedError):
        pool[0].send_raw(data)
    assert pool.echo([1, 2, 3], map_args=True).tolist() == [1, 2, 3]


def test_what_a_worker_has_started_goes_with_it(pool: ProxyPool[Mortal]) -> None:
    child = pool[0].start_child()
    with pytest.raises(WorkerDiedError):
        pool[0].signal_self(signal.SIGKILL)
    poll_until(lambda: is_gone(child))


def test_what_workers_have_started_goes_with_the_pool() -> None:
    with ProxyPool(Mortal, worker_count=1) as pool:
        child = pool[0].start_child()
    poll_until(lambda: is_gone(child))


def test_a_pool_survives_the_death_of_its_nursery() -> None:
    with ProxyPool(Mortal, worker_count=2) as pool:
        nursery = psutil.Process(pool.workers[0].pid).parent()
        assert nursery is not None
        nursery.kill()
        poll_until(lambda: is_gone(nursery.pid))
        with pytest.raises(WorkerDiedError):
            pool.echo(1)
        assert pool.echo(2).tolist() == [2, 2]


def test_a_worker_that_keeps_dying_is_quarantined_and_the_others_go_on() -> None:
    with ProxyPool(Mortal, worker_count=2, max_restarts=(1, 60.0)) as pool:
        for _ in range(2):
            with pytest.raises(WorkerDiedError):
                pool[0].leave(1)
        with pytest.raises(WorkerDiedError, match="quarantined"):
            pool[0].echo(1)
        assert pool.echo(range(5), map_args=True).tolist() == [0, 1, 2, 3, 4]
        assert [worker.state for worker in pool.workers] == ["quarantined", "idle"]


def test_a_pool_without_workers_is_broken() -> None:
    with ProxyPool(Mortal, worker_count=1, max_restarts=(0, 60.0)) as pool:
        with pytest.raises(WorkerDiedError):
            pool[0].leave(1)
        with pytest.raises(PoolBrokenError):
            pool.echo(1)


class DeadlyAgain(Mortal):
    """Comes up once; each of its successors ends its own process while it is made, and leaves a line."""

    def __init__(self, path: Path, code: int | None) -> None:
        if current_worker().generation:
            with path.open("a") as file:
                file.write("made\n")
            os._exit(code) if code is not None else os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("start_method", ["forkserver", "fork", "spawn"])
@pytest.mark.parametrize(("code", "says"), [(0, "exited with code 0"), (None, "SIGKILL")])
def test_a_constructor_that_ends_its_process_at_each_restart_is_given_up_soon(
    start_method: str, code: int | None, says: str, tmp_path: Path
) -> None:
    """However many restarts are allowed: who waits for it is told of the constructor's end, and its neighbour goes on."""
    path = tmp_path / "made"
    options: dict[str, Any] = {"start_method": start_method, "max_restarts": (1000, 600.0), "init_args": (path, code)}
    with ProxyPool(DeadlyAgain, worker_count=2, **options) as pool:
        with pytest.raises(WorkerDiedError):
            pool[0].leave(1)
        with pytest.raises(WorkerInitError, match=f"{says}.*5 times in a row"):
            pool[0].echo(1)
        assert path.read_text() == "made\n" * 5
        assert [worker.state for worker in pool.workers] == ["quarantined", "idle"]
        assert pool.echo.map(range(5)) == list(range(5))


def test_a_pool_whose_constructors_end_their_processes_at_each_restart_is_broken(tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_restarts": (1000, 600.0), "init_args": (tmp_path / "made", 3)}
    with ProxyPool(DeadlyAgain, worker_count=2, **options) as pool:
        assert [type(error) for error in pool.leave.options(return_exceptions=True)(1)] == [WorkerDiedError] * 2
        with pytest.raises(PoolBrokenError) as caught:
            pool.echo.map(range(100))
        assert isinstance(caught.value.__cause__, WorkerInitError)
        assert "exited with code 3" in str(caught.value.__cause__)


# ---- the program ----------------------------------------------------------------------------------------------------------

SCRIPT = """
    import os, signal, subprocess, sys, time
    from objproxy import ProxyPool

    class Busy:
        def pid(self): return os.getpid()
        def start_child(self): return subprocess.Popen(["sleep", "600"]).pid
        def sleep(self): time.sleep(600)
        def work_in_c(self): sum(range(10**12))

    pool = ProxyPool(Busy, worker_count=2)
    pids = [*pool.pid.broadcast(), *pool.start_child.broadcast()]
    print(*pids, flush=True)
    {rest}
"""


def start_script(rest: str) -> tuple[subprocess.Popen[str], list[int]]:
    """Start a program with a pool; return it, and the processes that belong to its workers."""
    code = textwrap.dedent(SCRIPT).replace("{rest}", rest)
    program = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    assert program.stdout is not None
    return program, [int(pid) for pid in program.stdout.readline().split()]


@pytest.mark.parametrize(
    "rest",
    [
        "os.kill(os.getpid(), signal.SIGKILL)",
        "pool.work_in_c.submit(); os.kill(os.getpid(), signal.SIGKILL)",
        "pool.sleep.submit(); os._exit(3)",
        "pool.sleep.submit(); os.kill(os.getpid(), signal.SIGTERM)",
        "[os.kill(pid, signal.SIGSTOP) for pid in pids[:2]]; os.kill(os.getpid(), signal.SIGKILL)",
        "pool.sleep.submit(); sys.exit(4)",
        "raise ValueError('not caught')",
        "pass",
    ],
)
def test_however_a_program_ends_its_workers_are_gone(rest: str) -> None:
    program, pids = start_script(rest)
    program.communicate(timeout=PATIENCE_SECONDS)
    assert len(pids) == 4
    poll_until(lambda: all(is_gone(pid) for pid in pids))


def test_a_program_that_never_closes_its_pool_ends_quietly() -> None:
    program, _ = start_script("pass")
    _, errors = program.communicate(timeout=PATIENCE_SECONDS)
    assert (program.returncode, errors) == (0, "")


@pytest.mark.parametrize("call", ["work_in_c", "sleep"])
def test_one_ctrl_c_is_enough(call: str) -> None:
    program, pids = start_script(
        f"\ntry:\n    print('ready', flush=True); pool.{call}()\nexcept KeyboardInterrupt:\n    print('interrupted')"
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    os.killpg(program.pid, signal.SIGINT)
    output, errors = program.communicate(timeout=PATIENCE_SECONDS)
    assert (program.returncode, output, errors) == (0, "interrupted\n", "")
    poll_until(lambda: all(is_gone(pid) for pid in pids))


def test_requests_of_several_threads_to_a_nursery_do_not_mix() -> None:
    """The leader of a pool and a thread that closes it speak to its nursery at one time."""
    ours, theirs = socket.socketpair()
    nursery = PoolNursery(ours, None)
    n_requests = 2000
    senders = [
        threading.Thread(target=lambda i=i: [nursery.signal_worker(i, n, 9) for n in range(n_requests)]) for i in range(3)
    ]
    with ours, theirs:
        for sender in senders:
            sender.start()
        theirs.settimeout(PATIENCE_SECONDS)
        received = [receive_message(theirs) for _ in range(3 * n_requests)]
        for sender in senders:
            sender.join()
    for worker_id in range(3):
        own = [message for message in received if message is not None and message[0][1] == worker_id]
        assert own == [(("signal", worker_id, n, 9), []) for n in range(n_requests)]

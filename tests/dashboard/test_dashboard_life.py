"""A dashboard begins, ends and dies; the job never notices."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import objproxy
from dashboard_client import Client, publish
from objproxy import DashboardDetails, ProxyPool
from objproxy.dashboard import control, frames
from optional import need
from programs import is_gone
from targets import PATIENCE_SECONDS, Gate, poll_until

psutil = need("psutil")

ROOT = Path(__file__).parents[2]


class Work:
    def __init__(self, gate: str = "") -> None:
        self.gate = gate

    def double(self, x: int) -> int:
        return 2 * x

    def wait(self, x: int) -> int:
        if x:
            Gate(self.gate).wait()
        return x

    def fail(self, x: int) -> None:
        raise ValueError(f"no {x}")


@pytest.fixture
def running() -> Iterator[list[subprocess.Popen[str]]]:
    """Give a list of programs that are ended with the test."""
    programs: list[subprocess.Popen[str]] = []
    yield programs
    for program in programs:
        program.kill()
        program.communicate()


def start_program(code: str, programs: list[subprocess.Popen[str]]) -> list[str]:
    """Run a program; return the words of the first line that it prints."""
    command = [sys.executable, "-c", code]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    programs.append(program)
    assert program.stdout is not None
    line = program.stdout.readline().split()
    if not line:
        pytest.fail(program.communicate()[1])
    return line


def test_pools_are_shown_from_their_first_to_their_last_moment(client: Client) -> None:
    with ProxyPool(Work, worker_count=2, name="mine") as pool:
        assert pool.double(range(50), map_args=True, stack_results=sum) == 2450
        shown = client.wait_for_pool("mine", lambda found: found["n_tasks"] == 50)
        assert (shown["kind"], shown["backend"], shown["phase"], len(shown["workers"])) == ("Work", "process", "open", 2)
        assert {worker["pid"] for worker in shown["workers"]} == {worker.pid for worker in pool.workers}
        assert [call["method"] for call in shown["ended_calls"]] == ["double"]
        assert shown["ended_calls"][0]["done"] == shown["ended_calls"][0]["total"] == 50
        assert {span[1] for span in shown["spans"]} >= {"init", "call"}
    shown = client.wait_for_pool("mine", lambda found: found["ended"])
    assert (shown["phase"], shown["n_tasks"], shown["rate"]) == ("closed", 50, 0)


def test_a_pool_that_was_there_before_is_shown_with_the_call_that_it_runs(gates: type[Gate]) -> None:
    gate = gates("go")
    with ProxyPool(Work, worker_count=2, init_args=(str(gate.path),), name="earlier") as pool:
        results = pool.wait.options(timeout=600).imap([0, 0, 0, 1, 1, 1])
        assert [next(results) for _ in range(3)] == [0, 0, 0]
        details = objproxy.start_dashboard([0])
        client = Client(details.port).enter(details.url)
        shown = client.wait_for_pool("earlier", lambda found: found["calls"])
        (call,) = shown["calls"]
        assert (call["method"], call["done"], call["total"]) == ("wait", 3, 6)
        assert {worker["method"] for worker in shown["workers"]} == {"wait"}
        gate.open()
        assert list(results) == [1, 1, 1]
        client.wait_for_pool("earlier", lambda found: found["n_tasks"] == 6 and not found["calls"])
        objproxy.shutdown_dashboard()
        assert pool[0].double(4) == 8


def test_failures_are_shown_with_their_tracebacks(client: Client) -> None:
    with ProxyPool(Work, worker_count=1, name="failing") as pool:
        for on_error in ("return", "skip"):
            pool.fail.options(on_error=on_error).map([1, 2])
        with pytest.raises(ValueError, match="no 3"):
            pool[0].fail(3)
        shown = client.wait_for_pool("failing", lambda found: len(found["failures"]) == 5)
    assert shown["n_failed"] == 5
    assert shown["failing"] == {"fail": 5}
    assert [(found["item"], found["worker"]) for found in shown["failures"]] == [(0, 0), (1, 0), (0, 0), (1, 0), (None, 0)]
    assert shown["failures"][0]["error"] == "ValueError"
    assert shown["failures"][0]["text"] == "no 1"
    assert 'raise ValueError(f"no {x}")' in shown["failures"][0]["traceback"]


def test_a_dashboard_that_is_killed_costs_one_line_in_the_log(
    dashboard: DashboardDetails, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG, "objproxy"), ProxyPool(Work, worker_count=2) as pool:
        results = pool.double.imap(range(2000))
        assert next(results) == 0
        os.kill(dashboard.pid, signal.SIGKILL)
        assert list(results) == [2 * x for x in range(1, 2000)]
        poll_until(lambda: caplog.records)
        poll_until(lambda: not control._Ours.publisher.is_alive)
        assert pool.double([5], map_args=True).tolist() == [10]
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"the dashboard on port {dashboard.port} is told nothing any more" in record.getMessage()
    assert capfd.readouterr() == ("", "")


def test_a_dashboard_that_takes_nothing_in_is_given_up(
    dashboard: DashboardDetails, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = control._Ours.publisher
    assert publisher is not None
    publisher._connection.settimeout(0.05)
    monkeypatch.setattr(publisher, "_tell", lambda: publisher._connection.sendall(b"\0\0\0\2{}" + frames.pack({}) * 100_000))
    os.kill(dashboard.pid, signal.SIGSTOP)
    try:
        poll_until(lambda: not publisher.is_alive)
    finally:
        os.kill(dashboard.pid, signal.SIGCONT)
    assert "told nothing any more" in caplog.text


def test_a_new_one_can_be_started_when_one_has_died(dashboard: DashboardDetails) -> None:
    os.kill(dashboard.pid, signal.SIGKILL)
    poll_until(lambda: not control._Ours.publisher.is_alive)
    poll_until(lambda: is_gone(dashboard.pid))
    assert objproxy.start_dashboard([0]).pid != dashboard.pid


def test_there_is_one_dashboard_at_a_time(dashboard: DashboardDetails) -> None:
    with pytest.raises(RuntimeError, match=r"has a dashboard already; call shutdown_dashboard\(\)"):
        objproxy.start_dashboard([0])
    with pytest.raises(RuntimeError, match=f"connected to the dashboard on port {dashboard.port} already"):
        objproxy.connect_to_dashboard(dashboard.port)
    objproxy.shutdown_dashboard()
    objproxy.shutdown_dashboard()
    assert is_gone(dashboard.pid)
    with pytest.raises(ConnectionRefusedError, match=rf"no dashboard of yours on port {dashboard.port}; start one with"):
        objproxy.connect_to_dashboard(dashboard.port)
    with pytest.raises(ConnectionRefusedError):
        dashboard.make_url()
    assert not frames.socket_path(dashboard.port).exists()


def test_the_secret_is_not_part_of_what_is_printed(dashboard: DashboardDetails) -> None:
    assert "token=" in dashboard.url
    assert "token" not in repr(dashboard)
    assert f"port={dashboard.port}" in repr(dashboard)
    command = " ".join(psutil.Process(dashboard.pid).cmdline())
    assert dashboard.url.partition("token=")[2] not in command


def test_a_port_that_is_taken_is_passed_over_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(OSError, match=rf"cannot have port {port} of 127.0.0.1; give others"):
            objproxy.start_dashboard([port])
        details = objproxy.start_dashboard([port, 0])
        assert time.monotonic() - began < PATIENCE_SECONDS
        assert details.port != port


def test_what_an_earlier_dashboard_left_is_in_nobodys_way(dashboard: DashboardDetails) -> None:
    os.kill(dashboard.pid, signal.SIGKILL)
    poll_until(lambda: not control._Ours.publisher.is_alive)
    assert frames.socket_path(dashboard.port).exists()
    objproxy.shutdown_dashboard()
    assert objproxy.start_dashboard([dashboard.port]).port == dashboard.port


@pytest.mark.parametrize(
    ("ports", "error"), [([], ValueError), (8080, TypeError), (["8080"], TypeError), ([True], TypeError), ([70000], ValueError)]
)
def test_ports_are_checked(ports: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"port"):
        objproxy.start_dashboard(ports)  # type: ignore[arg-type]


def test_a_missing_framework_is_told_before_anything_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs starlette and uvicorn: pip install 'objproxy\[dashboard\]'"):
        objproxy.start_dashboard([0])


def test_arguments_are_shown_where_that_is_asked_for() -> None:
    details = objproxy.start_dashboard([0], show_arguments=True, show_tracebacks=False)
    client = Client(details.port).enter(details.url)
    with ProxyPool(Work, worker_count=1, name="open book") as pool:
        pool.fail.options(on_error="return").map([1234567])
        pool[0].double(1)  # whoever turns the engine next takes in how long the last message has taken
        shown = client.wait_for_pool("open book", lambda found: found["failures"] and found["slowest"])
    assert shown["slowest"][0]["arguments"] == "1234567"
    assert shown["failures"][0]["traceback"] == shown["failures"][0]["text"] == ""


def in_forked_child(act: Callable[[], object]) -> int:
    """Return how a forked child ends that does something: 0 if that raises nothing and does not hang."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a thread runs, that of the publisher
        child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(PATIENCE_SECONDS))
        act()
    except BaseException:
        os._exit(1)
    os._exit(0)


def use_pool(name: str) -> None:
    with ProxyPool(Work, worker_count=1, backend="serial", name=name) as pool:
        pool[0].double(1)


def test_a_forked_child_publishes_nothing_and_ends_nothing(dashboard: DashboardDetails) -> None:
    client = Client(dashboard.port).enter(dashboard.url)

    def act() -> None:
        objproxy.shutdown_dashboard()
        use_pool("of the child")

    is_held, is_over = threading.Event(), threading.Event()

    def hold() -> None:
        with control._Ours.lock:
            is_held.set()
            is_over.wait(PATIENCE_SECONDS)

    holder = threading.Thread(target=hold)
    holder.start()
    is_held.wait(PATIENCE_SECONDS)
    status = in_forked_child(act)  # while another thread starts a dashboard, say
    is_over.set()
    holder.join()
    assert status == 0
    with ProxyPool(Work, worker_count=1, backend="serial", name="of the parent"):
        client.wait_for_pool("of the parent")
    names = [pool["name"] for program in client.look()["programs"] for pool in program["pools"]]
    assert "of the child" not in names


def test_a_forked_child_may_connect_by_itself(client: Client) -> None:
    def act() -> None:
        objproxy.connect_to_dashboard(client.port)
        use_pool("of a child that wants it")
        objproxy.shutdown_dashboard()

    assert in_forked_child(act) == 0
    client.wait_for_pool("of a child that wants it", lambda found: found["ended"])
    with ProxyPool(Work, worker_count=1, backend="serial", name="still told"):
        client.wait_for_pool("still told")


def test_a_program_that_is_killed_takes_its_dashboard_along(running: list[subprocess.Popen[str]]) -> None:
    pid = int(start_program("import objproxy; print(objproxy.start_dashboard([0]).pid, flush=True); input()", running)[0])
    assert not is_gone(pid)
    running[0].kill()
    poll_until(lambda: is_gone(pid))


def test_a_program_that_ends_takes_its_dashboard_along_and_says_nothing(running: list[subprocess.Popen[str]]) -> None:
    code = """
import objproxy
print(objproxy.start_dashboard([0]).pid, flush=True)
with objproxy.ProxyPool(dict, worker_count=1) as pool:
    pool.update({1: 2})
"""
    pid = int(start_program(code, running)[0])
    assert running[0].communicate(timeout=PATIENCE_SECONDS) == ("", "")
    assert running[0].returncode == 0
    assert is_gone(pid)


def test_the_pools_of_a_program_that_is_killed_are_shown_as_lost(client: Client, running: list[subprocess.Popen[str]]) -> None:
    code = f"""
import objproxy
objproxy.connect_to_dashboard({client.port})
pool = objproxy.ProxyPool(dict, worker_count=1, name="doomed")
print("ready", flush=True)
input()
"""
    start_program(code, running)
    client.wait_for_pool("doomed")
    running[0].kill()
    lost = client.wait_for(lambda news: [program for program in news["programs"] if program["state"] == "lost"])
    assert [pool["name"] for pool in lost[-1]["pools"]] == ["doomed"]
    assert "connected" in {program["state"] for program in client.look()["programs"]}


def test_the_last_figures_of_a_program_are_told(client: Client, running: list[subprocess.Popen[str]]) -> None:
    code = f"""
import objproxy
objproxy.connect_to_dashboard({client.port})
with objproxy.ProxyPool(str, worker_count=1, init_args=("x",), name="brief") as pool:
    pool.join.map(["abc"] * 5)
print("ready", flush=True)
"""
    start_program(code, running)
    shown = client.wait_for_pool("brief", lambda found: found["ended"])
    assert shown["n_tasks"] == 5
    assert client.wait_for(lambda news: [program for program in news["programs"] if program["state"] == "ended"])


def test_connecting_needs_no_framework_and_loads_none(port: int, running: list[subprocess.Popen[str]]) -> None:
    code = f"""
import sys
sys.modules["starlette"] = sys.modules["uvicorn"] = None
import objproxy
objproxy.connect_to_dashboard({port})
print(len([name for name in sys.modules if name.split(".")[0] in ("asyncio", "http", "anyio")]), flush=True)
"""
    assert start_program(code, running) == ["0"]


def test_a_stranger_to_the_protocol_does_no_harm_to_others(client: Client) -> None:
    with publish(client.port) as stranger:
        stranger.sendall(b"nonsense")
        with ProxyPool(Work, worker_count=1, backend="serial", name="beside"):
            client.wait_for_pool("beside")

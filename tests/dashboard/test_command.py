"""The command ``objproxy dashboard``: what it prints, and how it ends."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from dashboard_client import Client, hello, publish
from objproxy.dashboard import command
from optional import need, needs
from targets import PATIENCE_SECONDS


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "objproxy.dashboard", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Give a dashboard that was started by hand, and what it has printed."""
    need("starlette", "uvicorn")
    line = [sys.executable, "-m", "objproxy.dashboard", "--port", "0"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = ""
    while "Ctrl-C" not in printed:
        printed += process.stdout.readline() or pytest.fail(process.communicate()[1])
    yield process, printed
    process.kill()
    process.communicate()


def test_it_prints_an_address_and_how_to_connect(served: tuple[subprocess.Popen[str], str]) -> None:
    found = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=\S+", served[1])
    assert found is not None
    port = int(found[1])
    assert f"objproxy.connect_to_dashboard({port})" in served[1]
    client = Client(port).enter(found[0])
    with publish(port, hello(5)):
        client.wait_for(lambda news: news["programs"])


def test_it_prints_another_address_of_one_that_runs(served: tuple[subprocess.Popen[str], str]) -> None:
    port = re.findall(r"127\.0\.0\.1:(\d+)", served[1])[0]
    done = run("--url", port)
    assert (done.returncode, done.stderr) == (0, "")
    Client(int(port)).enter(done.stdout.strip())


def test_it_ends_at_once_and_quietly(served: tuple[subprocess.Popen[str], str]) -> None:
    """Also while a page looks at it."""
    process, printed = served
    port = int(re.findall(r"127\.0\.0\.1:(\d+)", printed)[0])
    client = Client(port).enter()
    with socket.create_connection(("127.0.0.1", port)) as page:
        page.sendall(f"GET /events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nCookie: {client.cookie}\r\n\r\n".encode())
        assert b"200 OK" in page.recv(1000)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=PATIENCE_SECONDS) == ("", "")
    assert process.returncode == 0


@needs("starlette", "uvicorn")
def test_what_goes_wrong_is_told_in_a_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("--port", str(port))
    assert done.returncode == 1
    assert done.stderr == f"objproxy dashboard: the dashboard cannot have port {port} of 127.0.0.1; " + (
        "give others (port_range=..., or --port 9000-9019)\n"
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["dashboard", "--port", "x"], "'x': expected a port, or a range such as 8080-8099"),
        (["dashboard", "--port", "90-80"], "'90-80': expected a port"),
        (["dashboard", "--port", "70000"], "'70000': expected a port"),
        (["dashboard", "--url", "1-2"], "'1-2': expected one port"),
        (["dashbord"], "dashbord"),
        ([], "command"),
    ],
)
def test_wrong_arguments_are_told(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    assert text in capsys.readouterr().err


def test_no_dashboard_has_no_address(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="there is no dashboard of yours on port 1; start one"):
        command.main(["dashboard", "--url", "1"])
    assert capsys.readouterr().out == ""


def test_a_missing_framework_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"pip install 'objproxy\[dashboard\]'"):
        command.main(["dashboard"])

"""What tests of the dashboard talk to it with: requests as a browser sends them, and frames as a program does."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from objproxy.dashboard import frames
from objproxy.dashboard.control import make_url
from targets import PATIENCE_SECONDS


class Answer:
    """An answer of the server."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.text = response.read().decode()


class Client:
    """Talks to the dashboard on a port; `enter` gets a session."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.cookie = ""

    def request(self, method: str, path: str, headers: Mapping[str, str] | None = None, *, entered: bool = True) -> Answer:
        """Send one request; `headers` win over the usual ones."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        cookie = {"Cookie": self.cookie} if entered and self.cookie else {}
        try:
            connection.request(method, path, headers={"Host": f"127.0.0.1:{self.port}", **cookie, **(headers or {})})
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def get(self, path: str, headers: Mapping[str, str] | None = None, *, entered: bool = True) -> Answer:
        return self.request("GET", path, headers, entered=entered)

    def enter(self, url: str | None = None) -> Client:
        """Begin a session."""
        answer = self.get(path_of(url or make_url(self.port)))
        assert answer.status == 200
        self.cookie = answer.headers["set-cookie"].partition(";")[0]
        return self

    def look(self) -> dict[str, Any]:
        """Return what a page is told first: everything."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request("GET", "/events", headers={"Host": f"localhost:{self.port}", "Cookie": self.cookie})
            response = connection.getresponse()
            assert response.status == 200
            while not (line := response.readline().decode()).startswith("data: "):
                assert line, "the stream has ended"
            news: dict[str, Any] = json.loads(line.removeprefix("data: "))
            return news
        finally:
            connection.close()

    def wait_for(self, find: Callable[[dict[str, Any]], Any]) -> Any:
        """Look until `find` finds something in what is told, and return that."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := find(news := self.look())):
            assert time.monotonic() < deadline, news
            time.sleep(0.02)
        return found

    def wait_for_pool(self, name: str, is_true: Callable[[dict[str, Any]], Any] = bool) -> dict[str, Any]:
        """Look until there is a pool of a name of which something is true; return it."""

        def find(news: dict[str, Any]) -> Any:
            pools = [pool for program in news["programs"] for pool in program["pools"]]
            return next((pool for pool in pools if pool["name"] == name and is_true(pool)), None)

        found: dict[str, Any] = self.wait_for(find)
        return found


def path_of(url: str) -> str:
    """Return the path and the token of an address."""
    return "/" + url.split("/", 3)[3]


def hello(pid: int = 1) -> dict[str, Any]:
    """Return how a program begins."""
    return {"op": "hello", "program": {"pid": pid, "name": "fake.py", "python": "3.11.7", "host": "here", "n_cpus": 2}}


def digest(**changes: Any) -> dict[str, Any]:
    """Return what is published of a pool."""
    return {
        **{"id": 1, "name": "pool", "kind": "Model", "backend": "process", "phase": "open", "why": "", "began": time.time()},
        **{"ended": None, "now": 1.0, "rate": 2.0, "n_tasks": 3, "n_failed": 0, "n_outstanding": 0, "n_workers": 0},
        **{"workers": [], "calls": [], "failing": {}, "failures": [], "slowest": [], "methods": [], "spans": []},
        **changes,
    }


def publish(port: int, *messages: dict[str, Any]) -> socket.socket:
    """Connect as a program and send messages; return the connection, which is to be closed."""
    connection = frames.connect(port, PATIENCE_SECONDS)
    for message in messages:
        connection.sendall(frames.pack(message))
    return connection

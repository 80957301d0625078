"""Who is let in, what is answered, and what strangers can send: nothing that changes anything."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
import sys
import tempfile
from pathlib import Path

import pytest

from dashboard_client import Client, digest, hello, path_of, publish
from objproxy.dashboard import frames
from objproxy.dashboard.control import _end_server, _start_server, make_url
from optional import need
from targets import PATIENCE_SECONDS, poll_until

need("starlette", "uvicorn")

from objproxy.dashboard.server import Dashboard, bind  # noqa: E402 - it needs both


@pytest.fixture
def client(port: int) -> Client:
    return Client(port).enter()


def test_an_address_works_once(port: int) -> None:
    path = path_of(make_url(port))
    first = Client(port).get(path)
    assert first.status == 200
    cookie = first.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=Strict", "Path=/"))
    again = Client(port).get(path)
    assert again.status == 403
    assert "set-cookie" not in again.headers
    assert f"objproxy dashboard --url {port}" in again.text


def test_addresses_cannot_be_guessed(port: int) -> None:
    url = make_url(port)
    assert len(url.partition("token=")[2]) >= 43  # 32 bytes
    assert make_url(port) != url
    for path in ("/?token=", "/?token=x", path_of(url)[:-1], path_of(url) + "x", "/?token=%ff%00"):
        assert Client(port).get(path).status == 403


@pytest.mark.parametrize("path", ["/", "/events", "/dashboard.js", "/icon.svg", "/nothing"])
def test_without_a_session_nothing_is_told(port: int, path: str) -> None:
    for cookie in ({}, {"Cookie": f"objproxy-{port}=x"}, {"Cookie": "]["}, {"Cookie": f"objproxy-{port}="}):
        answer = Client(port).get(path, cookie)
        assert answer.status == 403
        assert "EventSource" not in answer.text


#: What other programs on 127.0.0.1 may have left in the browser, before our own cookie or behind it.
STRANGE_COOKIES = {
    "a space": "a=b c",
    "JSON": 'settings={"theme":"dark","sizes":[1,2]}',
    "no ASCII": "name=M\xfcller",
    "quotes": 'a="b',
    "quoted": 'a="b c"',
    "no equals sign": "lonely",
    "no name": "=value",
    "empty": "",
    "many semicolons": ";; ;",
    "a comma": "a=1,2",
    "brackets": "][",
    "our name, otherwise": "objproxy-{port}=x",
    "our name, quoted": 'objproxy-{port}="x; y',
    "our name without a value": "objproxy-{port}",
    "our name in a value": "a=objproxy-{port}=x",
    "another dashboard's": "objproxy-1{port}=x; objproxy=y",
    "attributes": "a=b; Path=/; HttpOnly; $Version=1; expires=Thu, 01 Jan 1970 00:00:00 GMT",
    "large": "a=" + "x" * 200_000,
}


@pytest.mark.parametrize("what", STRANGE_COOKIES)
def test_cookies_of_other_programs_keep_nobody_out(client: Client, what: str) -> None:
    strange = STRANGE_COOKIES[what].format(port=client.port) if "{port}" in STRANGE_COOKIES[what] else STRANGE_COOKIES[what]
    for cookie in (f"{strange}; {client.cookie}", f"{client.cookie}; {strange}", f"{strange};{client.cookie} ;{strange}"):
        assert client.get("/", {"Cookie": cookie}).status == 200
    assert client.get("/", {"Cookie": strange}).status == 403


def test_two_dashboards_keep_their_sessions_apart(client: Client) -> None:
    """They share one address, and so the cookies of the browser."""
    server, details = _start_server([0])
    try:
        other = Client(details.port).enter()
        both = {"Cookie": f"{client.cookie}; {other.cookie}"}
        assert client.cookie.partition("=")[0] != other.cookie.partition("=")[0]
        assert client.get("/", both).status == other.get("/", both).status == 200
        assert client.get("/", {"Cookie": other.cookie}).status == other.get("/", {"Cookie": client.cookie}).status == 403
    finally:
        _end_server(server)


HOST = b"Host: 127.0.0.1:%d\r\n"

#: What strangers send to a port, to see what there is.
STRANGERS = {
    "nothing": b"",
    "a TLS hello": bytes.fromhex("16030100c8010000c40303") + bytes(range(189)),
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "garbage": bytes(range(256)) * 4,
    "zeros": bytes(1000),
    "no HTTP": b"HELP\r\n\r\n",
    "half a request": b"GET / HT",
    "half of the headers": b"GET / HTTP/1.1\r\n" + HOST,
    "another version": b"GET / HTTP/9.9\r\n" + HOST + b"\r\n",
    "HTTP/0.9": b"GET /\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "an upgrade to HTTP/2": b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
    "a web socket": b"GET / HTTP/1.1\r\n"
    + HOST
    + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n",
    "huge headers": b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 3_000_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + HOST + b"X: x\r\n" * 20_000 + b"\r\n",
    "a bad header": b"GET / HTTP/1.1\r\n" + HOST + b"\x00: \x01\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "a bad length": b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    "bad chunks": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "less than its length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 99\r\n\r\nx",
    "a proxy's request": b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n",
    "a bad address": b"GET /%ff%00/../..\xff?token=%ff HTTP/1.1\r\n" + HOST + b"\r\n",
    "two requests in one": (b"GET / HTTP/1.1\r\n" + HOST + b"\r\n") * 2,
}


def test_what_strangers_send_is_not_told_in_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    server, details = _start_server([0])
    try:
        for is_reset in (False, True):
            for data in STRANGERS.values():
                _be_strange(details.port, data.replace(b"%d", b"%d" % details.port), is_reset=is_reset)
        assert Client(details.port).enter().get("/").status == 200
    finally:
        _end_server(server)
    assert capfd.readouterr() == ("", "")


def _be_strange(port: int, data: bytes, *, is_reset: bool) -> None:
    """Send something and leave: after the answer, or at once and impolitely."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as stranger:
        if is_reset:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):  # it need not listen to the end
            stranger.sendall(data)
            if not is_reset:
                stranger.shutdown(socket.SHUT_WR)
                while stranger.recv(65536):
                    pass


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost.evil:{port}", ""]
)
def test_a_foreign_host_is_refused(client: Client, host: str) -> None:
    assert client.get("/", {"Host": host.format(port=client.port)}).status in (400, 403)
    path = path_of(make_url(client.port))
    assert client.get(path, {"Host": host.format(port=client.port)}).status in (400, 403)
    assert client.get(path).status == 200  # it has not been used up


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:{port}", "http://127.0.0.1:1"])
def test_a_foreign_origin_is_refused(client: Client, origin: str) -> None:
    assert client.get("/events", {"Origin": origin.format(port=client.port)}).status == 403
    assert client.get("/", {"Origin": f"http://127.0.0.1:{client.port}"}).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_there_is_nothing_but_reading(client: Client, method: str) -> None:
    for path in ("/", "/events", path_of(make_url(client.port))):
        answer = client.request(method, path)
        assert answer.status == 405
        assert answer.headers["allow"] == "GET, HEAD"


def test_every_answer_has_the_headers_that_protect_it(client: Client) -> None:
    answers = [client.get("/"), client.get("/nothing"), client.get("/", entered=False), client.request("POST", "/")]
    answers.append(client.get(path_of(make_url(client.port))))
    assert [answer.status for answer in answers] == [200, 404, 403, 405, 200]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers


def test_the_page_loads_nothing_from_elsewhere(client: Client) -> None:
    for path in ("/", "/dashboard.js", "/dashboard.css", "/timeline.js", "/icon.svg"):
        answer = client.get(path)
        assert answer.status == 200
        assert "https://" not in answer.text
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "<script>", "onerror="):
            assert word not in answer.text
    assert client.get("/../server.py").status == client.get("/static/index.html").status == 404


def test_the_server_listens_on_the_loopback_address_alone(port: int) -> None:
    here = next((info[4][0] for info in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)), "127.0.0.1")
    others = {here, "127.0.0.2"} - {"127.0.0.1"}
    for address in others:
        with socket.socket() as stranger:
            assert stranger.connect_ex((address, port)) != 0


def test_what_a_program_sends_is_told(client: Client) -> None:
    name = "<img src=x onerror=alert(1)>"
    with publish(client.port, hello(77), {"op": "pool", "pool": digest(name=name)}):
        assert client.wait_for_pool(name)["n_tasks"] == 3
    gone = client.wait_for(lambda news: [p for p in news["programs"] if p["about"]["pid"] == 77 and p["state"] == "lost"])
    assert gone[0]["pools"][0]["name"] == name


def test_a_program_that_says_good_bye_has_ended(client: Client) -> None:
    publish(client.port, hello(78), {"op": "bye"}).close()
    assert client.wait_for(lambda news: [p for p in news["programs"] if p["about"]["pid"] == 78 and p["state"] == "ended"])


GARBAGE = {
    "no frame": b"GET / HTTP/1.1\r\n\r\n" * 100,
    "a size that no frame has": frames.HEADER.pack(0xFFFFFFFF) + b"x" * 1000,
    "a frame that is a little too large": frames.HEADER.pack(frames.MAX_FRAME + 1) + b"x" * 1000,
    "no message": frames.HEADER.pack(4) + b"\x80\x04K\x01",
    "a pickle": frames.HEADER.pack(27) + b"cos\nsystem\n(S'exit 1'\ntR.    ",
    "a deep message": frames.pack({})[:0] + frames.HEADER.pack(200_000) + b"[" * 200_000,
    "an unknown message": frames.pack({"op": "stop"}),
    "no program": frames.pack({"op": "hello", "program": 3}),
    "half a frame": frames.HEADER.pack(100) + b"{",
    "a pool that is none": frames.pack(hello(79)) + frames.pack({"op": "pool", "pool": {"id": 1}}),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_ends_its_own_connection_and_nothing_else(client: Client, what: str) -> None:
    with frames.connect(client.port, 30.0) as stranger:
        stranger.sendall(GARBAGE[what])
        stranger.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):  # it was closed with garbage unread
            assert stranger.recv(1000) == b""
    assert client.get("/").status == 200


@pytest.mark.parametrize("what", ["a size that no frame has", "a frame that is a little too large"])
def test_a_frame_that_is_too_large_is_refused_before_it_is_read(port: int, what: str) -> None:
    with frames.connect(port, 30.0) as stranger:
        stranger.sendall(GARBAGE[what][:8])  # and never more
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1000) == b""


def test_another_user_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even if the directory were open to all."""
    listener, inlet, path = bind([0])
    dashboard = Dashboard(listener, inlet, None)

    async def ask() -> bytes:
        async with await asyncio.start_unix_server(dashboard._take_program, sock=inlet):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(frames.pack({"op": "url"}))
            try:
                return await reader.read()
            except ConnectionResetError:  # it was closed with the question unread
                return b""
            finally:
                writer.close()

    monkeypatch.setattr(frames, "is_same_user", lambda _connection: False)
    with listener:
        assert asyncio.run(ask()) == b""
    path.unlink(missing_ok=True)


def test_the_dashboard_of_another_user_is_told_nothing(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "is_same_user", lambda _connection: False)
    with pytest.raises(PermissionError, match=f"the dashboard on port {port} belongs to another user"):
        frames.connect(port, 30.0)


def test_the_socket_is_this_users_alone(port: int) -> None:
    found = frames.socket_path(port).parent.stat()
    assert (found.st_uid, found.st_mode & 0o777) == (os.geteuid(), 0o700)


def test_only_so_many_pages_may_look(client: Client) -> None:
    request = f"GET /events HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\nCookie: {client.cookie}\r\n\r\n".encode()
    with contextlib.ExitStack() as pages:
        for _ in range(32):
            page = pages.enter_context(socket.create_connection(("127.0.0.1", client.port)))
            page.sendall(request)
            assert b"200 OK" in page.recv(15)
        poll_until(lambda: client.get("/events").status == 503)
    assert client.get("/").status == 200
    poll_until(lambda: _is_let_in(client))


def _is_let_in(client: Client) -> bool:
    try:
        return bool(client.look())
    except AssertionError:
        return False


@pytest.fixture
def long_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    return deep


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has short names for what is open")
def test_a_name_that_is_too_long_for_a_socket_is_made_shorter(long_directory: Path) -> None:
    """Issue 14: the dashboard said that no port was free."""
    listener, inlet, path = bind([0])
    with listener, inlet:
        assert path.parent.parent == long_directory
        assert path.exists()
        frames.connect(listener.getsockname()[1], 5.0).close()


def test_a_name_that_is_too_long_for_a_socket_is_told(long_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_OPEN_FILES", str(long_directory / "nothing"))
    with pytest.raises(OSError, match="too long a name for a socket; set XDG_RUNTIME_DIR or TMPDIR"):
        bind([0])


def test_a_directory_that_cannot_be_made_is_no_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue 14: on a read-only system the dashboard said that no port was free."""

    def refuse(_path: object, _mode: int) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(OSError, match=r"no directory for the socket .* cannot be made \(Read-only file system\); set XDG_"):
        bind([0])
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nonexistent")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: refuse("", 0))
    with pytest.raises(OSError, match="Read-only file system"):
        bind([0])

"""Who may see the dashboard: a middleware of ASGI, before everything else.

Any web page that this user visits can have the browser send requests to a port of this machine, also under a name of its own
that it lets point here (DNS rebinding), and any user of the machine can connect. So a request is answered only if

- its ``Host`` is the loopback address and this port, and its ``Origin``, if it has one, the same;
- its method is GET or HEAD: there is nothing that could be changed;
- it has the cookie of a session. A session is begun by an address with a token, which works once and which only this user has
  seen.
"""

from __future__ import annotations

import hmac
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any
from urllib.parse import parse_qs

#: The types of ASGI; its messages are dicts of anything.
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Addresses that were given out and not used, and sessions: the oldest go first.
_MAX_TOKENS = 16
_MAX_SESSIONS = 64

#: Nothing is loaded from elsewhere, nothing inline is run, nobody may frame it, no cache keeps it.
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

_PAGE = "<!doctype html><html lang=en><meta charset=utf-8><title>objproxy</title>{}<p>{}</p></html>"

#: The browser is sent on by the page itself: a redirect that began at a link elsewhere would come without the new cookie,
#: which is never sent with what another site began (SameSite=Strict).
_WELCOME = _PAGE.format('<meta http-equiv=refresh content="0;url=/">', '<a href="/">The dashboard</a>')


class Guard:
    """Lets those in who may see the dashboard.

    Parameters
    ----------
    app : callable
        The application behind it.
    port : int
        Where it is served.
    """

    def __init__(self, app: App, port: int) -> None:
        self._app = app
        self._port = port
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"} | ({"127.0.0.1", "localhost"} if port == 80 else set())
        self._cookie = f"objproxy-{port}"  # cookies do not tell ports apart
        self._tokens: deque[str] = deque(maxlen=_MAX_TOKENS)
        self._sessions: deque[str] = deque(maxlen=_MAX_SESSIONS)

    def make_url(self) -> str:
        """Return an address that begins one session."""
        token = secrets.token_urlsafe(32)
        self._tokens.append(token)
        return f"http://127.0.0.1:{self._port}/?token={token}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":  # there are no web sockets here
            return

        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        refusal = self._find_refusal(scope["method"], headers)
        if refusal is not None:
            await _answer(send, *refusal)
        elif scope["path"] == "/" and b"token=" in scope["query_string"]:
            await self._begin_session(scope["query_string"], send)
        elif not self._has_session(headers):
            await _answer(send, 403, self._how_to_enter())
        else:
            await self._app(scope, receive, _with_headers(send))

    def _find_refusal(self, method: str, headers: list[tuple[str, str]]) -> tuple[int, str] | None:
        hosts = [value for name, value in headers if name == "host"]
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return 403, "This is no address of the dashboard: it has the one that it has told, on 127.0.0.1."
        origins = {f"http://{host}" for host in self._hosts}
        if any(value.lower() not in origins for name, value in headers if name == "origin"):
            return 403, "The dashboard answers no requests of other sites."
        if method not in ("GET", "HEAD"):
            return 405, "The dashboard can be looked at, and nothing else."
        return None

    def _has_session(self, headers: list[tuple[str, str]]) -> bool:
        given = [found for name, value in headers if name == "cookie" for found in _cookies(value, self._cookie)]
        return any(_find(session, self._sessions) is not None for session in given)

    async def _begin_session(self, query: bytes, send: Send) -> None:
        given = parse_qs(query.decode("latin-1")).get("token", [""])[0]
        token = _find(given, self._tokens)
        if token is None:
            await _answer(send, 403, f"This address has been used: each works once. {self._how_to_enter()}")
            return
        self._tokens.remove(token)
        session = secrets.token_urlsafe(32)
        self._sessions.append(session)
        cookie = f"{self._cookie}={session}; HttpOnly; SameSite=Strict; Path=/"
        await _respond(send, 200, _WELCOME, {"set-cookie": cookie})

    def _how_to_enter(self) -> str:
        return f"The command <code>objproxy dashboard --url {self._port}</code> gives an address that lets you in."


def _cookies(header: str, name: str) -> Iterator[str]:
    """Yield the values of the cookies of one name, as browsers send them: pairs between semicolons (RFC 6265, 5.4).

    All programs on this address share its cookies, whatever their ports. Those of others may be anything, and come first; also
    one of our name with another path.
    """
    for pair in header.split(";"):
        found, separator, value = pair.partition("=")
        if separator and found.strip() == name:
            yield value.strip()


def _find(given: str, known: deque[str]) -> str | None:
    """Return what is equal to `given`, in a time that does not tell how much of it is."""
    found = None
    for secret in known:
        if hmac.compare_digest(secret.encode(), given.encode("utf-8", "surrogatepass")):
            found = secret
    return found


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *_encode(HEADERS)]
        await send(message)

    return send_with_headers


async def _answer(send: Send, status: int, text: str) -> None:
    """Refuse with a page; `text` is ours, nothing of the request is in it."""
    await _respond(send, status, _PAGE.format("", text), {"allow": "GET, HEAD"} if status == 405 else {})


async def _respond(send: Send, status: int, page: str, headers: dict[str, str]) -> None:
    body = page.encode()
    all_headers = {"content-type": "text/html; charset=utf-8", "content-length": str(len(body)), **HEADERS, **headers}
    await send({"type": "http.response.start", "status": status, "headers": _encode(all_headers)})
    await send({"type": "http.response.body", "body": body})


def _encode(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]

"""The process of the dashboard: takes in what programs publish, and shows it to browsers. It alone loads the framework."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from objproxy.dashboard import frames
from objproxy.dashboard.board import Board, Viewer
from objproxy.dashboard.guard import Guard

_logger = logging.getLogger("objproxy.dashboard")

#: Loggers of what serves: asyncio's tells of connections, too.
_FRAMEWORK = ("asyncio", "starlette", "uvicorn", "uvicorn.access", "uvicorn.asgi", "uvicorn.error")

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/dashboard.css": ("dashboard.css", "text/css; charset=utf-8"),
    "/dashboard.js": ("dashboard.js", "text/javascript; charset=utf-8"),
    "/timeline.js": ("timeline.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/favicon.ico": ("icon.svg", "image/svg+xml"),  # browsers ask for it before they have read a page
}

#: Seconds between two events for a page, and after which it is told that all is well though nothing is new.
_PACE_SECONDS = 0.2
_HEARTBEAT_SECONDS = 5.0

_MAX_VIEWERS = 32

#: Another port may do: it is taken, or only for the system's own programs.
_OF_ONE_PORT = (errno.EADDRINUSE, errno.EACCES)

#: Bytes of a request. All programs on this address share its cookies: a browser keeps 180 of 4 kB.
_MAX_HEADERS = 1 << 20

#: How often is looked whether whoever has started the dashboard is still there.
_OWNER_SECONDS = 0.5


def bind(ports: Iterable[int]) -> tuple[socket.socket, socket.socket, Path]:
    """Bind the first free port of the loopback address, and the socket to which programs publish.

    Returns
    -------
    tuple
        The listening sockets for browsers and for programs, and the file of the latter.

    Raises
    ------
    OSError
        No port is free; or what goes wrong does so with every port.
    """
    tried = []
    for port in ports:
        tried.append(port)
        listener = socket.socket(socket.AF_INET)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen()
            path = frames.socket_path(listener.getsockname()[1])
            inlet = _bind_inlet(path)
        except OSError as exc:
            listener.close()
            if exc.errno not in _OF_ONE_PORT:
                raise
            continue
        return listener, inlet, path
    which = f"port {tried[0]}" if len(tried) == 1 else f"any of the {len(tried)} ports {tried[0]} to {tried[-1]}"
    raise OSError(f"the dashboard cannot have {which} of 127.0.0.1; give others (port_range=..., or --port 9000-9019)")


def _bind_inlet(path: Path) -> socket.socket:
    """Bind the socket of the programs; what an earlier dashboard left there is removed, one that answers is left alone."""
    inlet = socket.socket(socket.AF_UNIX)
    try:
        with frames.short_name(path) as name:
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(name) == 0:
                    raise OSError(errno.EADDRINUSE, f"{path} is in use")
            path.unlink(missing_ok=True)
            inlet.bind(name)
        inlet.listen()
    except PermissionError as exc:
        inlet.close()
        raise OSError(f"the dashboard may make no socket {path} ({exc.strerror})") from exc
    except BaseException:
        inlet.close()
        raise
    return inlet


class _Server(uvicorn.Server):
    """A server that leaves signals to us: its own way is to raise them again at its end, before we have put things away."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


class Dashboard:
    """Serves one port until it is told to end, or its owner has ended.

    Parameters
    ----------
    listener, inlet : socket
        For browsers, and for programs.
    owner : int or None
        Process that has started it, and with which it ends; None for one that was started by hand.
    """

    def __init__(self, listener: socket.socket, inlet: socket.socket, owner: int | None) -> None:
        self.port: int = listener.getsockname()[1]
        self._listener, self._inlet, self._owner = listener, inlet, owner
        self._board = Board()
        self._n_viewers = 0
        routes = [Route(path, _file_endpoint(*file)) for path, file in _FILES.items()]
        app = Starlette(routes=[*routes, Route("/events", self._events)])
        self.guard = Guard(app, self.port)
        config = uvicorn.Config(
            self.guard,
            log_config=None,
            access_log=False,
            http="h11",  # whatever else is installed: its limit is known
            h11_max_incomplete_event_size=_MAX_HEADERS,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)

    async def run(self, on_ready: Callable[[str], None]) -> None:
        """Serve; `on_ready` gets the first address."""
        programs = await asyncio.start_unix_server(self._take_program, sock=self._inlet)
        watching = asyncio.create_task(self._watch_owner())
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._end)
        on_ready(self.guard.make_url())
        async with programs:
            await self._server.serve(sockets=[self._listener])
        watching.cancel()

    async def _watch_owner(self) -> None:
        while self._owner is None or os.getppid() == self._owner:
            await asyncio.sleep(_OWNER_SECONDS)
        self._end()

    def _end(self) -> None:
        self._server.should_exit = True

    # ---- programs ----------------------------------------------------------------------------------------------------

    async def _take_program(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take in what one connection sends; whatever is not a message of ours ends it."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
            if frames.is_same_user(writer.get_extra_info("socket")):
                await self._converse(reader, writer)
        writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        message = await _read_frame(reader)
        if message.get("op") == "url":
            writer.write(frames.pack({"url": self.guard.make_url()}))
            await writer.drain()
        elif message.get("op") == "hello":
            program, state = self._board.join(message.get("program")), "lost"
            try:
                while (message := await _read_frame(reader)).get("op") == "pool":
                    self._board.take(program, message.get("pool"))
                state = "ended" if message.get("op") == "bye" else state
            finally:
                self._board.leave(program, state)

    # ---- browsers ----------------------------------------------------------------------------------------------------

    async def _events(self, _request: Request) -> Response:
        if self._n_viewers >= _MAX_VIEWERS:
            return PlainTextResponse("too many pages look at this dashboard; close some", 503)
        return StreamingResponse(self._tell(), media_type="text/event-stream")

    async def _tell(self) -> AsyncIterator[str]:
        """Yield events for one page: one whenever something is new, and now and then one that says that nothing is."""
        self._n_viewers += 1
        viewer = Viewer(self._board)
        try:
            yield "retry: 1000\n\n"
            while not self._server.should_exit:
                version, told_at = self._board.version, time.monotonic()
                news = json.dumps(viewer.news(time.time()), separators=(",", ":"))
                yield f"data: {news}\n\n"
                await asyncio.sleep(_PACE_SECONDS)
                while self._board.version == version and time.monotonic() - told_at < _HEARTBEAT_SECONDS:
                    if self._server.should_exit:
                        return
                    await asyncio.sleep(_PACE_SECONDS)
        finally:
            self._n_viewers -= 1


async def _read_frame(reader: asyncio.StreamReader) -> dict[str, Any]:
    (size,) = frames.HEADER.unpack(await reader.readexactly(frames.HEADER.size))
    if size > frames.MAX_FRAME:
        raise ValueError(f"a frame of {size} bytes; it has at most {frames.MAX_FRAME}")
    return frames.unpack(await reader.readexactly(size))


def _file_endpoint(name: str, media_type: str) -> Callable[[Request], Response]:
    content = (resources.files("objproxy.dashboard") / "static" / name).read_bytes()

    async def endpoint(_request: Request) -> Response:
        return Response(content, media_type=media_type)

    return endpoint  # type: ignore[return-value]  # Starlette takes both kinds of functions


class _Retell(logging.Handler):
    """Tells as a detail of ours what the framework logs: anybody can make it warn, and the terminal is the job's."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record again, at the level DEBUG."""
        _logger.debug("%s: %s", record.name, record.getMessage(), exc_info=record.exc_info)


def _keep_terminal_clean() -> None:
    """Have the loggers of the framework write nothing, as far as this program does not ask for it."""
    for name in _FRAMEWORK:
        logger = logging.getLogger(name)
        logger.propagate = False
        logger.handlers[:] = [_Retell()]
    _logger.addHandler(logging.NullHandler())


def serve(ports: Iterable[int], owner: int | None, on_ready: Callable[[int, str], None]) -> None:
    """Serve a dashboard until it is ended; `on_ready` gets its port and its first address.

    Raises
    ------
    OSError
        No port is free, or the directory of the sockets is not this user's alone.
    """
    _keep_terminal_clean()
    listener, inlet, path = bind(ports)
    try:
        dashboard = Dashboard(listener, inlet, owner)
        asyncio.run(dashboard.run(lambda url: on_ready(dashboard.port, url)))
    finally:
        path.unlink(missing_ok=True)
        listener.close()
        inlet.close()

"""Start a dashboard, connect this program to one, and end both."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import importlib.util
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterable
from typing import Any, BinaryIO

from objproxy.dashboard import frames
from objproxy.dashboard.publishing import Publisher
from objproxy.processes import start_python

__all__ = ["DashboardDetails", "check_installed", "connect_to_dashboard", "shutdown_dashboard", "start_dashboard"]

#: An interpreter that has not come up by then is given up; the machine may be busy.
_START_SECONDS = 60.0

#: A dashboard that was asked to end is killed after this.
_END_SECONDS = 3.0

_PORTS = range(8080, 8100)


@dataclasses.dataclass(frozen=True)
class DashboardDetails:
    """Where a dashboard is.

    Attributes
    ----------
    port : int
        Its port on 127.0.0.1, for `connect_to_dashboard` in other programs.
    pid : int
        Its process.
    url : str
        The address for a browser. It works once and lets in whoever has it, so it is not part of the ``repr``; `make_url`
        gives another.
    """

    port: int
    pid: int
    url: str = dataclasses.field(repr=False)

    def make_url(self) -> str:
        """Return another address that works once; ConnectionRefusedError if the dashboard has ended."""
        return make_url(self.port)


class _Ours:
    """What this process has started; a forked child has none of it."""

    lock = threading.RLock()
    server: subprocess.Popen[bytes] | None = None
    publisher: Publisher | None = None
    is_registered = False


def start_dashboard(
    port_range: Iterable[int] = _PORTS, *, show_arguments: bool = False, show_tracebacks: bool = True
) -> DashboardDetails:
    """Start a dashboard for this program, in a process of its own, and show there what its pools do.

    Parameters
    ----------
    port_range : iterable of int
        The first port that is free is taken; 0 stands for any. Only this machine can reach it.
    show_arguments : bool
        Show the arguments of the slowest items, which may be anything.
    show_tracebacks : bool
        Show the texts and tracebacks of errors, which may hold arguments; False shows their types alone.

    Returns
    -------
    DashboardDetails
        With the address to open in a browser.

    Raises
    ------
    ImportError
        Starlette or uvicorn is not installed.
    OSError
        No port of the range is free.
    RuntimeError
        This program has a dashboard already, or is connected to one.
    NotSupportedError
        No process can be started for it. Start one by the command ``objproxy dashboard``, and call `connect_to_dashboard`.

    Notes
    -----
    It ends with `shutdown_dashboard`, or when this program ends, however that happens. If it dies earlier, one warning is
    logged and the program goes on. Pools that are there already are shown, too.
    """
    ports = check_ports(port_range)
    check_installed()
    with _Ours.lock:
        _check_free()
        server, details = _start_server(ports)
        _Ours.server = server
        _register()
        try:
            connect_to_dashboard(details.port, show_arguments=show_arguments, show_tracebacks=show_tracebacks)
        except BaseException:
            shutdown_dashboard()
            raise
        return details


def connect_to_dashboard(port: int, *, show_arguments: bool = False, show_tracebacks: bool = True) -> None:
    """Show what the pools of this program do on a dashboard that another program, or the command, has started.

    Parameters
    ----------
    port : int
        Of the dashboard.
    show_arguments, show_tracebacks : bool
        As for `start_dashboard`.

    Raises
    ------
    ConnectionRefusedError
        There is no dashboard of this user on that port.
    RuntimeError
        This program is connected already.

    Notes
    -----
    It needs nothing that is not installed with objproxy. If the dashboard ends, one warning is logged and the program goes on.
    """
    check_ports([port])
    with _Ours.lock:
        _check_unconnected()
        _Ours.publisher = Publisher(port, shows_arguments=show_arguments, shows_tracebacks=show_tracebacks)
        _register()


def shutdown_dashboard() -> None:
    """End the dashboard that this program has started, or let go of the one it is connected to; idempotent."""
    with _Ours.lock:
        publisher, _Ours.publisher = _Ours.publisher, None
        server, _Ours.server = _Ours.server, None
        if publisher is not None:
            publisher.stop()
        if server is not None:
            _end_server(server)


def make_url(port: int) -> str:
    """Return an address that works once of the dashboard on a port.

    Raises
    ------
    ConnectionRefusedError
        There is no dashboard of this user on that port.
    """
    return str(frames.ask(port, {"op": "url"})["url"])


def check_installed() -> None:
    """Raise ImportError if what serves the dashboard is not installed."""
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"the dashboard needs {' and '.join(missing)}: pip install 'objproxy[dashboard]'")


def check_ports(ports: Iterable[int]) -> list[int]:
    """Return the ports as a list.

    Raises
    ------
    TypeError, ValueError
        They are none.
    """
    try:
        checked = list(ports)
    except TypeError:
        raise TypeError(f"port_range={ports!r}: expected ports, for instance range(8080, 8100)") from None
    if not checked:
        raise ValueError(f"port_range={ports!r} is empty; expected ports, for instance range(8080, 8100)")
    for port in checked:
        if not isinstance(port, int) or isinstance(port, bool):
            raise TypeError(f"a port of {port!r}: expected an int of 0 to 65535")
        if not 0 <= port <= 65535:
            raise ValueError(f"there is no port {port!r}; expected an int of 0 to 65535")
    return checked


def _check_free() -> None:
    """Raise RuntimeError if this program has a dashboard; one that has died is forgotten."""
    if _Ours.server is not None and _Ours.server.poll() is not None:
        shutdown_dashboard()
    if _Ours.server is not None:
        raise RuntimeError("this program has a dashboard already; call shutdown_dashboard() to end it")
    _check_unconnected()


def _check_unconnected() -> None:
    """Raise RuntimeError if this program publishes on a dashboard that is there."""
    if _Ours.publisher is not None and _Ours.publisher.is_alive:
        raise RuntimeError(
            f"this program is connected to the dashboard on port {_Ours.publisher.port} already; "
            "call shutdown_dashboard() to let go of it"
        )


def _start_server(ports: list[int]) -> tuple[subprocess.Popen[bytes], DashboardDetails]:
    path = [os.path.abspath(entry) for entry in sys.path]  # an empty one stands for the working directory
    read_fd, write_fd = (frames.move_above_standard(fd) for fd in os.pipe())
    with os.fdopen(read_fd, "rb") as pipe:
        try:
            server = start_python(
                "objproxy.dashboard.command",
                "main",
                ["objproxy", "serve", json.dumps(ports), str(os.getpid())],
                path=path,  # the server takes nothing else from the environment or the working directory
                stdin=subprocess.DEVNULL,
                stdout=write_fd,
                start_new_session=True,  # Ctrl-C is for the program, which ends it
            )
        finally:
            os.close(write_fd)
        return server, _take_details(server, pipe)


def _take_details(server: subprocess.Popen[bytes], pipe: BinaryIO) -> DashboardDetails:
    """Wait until the dashboard is up."""
    try:
        told = _read_told(pipe)
    except BaseException:
        _end_server(server)
        raise
    if "error" in told:
        _end_server(server)
        raise OSError(told["error"])
    return DashboardDetails(told["port"], server.pid, told["url"])


def _read_told(pipe: BinaryIO) -> dict[str, Any]:
    """Return what the server says when it is up, or cannot come up: one line."""
    line = pipe.readline() if select.select([pipe], [], [], _START_SECONDS)[0] else b""
    if not line:
        raise OSError("the dashboard's process has not come up; what it says on the error stream tells why")
    told: dict[str, Any] = json.loads(line)
    return told


def _end_server(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # the kernel cannot end it: nobody waits for that
            server.wait(_END_SECONDS)


def _register() -> None:
    if not _Ours.is_registered:
        _Ours.is_registered = True
        atexit.register(shutdown_dashboard)


def _forget() -> None:
    """Let go in a forked child of what is its parent's."""
    _Ours.lock = threading.RLock()
    publisher, _Ours.publisher = _Ours.publisher, None
    server, _Ours.server = _Ours.server, None
    if publisher is not None:
        with contextlib.suppress(OSError):
            publisher.abandon()
    if server is not None:
        server.returncode = 0  # not ours to wait for; without this its finaliser would complain


os.register_at_fork(after_in_child=_forget)

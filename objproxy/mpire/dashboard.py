"""MPIRE's names for the dashboard: `objproxy.dashboard` behind them, with its socket and its address that works once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from objproxy import connect_to_dashboard as _connect
from objproxy import shutdown_dashboard as _shut_down
from objproxy import start_dashboard as _start
from objproxy.dashboard import check_installed

__all__ = ["connect_to_dashboard", "get_stacklevel", "set_stacklevel", "shutdown_dashboard", "start_dashboard"]

_PORTS = range(8080, 8100)

_stacklevel = 1


def start_dashboard(port_range: Sequence[int] = _PORTS) -> dict[str, Any]:
    """Start a dashboard for this program.

    Parameters
    ----------
    port_range : sequence of int
        The first port that is free is taken. MPIRE needs two, so there are to be two at least.

    Returns
    -------
    dict
        ``"dashboard_port_nr"``, ``"manager_host"`` and ``"manager_port_nr"``, as MPIRE has them. Programs connect by the port
        of the dashboard itself, so both numbers are that. ``"dashboard_url"``, which MPIRE has not, is the address for a
        browser: it works once, and without it the page lets nobody in.

    Raises
    ------
    NotImplementedError
        What serves the dashboard is not installed.
    OSError
        No port is free, or there are fewer than two.
    RuntimeError
        This program has a dashboard, or is connected to one.
    """
    _check_installed()
    if len(port_range) < 2:
        raise OSError(f"port_range={port_range!r}: expected two ports at least, for instance range(8080, 8100)")
    details = _start(port_range)
    return {
        "dashboard_port_nr": details.port,
        "manager_host": "127.0.0.1",
        "manager_port_nr": details.port,
        "dashboard_url": details.url,
    }


def connect_to_dashboard(manager_port_nr: int, manager_host: str | bytes | None = None) -> None:
    """Show the pools of this program on a dashboard that another has started.

    Parameters
    ----------
    manager_port_nr : int
        Its port.
    manager_host : str, bytes or None
        This machine: None, "127.0.0.1" or "localhost".

    Raises
    ------
    ConnectionRefusedError
        There is no such dashboard.
    NotImplementedError
        What serves the dashboard is not installed.
    RuntimeError
        This program is connected already.
    ValueError
        Another machine: a dashboard is told only what happens on its own.
    """
    _check_installed()
    host = manager_host.decode() if isinstance(manager_host, bytes) else manager_host
    if host not in (None, "", "127.0.0.1", "localhost"):
        raise ValueError(f"manager_host={manager_host!r}: a dashboard shows the programs of its own machine; leave it out")
    _connect(manager_port_nr)


def shutdown_dashboard() -> None:
    """End the dashboard of this program, or let go of it; idempotent. NotImplementedError if nothing can serve one."""
    _check_installed()
    _shut_down()


def get_stacklevel() -> int:
    """Return what `set_stacklevel` has set; NotImplementedError if nothing that serves a dashboard is installed."""
    _check_installed()
    return _stacklevel


def set_stacklevel(stacklevel: int) -> None:
    """Set which caller of a map MPIRE's dashboard shows; ours shows methods, so it is kept and changes nothing.

    Raises
    ------
    NotImplementedError
        What serves the dashboard is not installed.
    """
    global _stacklevel
    _check_installed()
    _stacklevel = stacklevel


def _check_installed() -> None:
    try:
        check_installed()
    except ImportError as exc:
        raise NotImplementedError(f"Install the dashboard dependencies to enable the dashboard: {exc}") from exc

"""Dashboards for tests: their sockets lie in a directory of the test's own, and none outlives its test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import objproxy
from dashboard_client import Client
from objproxy.dashboard.control import _end_server, _start_server
from optional import need


@pytest.fixture(scope="module", autouse=True)
def runtime_directory() -> Iterator[Path]:
    """Give a directory whose name is short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="op-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(path))
        yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(autouse=True)
def none_is_left() -> Iterator[None]:
    """End the dashboard of a test, however the test has ended."""
    yield
    objproxy.shutdown_dashboard()


@pytest.fixture
def dashboard() -> objproxy.DashboardDetails:
    """Give a dashboard to which this program is connected."""
    need("starlette", "uvicorn")
    return objproxy.start_dashboard([0])


@pytest.fixture(scope="module")
def port(runtime_directory: Path) -> Iterator[int]:
    """Give the port of a dashboard that all tests of the module share."""
    need("starlette", "uvicorn")
    server, details = _start_server([0])
    yield details.port
    _end_server(server)


@pytest.fixture
def client(port: int) -> Client:
    """Give a session with the shared dashboard, to which this program is connected."""
    objproxy.connect_to_dashboard(port)
    return Client(port).enter()

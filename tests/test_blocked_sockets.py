"""Test suites that forbid sockets: a pool talks to no network, and works there."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest

from objproxy import ProxyPool
from objproxy.dashboard import frames
from optional import need
from targets import Model


class _BlockedError(RuntimeError):  # so is that of pytest-socket
    """A test has tried to use a socket."""


def _refuse(*_args: Any, **_kwargs: Any) -> NoReturn:
    raise _BlockedError


class _Blocked(socket.socket):
    __new__ = _refuse


def _block_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", _Blocked)
    for name in ("socketpair", "create_connection", "fromfd", "send_fds", "recv_fds"):
        monkeypatch.setattr(socket, name, _refuse)


def _block_by_plugin(_monkeypatch: pytest.MonkeyPatch) -> None:
    need("pytest_socket").disable_socket(allow_unix_socket=False)


@pytest.fixture(params=[_block_by_hand, _block_by_plugin], ids=["by hand", "pytest-socket"])
def _sockets_are_blocked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    block: Callable[[pytest.MonkeyPatch], None] = request.param
    before = socket.socket
    block(monkeypatch)
    yield
    socket.socket = before  # type: ignore[misc]


@pytest.mark.filterwarnings("ignore:A test tried to use socket")
@pytest.mark.usefixtures("_sockets_are_blocked")
@pytest.mark.parametrize("start_method", ["forkserver", "fork"])
def test_a_pool_works_where_sockets_are_blocked(start_method: str) -> None:
    with pytest.raises(RuntimeError):
        socket.socket()
    with ProxyPool(Model, init_args=(3.0,), worker_count=2, start_method=start_method) as pool:
        assert list(pool.rate) == [3.0, 3.0]


@pytest.mark.filterwarnings("ignore:A test tried to use socket")
@pytest.mark.usefixtures("_sockets_are_blocked")
def test_a_dashboard_says_that_sockets_are_blocked() -> None:
    with pytest.raises(RuntimeError) as caught:
        frames.connect(1, 1.0)
    assert "blocks sockets" in caught.value.__notes__[0]


def test_a_time_limit_for_new_sockets_is_not_that_of_a_pool() -> None:
    socket.setdefaulttimeout(1e-6)
    try:
        with ProxyPool(Model, init_args=(3.0,), worker_count=2) as pool:
            assert list(pool.rate) == [3.0, 3.0]
    finally:
        socket.setdefaulttimeout(None)

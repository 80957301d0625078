"""The socket of the dashboard and what goes over it: whose directory it may lie in, and what is no message."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from objproxy.dashboard import frames


def test_the_socket_lies_in_a_directory_of_this_user_alone(runtime_directory: Path) -> None:
    path = frames.socket_path(8080)
    assert path == runtime_directory / "objproxy" / "dashboard-8080.sock"
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_without_a_runtime_directory_it_lies_with_the_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(frames, "_RUN_USER", str(tmp_path / "nowhere"))
    for value in ("", str(tmp_path / "missing"), "relative"):
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
        assert frames.socket_path(1).parent == tmp_path / f"objproxy-{os.geteuid()}"


def test_the_usual_runtime_directory_is_found_without_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(frames, "_RUN_USER", str(tmp_path))
    (tmp_path / str(os.geteuid())).mkdir(mode=0o700)
    assert frames.socket_path(1).parent == tmp_path / str(os.geteuid()) / "objproxy"


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_directory_that_others_can_enter_is_refused(mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "objproxy").mkdir()
    (tmp_path / "objproxy").chmod(mode)
    with pytest.raises(PermissionError, match=rf"mode 0{mode:o}; expected a directory of user {os.geteuid()} with mode 0700"):
        frames.socket_path(8080)


def test_a_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "objproxy").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    frames.socket_path(8080)
    monkeypatch.setattr(frames, "_is_own_directory", lambda _path, _uid: True)
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    with pytest.raises(PermissionError, match=f"a directory of user {os.getuid()} with mode 0700"):
        frames.socket_path(8080)


def test_what_a_link_points_to_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "objproxy").symlink_to(tmp_path / "real")
    with pytest.raises(PermissionError, match="is no directory"):
        frames.socket_path(8080)


def test_a_message_comes_back_from_its_frame() -> None:
    message = {"op": "pool", "pool": {"name": "ä\ud800<b>", "spans": [[1, 2.5, None]]}}
    frame = frames.pack(message)
    assert frames.HEADER.unpack(frame[:4]) == (len(frame) - 4,)
    assert frames.unpack(frame[4:]) == message


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"1", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_message_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"Expecting|a message|decode"):
        frames.unpack(body)


def test_a_message_that_is_too_large_is_not_packed() -> None:
    with pytest.raises(ValueError, match="at most 1048576"):
        frames.pack({"text": "x" * frames.MAX_FRAME})
    with pytest.raises(ValueError, match="JSON"):
        frames.pack({"number": float("nan")})


def test_the_other_end_of_a_connection_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = socket.socketpair()
    with here, there:
        assert frames.is_same_user(here)
        monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
        if hasattr(socket, "SO_PEERCRED"):
            assert not frames.is_same_user(here)

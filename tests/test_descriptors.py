"""Descriptors of ours are never 0, 1 or 2, and memory files cannot be made shorter."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from objproxy import ProxyPool, SharedArray
from objproxy._worker import descriptors, journal
from objproxy._worker.segments import MemorySegments
from objproxy.backends.poller import Poller
from targets import PATIENCE_SECONDS

TESTS = Path(__file__).parent
COMBINATIONS = [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
START_METHODS = ["forkserver", "fork", "spawn"]

needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="there is no /proc")
needs_seals = pytest.mark.skipif(not hasattr(fcntl, "F_ADD_SEALS"), reason="memory files cannot be sealed here")


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def _run_without(closed: Sequence[int], start_method: str, report: Path, **environ: str) -> None:
    command = [sys.executable, str(TESTS / "closed_streams.py"), str(report), start_method, json.dumps(closed)]
    subprocess.run(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **environ},
        preexec_fn=functools.partial(_close, closed),
        timeout=PATIENCE_SECONDS * 2,
        check=True,
    )
    assert json.loads(report.read_text()) == []


@needs_proc
@pytest.mark.parametrize("start_method", START_METHODS)
@pytest.mark.parametrize("closed", COMBINATIONS, ids=str)
def test_no_descriptor_of_ours_takes_the_place_of_a_closed_stream(
    closed: Sequence[int], start_method: str, tmp_path: Path
) -> None:
    """Issue 13: the journal of a daemon's worker lay on descriptor 1, and what a method wrote there became results."""
    _run_without(closed, start_method, tmp_path / "report")


@needs_proc
@pytest.mark.parametrize("start_method", START_METHODS)
def test_no_descriptor_of_ours_takes_the_place_of_a_closed_stream_portably(start_method: str, tmp_path: Path) -> None:
    _run_without((0, 1, 2), start_method, tmp_path / "report", OBJPROXY_PORTABLE="1")


@contextlib.contextmanager
def _without_stdin() -> Iterator[None]:
    """Close descriptor 0 for a moment."""
    kept = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(0)
    try:
        yield
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):  # nothing that was opened has come to stay there
            os.fstat(0)
    finally:
        os.dup2(kept, 0)
        os.close(kept)


def _open_all() -> list[int]:
    sockets = descriptors.make_socket_pair()
    return [
        *descriptors.make_pipe(),
        *(sock.detach() for sock in sockets),
        descriptors.open_file(os.devnull, os.O_RDONLY),
        journal.create(),
    ]


def test_whatever_is_opened_lies_above_the_standard_streams() -> None:
    with _without_stdin():
        fds = _open_all()
        poller = Poller()
        poller.close()
    assert min(fds) > 2
    assert not any(os.get_inheritable(fd) for fd in fds)
    _close(fds)


def test_a_descriptor_that_cannot_be_moved_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    before = len(os.listdir("/dev/fd"))
    with _without_stdin(), monkeypatch.context() as patch:
        patch.setattr(fcntl, "fcntl", refuse)
        for make in (descriptors.make_pipe, descriptors.make_socket_pair):
            with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
                make()
    assert len(os.listdir("/dev/fd")) == before


def test_a_pair_of_sockets_above_the_standard_streams_is_connected() -> None:
    with _without_stdin():
        one, other = descriptors.make_socket_pair()
    with one, other:
        assert (one.family, one.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
        one.sendall(b"x")
        assert other.recv(1) == b"x"


# ---- memory that keeps its size --------------------------------------------------------------------------------------


@needs_seals
def test_memory_files_keep_their_size() -> None:
    segments = MemorySegments()
    fds = [journal.create(), segments.fd]
    for fd in fds:
        assert fd is not None
        for nbytes in (0, 4096, (1 << 63) - 1):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, nbytes)
    os.close(fds[0])  # type: ignore[arg-type]
    segments.reserve(0, 0, 4096)
    mapping = segments.map(0, 4096, is_shared=True)
    mapping[:4] = b"data"
    segments.discard(0, 4096)  # a hole may still be punched
    assert mapping[:4] == bytes(4)
    segments.close()


class Vandal:
    """Truncates what it finds."""

    def truncate(self) -> int:
        n_done = 0
        for fd in range(3, 100):
            with contextlib.suppress(OSError):
                if stat_is_file(fd):
                    os.ftruncate(fd, 0)
                    n_done += 1
        return n_done

    def add(self, x: int) -> int:
        return x + 1

    def total(self, array: Any) -> float:
        return float(array.sum())


def stat_is_file(fd: int) -> bool:
    """Return whether a descriptor is shared memory of ours."""
    return "objproxy" in os.readlink(f"/proc/self/fd/{fd}")


@needs_seals
@needs_proc
@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_task_that_truncates_its_descriptors_harms_nobody(start_method: str) -> None:
    """Issue 13: the program was killed by SIGBUS."""
    with ProxyPool(Vandal, worker_count=1, start_method=start_method) as pool, SharedArray.zeros(10_000) as shared:
        assert pool.truncate().tolist() == [0]
        assert pool.total(shared).tolist() == [0.0]
        assert shared.array.sum() == 0
        assert pool.add.map(range(1000)) == list(range(1, 1001))


@pytest.mark.parametrize("name", ["posix_fallocate", "none"])
def test_room_in_a_file_is_taken_at_once(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also where the system has no call for it."""
    if name == "none":
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    with open(tmp_path / "file", "wb+") as file:
        descriptors.allocate(file.fileno(), 4096, 3_000_000)
        status = os.fstat(file.fileno())
    assert status.st_size == 4096 + 3_000_000
    assert status.st_blocks * 512 >= 3_000_000

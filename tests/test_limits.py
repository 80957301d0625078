"""Programs whose files, addresses and folders are limited: pools work as far as they can, and else say why not."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from objproxy._worker import journal, segments
from objproxy._worker.segments import NamedSegments
from objproxy.backends.plane import program_plane
from targets import PATIENCE_SECONDS

PROGRAM = Path(__file__).parent / "limited_program.py"

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory files are Linux's")


def _run(function: str, start_method: str, **environ: str) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), function, start_method],
        capture_output=True,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **environ},
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("start_method", ["forkserver", "fork", "later"])
def test_arrays_cross_however_large_files_may_be(start_method: str) -> None:
    """Issue 14: all shared memory was one sparse file of 2^63 bytes, and no pool started under ``ulimit -f``."""
    _run("limit_files", start_method)


def test_arrays_cross_however_large_files_may_be_portably() -> None:
    _run("limit_files", "forkserver", OBJPROXY_PORTABLE="1")


def test_a_host_without_signals_lives() -> None:
    _run("limit_files_of_a_host", "forkserver")


def test_files_that_may_have_nearly_nothing_are_told() -> None:
    _run("limit_files_to_nothing", "forkserver")


def test_arrays_cross_though_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that gives memory back is tried again with the next call."""
    plane = program_plane()
    plane.pause_trimming()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _refuse_thread)
        plane.trim_later()
        assert plane._trimmer is None
    plane.trim_later()
    assert plane._trimmer is not None


def _refuse_thread(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@needs_linux
def test_a_lack_of_addresses_is_told() -> None:
    _run("limit_addresses", "forkserver")


@needs_linux
def test_where_anonymous_files_are_not_allowed_segments_have_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some containers forbid memfd_create; old kernels have none."""

    def refuse(_name: str, _flags: int) -> int:
        raise OSError(errno.ENOSYS, "no such function")

    monkeypatch.setattr(os, "memfd_create", refuse)
    space = segments.open_segments()
    assert isinstance(space, NamedSegments)
    space.close()
    os.close(journal.create())


@needs_linux
def test_a_lack_of_descriptors_is_no_reason_for_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_name: str, _flags: int) -> int:
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(os, "memfd_create", refuse)
    with pytest.raises(OSError, match="too many"):
        segments.open_segments()
    with pytest.raises(OSError, match="too many"):
        journal.create()


def test_where_no_folder_can_be_written_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", refuse)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OSError, match=r"no folder for shared memory: .* No usable temporary directory .*; set TMPDIR"):
        segments.find_folder()
    with pytest.raises(OSError, match="no folder for shared memory"):
        journal._make_in_folder()


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no such folder")
def test_a_journal_needs_no_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise FileNotFoundError(errno.ENOENT, "none")

    monkeypatch.setattr(tempfile, "gettempdir", refuse)
    os.close(journal._make_in_folder())

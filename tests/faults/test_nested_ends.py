"""Pools of pools of pools (E): when the program ends, or a worker above, everything below ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from contained import NAMESPACE, ROOT, needs_namespaces
from nested_program import ENDS, WORKER_ENDS

START_METHODS = ["forkserver", "fork", "spawn"]

pytestmark = [needs_namespaces, pytest.mark.slow]


def _some(all_ends: Sequence[str], *ends: str) -> list[tuple[str, str]]:
    """Return every end with the usual start method, and some with the others."""
    return [(how, "forkserver") for how in all_ends] + [(how, method) for method in ("fork", "spawn") for how in ends]


def _run(folder: Path, *args: str, portable: str) -> str:
    (folder / "flags").mkdir()
    done = subprocess.run(
        [*NAMESPACE, "timeout", "-k", "1", "100", sys.executable, str(ROOT / "tests" / "nested_program.py"), *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OBJPROXY_PORTABLE": portable},
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize(("how", "start_method"), _some(ENDS, "by SIGKILL"))
def test_however_a_program_ends_nothing_is_left_at_any_depth(how: str, start_method: str, tmp_path: Path) -> None:
    """E20: looked at in a process namespace of its own, where no process can hide."""
    args = ["observe", "program", how, start_method, str(tmp_path / "flags")]
    assert _run(tmp_path, *args, portable="0") == "[]"


@pytest.mark.parametrize("start_method", START_METHODS)
def test_nothing_is_left_at_any_depth_portably(start_method: str, tmp_path: Path) -> None:
    """E20: where the kernel tells of no parent's death."""
    args = ["observe", "program", "by SIGKILL", start_method, str(tmp_path / "flags")]
    assert _run(tmp_path, *args, portable="1") == "[]"


@pytest.mark.parametrize(("how", "start_method"), _some(WORKER_ENDS, "killed", "timed out"))
def test_however_a_worker_ends_nothing_below_it_is_left(how: str, start_method: str, tmp_path: Path) -> None:
    """E20: the program goes on."""
    args = ["worker", how, start_method, str(tmp_path / "flags")]
    assert _run(tmp_path, *args, portable="0") == "True []"

"""Run programs that might start themselves without end, where nothing of them can stay: in a process namespace of their own."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent

#: Everything is killed by then; the programs here are done in a second or two, on a machine that is not busy.
_SECONDS = 60

#: What counts the processes that run a program or import a module. Too many of them end at once.
COUNT = """
import os as _os
with open(_os.environ["COUNTED"], "a") as _file:
    _file.write("x")
    if _file.tell() > 60:
        _os._exit(99)
"""

#: A process namespace of its own: everything in it is killed with its first process.
NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


class Ended(NamedTuple):
    """How a program has ended, what it has written, and how often its code was run."""

    returncode: int
    output: str
    errors: str
    count: int


@functools.cache
def has_namespaces() -> bool:
    """Return whether this user may make process namespaces."""
    try:
        return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


needs_namespaces = pytest.mark.skipif(not has_namespaces(), reason="process namespaces (unshare) are not allowed here")


def run_contained(folder: Path, files: Mapping[str, str], environ: Mapping[str, str] | None = None) -> Ended:
    """Run ``main.py`` of some files in a process namespace of its own; modules and programs count with `COUNT`."""
    for name, text in files.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    counted = folder / "counted"
    counted.touch()
    done = subprocess.run(
        [*NAMESPACE, "timeout", "-k", "1", str(_SECONDS), sys.executable, "main.py"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "COUNTED": str(counted), **(environ or {})},
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr, counted.stat().st_size)

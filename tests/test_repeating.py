"""The options with which tests of races are run many times."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from objproxy import ProxyPool

ROOT = Path(__file__).parent.parent


class Threads:
    """Knows how its threads take turns."""

    def interval(self) -> float:
        return sys.getswitchinterval()


@pytest.mark.race
@pytest.mark.parametrize("start_method", ["forkserver", "fork", "spawn"])
def test_threads_of_workers_take_turns_as_often_as_those_of_the_tests(start_method: str) -> None:
    """So a run with ``--switch-interval`` cannot leave the workers out unnoticed."""
    with ProxyPool(Threads, worker_count=1, start_method=start_method) as pool:
        assert pool[0].interval() == pytest.approx(sys.getswitchinterval())


def test_the_options_are_heard() -> None:
    test = f"{Path(__file__).name}::{test_threads_of_workers_take_turns_as_often_as_those_of_the_tests.__name__}"
    command = [sys.executable, "-m", "pytest", "-q", f"tests/{test}", "--repeat", "2", "--switch-interval", "1e-4"]
    environ = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}  # it may choose among the tests
    completed = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert completed.returncode == 0, completed.stdout
    assert "6 passed" in completed.stdout

"""Two options for tests of races: ``--repeat`` runs every test many times, ``--switch-interval`` lets threads take turns often.

``python -m pytest tests -m race --repeat 200 --switch-interval 1e-6``, under ``taskset -c 0``, is what docs/faults.md reports.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest

_SWITCHING = Path(__file__).parent / "switching"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("races")
    group.addoption("--repeat", type=int, default=1, metavar="N", help="run each test N times")
    group.addoption(
        "--switch-interval", type=float, metavar="SECONDS", help="sys.setswitchinterval(SECONDS), here and in every worker"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "race: a fault, or an end, that meets something that goes on at the same time")
    seconds: float | None = config.getoption("--switch-interval")
    if seconds is not None:
        sys.setswitchinterval(seconds)
        os.environ["TEST_SWITCH_INTERVAL"] = str(seconds)
        folders = [str(_SWITCHING), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, folders))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    n_times: int = metafunc.config.getoption("--repeat")
    if n_times > 1:
        metafunc.fixturenames.append("repetition")
        metafunc.parametrize("repetition", range(n_times))


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.getoption("--repeat") > 1:
        gc.collect()
        gc.freeze()  # else every look for what a test has left would look at all tests, which are many


@pytest.fixture
def repetition(request: pytest.FixtureRequest) -> int:
    """Give the number of this run of a test."""
    number: int = request.param
    return number

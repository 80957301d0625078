"""Measure how long ``import objproxy`` takes, and whether it loads NumPy.

Command: ``python -m benchmarks.import_time``

The wall time of ``python -c "import ..."``, whole, many times in turns; bare Python is the yardstick. ``import
objproxy`` loads the parts when they are used; what a first use costs is the line "objproxy, ProxyPool". The last
column tells how many modules were loaded, and whether NumPy is among them.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

from benchmarks._command import run_script
from benchmarks._lane import check
from benchmarks._model import OURS, Contender, Experiment, Outcomes, Target

_BARE = "bare Python"
_MAX_SECONDS = 0.030
_REPORT = "\nimport sys\nprint(len(sys.modules), 'numpy' in sys.modules)"

_STATEMENTS = {
    OURS: "import objproxy",
    "objproxy, ProxyPool": "from objproxy import ProxyPool",
    "multiprocessing.Pool": "from multiprocessing import pool",
    "ProcessPoolExecutor": "from concurrent.futures import ProcessPoolExecutor",
    "loky": "import loky",
    "joblib": "import joblib",
    "pebble": "import pebble",
    "mpire": "import mpire",
    "objectproxypool": "import objectproxypool",
    "mtasklite": "import mtasklite",
    "MultiWorker": "import workercontext",
    _BARE: "pass",
}


def time_import(library: str, n_starts: int) -> tuple[list[float], dict[str, Any]]:
    """Return the seconds of each of `n_starts` interpreters; facts: modules loaded, NumPy among them.

    Raises
    ------
    ImportError
        The library is not installed.
    """
    statement = _STATEMENTS[library]
    completed = subprocess.run([sys.executable, "-c", statement + _REPORT], capture_output=True, text=True, check=False)
    if completed.returncode != 0:
        raise ImportError(completed.stderr.strip().rpartition("\n")[2])
    n_modules, has_numpy = completed.stdout.split()[-2:]
    return [_time_start(statement) for _ in range(n_starts)], {"modules": int(n_modules), "numpy": has_numpy == "True"}


def _time_start(statement: str) -> float:
    began = time.perf_counter()
    completed = subprocess.run([sys.executable, "-c", statement], check=False)
    seconds = time.perf_counter() - began
    check(completed.returncode == 0, statement)
    return seconds


def _seconds_over_bare(outcomes: Outcomes) -> float:
    return 1e3 * (outcomes.figure(OURS) - outcomes.figure(_BARE))


def _loads_numpy(outcomes: Outcomes) -> float:
    outcomes.figure(OURS)
    return float(outcomes[OURS].facts["numpy"])


EXPERIMENTS = (
    Experiment(
        "import_time",
        "A Python that imports the library and ends",
        "ms",
        tuple(
            Contender(name, time_import, {"library": name}, is_peer=not name.startswith((OURS, _BARE))) for name in _STATEMENTS
        ),
        (
            Target("under 30 ms over bare Python", 1e3 * _MAX_SECONDS, _seconds_over_bare, "ms"),
            Target("loads no NumPy", 0.0, _loads_numpy),
        ),
        sizes={"n_starts": 4},
        quick_sizes={"n_starts": 1},
        rounds=8,
        discard_rounds=1,
    ),
)

if __name__ == "__main__":
    run_script("import_time", __doc__, EXPERIMENTS)

"""Facts of the machine and of the installed versions, which belong to every figure."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

#: Distributions whose version matters.
_DISTRIBUTIONS = (
    "objproxy", "cloudpickle", "dask", "distributed", "joblib", "loky", "mpire", "mtasklite", "numpy", "objectproxypool",
    "ompr", "pebble", "ray", "workercontext",
)  # fmt: skip


def machine_facts() -> dict[str, Any]:
    """Return processor, memory, system, Python, load and time."""
    return {
        "processor": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "usable_cpus": len(os.sched_getaffinity(0)),
        "memory": _field("/proc/meminfo", "MemTotal"),
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def versions() -> dict[str, str]:
    """Return the versions of the contenders that are installed."""
    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def available_nbytes() -> int:
    """Return how much memory programs can still get without swapping."""
    return 1024 * int(_field("/proc/meminfo", "MemAvailable").split()[0])


def _field(path: str, name: str) -> str:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")

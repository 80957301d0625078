"""One class, many live instances: a pool of workers that each hold an object, used as if they were one.

Importing this package loads neither NumPy nor anything else that is large; each name loads what it needs when it is
first used (PEP 562).
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from objproxy._worker.context import Worker, current_worker, report_progress
    from objproxy._worker.reducers import register_buffers
    from objproxy._worker.shared_values import register_shared
    from objproxy.dashboard.control import DashboardDetails, connect_to_dashboard, shutdown_dashboard, start_dashboard
    from objproxy.errors import (
        ArgumentPickleError,
        DeviceError,
        NestedPoolError,
        NotSupportedError,
        ObjProxyError,
        PoisonTaskError,
        PoolBrokenError,
        PoolClosedError,
        RemoteError,
        RemoteTraceback,
        ResultPickleError,
        SharedMemoryFullError,
        TaskTimeoutError,
        WorkerDiedError,
        WorkerInitError,
    )
    from objproxy.making import preload
    from objproxy.ompr.helpers import OMPRException
    from objproxy.ompr.runner import OMPRunner
    from objproxy.ompr.simple import simple_process
    from objproxy.ompr.worker import RunningWorker
    from objproxy.parallel import ParallelCall, ParallelFunction, parallelise
    from objproxy.proxy import ProxyPool
    from objproxy.shared import SharedArray, SharedValue
    from objproxy.sharing_names import SharedArrayWrapper, Unpacker, iterlen, lenrepeat, lenzip, unpack

__version__ = "0.1.0"

_HOMES = {
    **dict.fromkeys(("ParallelCall", "ParallelFunction", "parallelise"), "objproxy.parallel"),
    "preload": "objproxy.making",
    **dict.fromkeys(
        ("DashboardDetails", "connect_to_dashboard", "shutdown_dashboard", "start_dashboard"), "objproxy.dashboard.control"
    ),
    "OMPRException": "objproxy.ompr.helpers",
    "OMPRunner": "objproxy.ompr.runner",
    "RunningWorker": "objproxy.ompr.worker",
    "simple_process": "objproxy.ompr.simple",
    "ProxyPool": "objproxy.proxy",
    "SharedArray": "objproxy.shared",
    "SharedValue": "objproxy.shared",
    **dict.fromkeys(("SharedArrayWrapper", "Unpacker", "iterlen", "lenrepeat", "lenzip", "unpack"), "objproxy.sharing_names"),
    "Worker": "objproxy._worker.context",
    "current_worker": "objproxy._worker.context",
    "register_buffers": "objproxy._worker.reducers",
    "report_progress": "objproxy._worker.context",
    "register_shared": "objproxy._worker.shared_values",
    **dict.fromkeys(
        (
            "ArgumentPickleError",
            "DeviceError",
            "NestedPoolError",
            "NotSupportedError",
            "ObjProxyError",
            "PoisonTaskError",
            "PoolBrokenError",
            "PoolClosedError",
            "RemoteError",
            "RemoteTraceback",
            "ResultPickleError",
            "SharedMemoryFullError",
            "TaskTimeoutError",
            "WorkerDiedError",
            "WorkerInitError",
        ),
        "objproxy.errors",
    ),
}

__all__ = [
    "ArgumentPickleError",
    "DashboardDetails",
    "DeviceError",
    "NestedPoolError",
    "NotSupportedError",
    "OMPRException",
    "OMPRunner",
    "ObjProxyError",
    "ParallelCall",
    "ParallelFunction",
    "PoisonTaskError",
    "PoolBrokenError",
    "PoolClosedError",
    "ProxyPool",
    "RemoteError",
    "RemoteTraceback",
    "ResultPickleError",
    "RunningWorker",
    "SharedArray",
    "SharedArrayWrapper",
    "SharedMemoryFullError",
    "SharedValue",
    "TaskTimeoutError",
    "Unpacker",
    "Worker",
    "WorkerDiedError",
    "WorkerInitError",
    "connect_to_dashboard",
    "current_worker",
    "iterlen",
    "lenrepeat",
    "lenzip",
    "parallelise",
    "preload",
    "register_buffers",
    "register_shared",
    "report_progress",
    "shutdown_dashboard",
    "simple_process",
    "start_dashboard",
    "unpack",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'objproxy' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if "OBJPROXY_HELPER" in os.environ and sys.argv[1:2] == ["--multiprocessing-fork"]:
    # A frozen application was started as a helper of a pool. It becomes one here, before it does anything else.
    importlib.import_module("objproxy._worker.entrance").enter()

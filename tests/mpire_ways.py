"""The ways in which a `WorkerPool` can run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from objproxy.mpire import WorkerPool

#: Spawned workers behave as those of a fork server, and take ten times as long to start: tests name them where they may differ.
EVERY_METHOD = ("fork", "forkserver", "spawn", "threading")
PROCESS_METHODS = EVERY_METHOD[:3]

every_method = pytest.mark.parametrize("make_any", EVERY_METHOD, indirect=True)
every_process = pytest.mark.parametrize("make_process", PROCESS_METHODS, indirect=True)

MakePool = Callable[..., WorkerPool]

"""Ray and Dask on this machine alone: started, used as their documents recommend, and ended without a trace."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def open_ray(n_cpus: int) -> Iterator[Any]:
    """Start Ray with its defaults, but without a dashboard; gives the module `ray`."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # which would ask the network
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its future default; else it warns
    import ray

    folder = tempfile.mkdtemp(prefix="ray-")
    ray.init(num_cpus=n_cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR", _temp_dir=folder)
    try:
        yield ray
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def open_dask(n_workers: int) -> Iterator[Any]:
    """Start a cluster of processes with one thread each; gives Dask's client."""
    import dask
    from distributed import Client, LocalCluster

    with (
        tempfile.TemporaryDirectory(prefix="dask-", ignore_cleanup_errors=True) as folder,
        dask.config.set({"temporary-directory": folder}),
        LocalCluster(n_workers=n_workers, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(n_workers)
        yield client


def worker_addresses(client: Any) -> list[str]:
    """Return the addresses of Dask's workers."""
    return sorted(client.scheduler_info(n_workers=-1)["workers"])

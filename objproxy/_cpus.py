"""How many CPUs this process may really use.

``os.cpu_count()`` tells what the machine has. In a container with a quota of two CPUs on a machine with 160, or under
``taskset``, it would start far too many workers. So the affinity mask and the quota of the control groups count too.

References
----------
.. [1] Linux kernel, "Control Group v2", interface file ``cpu.max``: "$MAX $PERIOD" in microseconds; "max" is no limit.
.. [2] Linux kernel, "CFS Bandwidth Control", files ``cpu.cfs_quota_us`` (-1: no limit) and ``cpu.cfs_period_us``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

__all__ = ["cgroup_quota", "usable_cpu_count", "usable_cpus"]

_CGROUP_ROOT = "/sys/fs/cgroup"
_PROC_ROOT = "/proc"


def usable_cpus() -> tuple[int, ...]:
    """Return the numbers of the CPUs on which this process may run.

    Returns
    -------
    tuple of int
        The affinity mask in rising order; every CPU where the platform has no such mask.
    """
    try:
        return tuple(sorted(os.sched_getaffinity(0)))
    except AttributeError:  # macOS and Windows have no affinity call in the standard library
        return tuple(range(os.cpu_count() or 1))


def usable_cpu_count(*, cgroup_root: str = _CGROUP_ROOT, proc_root: str = _PROC_ROOT) -> int:
    """Return how many CPUs' worth of work this process can do at a time.

    Parameters
    ----------
    cgroup_root, proc_root : str
        Where the file systems of the control groups and of the processes are mounted.

    Returns
    -------
    int
        The least of the affinity mask, the quota (rounded up) and ``os.cpu_count()``; at least 1.

    Notes
    -----
    A part of a CPU counts as one: two workers use a quota of 1.5 CPUs fully, one does not. From Python 3.13 on
    ``os.cpu_count()`` obeys ``PYTHON_CPU_COUNT``, and so a lower number given there holds here as well.
    """
    limits = [len(usable_cpus()), os.cpu_count() or 1]
    quota = cgroup_quota(cgroup_root=cgroup_root, proc_root=proc_root)
    if quota is not None:
        limits.append(math.ceil(quota))

    return max(1, min(limits))


def cgroup_quota(*, cgroup_root: str = _CGROUP_ROOT, proc_root: str = _PROC_ROOT) -> float | None:
    """Return the CPU quota that control groups put on this process.

    Parameters
    ----------
    cgroup_root, proc_root : str
        Where the file systems of the control groups and of the processes are mounted.

    Returns
    -------
    float or None
        CPUs; None if there is no limit, or no control groups.
    """
    quotas = [
        quota
        for directory, is_unified in _groups(cgroup_root, proc_root)
        if (quota := _quota_v2(directory) if is_unified else _quota_v1(directory)) is not None
    ]
    return min(quotas, default=None)


def _groups(cgroup_root: str, proc_root: str) -> Iterator[tuple[str, bool]]:
    """Yield the directories whose limits bind this process, each with True for version 2."""
    for line in _read(os.path.join(proc_root, "self", "cgroup")).splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            mounts = [cgroup_root]
        elif "cpu" in controllers.split(","):
            # "cpu,cpuacct" is mounted under that name, as "cpu", or both by a link; reading twice does no harm.
            mounts = [os.path.join(cgroup_root, controllers), os.path.join(cgroup_root, "cpu")]
        else:
            continue

        for mount in mounts:
            for group in _upwards(path):
                yield mount + group, hierarchy == "0"


def _upwards(path: str) -> Iterator[str]:
    """Yield a group's path and those of the groups around it, up to the root.

    A limit on any of them binds. In a container the path may be that of the host and not exist here, or lead out of the
    mount (``/../..``); the container's own limits then stand at the root of what is mounted.
    """
    group = os.path.normpath("/" + path.lstrip("/"))
    while group != "/":
        yield group
        group = os.path.dirname(group)

    yield ""


def _quota_v2(directory: str) -> float | None:
    quota, _, period = _read(os.path.join(directory, "cpu.max")).partition(" ")
    return _ratio(quota, period)


def _quota_v1(directory: str) -> float | None:
    quota = _read(os.path.join(directory, "cpu.cfs_quota_us"))
    return _ratio(quota, _read(os.path.join(directory, "cpu.cfs_period_us")))


def _ratio(quota: str, period: str) -> float | None:
    """Divide two numbers of microseconds; anything that is not a limit ("max", -1, a missing file) gives None."""
    try:
        ratio = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None

    return ratio if ratio > 0 else None


def _read(path: str) -> str:
    """Return a small file's text; a file that is missing or closed to us sets no limit that we could know of."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""

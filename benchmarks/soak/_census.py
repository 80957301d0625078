"""What there is at one moment: processes, descriptors, threads, shared memory, memory of this program."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import psutil

#: Set for everything that is started from now on, so that it is found whatever becomes of its parents.
_MARK = "OBJPROXY_SOAK"

#: How long an end may take: what is unused in shared memory is given back after five seconds.
_SETTLE_SECONDS = 12.0

_libc = ctypes.CDLL(None)

#: Parameters of glibc's mallopt.
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


@dataclass(frozen=True)
class Census:
    """Counts at one moment.

    Attributes
    ----------
    processes : int
        Those that this program has started, directly or not, zombies among them.
    descriptors : int
        Of this program and of its longest-lived helper process.
    threads : int
        Of this program.
    segments : int
        Files in /dev/shm with the library's name.
    shared_nbytes : int
        Bytes in anonymous shared memory.
    """

    processes: int
    descriptors: int
    threads: int
    segments: int
    shared_nbytes: int

    def excess_over(self, other: Census) -> dict[str, int]:
        """Return by how much each count is larger than another census's; only those that are."""
        pairs = {name: value - getattr(other, name) for name, value in vars(self).items()}
        return {name: value for name, value in pairs.items() if value > 0}


def begin() -> None:
    """See that everything started from now on can be found, and memory be measured; call it before the first pool."""
    os.environ[_MARK] = uuid.uuid4().hex
    if hasattr(_libc, "mallopt"):
        # Else each thread that ever lived leaves an arena behind, full of holes, and a leak would be lost in that noise.
        _libc.mallopt(_M_ARENA_MAX, 1)
        _libc.mallopt(_M_MMAP_THRESHOLD, 64 * 1024)


def take_census() -> Census:
    """Count."""
    descriptors = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    return Census(
        processes=len(_own_pids()),
        descriptors=len(descriptors) + _n_descriptors_of_helpers(),
        threads=threading.active_count(),
        segments=len(list(Path("/dev/shm").glob("objproxy*"))),
        shared_nbytes=sum(_memory_of(path) for path in descriptors),
    )


def settle(before: Census) -> dict[str, int]:
    """Wait until nothing is more than it was; return what still is after a while."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while (excess := take_census().excess_over(before)) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.05)
    return excess


def own_memory() -> int:
    """Return the bytes of this program's own memory, after giving back what it does not use; shared memory is another count."""
    gc.collect()
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


def _own_pids() -> set[int]:
    mark = f"{_MARK}={os.environ[_MARK]}".encode()
    pids = {child.pid for child in psutil.Process().children(recursive=True)}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                variables = Path("/proc", entry, "environ").read_bytes().split(b"\0")
            except OSError:  # it has ended, or is somebody else's
                continue
            if mark in variables:
                pids.add(int(entry))
    return pids


def _n_descriptors_of_helpers() -> int:
    """Count the descriptors of the direct children, which live as long as this program."""
    count = 0
    for child in psutil.Process().children():
        try:
            count += child.num_fds()
        except psutil.Error:
            continue
    return count


def _memory_of(descriptor: Path) -> int:
    """Return the bytes that an anonymous file of shared memory holds; 0 of anything else."""
    try:
        if not os.readlink(descriptor).startswith("/memfd:"):
            return 0
        return os.stat(descriptor).st_blocks * 512
    except OSError:
        return 0

"""The GPUs that this process may use, as the driver and ``CUDA_VISIBLE_DEVICES`` name them.

CUDA itself is never asked: a process that has initialised it cannot fork, and holds memory on every GPU. Probes are
asked in its place, and the first one that knows the GPUs of this machine is believed.

References
----------
.. [1] NVIDIA, "CUDA C++ Programming Guide", section "CUDA Environment Variables" (how the mask is read).
.. [2] NVIDIA, "Multi-Instance GPU User Guide", section "Device Enumeration" (MIG names in the mask).
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

__all__ = ["VisibleGpu", "only_match", "visible_gpus"]

# A driver that hangs must not hang us; a healthy one answers in about a second, even for many GPUs.
_LISTING_TIMEOUT = 5.0
_LISTED_UUID = re.compile(r"\(UUID: ((?:GPU|MIG)-[^)]+)\)")


class VisibleGpu(NamedTuple):
    """A GPU, or an instance of a split one, that this process may use.

    Parameters
    ----------
    uuid : str
        The driver's name, ``"GPU-…"`` or ``"MIG-…"``.
    physical_id : str
        What to write into ``CUDA_VISIBLE_DEVICES`` for it.
    """

    uuid: str
    physical_id: str


class _Gpu(NamedTuple):
    """A GPU of this machine; its number is its place in the list of all."""

    uuid: str
    mig_uuids: tuple[str, ...] = ()  # the instances that it is split into; CUDA then offers these and not the whole


def visible_gpus() -> list[VisibleGpu]:
    """Return the GPUs that this process may use.

    Returns
    -------
    list of VisibleGpu
        In the order of the mask if there is one, else of the PCI bus.

    Notes
    -----
    The mask is read like CUDA reads it: an entry that names no device ends the list, a device given twice empties it.
    Unlike CUDA, which shows a process one MIG instance at most, a split GPU stands for all its instances, because every
    worker gets a mask of its own.
    """
    gpus = _list_gpus()
    mask = os.environ.get("CUDA_VISIBLE_DEVICES")
    if mask is None:
        return [name for number in range(len(gpus)) for name in _names(gpus, number, str(number))]

    visible: list[VisibleGpu] = []
    for entry in mask.split(","):
        names = _named_by(gpus, entry.strip())
        if not names:
            break
        visible.extend(names)

    is_repeated = len({name.uuid for name in visible}) < len(visible)
    return [] if is_repeated else visible


def only_match(text: str, uuids: Sequence[str]) -> int | None:
    """Return the place of the UUID that is, or alone begins with, a text."""
    if text in uuids:
        return uuids.index(text)

    matches = [position for position, uuid in enumerate(uuids) if uuid.startswith(text)]
    return matches[0] if len(matches) == 1 else None


def _named_by(gpus: Sequence[_Gpu], entry: str) -> list[VisibleGpu]:
    """Return what one entry of a mask stands for; nothing if there is no such device."""
    if entry.isdecimal():
        return _names(gpus, int(entry), entry) if int(entry) < len(gpus) else []

    if entry.startswith("GPU-"):
        number = only_match(entry, [gpu.uuid for gpu in gpus])
        return [] if number is None else _names(gpus, number, entry)

    if entry.startswith("MIG-"):
        instances = [uuid for gpu in gpus for uuid in gpu.mig_uuids]
        place = only_match(entry, instances)
        return [] if place is None else [VisibleGpu(instances[place], entry)]

    return []


def _names(gpus: Sequence[_Gpu], number: int, physical_id: str) -> list[VisibleGpu]:
    """Return what a GPU offers: itself under its physical id, or the instances that it is split into."""
    gpu = gpus[number]
    if gpu.mig_uuids:
        return [VisibleGpu(uuid, uuid) for uuid in gpu.mig_uuids]

    return [VisibleGpu(gpu.uuid, physical_id)]


def _list_gpus() -> list[_Gpu]:
    """Return every GPU of the machine in PCI bus order, from the first probe that knows."""
    for probe in (_probe_fake, _probe_nvml, _probe_listing):
        gpus = probe()
        if gpus is not None:
            return gpus

    return []


def _probe_fake() -> list[_Gpu] | None:
    """Read the list that a test has put into the environment: a number, or UUIDs with commas between."""
    given = os.environ.get("OBJPROXY_FAKE_CUDA")
    if given is None:
        return None

    if given.isdecimal():
        return [_Gpu(f"GPU-{number:08x}-fake") for number in range(int(given))]

    return _gather(name.strip() for name in given.split(","))


def _probe_nvml() -> list[_Gpu] | None:
    """Ask the driver's management library, which starts no CUDA context and pays no heed to the mask."""
    try:
        import pynvml
    except ImportError:
        return None

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver, or none that answers; the next probe may know more
        return None

    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
        return [_Gpu(pynvml.nvmlDeviceGetUUID(handle), _nvml_instances(pynvml, handle)) for handle in handles]
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


# Any: the library has no types; a handle is a pointer that only it understands.
def _nvml_instances(nvml: ModuleType, handle: Any) -> tuple[str, ...]:
    """Return the UUIDs of the MIG instances of a GPU."""
    try:
        is_split = nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE
    except nvml.NVMLError:  # most GPUs cannot be split, and say so by an error
        return ()

    uuids = []
    for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle) if is_split else 0):
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
        except nvml.NVMLError_NotFound:  # there may be gaps between the instances
            continue
        uuids.append(nvml.nvmlDeviceGetUUID(instance))

    return tuple(uuids)


def _probe_listing() -> list[_Gpu] | None:
    """Read the list that the driver's own command prints."""
    command = ["nvidia-smi", "-L"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LISTING_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired):  # not installed, or the driver hangs
        return None

    return _gather(_LISTED_UUID.findall(done.stdout)) if done.returncode == 0 else None


def _gather(uuids: Iterable[str]) -> list[_Gpu]:
    """Build the list from one in which each GPU is followed by its instances."""
    gpus: list[_Gpu] = []
    for uuid in uuids:
        if uuid.startswith("MIG-") and gpus:
            gpus[-1] = gpus[-1]._replace(mig_uuids=(*gpus[-1].mig_uuids, uuid))
        else:
            gpus.append(_Gpu(uuid))

    return gpus

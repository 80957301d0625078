"""Devices: what the parameter ``devices`` means, one worker for each device.

============================== ==========================================================
given                          means
============================== ==========================================================
``None``, ``"cpu"``            one CPU worker
``"all"``                      one CPU worker per usable CPU
float 0..1                     that share of the usable CPUs, at least one
int >= 0, ``"cuda:N"``         that CUDA device
negative int                   counted from the end of the available CUDA devices
``"cuda"``, ``"gpu"``          the first available CUDA device
``[]``                         every available CUDA device
``torch.device``               that device; PyTorch is not imported for it
``"GPU-…"``, ``"MIG-…"``       the device with that UUID, or with the only one that begins so
`Device`                       that device
list, tuple                    all of the above mixed, repetitions allowed: one worker each
============================== ==========================================================

A value is resolved without initialising CUDA, so that this process can still fork and holds no memory on any GPU.
"""

from __future__ import annotations

import numbers
import operator
import os
import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from objproxy._cpus import usable_cpu_count
from objproxy._gpus import only_match, visible_gpus
from objproxy.errors import DeviceError

__all__ = ["Device", "available_cuda", "constructor_value", "resolve_devices"]

_ACCEPTED = (
    "None, 'cpu', 'all', a float from 0.0 to 1.0 (share of the CPUs), an int or 'cuda:N' (a CUDA device; a negative "
    "int counts from the end), 'cuda', 'gpu', a 'GPU-…' or 'MIG-…' id, a torch.device, a list of these, or [] (every "
    "CUDA device)"
)
_CUDA_NUMBER = re.compile(r"cuda:(\d+)")
_CPU_NAME = re.compile(r"cpu(:\d+)?")  # torch.device("cpu", 0) spells itself with a number


@dataclass(frozen=True, slots=True)
class Device:
    """One device that a worker can have.

    Parameters
    ----------
    kind : {"cpu", "cuda"}
        A worker on the CPU has None for its device, not a `Device`; the kind ``"cpu"`` is only a way to ask for one.
    index : int or None
        Number in the list of CUDA devices that are available to this process, as in ``"cuda:1"``.
    uuid : str or None
        The driver's name for it, ``"GPU-…"`` or ``"MIG-…"``.
    physical_id : str or None
        Its name in ``CUDA_VISIBLE_DEVICES``: a number that counts every GPU of the machine, or an UUID.

    Notes
    -----
    ``index`` and ``physical_id`` differ as soon as this process itself has a mask: with ``CUDA_VISIBLE_DEVICES=2,3``
    the device ``cuda:0`` is the physical device 2.
    """

    kind: Literal["cpu", "cuda"]
    index: int | None = None
    uuid: str | None = None
    physical_id: str | None = None

    def __str__(self) -> str:
        """Return ``"cpu"`` or the name that CUDA libraries in this process know the device by: ``"cuda:1"``."""
        return self.kind if self.index is None else f"{self.kind}:{self.index}"

    @property
    def mask(self) -> dict[str, str]:
        """Return the environment variables that leave a worker this device alone.

        They must be set before anything of the user's is imported, because CUDA reads them once. Physical numbers
        follow the PCI bus, and so CUDA is told to count that way, unless the user chose an order.
        """
        if self.physical_id is None:
            return {}

        order = os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        return {"CUDA_VISIBLE_DEVICES": self.physical_id, "CUDA_DEVICE_ORDER": order}


def constructor_value(device: Device | None, *, is_masked: bool = True) -> str | None:
    """Return what a constructor's parameter ``device`` receives.

    Parameters
    ----------
    device : Device or None
        The worker's device; None for the CPU.
    is_masked : bool
        True if the worker is a process of its own, with `Device.mask` in its environment.

    Returns
    -------
    str or None
        None for the CPU. For CUDA the name by which a library in that worker finds the device: the mask leaves it only
        one, and so every worker calls its own ``"cuda:0"``. A thread cannot have a mask, and gets ``str(device)``.
    """
    if device is None or device.kind == "cpu":
        return None

    return "cuda:0" if is_masked else str(device)


def resolve_devices(
    devices: object, *, cpu_count: int | None = None, cuda: Sequence[Device] | None = None
) -> list[Device | None]:
    """Turn what was given as ``devices`` into one device for each worker.

    Parameters
    ----------
    devices : object
        See the table at the head of this module.
    cpu_count : int or None
        Usable CPUs; None looks them up.
    cuda : sequence of Device or None
        CUDA devices to choose from; None looks them up with `available_cuda`, and only if one is asked for.

    Returns
    -------
    list of Device or None
        In the order given, at least one; None is the CPU.

    Raises
    ------
    DeviceError
        If the value has no meaning, or names a device that is not there; the message lists what there is.
    """
    return _resolve(devices, _Machine(cpu_count, cuda))


def available_cuda() -> list[Device]:
    """Return the CUDA devices that this process may use.

    Returns
    -------
    list of Device
        In the order of ``CUDA_VISIBLE_DEVICES`` if that is set, else of the PCI bus. Empty if there are none.

    Notes
    -----
    The rules by which the mask is read, and where the list of GPUs comes from, are told in ``objproxy._gpus``. For
    tests the variable ``OBJPROXY_FAKE_CUDA`` stands for the machine's GPUs: a number, or UUIDs with commas between.
    """
    return [Device("cuda", index, *names) for index, names in enumerate(visible_gpus())]


class _Machine:
    """What there is to choose from, looked up when it is first needed: CPU workers do not wait for a GPU driver."""

    def __init__(self, cpu_count: int | None, cuda: Sequence[Device] | None) -> None:
        self._cpu_count = cpu_count
        self._cuda = cuda

    @cached_property
    def cpu_count(self) -> int:
        return usable_cpu_count() if self._cpu_count is None else self._cpu_count

    @cached_property
    def cuda(self) -> list[Device]:
        return available_cuda() if self._cuda is None else list(self._cuda)


def _resolve(asked: object, machine: _Machine) -> list[Device | None]:
    """Choose the rule for a value by its type."""
    if asked is None:
        return [None]

    if isinstance(asked, str):
        return _resolve_text(asked, asked, machine)

    if isinstance(asked, (list, tuple, range)):
        return _resolve_list(asked, machine)

    if isinstance(asked, Device):
        return [_same_device(asked, machine)]

    if isinstance(asked, numbers.Real) and not isinstance(asked, bool):
        return _resolve_number(asked, machine)

    if _is_torch_device(asked):
        return _resolve_text(asked, str(asked), machine)

    raise _meaningless(asked)


def _resolve_list(asked: Sequence[object], machine: _Machine) -> list[Device | None]:
    if asked:
        return [device for item in asked for device in _resolve(item, machine)]

    if not machine.cuda:
        raise _missing(asked, "asks for every CUDA device", machine)

    return list(machine.cuda)


def _resolve_number(asked: numbers.Real, machine: _Machine) -> list[Device | None]:
    if isinstance(asked, numbers.Integral):
        return [_numbered(asked, operator.index(asked), machine)]

    share = float(asked)
    if not 0 <= share <= 1:  # not a number fails here too
        raise DeviceError(
            f"devices={_show(asked)}: a float is a share of the CPUs, from 0.0 to 1.0. For a number of workers, write "
            "worker_count=...; for a CUDA device, give an int.",
            asked=asked,
        )

    return [None] * max(1, round(machine.cpu_count * share))


def _resolve_text(asked: object, text: str, machine: _Machine) -> list[Device | None]:
    """Resolve a name; `asked` is what the user wrote, for the error."""
    if _CPU_NAME.fullmatch(text):
        return [None]

    if text == "all":
        return [None] * machine.cpu_count

    if text in ("cuda", "gpu"):
        return [_numbered(asked, 0, machine)]

    if match := _CUDA_NUMBER.fullmatch(text):
        return [_numbered(asked, int(match[1]), machine)]

    if text.startswith(("GPU-", "MIG-")):
        return [_with_uuid(asked, text, machine)]

    raise _meaningless(asked)


def _numbered(asked: object, number: int, machine: _Machine) -> Device:
    count = len(machine.cuda)
    if not -count <= number < count:
        raise _missing(asked, f"asks for CUDA device {number}", machine, worker_count=number)

    return machine.cuda[number]


def _with_uuid(asked: object, text: str, machine: _Machine) -> Device:
    """Find the one device whose UUID is or begins with a text, as CUDA does; its worker's mask then holds the UUID."""
    position = only_match(text, [device.uuid or "" for device in machine.cuda])
    if position is None:
        raise _missing(asked, "does not name exactly one CUDA device", machine)

    device = machine.cuda[position]
    return replace(device, physical_id=device.uuid)


def _same_device(asked: Device, machine: _Machine) -> Device | None:
    """Find a device again. Its number may be that of another process; its UUID is the same everywhere."""
    if asked.kind == "cpu":
        return None

    field = "index" if asked.uuid is None else "uuid"
    for device in machine.cuda:
        if getattr(device, field) == getattr(asked, field):
            return device

    raise _missing(asked, "is not a device of this process", machine)


def _is_torch_device(asked: object) -> bool:
    """Tell by the looks, so that PyTorch is not imported for the question."""
    return isinstance(getattr(asked, "type", None), str) and hasattr(asked, "index")


def _meaningless(asked: object) -> DeviceError:
    message = f"devices={_show(asked)} ({type(asked).__name__}) has no meaning. Accepted: {_ACCEPTED}."
    return DeviceError(message, asked=asked)


def _missing(asked: object, problem: str, machine: _Machine, *, worker_count: int = 0) -> DeviceError:
    """Build the error for a device that is not there, with what there is and what was probably meant."""
    sentences = [f"devices={_show(asked)} {problem}", f"Available: {_describe(machine.cuda)}"]
    mask = os.environ.get("CUDA_VISIBLE_DEVICES")
    if mask is not None:
        sentences.append(f"CUDA_VISIBLE_DEVICES={mask!r} limits what this process may use")

    if isinstance(asked, numbers.Integral) and worker_count > 0:
        workers = "one worker" if worker_count == 1 else f"{worker_count} workers"
        sentences.append(f"An int names a CUDA device; for {workers} write worker_count={worker_count}")
    elif not machine.cuda:
        sentences.append("For workers on the CPU, write worker_count=... or devices='cpu'")

    return DeviceError(". ".join(sentences) + ".", asked=asked, available=[str(device) for device in machine.cuda])


def _describe(cuda: Sequence[Device]) -> str:
    names = [f"{device} ({device.uuid})" if device.uuid else str(device) for device in cuda]
    return ", ".join(names) or "no CUDA device"


def _show(asked: object) -> str:
    return f"'{asked}'" if isinstance(asked, Device) else reprlib.repr(asked)

"""What the workers do: one task in four goes wrong, in the way that is asked for.

An order is a pair of a kind and a folder. Before it goes wrong, a task writes the moment and its process id into the folder, by
which whoever waits can tell how long ago that was. Moments are of the clock that all processes of a machine share.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing.connection
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

Order = tuple[str, str]

#: Seconds that a task takes in which nothing is wrong.
NAP = 0.05

#: A message that is no longer than this holds the length of the next.
_LENGTH_NBYTES = 12


class NeedsArgumentsError(Exception):
    """An exception that cannot be made from its text alone."""

    def __init__(self, where: str, code: int) -> None:
        super().__init__(f"{code} at {where}")


class Unpicklable:
    """A result that cannot be sent."""

    def __reduce__(self) -> Any:
        raise TypeError("this object does not pickle")


def note(folder: str, name: str) -> None:
    """Write moment and process id into a file of the folder, at once and whole; the first to write it wins."""
    path = Path(folder, name)
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(f"{time.monotonic()} {os.getpid()}", encoding="utf-8")
    with contextlib.suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()


def read_note(folder: str, name: str) -> tuple[float, int] | None:
    """Return what `note` wrote, or None."""
    try:
        moment, pid = Path(folder, name).read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return None
    return float(moment), int(pid)


def run(order: Order) -> Any:
    """Do what an order says."""
    kind, folder = order
    if kind == "fine":
        time.sleep(NAP)
        return 1
    if kind == "quick":
        return 1
    if kind == "pid":
        time.sleep(NAP)
        return os.getpid()
    note(folder, "fault")
    try:
        return _KINDS[kind]()
    finally:
        note(folder, "left")  # whoever waits can tell that the worker is free again


def construct(kind: str, folder: str) -> None:
    """Be a constructor, or an initializer, that goes wrong."""
    if kind:
        note(folder, "fault")
        _KINDS[kind]()


def _raise() -> None:
    raise ValueError("planned")


def _raise_with_arguments() -> None:
    raise NeedsArgumentsError("here", 7)


def _interrupt() -> None:
    raise KeyboardInterrupt


def _swallow() -> None:
    while True:
        try:
            time.sleep(600)
        except Exception:
            continue


def _die_in_mid_send() -> str:
    """Return something whose sending ends this process when half of it, and its length, has been sent."""

    def write_half(descriptor: int, data: Any) -> int:
        if len(data) <= _LENGTH_NBYTES:
            return _real_write(descriptor, data)
        _real_write(descriptor, bytes(data[: len(data) // 2]))
        os._exit(1)

    def send(connection: Any, data: Any, *_: Any) -> None:
        write_half(connection.fileno(), data)

    _real_write = os.write
    for module in (os, sys.modules.get("objproxy._worker.natives")):  # where the libraries look for it
        if module is not None:
            module.write = write_half  # type: ignore[attr-defined]
    # The other is a copy of the first that one library brings.
    for module in (multiprocessing.connection, sys.modules.get("multiprocess.connection")):
        if module is not None:
            module.Connection._send = send  # type: ignore[attr-defined]
    return "x" * 300_000


_KINDS = {
    "raise": _raise,
    "required": _raise_with_arguments,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "leave": lambda: os._exit(1),
    "segfault": lambda: ctypes.string_at(0),
    "exit": lambda: sys.exit(3),
    "interrupt": _interrupt,
    "unpicklable": Unpicklable,
    "mid_send": _die_in_mid_send,
    "sleep": lambda: time.sleep(600),
    "swallow": _swallow,
    "spin": lambda: sum(range(10**12)),
}


class Holder:
    """The function above as a method of an object with a constructor."""

    def __init__(self, kind: str = "", folder: str = "") -> None:
        construct(kind, folder)

    def run(self, order: Order) -> Any:
        """Do what an order says."""
        return run(order)

    def __call__(self, order: Order) -> Any:
        """Do what an order says."""
        return run(order)


def run_batch(orders: list[Order]) -> list[Any]:
    """Do what each of some orders says."""
    return [run(order) for order in orders]

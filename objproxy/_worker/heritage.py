"""What children of `multiprocessing` have of their parent, and workers too: its authkey, and its tracker of shared memory.

A proxy of a manager, ``Client`` and ``Listener`` ask for the authkey of the current process. A worker without that of the
program is refused. It travels on the worker's channel, which nobody else reads, and is in no environment and no command line.

The tracker is a process that removes shared memory when its program has ended. A worker that opens memory by its name tells a
tracker. A tracker of its own would remove the memory at the worker's end. So it has that of the program.

A program that has not loaded `multiprocessing` gives nothing, and its workers do not load it.
"""

from __future__ import annotations

import contextlib
import copyreg
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple


class Heritage(NamedTuple):
    """What a worker takes over.

    Attributes
    ----------
    authkey : bytes
        Of the program, or the worker, that makes the pool.
    tracker : (int, int) or None
        The process that has started a tracker, and the descriptor of its pipe there.
    """

    authkey: bytes
    tracker: tuple[int, int] | None


class _Here:
    """What this process is.

    Attributes
    ----------
    is_worker : bool
        A worker, which ends before its program.
    has_tracker : bool
        It tells the tracker of its program.
    """

    is_worker = False
    has_tracker = False


_here = _Here()


def find_heritage() -> Heritage | None:
    """Return what workers of this process take over; None where `multiprocessing` was not loaded."""
    process: Any = sys.modules.get("multiprocessing.process")
    if process is None:
        return None
    return Heritage(bytes(process.current_process().authkey), _find_tracker())


def _find_tracker() -> tuple[int, int] | None:
    tracking: Any = sys.modules.get("multiprocessing.resource_tracker")
    fd = None if tracking is None else tracking._resource_tracker._fd
    return None if fd is None else (os.getpid(), fd)


def take_heritage(heritage: Heritage | None, name: str) -> None:
    """Take over what a worker has of its program; `name` is that of its process.

    To `multiprocessing` a worker is a main process otherwise: it is no daemon, and may start processes.
    """
    _here.is_worker = True
    if heritage is None:
        return
    from multiprocessing import process

    current = process.current_process()
    current.authkey, current.name = heritage.authkey, name  # it makes its own type of the key
    _take_tracker(heritage.tracker)


def _take_tracker(tracker: tuple[int, int] | None) -> None:
    """Tell the tracker of the program from now on, unless this process has one: a forked worker has it already."""
    if tracker is None or _here.has_tracker or not _here.is_worker:
        return
    from multiprocessing import resource_tracker

    own: Any = resource_tracker._resource_tracker
    if own._fd is not None:
        _here.has_tracker = True
        return
    with contextlib.suppress(OSError):  # not on Linux, or the program has ended
        own._fd = os.open(f"/proc/{tracker[0]}/fd/{tracker[1]}", os.O_WRONLY | os.O_CLOEXEC)
        _here.has_tracker = True


def find_reducer(kind: type, *, is_frozen: bool = False) -> Callable[[Any], Any] | None:
    """Return how objects of a type travel that pickle, but arrive as what they should not be; None for all other types.

    `is_frozen` makes no difference: it is part of what `reducers` asks of every library.
    """
    connection: Any = sys.modules.get("multiprocessing.connection")
    if connection is not None and kind is connection.Connection and kind not in copyreg.dispatch_table:
        return refuse_connection
    shared_memory: Any = sys.modules.get("multiprocessing.shared_memory")
    if shared_memory is None:
        return None
    if kind is shared_memory.SharedMemory:
        return _reduce_memory
    return _reduce_list if kind is shared_memory.ShareableList else None


def refuse_connection(connection: Any) -> Any:
    """Refuse to pickle a connection.

    Raises
    ------
    TypeError
        Always. Only the number of its descriptor would arrive, which stands for something else in the worker.
    """
    raise TypeError(
        f"cannot pickle {type(connection).__name__!r} object: its descriptor is open in this process alone. Use a queue of "
        "multiprocessing.Manager(), or pass the address of a multiprocessing.connection.Listener"
    )


def _reduce_memory(memory: Any) -> Any:
    return _open_memory, (memory.name, _find_tracker())


def _reduce_list(shared: Any) -> Any:
    return _open_list, (shared.shm.name, _find_tracker())


def _open_memory(name: str, tracker: tuple[int, int] | None) -> Any:
    """Open shared memory by its name, and see that it is not removed when this process ends."""
    from multiprocessing import shared_memory

    _take_tracker(tracker)
    memory = shared_memory.SharedMemory(name)
    _forget_memory(memory)
    return memory


def _open_list(name: str, tracker: tuple[int, int] | None) -> Any:
    from multiprocessing import shared_memory

    _take_tracker(tracker)
    shared: Any = shared_memory.ShareableList(name=name)
    _forget_memory(shared.shm)
    return shared


def _forget_memory(memory: Any) -> None:
    """Have the own tracker of a worker forget memory that belongs to its program."""
    if _here.is_worker and not _here.has_tracker:
        from multiprocessing import resource_tracker

        resource_tracker.unregister(memory._name, "shared_memory")

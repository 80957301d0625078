"""How functions and shared objects reach the workers.

Forked workers have them: they travel as a number, whatever they are, and no byte of them is copied before somebody writes it.
Threads get them as they are. To other workers they travel like arguments of a constructor: large buffers cross once, for all
workers, and are mapped copy-on-write.
"""

from __future__ import annotations

import contextlib
import copyreg
import fcntl
import io
import itertools
import os
import stat
import sys
from collections.abc import Iterator
from multiprocessing import context, reduction
from typing import Any, cast

from objproxy import NotSupportedError

_keys = itertools.count(1)

#: What the forked workers of this process find in their own memory.
_inherited: dict[int, Any] = {}


class Inherited:
    """A value that workers have because they are forked after this was made; it arrives as the value.

    Parameters
    ----------
    value : object
        Anything.
    """

    _objproxy_is_shared = True  # every item may have it

    def __init__(self, value: Any) -> None:
        self._key = next(_keys)
        _inherited[self._key] = value

    def close(self) -> None:
        """Keep it no longer for workers to come."""
        _inherited.pop(self._key, None)

    def __del__(self) -> None:
        self.close()  # of a pool that was forgotten without being closed

    def __reduce__(self) -> tuple[Any, ...]:
        return _take, (self._key,)


def _take(key: int) -> Any:
    return _inherited[key]


@contextlib.contextmanager
def crossing_locks() -> Iterator[None]:
    """Let locks, events, values, arrays and queues of `multiprocessing` be pickled in this block.

    They refuse that unless `multiprocessing` is just starting a process, since only its own child could open them. Ours can,
    as long as the objects live: what has a name is opened by it, and what has a descriptor through the descriptors of this
    process.
    """
    reducers = reduction.ForkingPickler(io.BytesIO()).dispatch_table
    added = {kind: reducer for kind, reducer in reducers.items() if kind not in copyreg.dispatch_table}
    before = context.get_spawning_popen()
    copyreg.dispatch_table.update(added)
    context.set_spawning_popen(cast(Any, _Birth()))
    try:
        yield
    finally:
        context.set_spawning_popen(before)
        for kind in added:
            copyreg.dispatch_table.pop(kind, None)


class _Birth:
    """Stands for a process that `multiprocessing` is starting."""

    def duplicate_for_child(self, descriptor: int) -> int:
        return descriptor

    def DupFd(self, descriptor: int) -> ParentDescriptor:
        return ParentDescriptor(descriptor)


class ParentDescriptor:
    """A descriptor of the program, for a worker to open.

    Parameters
    ----------
    descriptor : int
        Of a file or a pipe.

    Raises
    ------
    NotSupportedError
        It is that of a socket, which nobody else can open.
    """

    def __init__(self, descriptor: int) -> None:
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode) or sys.platform != "linux":
            raise NotSupportedError(
                "shared_objects holds a connection or another descriptor that only forked workers can have; use "
                "start_method='fork', or multiprocessing.Pipe(duplex=False) on Linux"
            )
        self._pid = os.getpid()
        self._descriptor = descriptor
        self._mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE

    def detach(self) -> int:
        """Open it here; return the descriptor."""
        return os.open(f"/proc/{self._pid}/fd/{self._descriptor}", self._mode)

"""The root nursery as a fork of the program, where no process of this Python can be started; few programs load this."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterable

from objproxy._worker.descriptors import StreamSocket, is_open
from objproxy._worker.nursery import run_root
from objproxy._worker.platform import has_one_thread
from objproxy.backends.hosts import is_frozen
from objproxy.backends.rooting import ForkedProcess, fork_helper
from objproxy.errors import NotSupportedError


def fork_root(ours: StreamSocket, theirs: StreamSocket, tried: Iterable[str]) -> ForkedProcess:
    """Start a root as a fork of this program, since nothing else can be started.

    Raises
    ------
    NotSupportedError
        This is a frozen application with several threads.

    Warns
    -----
    RuntimeWarning
        This program has several threads, whose locks may be held in the fork for ever; or it is a frozen application.
    """
    told = f"no process of this Python can be started. Tried: {'; '.join(tried)}"
    if has_one_thread():
        if is_frozen():
            warnings.warn(
                f"{told}. So the processes of the pool are forks of this program. {_advice()}", RuntimeWarning, stacklevel=2
            )
    elif is_frozen():
        raise NotSupportedError(f"{told}. This program has several threads, so it is not forked either. {_advice()}")
    else:
        warnings.warn(
            f"{told}. So the processes of the pool are forks of this program, which has several threads: a fork may wait for "
            f"ever for a lock that another thread held. {_advice()}",
            RuntimeWarning,
            stacklevel=2,
        )
    owner = os.getpid()
    return ForkedProcess(fork_helper(ours, lambda: _be_root(theirs, owner)))


def _be_root(theirs: StreamSocket, owner: int) -> None:
    _cover_descriptors(theirs.fileno())
    run_root(theirs.detach(), owner)


def _cover_descriptors(kept: int) -> None:
    """Put ``/dev/null`` on each descriptor of the program, so that no file or pipe of it is held open here.

    They are not closed: objects of the program would close their numbers later, when other files have them.
    """
    with contextlib.suppress(OSError):  # there is no such folder
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for name in os.listdir("/dev/fd"):
            if int(name) > 2 and int(name) not in (kept, null) and is_open(int(name)):
                os.dup2(null, int(name), inheritable=False)


def refuse_spawn(tried: Iterable[str]) -> NotSupportedError:
    """Return the error of a start method that needs a process of this Python."""
    return NotSupportedError(
        f"start_method='spawn' needs an interpreter, and there is none. Tried: {'; '.join(tried)}. {_advice()}. Or leave "
        "start_method out: then the workers are forks of this program"
    )


def _advice() -> str:
    if is_frozen():
        return "Import objproxy, or call multiprocessing.freeze_support(), before all else that the application does"
    return "Name an interpreter by multiprocessing.set_executable()"

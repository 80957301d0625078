"""Processes that the user's code forks in a worker: each loses what is the worker's alone, and ends when its task does.

``os.fork()`` in a method leaves two processes in the midst of the worker's loop. The child must never answer: the program would
take its frames for the worker's. So in the child, right after the fork, the channel, the journal and the pipe for stacks are
taken away; and where the loop goes on, the child ends as a program ends: with 0, with the code of ``sys.exit``, or with a
traceback and 1. Exit functions are the worker's and do not run. Children of `multiprocessing` and `subprocess` never come back
to the loop, and notice nothing.

A fork in C, of which Python does not know, is not seen here. The program takes what such a child sends for a protocol error.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import NoReturn

#: Grows with each fork that has led to this process: an object that was made here has seen the number that it has now.
count = 0

#: Whether this process was forked from a worker process by code of the user's.
is_child = False

_let_go: list[Callable[[], None]] = []


def protect(*let_go: Callable[[], None]) -> None:
    """Note, in a worker process, what a process that is forked from it shall do at once."""
    global is_child
    is_child = False  # it may be itself the worker of a pool of a worker, with the nursery forked from that
    _let_go[:] = let_go


def protect_also(let_go: Callable[[], None]) -> None:
    """Note one thing more that a forked process shall do at once."""
    _let_go.append(let_go)


def _after_fork_in_child() -> None:
    global count, is_child
    count += 1
    steps, _let_go[:] = _let_go[:], []
    is_child = is_child or bool(steps)
    for step in steps:
        with contextlib.suppress(Exception):  # the next ones are needed all the more
            step()


os.register_at_fork(after_in_child=_after_fork_in_child)


def end_child(error: BaseException | None = None) -> NoReturn:
    """End a forked child whose task has ended, with `error` if it raised; its parent may wait for its exit code."""
    status = 0
    try:
        status = _tell(error) if error is not None else 0
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except BaseException:  # a stream that is broken: there is no other place to say so
        status = status or 1
    finally:
        os._exit(status & 0xFF)


def _tell(error: BaseException) -> int:
    """Say why a child ends, as the interpreter does at the end of a program; return its exit code."""
    if not isinstance(error, SystemExit):
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    sys.stderr.write(f"{error.code}\n")
    return 1

"""How a process of this Python is started that runs one function of this package.

An interpreter is given the code by ``-c``. A frozen application (PyInstaller, Nuitka, cx_Freeze) is no interpreter: its program
starts the application again. So it is started as `multiprocessing` starts a child of such an application, with the command line
``--multiprocessing-fork pipe_handle=N`` and two pickles on that descriptor. `entrance` has the other end.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from objproxy._worker import lineage, natives
from objproxy._worker.descriptors import make_pipe, move_above_standard

#: The first argument of a child of `multiprocessing` in a frozen application.
FORKED = "--multiprocessing-fork"

#: A pipe takes so much before anybody reads it.
_PIPE_BYTES = 65536


class Interpreter(NamedTuple):
    """What runs a new process of this Python.

    Attributes
    ----------
    argv : tuple of str
        The program and its options.
    is_frozen : bool
        Whether it is a frozen application, not an interpreter.
    """

    argv: tuple[str, ...]
    is_frozen: bool = False


class Errand(NamedTuple):
    """The function that a new process is to run.

    Attributes
    ----------
    module, function : str
        Where it is.
    args : tuple
        Its arguments: what ``repr`` gives back.
    """

    module: str
    function: str
    args: tuple[Any, ...]


def make_command(
    interpreter: Interpreter, errand: Errand, path: Sequence[str] | None = None, argv: Sequence[str] | None = None
) -> tuple[list[str], int | None]:
    """Return the command line of a process, and a descriptor that it has to inherit and this process has to close, or None.

    Parameters
    ----------
    interpreter : Interpreter
        What is started.
    errand : Errand
        What it runs.
    path, argv : sequence of str or None
        ``sys.path`` and ``sys.argv`` of the process; None for those of this one.
    """
    path, argv = list(sys.path if path is None else path), list(sys.argv if argv is None else argv)
    if interpreter.is_frozen:
        from objproxy._worker.entrance import Entrance  # few programs are frozen

        fd = _write_ahead(pickle.dumps({}, 4) + pickle.dumps(Entrance(errand, path, argv), 4))
        return [*interpreter.argv, FORKED, "tracker_fd=None", f"pipe_handle={fd}"], fd
    code = (
        f"{lineage.REMOVE_MARK}; import sys; sys.path[:] = {path!r}; sys.argv[:] = {argv!r}; "
        f"from {errand.module} import {errand.function}; {errand.function}(*{errand.args!r})"
    )
    return [*interpreter.argv, "-c", code], None


def _write_ahead(data: bytes) -> int:
    """Return a descriptor from which `data` can be read, with nobody who has to write it meanwhile."""
    if hasattr(os, "memfd_create"):
        fd = move_above_standard(os.memfd_create("objproxy-errand"))
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(fd, 0, os.SEEK_SET)
        return fd
    if len(data) > _PIPE_BYTES:
        raise OSError(f"sys.path and sys.argv have {len(data)} bytes; a new process takes {_PIPE_BYTES}")
    fd, write_fd = make_pipe()
    os.write(write_fd, data)
    natives.close(write_fd)
    return fd

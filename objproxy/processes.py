"""Start a process of this Python for a face, whether the program is an interpreter, a frozen application, or embeds Python."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import Any

from objproxy._worker.launching import Errand, Interpreter, make_command
from objproxy._worker.lineage import HELPER
from objproxy.backends.hosts import find_interpreter
from objproxy.errors import NotSupportedError

__all__ = ["start_python"]


def start_python(
    module: str, function: str, argv: Sequence[str], *, path: Sequence[str], **options: Any
) -> subprocess.Popen[bytes]:
    """Start a process that calls a function and takes nothing else from the environment or the working directory.

    Parameters
    ----------
    module, function : str
        What is called, without arguments.
    argv : sequence of str
        ``sys.argv`` there, the name of the program first.
    path : sequence of str
        ``sys.path`` there.
    **options
        For `subprocess.Popen`.

    Raises
    ------
    NotSupportedError
        There is no interpreter that could be started, or this process was started as a helper itself and is none.
    """
    if HELPER in os.environ:
        raise NotSupportedError(
            f"this process was started as a helper by process {os.environ[HELPER]}, and runs the program once more. It starts "
            "no other, since each would start the next. Likely cause: a frozen application that runs other code before it "
            "imports objproxy or calls multiprocessing.freeze_support()"
        )
    interpreter, tried = find_interpreter()
    if interpreter is None:
        raise NotSupportedError(
            f"there is no interpreter that could be started. Tried: {'; '.join(tried)}. Name one by "
            "multiprocessing.set_executable()"
        )
    if not interpreter.is_frozen:
        interpreter = Interpreter((interpreter.argv[0], "-I"))
    command, fd = make_command(interpreter, Errand(module, function, ()), path, argv)
    try:
        environ = {**os.environ, HELPER: str(os.getpid())}
        return subprocess.Popen(command, env=environ, pass_fds=() if fd is None else (fd,), **options)
    finally:
        if fd is not None:
            os.close(fd)

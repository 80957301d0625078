"""Find what starts a new process of this Python.

Nearly always that is ``sys.executable``: it has the name of an interpreter and is the program that runs. In a program that
embeds Python (uWSGI, Blender) it is empty, that program, or another Python. Then these are tried, and each is asked which
Python it is: what ``multiprocessing.set_executable()`` was given, the interpreter of a virtual environment,
``sys._base_executable``, the interpreters beside the standard library. ``sys.executable`` comes last, if it has not the name of
an interpreter: a program that is asked may open a window.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

from objproxy._worker import lineage, natives
from objproxy._worker.descriptors import StreamSocket, make_socket_pair
from objproxy._worker.launching import Interpreter

#: A program that has not said by then which Python it is, is none; a busy machine takes a second.
_ANSWER_SECONDS = 10.0

#: What an interpreter says of itself. The path that modules come from is given to it, so its prefix does not count.
_WHO = (sys.version, getattr(sys, "abiflags", ""), hasattr(sys, "gettotalrefcount"))
_ASK = "import sys; print((sys.version, getattr(sys, 'abiflags', ''), hasattr(sys, 'gettotalrefcount')), flush=True)"

#: No interpreter's answer is as long.
_MOST_BYTES = 1000

#: A program that is asked who it is shall open no window.
_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")


class Found(NamedTuple):
    """What starts a process of this Python.

    Attributes
    ----------
    interpreter : Interpreter or None
        None if there is nothing.
    tried : tuple of str
        What was tried in vain, and why it is none.
    """

    interpreter: Interpreter | None
    tried: tuple[str, ...] = ()


def find_interpreter() -> Found:
    """Return what starts a process of this Python; found once for what the program says of itself now."""
    if is_frozen():
        return _found_frozen()
    setting = _setting()
    given = setting or sys.executable
    if given and given == sys.executable and is_this_program(given):
        return Found(_with_options(given))
    key = (sys.executable, setting, getattr(sys, "_base_executable", None))
    if key not in _searched:
        _searched[key] = _search(setting)
    path, tried = _searched[key]
    return Found(None if path is None else _with_options(path), tried)


#: Results of searches, each of which starts processes.
_searched: dict[tuple[object, ...], tuple[str | None, tuple[str, ...]]] = {}


def is_frozen() -> bool:
    """Return whether this program is a frozen application: PyInstaller and cx_Freeze say so, Nuitka in the main module."""
    return bool(getattr(sys, "frozen", False) or getattr(_compiled(), "standalone", False))


def _compiled() -> object:
    """Return what Nuitka says of a program that it has compiled; None in others."""
    return getattr(sys.modules.get("__main__"), "__compiled__", None)


def _found_frozen() -> Found:
    # In an application of Nuitka, `sys.executable` is an interpreter that is not there, until `multiprocessing` is imported.
    path = getattr(_compiled(), "process_exe", None) or sys.executable
    if path and os.access(path, os.X_OK):
        return Found(Interpreter((path,), is_frozen=True))
    return Found(None, (f"{path!r} (this frozen application): not there",))


def _with_options(path: str) -> Interpreter:
    return Interpreter((path, *subprocess._args_from_interpreter_flags()))  # type: ignore[attr-defined]


def _setting() -> str | None:
    """Return what ``multiprocessing.set_executable()`` was given, if that is not ``sys.executable``."""
    spawn = sys.modules.get("multiprocessing.spawn")
    given = None if spawn is None else spawn.get_executable()
    path = os.fsdecode(given) if given else None
    return None if path == sys.executable else path


def is_this_program(path: str) -> bool:
    """Return whether a path is the program that runs, and has the name of an interpreter. It costs no process."""
    if not _is_named_python(path):
        return False
    try:
        return os.path.samefile("/proc/self/exe", path)
    except OSError:  # no such file, or no /proc
        prefixes = {os.path.join(prefix, "") for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
        return not os.path.exists("/proc/self/exe") and os.access(path, os.X_OK) and path.startswith(tuple(prefixes))


def _is_named_python(path: str | None) -> bool:
    name = os.path.basename(path or "").lower()
    return name.startswith("python") and not name[6:].strip("0123456789.tdw")


def _search(setting: str | None) -> tuple[str | None, tuple[str, ...]]:
    """Return the first program that says it is this Python, and what is wrong with those before it."""
    tried: list[str] = []
    seen: set[str] = set()
    for name, path in _candidates(setting):
        if path and path in seen:
            continue
        seen.add(path or "")
        fault = _fault(path)
        if fault is None:
            return path, tuple(tried)
        tried.append(f"{path!r} ({name}): {fault}")
    return None, tuple(tried)


def _candidates(setting: str | None) -> Iterator[tuple[str, str | None]]:
    """Yield where an interpreter may be: who says so, and the path."""
    if setting is not None:
        yield "multiprocessing.set_executable()", setting
    if sys.prefix != sys.base_prefix:
        for path in _interpreters(sys.prefix):
            yield "the virtual environment", path
    own = [(f"sys.{name}", getattr(sys, name, None)) for name in ("executable", "_base_executable")]
    yield from (candidate for candidate in own if _is_named_python(candidate[1]))
    library = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(os.__file__))))
    for prefix in dict.fromkeys((sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, library)):
        for path in _interpreters(prefix):
            yield "beside the standard library", path
    yield from own


def _interpreters(prefix: str) -> Iterator[str]:
    """Yield the interpreters of an installation that are there."""
    major, minor = sys.version_info[:2]
    for name in (f"python{major}.{minor}{getattr(sys, 'abiflags', '')}", f"python{major}.{minor}", f"python{major}", "python"):
        path = os.path.join(prefix, "bin", name)
        if os.path.exists(path):
            yield path


def _fault(path: str | None) -> str | None:
    """Say why a program is not this Python; None if it is."""
    if not path:
        return "not set"
    if not os.path.isfile(path) or not os.access(path, os.X_OK):
        return "no program"
    try:
        answer = _ask(path)
    except OSError as exc:
        return f"cannot be started: {exc}"
    if answer == f"{_WHO!r}\n".encode():
        return None
    if answer is None:
        return f"does not run the code that -c gives it, but goes on for more than {_ANSWER_SECONDS:.0f} s"
    return "another Python" if answer.startswith(b"('") else "does not run the code that -c gives it"


def _ask(path: str) -> bytes | None:
    """Return what a program answers, as far as that can be right; None if it neither answers nor ends in time."""
    environ = {name: value for name, value in lineage.mark_helper(dict(os.environ)).items() if name not in _DISPLAYS}
    ours, theirs = make_socket_pair()
    with ours:
        with theirs:
            process = natives.popen_class()(
                [path, "-I", "-S", "-c", _ASK],
                stdin=subprocess.DEVNULL,
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                env=environ,
                start_new_session=True,
            )
        try:
            return _read_line(ours, time.monotonic() + _ANSWER_SECONDS)
        finally:
            _end(process)


def _read_line(sock: StreamSocket, deadline: float) -> bytes | None:
    answer = b""
    while not answer.endswith(b"\n") and len(answer) < _MOST_BYTES:
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            part = sock.recv(_MOST_BYTES)
        except TimeoutError:
            return None
        except ConnectionResetError:
            break
        if not part:
            break
        answer += part
    return answer


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program that was asked, and what it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()

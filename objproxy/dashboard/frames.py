"""What programs and the dashboard say to each other: frames of JSON over a Unix socket that only this user can reach.

JSON and not pickle, because whoever unpickles runs what it is given. The socket lies in a directory of this user with mode
0700, never in Linux's abstract name space, where anybody may connect. Both sides look at the directory each time: what another
user could have prepared is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import stat
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: A frame is refused before memory is taken for it. A picture of a pool with 256 workers has some 100 kB.
MAX_FRAME = 1 << 20

#: What a Unix socket's name may have, with the zero at its end: 108 bytes on Linux, 104 elsewhere.
_MAX_PATH = 103

#: A program that has SIGPIPE end it shall not end with its dashboard.
NO_SIGNAL: int = getattr(socket, "MSG_NOSIGNAL", 0)

#: Where Linux has the open files of a process under short names.
_OPEN_FILES = "/proc/self/fd"

#: Where systems with logind have the runtime directories of users.
_RUN_USER = "/run/user"

HEADER = struct.Struct(">I")


def socket_path(port: int) -> Path:
    """Return the name of the socket of the dashboard on a port.

    Raises
    ------
    OSError
        The directory is not this user's alone, or cannot be made.
    """
    return _private_directory() / f"dashboard-{port}.sock"


@contextlib.contextmanager
def short_name(path: Path) -> Iterator[str]:
    """Yield a name of a socket that the system can take: through an open directory where its own name is too long.

    Raises
    ------
    OSError
        The name is too long, and there is no /proc.
    """
    if len(os.fsencode(path)) <= _MAX_PATH:
        yield str(path)
        return
    if not os.path.isdir(_OPEN_FILES):
        raise OSError(f"{path} is too long a name for a socket; set XDG_RUNTIME_DIR or TMPDIR to a shorter directory")
    directory = move_above_standard(os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
    try:
        yield f"{_OPEN_FILES}/{directory}/{path.name}"
    finally:
        os.close(directory)


def _private_directory() -> Path:
    """Return the directory of the sockets, made if it is not there."""
    uid = os.geteuid()
    # A program of a timer or over ssh may lack the variable that the terminal of the dashboard has.
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"{_RUN_USER}/{uid}"
    if os.path.isabs(runtime) and _is_own_directory(runtime, uid):
        path = Path(runtime) / "objproxy"
    else:
        path = _temporary_directory() / f"objproxy-{uid}"
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError as exc:
        raise _no_directory(f"{path} cannot be made ({exc.strerror})") from exc
    _check_private(path, uid)
    return path


def _temporary_directory() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as exc:
        raise _no_directory(str(exc.strerror)) from exc


def _no_directory(cause: str) -> OSError:
    """Return the error that says why there is no directory; without a number, since it stands for any port."""
    return OSError(
        f"the dashboard has no directory for the socket of its programs: {cause}; set XDG_RUNTIME_DIR or TMPDIR to a directory "
        "of yours that can be written"
    )


def _is_own_directory(path: str, uid: int) -> bool:
    try:
        found = os.stat(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid and os.access(path, os.W_OK | os.X_OK)


def _check_private(path: Path, uid: int) -> None:
    found = os.lstat(path)  # not what a link points to
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not mode & 0o077:
        return
    kind = "a directory" if stat.S_ISDIR(found.st_mode) else "no directory"
    raise PermissionError(
        f"{path} is {kind} of user {found.st_uid} with mode {mode:04o}; expected a directory of user {uid} with mode 0700, "
        "since others could reach the dashboard's socket in it. Remove it, or set XDG_RUNTIME_DIR to a directory of your own"
    )


def is_same_user(connection: Any) -> bool:
    """Return whether the other end of a connection belongs to this user, as far as the system tells."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True  # then the directory alone protects it
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return bool(uid == os.geteuid())


def move_above_standard(fd: int) -> int:
    """Move a descriptor away from the numbers of the standard streams, which are the user's, also where they are closed."""
    if fd > 2:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def drop_streams() -> None:
    """Put /dev/null in the place of the streams for output: a program that closes its own shall be the last to have them."""
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    for number in (1, 2):
        os.dup2(null, number)
    os.close(null)


def _make_socket() -> socket.socket:
    try:
        made = socket.socket(socket.AF_UNIX)
        return made if made.fileno() > 2 else socket.socket(fileno=move_above_standard(made.detach()))
    except Exception as exc:
        if not isinstance(exc, OSError):  # it is not the system that refuses
            exc.add_note(
                "this program blocks sockets (as pytest-socket does), and a dashboard is reached by one, a Unix socket: "
                "allow those, or use no dashboard here. Pools themselves need none"
            )
        raise


def connect(port: int, timeout: float) -> socket.socket:
    """Connect to the dashboard on a port; every wait for it takes at most `timeout` seconds.

    Raises
    ------
    ConnectionRefusedError
        There is none.
    """
    connection = _make_socket()
    try:
        connection.settimeout(timeout)
        with short_name(socket_path(port)) as name:
            connection.connect(name)
        if not is_same_user(connection):
            raise PermissionError(f"the dashboard on port {port} belongs to another user")
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        raise ConnectionRefusedError(
            f"there is no dashboard of yours on port {port}; start one with the command 'objproxy dashboard' "
            "or with objproxy.start_dashboard(), which tell the port"
        ) from None
    except BaseException:
        connection.close()
        raise
    return connection


def pack(message: dict[str, Any]) -> bytes:
    """Return a message as a frame.

    Raises
    ------
    ValueError
        It is larger than a frame may be.
    """
    body = json.dumps(message, separators=(",", ":"), allow_nan=False).encode("ascii")
    if len(body) > MAX_FRAME:
        raise ValueError(f"a message of {len(body)} bytes; a frame holds at most {MAX_FRAME}")
    return HEADER.pack(len(body)) + body


def unpack(body: bytes) -> dict[str, Any]:
    """Return the message of a frame without its header.

    Raises
    ------
    ValueError
        It is none.
    """
    try:
        message = json.loads(body)
    except RecursionError:
        raise ValueError("a message that is nested too deep") from None
    if not isinstance(message, dict):
        raise ValueError(f"a message of type {type(message).__name__}; expected an object")
    return message


def ask(port: int, question: dict[str, Any], timeout: float = 5.0) -> dict[str, Any]:
    """Ask the dashboard on a port something; return its answer."""
    with connect(port, timeout) as connection:
        connection.sendall(pack(question), NO_SIGNAL)
        with connection.makefile("rb") as reader:
            header = reader.read(HEADER.size)
            if len(header) < HEADER.size:
                raise ConnectionError(f"the dashboard on port {port} has not answered")
            return unpack(reader.read(min(HEADER.unpack(header)[0], MAX_FRAME)))

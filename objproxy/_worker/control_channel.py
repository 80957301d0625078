"""Messages, with descriptors, between a program, its root nursery and the nurseries of its pools."""

from __future__ import annotations

import pickle
import struct
from typing import Any

from objproxy._worker import natives
from objproxy._worker.descriptors import NO_SIGNAL, StreamSocket, move_above_standard, receive_with_fds, send_with_fds

_LENGTH = struct.Struct("<I")
_MAX_FDS = 4


def send_message(sock: StreamSocket, message: Any, fds: tuple[int, ...] = ()) -> None:
    """Send one message, with descriptors."""
    body = pickle.dumps(message, 5)
    data = _LENGTH.pack(len(body)) + body
    sent = send_with_fds(sock, data, fds)
    if sent < len(data):  # who has it all may close the channel, and then not even nothing can be sent
        sock.sendall(data[sent:], NO_SIGNAL)


def receive_message(sock: StreamSocket) -> tuple[Any, list[int]] | None:
    """Wait for one message; None at the end of the channel."""
    try:
        head, fds, is_cut = receive_with_fds(sock, _LENGTH.size, _MAX_FDS)
        if not head:
            return None
        body = _receive_exactly(sock, _LENGTH.unpack(head + _receive_exactly(sock, _LENGTH.size - len(head)))[0])
    except (ConnectionResetError, EOFError):
        return None
    if is_cut:  # this process has no room for all of them
        for fd in fds:
            natives.close(fd)
        fds = []
    return pickle.loads(body), [move_above_standard(fd) for fd in fds]


def _receive_exactly(sock: StreamSocket, nbytes: int) -> bytes:
    body = b""
    while len(body) < nbytes:
        part = sock.recv(nbytes - len(body))
        if not part:
            raise EOFError
        body += part
    return body

"""Tells a dashboard what the pools of this program do. A thread beside the job, which never notices how it fares."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import select
import socket
import sys
import threading
import time
from collections import defaultdict
from typing import Any

from objproxy.dashboard import frames
from objproxy.dashboard.digest import Digest
from objproxy.observing import Observer

_logger = logging.getLogger("objproxy")

#: Seconds between two looks: what moves seems to move, and one look at a pool takes some 50 us.
_INTERVAL_SECONDS = 0.25

#: A dashboard that takes nothing in for so long is given up.
_PATIENCE_SECONDS = 2.0

#: The end of a program waits at most so long for its last figures to be told.
_LAST_SECONDS = 0.5


class Publisher:
    """Publishes the pools of this program until `stop`, or until there is no dashboard any more.

    Parameters
    ----------
    port : int
        Of the dashboard.
    shows_arguments, shows_tracebacks : bool
        As in `Digest`.

    Raises
    ------
    ConnectionRefusedError
        There is no dashboard.
    RuntimeError
        The pools are being observed already.
    """

    def __init__(self, port: int, *, shows_arguments: bool, shows_tracebacks: bool) -> None:
        self.port = port
        self._connection = frames.connect(port, _PATIENCE_SECONDS)
        self._observer = Observer()
        self._digests: defaultdict[int, Digest] = defaultdict(
            lambda: Digest(shows_arguments=shows_arguments, shows_tracebacks=shows_tracebacks)
        )
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="objproxy-dashboard", daemon=True)
        try:
            self._observer.start()
            self._thread.start()
        except BaseException:
            self._end()
            raise

    @property
    def is_alive(self) -> bool:
        """Whether the dashboard is still being told."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Tell the last figures and end."""
        self._is_over.set()
        self._thread.join(_LAST_SECONDS)

    def abandon(self) -> None:
        """Let go in a forked child; its parent goes on publishing."""
        self._connection.close()

    def _run(self) -> None:
        try:
            self._send({"op": "hello", "program": describe_program()})
            while not self._is_over.wait(_INTERVAL_SECONDS):
                self._tell()
            self._tell()
            self._send({"op": "bye"})
        except OSError as exc:
            if not self._is_over.is_set():
                reason = "it takes nothing in" if isinstance(exc, TimeoutError) else "it has ended"
                _logger.warning("the dashboard on port %d is told nothing any more: %s; the program goes on", self.port, reason)
        except Exception:  # a defect of ours, which shall not be the job's
            _logger.exception("the dashboard on port %d is told nothing any more; the program goes on", self.port)
        finally:
            self._end()

    def _end(self) -> None:
        self._observer.stop()
        self._connection.close()

    def _check_there(self) -> None:
        """Raise ConnectionResetError if the dashboard has ended, also where there is nothing to tell it: it never answers."""
        if _can_be_read(self._connection):
            raise ConnectionResetError

    def _tell(self) -> None:
        self._check_there()
        now = time.monotonic()
        for view in self._observer.look():
            digest = self._digests[view.number].make(view, now)
            self._connection.sendall(_pack_what_fits(digest), frames.NO_SIGNAL)
            if view.ended is not None:
                del self._digests[view.number]

    def _send(self, message: dict[str, Any]) -> None:
        self._connection.sendall(frames.pack(message), frames.NO_SIGNAL)


def _pack_what_fits(digest: dict[str, Any]) -> bytes:
    """Return the frame of a pool, without its lists if it is too large with them; b"" if it is too large even so."""
    for left_out in ((), ("spans", "failures", "slowest")):
        with contextlib.suppress(ValueError):
            return frames.pack({"op": "pool", "pool": {**digest, **{name: [] for name in left_out}}})
    return b""


def _can_be_read(connection: socket.socket) -> bool:
    if not hasattr(select, "poll"):  # eventlet has removed it
        return bool(select.select([connection], [], [], 0)[0])
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def describe_program() -> dict[str, Any]:
    """Return what is told of this program; not its arguments, which may hold secrets."""
    argument = (getattr(sys, "argv", None) or [""])[0]  # an embedded interpreter may have none
    name = {"": "interactive", "-c": "python -c", "-m": "python -m"}.get(argument) or os.path.basename(argument)
    if name == "ipykernel_launcher.py":
        name = "notebook"
    return {
        "pid": os.getpid(),
        "name": name[:120],
        "python": platform.python_version(),
        "host": socket.gethostname()[:120],
        "n_cpus": os.cpu_count(),
        "began": time.time(),
    }

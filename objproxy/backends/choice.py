"""Which back end ``backend=`` stands for."""

from __future__ import annotations

from typing import Any

from objproxy.backends import chosen_name
from objproxy.backends.base import Backend
from objproxy.backends.process import ProcessBackend
from objproxy.backends.serial import SerialBackend
from objproxy.backends.thread import ThreadBackend
from objproxy.errors import NotSupportedError

_BY_NAME: dict[str, type] = {"process": ProcessBackend, "serial": SerialBackend, "thread": ThreadBackend}
_PLANNED = ("dask", "ray")


def resolve(backend: Any, *, separate_processes: bool = True) -> Backend:
    """Return the back end that ``backend=`` stands for.

    Parameters
    ----------
    backend : str, object or None
        A name; an object with the methods of `Backend`; None for the environment variable OBJPROXY_BACKEND, else "process".
    separate_processes : bool
        False stands for "thread" where no back end is named.

    Raises
    ------
    ValueError
        An unknown name.
    NotSupportedError
        A back end that does not exist yet.
    """
    backend = chosen_name(backend, separate_processes=separate_processes)
    if not isinstance(backend, str):
        if not hasattr(backend, "capabilities") or not hasattr(backend, "wait"):
            raise TypeError(f"backend={backend!r}: expected a name, or an object with the methods of objproxy.backends.Backend")
        found: Backend = backend
        return found
    if backend in _PLANNED:
        raise NotSupportedError(f"backend={backend!r} is not there yet; there are {', '.join(map(repr, _BY_NAME))}")
    if backend not in _BY_NAME:
        raise ValueError(f"backend={backend!r}: expected one of {', '.join(map(repr, _BY_NAME))}, or a back end object")
    made: Backend = _BY_NAME[backend]()
    return made

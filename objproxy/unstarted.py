"""What stands behind a pool that is not started, because a worker makes it while it imports a module."""

from __future__ import annotations

from typing import NoReturn

from objproxy._worker.lineage import Reason
from objproxy.errors import NestedPoolError


class UnstartedPool:
    """Takes the place of a pool's engine and of its names: it can be made and ended; to use it is an error.

    Parameters
    ----------
    reason : Reason
        Why it is not started.
    """

    def __init__(self, reason: Reason) -> None:
        self._reason = reason

    def __getattr__(self, name: str) -> NoReturn:
        """Refuse to be used."""
        if name.startswith("__"):  # Python itself asks for those
            raise AttributeError(name)
        raise make_error(self._reason)

    def close(self, timeout: float | None = None) -> None:
        """Do nothing: a module may have the pool closed at the end of the process."""

    def kill(self) -> None:
        """Do nothing."""

    def all(self) -> set[str]:
        """Return no names."""
        return set()

    def __repr__(self) -> str:
        return f"<ProxyPool, not started: {self._reason.text}>"


def make_error(reason: Reason) -> NestedPoolError:
    """Return the error that tells why a pool is not started."""
    return NestedPoolError(reason.text, where=reason.where, depth=reason.depth)

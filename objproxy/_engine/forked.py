"""Tell what belongs to the parent, in a forked child: nobody there turns its engines, and its locks may be taken for ever."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

from objproxy.errors import PoolClosedError


class Owned(Protocol):
    """Belongs to the process that has made it."""

    def forget_parent(self) -> None:
        """Take new locks, and refuse from now on whatever would have to wait; called in a forked child."""


_owned: weakref.WeakSet[Owned] = weakref.WeakSet()


def tell(owned: Owned) -> None:
    """Have an object told when it finds itself in a forked child."""
    _owned.add(owned)


def refusal() -> PoolClosedError:
    """Return the error for whoever uses a pool of the parent's, or what came of it."""
    return PoolClosedError("this pool belongs to another process, which was forked; make a pool of your own here")


def _tell_all() -> None:
    for owned in list(_owned):
        owned.forget_parent()
    _owned.clear()


os.register_at_fork(after_in_child=_tell_all)

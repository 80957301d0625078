"""The names of the instances of a pool: its methods, its attributes, and the instances themselves."""

from __future__ import annotations

import sys
import weakref
from typing import Any

from objproxy._worker.execute import CallableMarker
from objproxy.augmenting import Augmented, is_augmented
from objproxy.core import PoolCore
from objproxy.errors import PoolBrokenError, PoolClosedError
from objproxy.instances import Instance, call_info, class_names, read_attribute, write_attribute
from objproxy.methods import PoolMethod
from objproxy.signatures import MethodInfo


class PoolNames:
    """What a pool finds under the names of its class.

    Parameters
    ----------
    core : PoolCore
        The engine of the pool.
    """

    def __init__(self, core: PoolCore) -> None:
        self._core = core
        self._methods: dict[str, PoolMethod] = {}
        self._values: weakref.WeakValueDictionary[tuple[str, int], Any] = weakref.WeakValueDictionary()

    def find(self, name: str) -> Any:
        """Return a method of the instances, or what they hold under this name; called by ``__getattr__`` alone."""
        method = self._methods.get(name)
        if method is not None:
            return method
        info = self._core.recipe.info.find(name)
        if info is None:
            if is_augmented(sys._getframe(2)):
                return Augmented()
            value = read_attribute(self._core, name)
            if not isinstance(value, CallableMarker):
                self._values[name, id(value)] = value
                return value
            info = MethodInfo(name, None, drops_self=False)
        method = self._methods[name] = PoolMethod(self._core, info)
        return method

    def find_join(self) -> Any:
        """Return what the class has under ``join``; if it has nothing, the wait that belongs to ``close()`` elsewhere.

        It is no name of the pool's own, since classes have it: ``str``, queues, threads.
        """
        try:
            return self.find("join")
        except (AttributeError, PoolBrokenError, PoolClosedError):
            return self._core.join

    def call(self) -> PoolMethod:
        """Return the method that calls the instances themselves."""
        method = self._methods.get("__call__")
        if method is None:
            method = self._methods["__call__"] = PoolMethod(self._core, call_info(self._core))
        return method

    def write(self, name: str, value: Any) -> None:
        """Set an attribute on every instance.

        Raises
        ------
        TypeError
            The value is the very array that was read under this name: ``values = pool.n; values += 1; pool.n = values``.
        """
        if self._values.get((name, id(value))) is value:
            raise TypeError(
                f"pool.{name} = ...: this array was read from pool.{name} and holds the values of all instances, and each "
                f"instance would be given all of them; write pool.{name} += ... in one statement, or set pool[i].{name} of "
                "each instance; if each shall have them all, give a copy"
            )
        self._methods.pop(name, None)  # it may have been a method until now
        write_attribute(self._core, name, value)

    def instance(self, worker_id: int) -> Instance:
        """Return a stand-in for one instance."""
        return Instance(self._core, worker_id)

    def all(self) -> list[str]:
        """Return the names of the class and its instances."""
        return class_names(self._core)

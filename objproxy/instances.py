"""``pool[i]``: one instance of a pool; and the attributes of the instances, all of them or of one."""

from __future__ import annotations

import sys
from typing import Any

from objproxy._engine.messages import Failure
from objproxy._worker.execute import CallableMarker
from objproxy._worker.wire import Operation
from objproxy.augmenting import Augmented, is_augmented
from objproxy.core import PoolCore
from objproxy.methods import InstanceMethod
from objproxy.options import DEFAULTS, suggest
from objproxy.results import shape_results
from objproxy.signatures import MethodInfo


class Instance:
    """One instance of a pool: its methods return plain results, its attributes are read and set there."""

    def __init__(self, core: PoolCore, worker_id: int) -> None:
        self.__dict__["_core"] = core
        self.__dict__["_worker_id"] = worker_id

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"underscored names are not forwarded: {name!r}")
        core, worker_id = self.__dict__["_core"], self.__dict__["_worker_id"]
        info = core.recipe.info.find(name)
        if info is None:
            if is_augmented(sys._getframe(1)):
                return Augmented()
            outcome = core.verbs.one(worker_id, Operation("get", name, (), {}), is_task=False)
            value = core.settle_one(_explain_missing(core, outcome, name), name, worker_id)
            if not isinstance(value, CallableMarker):
                return value
            info = MethodInfo(name, None, drops_self=False)
        method = self.__dict__[name] = InstanceMethod(core, info, worker_id)
        return method

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise AttributeError(f"underscored names are not forwarded: {name!r}")
        self.__dict__.pop(name, None)  # it may have been a method until now
        core, worker_id = self.__dict__["_core"], self.__dict__["_worker_id"]
        outcome = core.verbs.one(worker_id, _setting(name, value), is_task=False)
        if type(value) is Augmented:
            outcome = _explain_missing(core, outcome, name)
        core.settle_one(outcome, name, worker_id)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call this instance itself."""
        core, worker_id = self.__dict__["_core"], self.__dict__["_worker_id"]
        return InstanceMethod(core, call_info(core), worker_id)(*args, **kwargs)

    def __dir__(self) -> list[str]:
        return sorted(class_names(self.__dict__["_core"]))

    def __repr__(self) -> str:
        return f"<instance {self.__dict__['_worker_id']} of {self.__dict__['_core']!r}>"


def call_info(core: PoolCore) -> MethodInfo:
    """Return what is known of calling the instances themselves."""
    info = core.recipe.info.find("__call__")
    if info is None and core.recipe.info.cls is not None:
        raise TypeError(f"instances of {core.recipe.info.name} are not callable; call one of their methods: pool.method(...)")
    return info or MethodInfo("__call__", None, drops_self=False)


def read_attribute(core: PoolCore, name: str) -> Any:
    """Read an attribute of every instance; return the values stacked, or `CallableMarker` for a method."""
    outcomes = core.verbs.every(Operation("get", name, (), {}), is_task=False)
    outcomes = [_explain_missing(core, outcome, name) for outcome in outcomes]
    values = core.settle_every(outcomes, name, DEFAULTS)
    if any(isinstance(value, CallableMarker) for value in values):
        return values[0]
    return shape_results([values], True)


def write_attribute(core: PoolCore, name: str, value: Any) -> None:
    """Set an attribute on every instance, or apply an operator to it."""
    outcomes = core.verbs.every(_setting(name, value), is_task=False)
    if type(value) is Augmented:
        outcomes = [_explain_missing(core, outcome, name) for outcome in outcomes]
    core.settle_every(outcomes, name, DEFAULTS)


def _setting(name: str, value: Any) -> Operation:
    """Return the operation that sets an attribute, or applies an operator to it."""
    if type(value) is Augmented:
        return Operation("augment", name, (value.operand, value.operator), {})
    return Operation("set", name, (value,), {})


def _explain_missing(core: PoolCore, outcome: Any, name: str) -> Any:
    """Give an `AttributeError` of a name that does not exist the text of a caller's mistake, with close matches."""
    if type(outcome) is Failure and type(outcome.error) is AttributeError and not core.recipe.info.has_data(name):
        text = f"{core.recipe.info.name} has no method or attribute {name!r}{suggest(name, class_names(core))}"
        return Failure(AttributeError(text, name=name))
    return outcome


def class_names(core: PoolCore) -> list[str]:
    """Return the public names of the class, and those that its instances hold themselves."""
    return [*core.recipe.info.public_names(), *core.backend.info(0).attributes]

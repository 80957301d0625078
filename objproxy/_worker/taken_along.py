"""What modules that go by value hold, and which of them a function imports when it runs."""

from __future__ import annotations

import sys
from types import FunctionType, ModuleType
from typing import Any

from objproxy._worker import importable

#: Of this process; or pickled by others, who have their own.
_LEFT_OUT = ("__builtins__", "__cached__", "__loader__", "__spec__")


def is_known_by_name(module: ModuleType) -> bool:
    """Whether another process finds a module under its name."""
    name = module.__name__
    there = sys.modules.get(name)
    is_this = there is not None and importable.origin_of(there) == importable.origin_of(module)
    return name in importable.MAIN or (is_this and importable.can_import(name))


def state_of(module: ModuleType) -> dict[str, Any]:
    """Return the attributes of a module that go along with it."""
    return {key: value for key, value in vars(module).items() if key not in _LEFT_OUT}


def imported_by(function: FunctionType, names: frozenset[str], attributes: frozenset[str]) -> list[ModuleType]:
    """Return the modules that a function imports when it runs, and that no worker can import.

    Parameters
    ----------
    function : function
        It.
    names : frozenset of str
        What stands behind ``import`` and ``from`` in its code, without leading dots.
    attributes : frozenset of str
        What is taken from them, which may be modules too.
    """
    if not names or not importable.has_unimportable():
        return []
    found: dict[str, ModuleType] = {}
    bases = [*names, *_relatives(function.__globals__, names)]
    for name in (*bases, *(f"{base}.{attribute}" for base in bases for attribute in attributes)):
        for package in _with_packages(name):
            module = sys.modules.get(package)
            if isinstance(module, ModuleType) and package not in importable.MAIN and not importable.can_import(package):
                found[package] = module
    return list(found.values())


def _relatives(namespace: dict[str, Any], names: frozenset[str]) -> list[str]:
    """Return what names stand for behind leading dots."""
    package = namespace.get("__package__") or getattr(namespace.get("__spec__"), "parent", None) or ""
    return [f"{above}.{name}".rstrip(".") for above in _with_packages(package) for name in names]


def _with_packages(name: str) -> list[str]:
    """Return a dotted name and those of the packages that it is in, outermost first."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1) if parts[0]]

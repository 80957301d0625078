"""Modules that go by value, and classes that a process may have loaded by itself.

A module that no worker can import goes by value where code refers to it: by a global name, or by an import in a function. It is
one object in a process, entered in ``sys.modules`` where it was so at home. Each message that brings it sets its attributes.

A worker may also have loaded the same file itself, under the same name, or have the module because it was forked from the
program. Then its own class is used, if it is the same: so objects of both are of one class.
"""

from __future__ import annotations

import builtins
import importlib
import sys
import zlib
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from objproxy._worker import fresh, importable
from objproxy._worker.taken_along import is_known_by_name, state_of

#: Constants that look the same in each process.
_PLAIN = frozenset({int, float, str, bytes, bool, type(None)})


class Home(NamedTuple):
    """Where a class is at home.

    Attributes
    ----------
    module, name : str
        Its module and its qualified name.
    origin : str or None
        The file of the module.
    print : int
        A checksum of its functions: a module may have been loaded once more, with other text.
    """

    module: str
    name: str
    origin: str | None
    print: int


def home_of(cls: type) -> Home | None:
    """Return where a class is at home; None for one of a script, of a function, or of no module."""
    name: Any = cls.__module__
    module = sys.modules.get(name) if isinstance(name, str) else None
    if module is None or name in importable.MAIN or "<" in cls.__qualname__ or _has_arrived(module):
        return None
    return Home(name, cls.__qualname__, importable.origin_of(module), _print_of(cls))


def find_own(home: Home | None) -> type | None:
    """Return the class of this process that is at home in the same place and is the same; None if there is none."""
    module: Any = None if home is None else sys.modules.get(home.module)
    if home is None or module is None or _has_arrived(module):
        return None
    found: Any = module
    for part in home.name.split("."):
        found = getattr(found, part, None)
    is_same = isinstance(found, type) and importable.origin_of(module) == home.origin and _print_of(found) == home.print
    return found if is_same else None


def _has_arrived(module: Any) -> bool:
    return isinstance(module, ModuleType) and module in importable.arrived


def _print_of(cls: type) -> int:
    """Return a checksum of the functions of a class, the same in every process of one interpreter."""
    functions = sorted((name, value.__code__) for name, value in vars(cls).items() if isinstance(value, FunctionType))
    parts = [
        (name, code.co_code, code.co_names, [value for value in code.co_consts if type(value) in _PLAIN])
        for name, code in functions
    ]
    return zlib.crc32(repr(parts).encode("utf-8", "surrogatepass"))


def reduce_module(module: ModuleType) -> tuple[Any, ...] | None:
    """Return how a module is made, and its attributes; None for one that a worker can import."""
    name = module.__name__
    if name in importable.MAIN:
        return importlib.import_module, ("__main__",)
    if is_known_by_name(module):
        return None
    there = sys.modules.get(name)
    return _make_module, (fresh.token_of(module), name, importable.origin_of(module), there is module), state_of(module)


def _make_module(token: str, name: str, origin: str | None, is_entered: bool) -> Any:
    """Return the module of a token: known, loaded by this process itself from the same file, or made."""
    known = fresh.known(token)
    if known is not None:
        return known
    there = sys.modules.get(name)
    if is_entered and there is not None and not _has_arrived(there) and importable.origin_of(there) == origin:
        return fresh.remember(token, there)
    module = fresh.remember(token, ModuleType(name))
    importable.arrived.add(module)
    if is_entered and (there is None or _has_arrived(there)):
        sys.modules[name] = module
    return module


def set_attributes(module: Any, state: dict[str, Any]) -> None:
    """Give a module its attributes; one that is this process's own keeps those that it has."""
    if module in importable.arrived:
        vars(module).update(state)
        vars(module)["__builtins__"] = builtins.__dict__

"""Texts of modules that no worker can import, and how they are loaded."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

#: What plugins have: locks, enums, generics, dataclasses, errors, counts, helpers.
PLUGIN = """
import dataclasses, enum, logging, threading, typing

LOCK = threading.Lock()
LOG = logging.getLogger(__name__)
T = typing.TypeVar("T")
P = typing.ParamSpec("P")
Ts = typing.TypeVarTuple("Ts")
Number = typing.NewType("Number", int)
CALLS = []


class Kind(enum.Enum):
    A = 1
    B = 2


@dataclasses.dataclass
class Item:
    value: int
    kind: Kind = Kind.A


class PluginError(ValueError):
    pass


class Base(typing.Generic[T]):
    marks = (P, Ts)


class Plugin(Base[int]):
    def double(self, x):
        return twice(x)

    def wrap(self, x: Number):
        return Item(x, Kind.B)

    def knows(self, item):
        return type(item) is Item and item.kind is Kind.B

    def fail(self, x):
        raise PluginError(Item(x))

    def count(self):
        with LOCK:
            CALLS.append(1)
            return len(CALLS)


def twice(x):
    return 2 * x
"""

#: A package with modules that import one another, at the top and in functions.
PACKAGE = {
    "__init__.py": """
from . import first
from .first import First
VALUE = 5
class Main:
    def at_the_top(self, x):
        return first.ten_times(x)
    def in_a_function(self, x):
        from . import second
        from .second import note
        return second.note(x) + note(x)
    def by_its_name(self, x):
        import plugin_package.second as second
        return second.note(x)
    def upwards(self):
        return First().value()
    def of_another(self, x):
        import memory_module
        return memory_module.twice(x)
""",
    "first.py": """
from .second import NOTED
def ten_times(x):
    return 10 * x
class First:
    def value(self):
        from . import VALUE
        return VALUE
""",
    "second.py": """
NOTED = []
def note(x):
    NOTED.append(x)
    return len(NOTED)
""",
}


def load(name: str, path: Path, *, is_entered: bool = True, **options: Any) -> Any:
    """Load a module from a path, as programs load their plugins."""
    spec = importlib.util.spec_from_file_location(name, path, **options)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if is_entered:
        sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def make(name: str, text: str = PLUGIN) -> Any:
    """Make a module in memory."""
    module = sys.modules[name] = ModuleType(name)
    exec(text, vars(module))
    return module


class Importer(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """An import hook that only the program has: modules whose names begin with "virtual" are plugins."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if not name.startswith("virtual"):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=name == "virtual")

    def exec_module(self, module: ModuleType) -> None:
        exec(PLUGIN, vars(module))

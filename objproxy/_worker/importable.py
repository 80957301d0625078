"""Which modules another process can import by name. What lives in the others goes by value.

Not importable are scripts (``__main__``, and ``__mp_main__`` in a process of `multiprocessing`), modules loaded from a path,
modules made in memory, and those of import hooks that only this process has. That a module is in ``sys.modules`` says nothing.
So the standard finders are asked, with the path of this process, which workers take over. They must find the same file: a file
of the same name elsewhere on the path is another module.

A pickle that names a class is made first, and then looked at: does it name a module that cannot be imported? This is asked of
each message, so the modules are judged once, when they are new. Most are told by their place in the installation, or in a
package that can be imported; the finders are asked for the others. Then the names of the few that cannot be imported are looked
for.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import os
import sys
import weakref
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

#: Names of scripts; the second in a process that `multiprocessing` has spawned.
MAIN = ("__main__", "__mp_main__")

#: Modules that have arrived by value.
arrived: weakref.WeakSet[ModuleType] = weakref.WeakSet()

#: The opcode by which a pickle refers to a class or function by its name.
_STACK_GLOBAL = b"\x93"

_STANDARD: tuple[Any, ...] = (
    importlib.machinery.BuiltinImporter,
    importlib.machinery.FrozenImporter,
    importlib.machinery.PathFinder,
)
_COMPILED = tuple(importlib.machinery.EXTENSION_SUFFIXES)
_SUFFIXES = (".py", ".pyc", *_COMPILED)

_OWN_PACKAGE = __name__.partition(".")[0]

#: Modules that an interpreter loads by itself, and which may install finders.
_CUSTOMIZERS = ("sitecustomize", "usercustomize")


def _mark(name: str) -> bytes:
    """Return the bytes that picklers write for a text."""
    text = name.encode("utf-8", "surrogatepass")
    return b"\x8c" + bytes([len(text)]) + text if len(text) < 256 else text


class _Looked:
    """What is known of the modules of this process.

    Attributes
    ----------
    n_modules, last_module, path : int, str and list
        ``sys.modules`` and ``sys.path`` when they were looked at. A new module is entered as the last.
    verdicts : dict of str to (int, bool)
        Modules by name: identity, and whether they can be imported.
    marks : dict of str to bytes
        How the name of a module that cannot be imported looks in a pickle.
    """

    def __init__(self) -> None:
        self.n_modules = 0
        self.last_module: str | None = None
        self.path: list[str] = []
        self.verdicts: dict[str, tuple[int, bool]] = {}
        self.marks: dict[str, bytes] = {name: _mark(name) for name in MAIN}


_looked = _Looked()


def names_unimportable(stream: bytes | bytearray) -> bool:
    """Whether a pickle names a class or function of a module that another process cannot import.

    Parameters
    ----------
    stream : bytes-like
        A pickle of protocol 4 or 5.
    """
    if _STACK_GLOBAL not in stream:
        return False
    _look_again()
    for mark in list(_looked.marks.values()):  # noqa: SIM110  (a generator would cost as much as the search)
        if mark in stream:
            return True
    return False


def can_import(name: str) -> bool:
    """Whether another process can import a module of this one by its name."""
    if name in MAIN:
        return False
    module = sys.modules.get(name)
    known = _looked.verdicts.get(name)
    if known is None or known[0] != id(module):
        known = _looked.verdicts[name] = (id(module), module is not None and _judge(name, module))
        if known[1]:
            _looked.marks.pop(name, None)
        else:
            _looked.marks[name] = _mark(name)
    return known[1]


def has_unimportable() -> bool:
    """Whether this process has modules, other than scripts, that cannot be imported."""
    _look_again()
    return len(_looked.marks) > len(MAIN)


def origin_of(module: Any) -> str | None:
    """Return the file of a module; None if it has none, or does not tell."""
    try:
        spec = module.__spec__
        origin = spec.origin if spec is not None and (spec.has_location or spec.origin in ("built-in", "frozen")) else None
        origin = origin or getattr(module, "__file__", None)
    except Exception:
        return None
    return origin if isinstance(origin, str) else None


# ---- a look at all --------------------------------------------------------------------------------------------------------


def _look_again() -> None:
    """Look at modules that are new since the last time; at all of them if the path is another."""
    modules, path = sys.modules, sys.path
    n_modules, last = len(modules), next(reversed(modules), None)
    is_same_path = path == _looked.path
    if is_same_path and n_modules == _looked.n_modules and last == _looked.last_module:
        return
    path = list(path)
    if not is_same_path:
        _looked.verdicts = {}
    folders = {entry for entry in path if isinstance(entry, str) and _is_installed(entry)}
    for name, module in sorted(modules.copy().items()):  # packages before what is in them
        known = _looked.verdicts.get(name)
        if known is None or known[0] != id(module):
            if _lies_in_place(name, module, folders):
                _looked.verdicts[name] = (id(module), True)
            else:
                can_import(name)
    # Last of all: another thread that comes meanwhile looks by itself, and finds each name that cannot be imported.
    _looked.n_modules, _looked.last_module, _looked.path = n_modules, last, path


def _is_installed(place: str) -> bool:
    """Whether a folder or file belongs to the installation, and not to the program."""
    prefixes = (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)
    return place.startswith(prefixes) or "site-packages" in place or "dist-packages" in place


def _lies_in_place(name: str, module: Any, folders: set[str]) -> bool:
    """Whether the file of a module is where the installation has the module of this name."""
    try:
        origin = module.__spec__.origin
        if origin in ("built-in", "frozen"):
            return True
        folder, _, file = origin.rpartition(os.sep)
    except Exception:
        return False
    parent, _, tail = name.rpartition(".")
    stem = file.partition(".")[0]
    if stem == "__init__":
        folder, _, stem = folder.rpartition(os.sep)
    if stem != tail or not file.endswith(_SUFFIXES):
        return False
    if not parent:
        return folder in folders
    return parent in _looked.verdicts and _looked.verdicts[parent][1] and folder in getattr(sys.modules[parent], "__path__", ())


def _folders_of(package: Any) -> list[str]:
    """Return where the modules of a package lie."""
    try:
        return [os.path.normpath(folder) for folder in package.__path__]
    except Exception:
        return []


# ---- verdicts --------------------------------------------------------------------------------------------------------


def _judge(name: str, module: Any) -> bool:
    """Whether the module of a name in a worker would be this one."""
    if name == _OWN_PACKAGE:
        return True
    if isinstance(module, ModuleType) and module in arrived:
        return False
    origin = origin_of(module)
    if origin is not None and origin.endswith(_COMPILED):
        return True  # it cannot go by value
    spec = _find(name)
    if spec is None:
        return _is_made_by_its_package(name, module, origin) or _has_finder(name)
    if origin is None:  # a module may put an object of its own in its place; or it is a namespace
        return type(module) is not ModuleType or getattr(module, "__spec__", None) is not None
    return spec.origin is not None and _are_same(origin, spec.origin)


def _find(name: str) -> Any:
    """Return the specification of a module as an interpreter without import hooks finds it, or None."""
    path = None
    parent = name.rpartition(".")[0]
    if parent:
        package = sys.modules.get(parent)
        if package is not None:
            path = _folders_of(package) if can_import(parent) else None
        elif (found := _find(parent)) is not None:
            path = found.submodule_search_locations
        if path is None:
            return None
    return next((spec for finder in _STANDARD if (spec := _ask(finder, name, path)) is not None and _is_plain(spec)), None)


def _ask(finder: Any, name: str, path: Any) -> Any:
    try:
        return finder.find_spec(name, path)
    except Exception:  # a finder, or an entry of the path, that is not in order
        return None


def _is_plain(spec: Any) -> bool:
    """Whether a module is loaded without the help of hooks."""
    if spec.origin in (None, "built-in", "frozen"):
        return True
    return spec.loader is not None and str(spec.origin).endswith(_SUFFIXES)


def _are_same(one: str, other: str) -> bool:
    return one == other or os.path.realpath(one) == os.path.realpath(other)


def _is_made_by_its_package(name: str, module: Any, origin: str | None) -> bool:
    """Whether a package makes this submodule, which has no file, when it is imported: installed ones do."""
    package = name.partition(".")[0]
    if origin is not None or package == name or package not in sys.modules or not can_import(package):
        return False
    home = origin_of(sys.modules[package])
    return type(module) is not ModuleType or home is None or _is_installed(home)


def _has_finder(name: str) -> bool:
    """Whether workers have an import hook that finds a module: its package installs the hook, or the installation does."""
    path = _folders_of(sys.modules.get(name.rpartition(".")[0])) if "." in name else None
    for finder in list(sys.meta_path):
        if finder not in _STANDARD and _ask(finder, name, path) is not None:
            home = (finder if isinstance(finder, type) else type(finder)).__module__
            package = home.partition(".")[0]
            return package == name.partition(".")[0] or package in _CUSTOMIZERS or _is_installed_at_start(home)
    return False


def _is_installed_at_start(module: str) -> bool:
    """Whether a file that each interpreter reads at its start names a module, as those of editable installations do."""
    return any(module in text for text in _texts_read_at_start(entry for entry in sys.path if isinstance(entry, str)))


def _texts_read_at_start(folders: Iterable[str]) -> Iterator[str]:
    for folder in folders:
        with contextlib.suppress(OSError):
            for name in os.listdir(folder or "."):
                if name.endswith(".pth"):
                    with open(os.path.join(folder, name), errors="replace") as file:
                        yield file.read()

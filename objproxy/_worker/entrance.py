"""The way by which a process of a frozen application becomes a helper (a nursery or a worker).

The application runs from its beginning, as in each child of `multiprocessing`. It becomes the helper where it

- imports ``objproxy``: with the first import of the package, before the rest of the application; or
- calls ``multiprocessing.freeze_support()``, if that comes first: it reads two pickles and calls ``_bootstrap`` of the second.

A process that comes to neither goes on as the application. It still has the mark of a helper (`lineage`), so it starts no pool.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import sys
import types
from typing import Any, NoReturn

from objproxy._worker import lineage

#: The argument that names the descriptor, as `multiprocessing` writes it.
_PIPE = "pipe_handle="

#: Modules that run the application: a helper has no use for them.
_MAIN = ("__main__", "__mp_main__", "__parents_main__")


class Entrance:
    """What a new process of a frozen application reads, in the place of a process object of `multiprocessing`.

    Parameters
    ----------
    errand : Errand
        What the process is to run.
    path, argv : list of str
        ``sys.path`` and ``sys.argv`` of the program.
    """

    def __init__(self, errand: tuple[str, str, tuple[Any, ...]], path: list[str], argv: list[str]) -> None:
        self._module, self._function, self._args = errand
        self._path = path
        self._argv = argv

    def _bootstrap(self, parent_sentinel: int | None = None) -> NoReturn:
        """Become the helper; the name is that of the standard library."""
        os.environ.pop(lineage.HELPER, None)
        if parent_sentinel is not None:
            os.close(parent_sentinel)
        _settle_imports()
        sys.path[:], sys.argv[:] = self._path, self._argv
        getattr(importlib.import_module(self._module), self._function)(*self._args)
        raise SystemExit


def enter() -> None:
    """Become the helper that this process was started as, unless ``freeze_support()`` is doing that."""
    process = sys.modules.get("multiprocessing.process")
    if process is not None and getattr(process.current_process(), "_inheriting", False):
        return
    handle = next((argument for argument in sys.argv[2:] if argument.startswith(_PIPE)), None)
    if handle is None:
        return
    with open(int(handle.removeprefix(_PIPE)), "rb") as pipe:
        pickle.load(pipe)  # what `multiprocessing` prepares a child with: nothing
        entrance: Entrance = pickle.load(pipe)
    entrance._bootstrap()


def _settle_imports() -> None:
    """Forget the modules that are being imported at this moment, since nobody will ever end their imports.

    The first of them has run as far as the import that has led here. A worker that needs one imports it from its beginning. The
    threads of a worker would wait for ever for the lock of such a module, so those locks are forgotten too.
    """
    open_names = [name for name, module in list(sys.modules.items()) if _is_being_imported(module)]
    for name in open_names:
        if name.partition(".")[0] in ("objproxy", *sys.stdlib_module_names):
            sys.modules[name].__spec__._initializing = False  # type: ignore[union-attr]  # it is complete but for its last line
        elif name not in _MAIN:
            _forget(name)
    locks = getattr(sys.modules.get("_frozen_importlib"), "_module_locks", {})
    for name in open_names:
        locks.pop(name, None)
    _kept.append(sys.modules["__main__"])
    sys.modules["__main__"] = types.ModuleType("__main__")


#: The application's main module: frames below this one still run its code.
_kept: list[types.ModuleType] = []


def _is_being_imported(module: Any) -> bool:
    with contextlib.suppress(Exception):  # anything may stand in `sys.modules`
        return bool(module.__spec__._initializing)
    return False


def _forget(package: str) -> None:
    """Forget a module and what is in it: a module that is imported anew does not get submodules that are there already."""
    names = [name for name in sys.modules if name == package or name.startswith(f"{package}.")]
    _kept.extend(sys.modules.pop(name) for name in names)

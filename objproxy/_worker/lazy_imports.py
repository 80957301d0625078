"""Names that a script imports lazily (Python 3.15, PEP 810): code that goes by value takes them along, unloaded.

A module's namespace holds an object of its own for such a name until it is used. It cannot be pickled, and loading it in the
caller would defeat its purpose: it may be slow, or exist in the workers alone. So the worker makes the same lazy import.
"""

from __future__ import annotations

import gc
import re
import types
from typing import Any

#: The type of such an object; None before Python 3.15.
LazyImport: Any = getattr(types, "LazyImportType", None)


def reduce(value: Any) -> Any:
    """Reduce a lazy import to its module and, behind ``from``, its name; what cannot be told so is loaded."""
    match = re.fullmatch(r"<lazy_import '([\w.]+)'>", repr(value))
    if match is None:
        return _take, (value.resolve(),)
    module, _, name = match[1].rpartition(".")
    # ``import a.b`` shows itself as ``from a import b`` does. Only the latter holds the name alone.
    is_from = module and any(type(part) is str and part == name for part in gc.get_referents(value))
    return _import_lazily, ((module, name) if is_from else (match[1], ""))


def _take(value: Any) -> Any:
    return value


def _import_lazily(module: str, name: str) -> Any:
    """Return what a lazy import statement puts into a namespace."""
    namespace: dict[str, Any] = {"__builtins__": __builtins__, "__name__": __name__}
    exec(f"lazy from {module} import {name}" if name else f"lazy import {module}", namespace)
    return namespace[name or module.partition(".")[0]]

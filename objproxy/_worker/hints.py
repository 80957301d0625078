"""Annotations of what goes by value, from Python 3.14 on: they are computed when they are asked for (PEP 649), which may fail.

cloudpickle asks a function for its annotations, which raises if they name what only type checkers import, and leaves those of a
class out. Here they are computed in the caller. A name that has no value travels as text, as behind ``from __future__ import
annotations``.
"""

from __future__ import annotations

import contextlib
import sys
from types import FunctionType
from typing import Any

#: Whether annotations are computed when they are asked for.
ARE_LAZY = sys.version_info >= (3, 14)


def make_twin(function: FunctionType) -> FunctionType:
    """Return a copy of a function whose annotations cannot be computed, with those that can, and text for the rest."""
    twin = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    twin.__kwdefaults__, twin.__doc__ = function.__kwdefaults__, function.__doc__
    twin.__qualname__, twin.__module__ = function.__qualname__, function.__module__
    vars(twin).update(vars(function))
    twin.__annotations__ = _compute(function)
    return twin


def add_to(attributes: dict[str, Any], cls: type) -> None:
    """Add a class's annotations to the attributes that travel; they are there if they were computed before."""
    if "__annotate_func__" in vars(cls) and "__annotations_cache__" not in attributes:
        attributes["__annotations__"] = _compute(cls)


def reduce_reference(reference: Any) -> Any:
    """Reduce a forward reference to its text, without the globals of its module."""
    options = (reference.__forward_module__, reference.__forward_is_argument__, reference.__forward_is_class__)
    return _make_reference, (type(reference), reference.__forward_arg__, *options)


def _make_reference(kind: Any, text: str, module: Any, is_argument: bool, is_class: bool) -> Any:
    return kind(text, module=module, is_argument=is_argument, is_class=is_class)


def reference_type() -> Any:
    """Return the type of forward references if it is loaded and would take its module's globals along, else None."""
    return getattr(sys.modules.get("annotationlib"), "ForwardRef", None)


def _compute(owner: Any) -> dict[str, Any]:
    """Return the annotations of a function or class: values, or texts where there are none."""
    with contextlib.suppress(Exception):
        return dict(owner.__annotations__)
    import annotationlib  # type: ignore[import-not-found, unused-ignore]  # there since Python 3.14

    for kind in (annotationlib.Format.FORWARDREF, annotationlib.Format.STRING):
        with contextlib.suppress(Exception):
            values = annotationlib.get_annotations(owner, format=kind)
            return {name: getattr(value, "__forward_arg__", value) for name, value in values.items()}
    return {}

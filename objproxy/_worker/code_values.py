"""What the names of a class or function stand for: what it takes along when it goes by value."""

from __future__ import annotations

import contextlib
import dis
import functools
import weakref
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from objproxy._worker.taken_along import imported_by, is_known_by_name, state_of

#: The type of a function with a cache, which has no public name.
CachedFunction: Any = type(functools.lru_cache(lambda: None))


class _Names(NamedTuple):
    """The names in some code, and in what is within it: global names, modules that it imports, what it takes from them."""

    globals: frozenset[str]
    modules: frozenset[str]
    attributes: frozenset[str]


_names: weakref.WeakKeyDictionary[CodeType, _Names] = weakref.WeakKeyDictionary()

_OPERATIONS = {
    **dict.fromkeys(("LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME"), "globals"),
    "IMPORT_NAME": "modules",
    "IMPORT_FROM": "attributes",
}

#: Attributes of a class that every class makes for itself.
_OWN = frozenset({"__dict__", "__weakref__", "__module__", "__doc__", "__qualname__", "_abc_impl", "__annotate_func__"})


_METHODS = (FunctionType, classmethod, staticmethod, functools.singledispatchmethod, functools.partialmethod, CachedFunction)


def named_values(code: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a class or function takes along, with the step that leads there, such as ``global 'CONNECTION'``."""
    if isinstance(code, FunctionType):
        yield from _of_function(code)
    elif isinstance(code, type):
        yield from _of_class(code)
    elif isinstance(code, ModuleType) and not is_known_by_name(code):
        yield from ((f"attribute {name!r}", value) for name, value in state_of(code).items())


def direct_values(code: Any) -> list[Any]:
    """Return the same values without their steps, and without what is wrapped in them: this is needed for each pickle."""
    if isinstance(code, type):
        return list(vars(code).values())
    namespace = code.__globals__
    values = [namespace[name] for name in _names_of_globals(code.__code__) if name in namespace]
    for cell in code.__closure__ or ():
        with contextlib.suppress(ValueError):  # it was not assigned yet
            values.append(cell.cell_contents)
    return [*values, *(code.__defaults__ or ()), *(code.__kwdefaults__ or {}).values()]


def _of_function(function: FunctionType) -> Iterator[tuple[str, Any]]:
    namespace = function.__globals__
    for name in _names_of_globals(function.__code__):
        if name in namespace:
            yield f"global {name!r}", namespace[name]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"enclosed {name!r}", cell.cell_contents
        except ValueError:  # it was not assigned yet
            continue
    for value in function.__defaults__ or ():
        yield "default", value
    for name, value in (function.__kwdefaults__ or {}).items():
        yield f"default of {name!r}", value
    for name, value in vars(function).items():
        yield f"attribute {name!r}", value
    for module in imported_by(function, *names_of_imports(function.__code__)):
        yield f"import {module.__name__!r}", module


def _of_class(cls: type) -> Iterator[tuple[str, Any]]:
    if type(cls) is not type:
        yield f"metaclass {type(cls).__name__!r}", type(cls)
    for base in cls.__bases__:
        yield f"base {base.__name__!r}", base
    for name, value in list(vars(cls).items()):
        if name not in _OWN:
            for part in _wrapped(value):
                yield f"{_kind(value)} {name!r}", part


def _kind(value: Any) -> str:
    if isinstance(value, _METHODS):
        return "method"
    if isinstance(value, (property, functools.cached_property)):
        return "property"
    return "class" if isinstance(value, type) else "attribute"


def _wrapped(value: Any) -> list[Any]:
    """Return the functions inside of a descriptor, or the value itself."""
    if isinstance(value, (classmethod, staticmethod)):
        return [value.__func__]
    if isinstance(value, property):
        return [function for function in (value.fget, value.fset, value.fdel) if function is not None]
    if isinstance(value, functools.cached_property):
        return [value.func]
    if isinstance(value, functools.singledispatchmethod):
        return list(value.dispatcher.registry.values())
    if type(value) is CachedFunction:
        return [value.__wrapped__]
    return [value]


def _names_of_globals(code: CodeType) -> frozenset[str]:
    """Return the global names that a function uses, also in functions, comprehensions and classes within."""
    return _names_in(code).globals


def names_of_imports(code: CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """Return the modules that a function imports when it runs, without leading dots, and what it takes from them."""
    names = _names_in(code)
    return names.modules, names.attributes


def _names_in(code: CodeType) -> _Names:
    names = _names.get(code)
    if names is None:
        own: dict[str, set[str]] = {"globals": set(), "modules": set(), "attributes": set()}
        for step in dis.get_instructions(code):
            if step.opname in _OPERATIONS:
                own[_OPERATIONS[step.opname]].add(step.argval)
        within = [_names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
        names = _Names(*(frozenset(some).union(*(part[at] for part in within)) for at, some in enumerate(own.values())))
        _names[code] = names
    return names

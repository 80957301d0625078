"""The pickler of what goes by value: cloudpickle's, with the locks and caches of code made anew, and each class built once.

A class or function takes along what its names stand for: globals, class attributes, defaults, closures. A worker that could
import the module would make its own locks and caches there, and gets fresh ones here (`fresh`). That holds for what code takes
along only: a lock in an argument is data, which a caller would expect to be shared, and is refused.

A class is built once in a process, as by an import: where it is known already, its attributes are left as they are.

cloudpickle is slow to load, so this module is imported when something first goes by value.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import weakref
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any, NewType, ParamSpec, TypeVar, TypeVarTuple

import cloudpickle

from objproxy._worker import fresh, hints, importable, lazy_imports
from objproxy._worker.code_values import CachedFunction, direct_values, names_of_imports
from objproxy._worker.modules import Home, find_own, home_of, reduce_module, set_attributes
from objproxy._worker.taken_along import imported_by

Reduce = Callable[[Any], Any]

_HOOK = "__init_subclass__"

#: What modules make with `typing`, and refer to by its name.
_TYPES_OF_TYPING: dict[type, Reduce] = {
    TypeVar: lambda made: (cloudpickle.cloudpickle._make_typevar, cloudpickle.cloudpickle._decompose_typevar(made)),
    NewType: lambda made: (NewType, (made.__name__, made.__supertype__)),
    ParamSpec: lambda made: (ParamSpec, (made.__name__,)),
    TypeVarTuple: lambda made: (TypeVarTuple, (made.__name__,)),
}

#: Classes that go by value and are complete in this process: made here, or arrived.
_complete: weakref.WeakSet[type] = weakref.WeakSet()


class Mark:
    """Tells the pickler that what a class or function takes along begins, or has ended.

    Parameters
    ----------
    change : int
        1 at the beginning, -1 at the end.
    """

    __slots__ = ("change",)

    def __init__(self, change: int) -> None:
        self.change = change


class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """Writes classes and functions that no worker can import."""

    depth = 0  # of the classes and functions that are being written

    def reducer_override(self, value: Any) -> Any:
        """Reduce an object; NotImplemented for the usual way."""
        kind = type(value)
        if kind is Mark:
            self.depth += value.change
            return tuple, ()
        if kind is CodeType:
            return _reduce_code(value)
        if kind is CachedFunction:
            return _reduce_cached(value)
        if kind is functools.partialmethod:  # since Python 3.15 it cannot be made without its function
            return _make_partial_method, (value.func, value.args, value.keywords)
        if kind is fresh.Sentinel:
            return NotImplemented if _is_importable(value, value.__name__) else fresh.reduce_sentinel(value)
        if kind is lazy_imports.LazyImport:
            return lazy_imports.reduce(value)
        if hints.ARE_LAZY and kind is hints.reference_type():
            return hints.reduce_reference(value)
        if issubclass(kind, ModuleType):
            return self._reduce_module(value)
        if kind in _TYPES_OF_TYPING and not importable.can_import(value.__module__ or "typing"):
            return _TYPES_OF_TYPING[kind](value)
        reduced = self._reduce_as_cloudpickle(value)
        if reduced is NotImplemented and _is_unimportable(value):
            reduced = self._reduce_unimportable(value)
        if reduced is NotImplemented:
            return fresh.reduce(value) if self.depth else reduced
        is_code = type(reduced) is tuple and len(reduced) == 6
        return _reduce_by_value(value, reduced, is_outermost=not self.depth) if is_code else reduced

    def _reduce_as_cloudpickle(self, value: Any) -> Any:
        try:
            return super().reducer_override(value)
        except Exception:
            if not hints.ARE_LAZY or type(value) is not FunctionType:
                raise
            # Most likely its annotations cannot be computed; if it was something else, the twin raises it too.
            return super().reducer_override(hints.make_twin(value))

    def _reduce_unimportable(self, code: Any) -> Any:
        """Reduce a class or function that cloudpickle takes to be importable, since its module is in ``sys.modules``."""
        if isinstance(code, type):
            return cloudpickle.cloudpickle._dynamic_class_reduce(code)
        return self._dynamic_function_reduce(code)

    def _reduce_module(self, module: ModuleType) -> Any:
        """Reduce a module; what it takes along lies between two marks, unless others do already."""
        reduced = reduce_module(module)
        if reduced is None:
            return cloudpickle.cloudpickle.subimport, (module.__name__,)
        if len(reduced) == 2:
            return reduced
        fresh.keep_one_of_each(vars(module).values())
        make, args, state = reduced
        marked = (None, state, None) if self.depth else (Mark(1), state, Mark(-1))
        return make, args, marked, None, None, _set_attributes


def _reduce_by_value(code: Any, reduced: tuple[Any, ...], *, is_outermost: bool) -> Any:
    """Reduce a class or function, given how cloudpickle does; what the outermost takes along lies between two marks."""
    fresh.keep_one_of_each(direct_values(code))
    is_class = isinstance(code, type)
    if not is_class:
        _take_imports_along(code, reduced)
    if not is_outermost and not is_class:
        return reduced
    make, args, state, _items, _pairs, set_state = reduced
    marked = (Mark(1), set_state, state, Mark(-1)) if is_outermost else (None, set_state, state, None)
    if is_class:
        if hints.ARE_LAZY:
            hints.add_to(state[0], code)
        _complete.add(code)
        return _build_class, (fresh.token_of(code), make, args, home_of(code)), marked, None, None, _set_state
    return make, args, marked, None, None, _set_state


def _is_unimportable(value: Any) -> bool:
    """Whether a value is a class or function of a module that no other process can import."""
    if not isinstance(value, (type, FunctionType)):
        return False
    name = value.__module__
    return isinstance(name, str) and not importable.can_import(name)


def _take_imports_along(function: Any, reduced: tuple[Any, ...]) -> None:
    """Add the modules that a function imports when it runs to those of which cloudpickle knows."""
    modules = imported_by(function, *names_of_imports(function.__code__))
    if modules:
        slots = reduced[2][1]
        slots["_cloudpickle_submodules"] = [*slots["_cloudpickle_submodules"], *modules]


def _set_attributes(module: Any, marked: tuple[Any, ...]) -> None:
    set_attributes(module, marked[1])


def _set_state(code: Any, marked: tuple[Any, ...]) -> None:
    """Give a function or class its attributes; a class that is complete keeps those that it has."""
    _begin, set_state, state, _end = marked
    if not isinstance(code, type):
        set_state(code, state)
    elif code not in _complete:
        set_state(code, state)
        _complete.add(code)


def _build_class(token: str, make: Callable[..., type], args: tuple[Any, ...], home: Home | None = None) -> Any:
    """Return the class of a token, built if this process does not know it; no hook of its bases or metaclass runs again."""
    known = fresh.known(token)
    if known is not None:
        return known
    own = find_own(home)
    if own is not None:
        _complete.add(own)
        return fresh.remember(token, own)
    metaclass, *rest = args
    if metaclass in _complete:
        metaclass = functools.partial(_native_metaclass(metaclass).__new__, metaclass)
    with _without_hooks(next(part for part in args if type(part) is tuple)):
        return fresh.remember(token, make(metaclass, *rest))


@contextlib.contextmanager
def _without_hooks(bases: tuple[Any, ...]) -> Iterator[None]:
    """Keep `__init_subclass__` of bases that go by value from running: what it has done is part of the classes."""
    ancestors = {ancestor for base in bases for ancestor in getattr(base, "__mro__", ())}
    hooks = [(owner, vars(owner)[_HOOK]) for owner in ancestors & set(_complete) if _HOOK in vars(owner)]
    for owner, _hook in hooks:
        setattr(owner, _HOOK, classmethod(lambda _cls, **_options: None))
    try:
        yield
    finally:
        for owner, hook in hooks:
            setattr(owner, _HOOK, hook)


def _native_metaclass(metaclass: Any) -> Any:
    """Return the first base of a metaclass that did not come by value: what it does to a class has been done."""
    return next(base for base in metaclass.__mro__ if base not in _complete)


def _reduce_cached(function: Any) -> Any:
    """Reduce a function with a cache: by name if it can be imported, else what it wraps, with a cache that is empty."""
    if _is_importable(function, function.__qualname__):
        return NotImplemented
    attributes = {name: value for name, value in vars(function).items() if name != "__wrapped__"}
    return _make_cached, (function.__wrapped__, function.cache_parameters()), attributes


def _make_cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _make_partial_method(function: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    return functools.partialmethod(function, *args, **keywords)


def _is_importable(value: Any, path: str) -> bool:
    """Whether a worker finds a function or sentinel under its path in a module that it can import."""
    name = value.__module__ or "__main__"
    by_value = cloudpickle.list_registry_pickle_by_value()
    if not importable.can_import(name) or any(name == module or name.startswith(f"{module}.") for module in by_value):
        return False
    found: Any = sys.modules.get(name)
    for part in path.split("."):
        found = getattr(found, part, None)
    return found is value


def _reduce_code(code: CodeType) -> Any:
    """Reduce code with its file's name: since cloudpickle 3.1.3 tracebacks would not show the user's own lines without that."""
    make, args = cloudpickle.Pickler.dispatch_table[CodeType](code)
    return _make_code, (make, args, code.co_filename)


def _make_code(make: Callable[..., CodeType], args: tuple[Any, ...], filename: str) -> CodeType:
    return make(*args).replace(co_filename=filename)

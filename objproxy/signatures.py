"""What a pool knows of its class: which names are methods, and which arguments they take."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterable, Callable, Iterable
from typing import Any

from objproxy.inspecting import signature_of
from objproxy.options import CALL_KEYWORDS, OPTION_NAMES, advise, find_options


class MethodInfo:
    """One method of the class, as the caller sees it.

    Parameters
    ----------
    name : str
        Its name.
    function : object or None
        The class's attribute; None if nothing is known of it.
    drops_self : bool
        Whether the first parameter is the instance.
    """

    def __init__(self, name: str, function: Any, drops_self: bool) -> None:
        self.name = name
        self.doc = inspect.getdoc(function) if function is not None else None
        self.signature = _signature(function, drops_self, follow_wrapped=True)
        # What a decorated method shows is the inner function's; what it takes is the outer's, which may supply
        # arguments.
        is_wrapped = hasattr(function, "__wrapped__")
        self._accepted = _signature(function, drops_self, follow_wrapped=False) if is_wrapped else self.signature
        self.is_coroutine = _is_coroutine(function)
        self._n_min, self._n_max = _positional_range(self._accepted)
        names = self.signature.parameters if self.signature is not None else ()
        self.own_call_keywords = tuple(name for name in CALL_KEYWORDS if name in names)

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Check that the method takes such arguments.

        Raises
        ------
        TypeError
            It does not; the message shows the signature.
        """
        if not kwargs and self._n_min <= len(args) <= self._n_max:
            return
        if self._accepted is None:
            return
        try:
            self._accepted.bind(*args, **kwargs)
        except TypeError as exc:
            hint = self._find_hint(kwargs)
            raise TypeError(f"{self.name}{self.signature} was called wrongly: {exc}{hint}") from None

    def _find_hint(self, kwargs: dict[str, Any]) -> str:
        """Return a hint if options of the call are among the keywords that the method does not take."""
        assert self._accepted is not None
        found = find_options(name for name in kwargs if name not in self._accepted.parameters)
        return f"; {advise(self.name, found)}" if found else ""

    def check_items(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Check that the method takes such arguments, each the iterable of a map.

        Raises
        ------
        TypeError
            It does not; or one of them is no iterable and has the name of an option.
        """
        self.check(args, kwargs)
        found = {name: name for name, value in kwargs.items() if name in OPTION_NAMES and not _is_iterable(value)}
        if found:
            raise TypeError(
                f"{self.name} was called wrongly: {advise(self.name, found)}; for arguments of the method give iterables, "
                "for instance itertools.repeat(...)"
            )

    def check_keywords(self, kwargs: dict[str, Any]) -> None:
        """Refuse a keyword that both the pool and the method know; nobody could tell whose it is."""
        for name in self.own_call_keywords:
            if name in kwargs:
                raise TypeError(
                    f"{self.name}() has a parameter {name!r} of its own, which is also an option of the pool's call. "
                    f"Write pool.{self.name}.options({name}=...)(...) for the option; "
                    "there every argument is the method's own."
                )


def _is_iterable(value: Any) -> bool:
    return isinstance(value, (Iterable, AsyncIterable)) or hasattr(type(value), "__getitem__")


def _is_coroutine(function: Any) -> bool:
    try:
        return inspect.iscoroutinefunction(function)
    except Exception:  # of a callable that refuses to be looked at
        return False


def _signature(function: Any, drops_self: bool, *, follow_wrapped: bool) -> inspect.Signature | None:
    if function is None:
        return None
    try:
        signature = signature_of(function, follow_wrapped=follow_wrapped)
    except (TypeError, ValueError):  # compiled, and does not tell
        return None
    parameters = list(signature.parameters.values())
    if drops_self:
        if not parameters:
            return None
        if parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
            parameters = parameters[1:]
    return signature.replace(parameters=parameters)


def _positional_range(signature: inspect.Signature | None) -> tuple[int, float]:
    """Return how many positional arguments alone make a good call, (1, 0) if none can."""
    if signature is None:
        return 0, float("inf")
    n_min = n_max = 0
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            return n_min, float("inf")
        if parameter.kind is parameter.KEYWORD_ONLY:
            if parameter.default is parameter.empty:
                return 1, 0
        elif parameter.kind is not parameter.VAR_KEYWORD:
            n_max += 1
            n_min += parameter.default is parameter.empty
    return n_min, n_max


class ClassInfo:
    """The class of a pool, or the factory in its place.

    Parameters
    ----------
    factory : callable
        A class, or anything else that builds an object.
    """

    def __init__(self, factory: Callable[..., Any]) -> None:
        self.factory = factory
        self.cls: type | None = factory if isinstance(factory, type) else None
        self.name: str = getattr(factory, "__qualname__", None) or type(factory).__qualname__
        self._methods: dict[str, MethodInfo] = {}

    def find(self, name: str) -> MethodInfo | None:
        """Return what is known of the method `name`; None if it is no method of the class."""
        if name not in self._methods:
            info = self._inspect(name)
            if info is None:
                return None
            self._methods[name] = info
        return self._methods[name]

    def _inspect(self, name: str) -> MethodInfo | None:
        static = self._lookup(name)
        if static is None or isinstance(static, property):
            return None
        function = getattr(self.cls, name, None)
        if not callable(function):
            return None
        # A callable that is no descriptor, such as a class or a partial(), is not bound: it has no `self` to drop.
        is_bound = hasattr(type(static), "__get__") and not isinstance(static, (staticmethod, classmethod))
        return MethodInfo(name, function, drops_self=is_bound)

    def _lookup(self, name: str) -> Any:
        """Return what the class or a base defines under `name`; names of the metaclass are not those of its objects."""
        for base in self.cls.__mro__ if self.cls is not None else ():
            if name in vars(base):
                return vars(base)[name]
        return None

    def has_data(self, name: str) -> bool:
        """Whether the class itself says that `name` is data: a property, a slot, a class attribute."""
        return self._lookup(name) is not None

    def public_names(self) -> list[str]:
        """Return the public names of the class."""
        return [name for name in dir(self.cls) if not name.startswith("_")] if self.cls is not None else []

    @functools.cached_property
    def constructor_signature(self) -> inspect.Signature | None:
        """The signature of the constructor, if it tells."""
        try:
            return signature_of(self.factory)
        except (TypeError, ValueError):
            return None

"""`delayed_init`: classes whose objects are built where they work."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


class ShellObject:
    """Stands for an object that is built later, in the worker that needs it.

    Parameters
    ----------
    object_class : callable
        The class, decorated with `delayed_init` or not, or a function that makes an object.
    *args, **kwargs
        Arguments of its constructor.
    """

    def __init__(self, object_class: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        self.object_class = object_class
        self.args = args
        self.kwargs = kwargs
        self._object: Any = None

    def build(self) -> Any:
        """Return a new object."""
        make = self.object_class.build if isinstance(self.object_class, Delayed) else self.object_class
        return make(*self.args, **self.kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the object, which the first call builds."""
        if self._object is None:
            self._object = self.build()
        return self._object(*args, **kwargs)

    def __reduce__(self) -> Any:
        """Cross to another process without the object."""
        return _rebuild, (self.object_class, self.args, self.kwargs)

    def __repr__(self) -> str:
        arguments = [*map(repr, self.args), *(f"{name}={value!r}" for name, value in self.kwargs.items())]
        return f"<delayed {getattr(self.object_class, '__name__', self.object_class)}({', '.join(arguments)})>"


def _rebuild(object_class: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> ShellObject:
    return ShellObject(object_class, *args, **kwargs)


class Delayed(type):
    """The metaclass of delayed classes: calling one gives a `ShellObject`; everything else is as in any class."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Return what will be an object."""
        return ShellObject(cls, *args, **kwargs)

    def build(cls, *args: Any, **kwargs: Any) -> Any:
        """Return an object."""
        return super().__call__(*args, **kwargs)


@functools.cache
def _delayed(metaclass: type) -> type:
    """Return `Delayed` for classes with a metaclass of their own, such as ``ABCMeta``."""
    return Delayed if metaclass is type else type(f"Delayed{metaclass.__name__}", (Delayed, metaclass), {})


def delayed_init(cls: Callable[..., Any]) -> Any:
    """Let the objects of a class be built in the workers; a decorator.

    Parameters
    ----------
    cls : type or callable
        A class, or a function that makes an object.

    Returns
    -------
    type or callable
        A class of the same name, whose call gives a `ShellObject`. It works as a class: ``isinstance``, subclassing (subclasses
        are delayed too) and pickling of its objects.

    Examples
    --------
    >>> @delayed_init
    ... class Adder:
    ...     def __init__(self, step):
    ...         self.step = step
    ...
    ...     def __call__(self, number):
    ...         return number + self.step
    >>> Adder(3)
    <delayed Adder(3)>
    >>> isinstance(Adder(3).build(), Adder)
    True
    """
    if isinstance(cls, type):
        names = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
        return _delayed(type(cls))(cls.__name__, (cls,), {**names, "__slots__": ()})
    if not callable(cls):
        raise TypeError(f"delayed_init decorates a class, or a function that makes an object; got {cls!r}")
    return functools.wraps(cls)(functools.partial(ShellObject, cls))

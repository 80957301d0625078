"""What an array can do, for an object that has one: indexing, arithmetic, comparisons, universal functions, methods.

NumPy has `numpy.lib.mixins.NDArrayOperatorsMixin` for that. It is written again here because the package is imported without
loading NumPy; everything is passed on to the array.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.lib.mixins import NDArrayOperatorsMixin as _Operators
    from numpy.typing import NDArray
else:

    class _Operators:
        """The operators; they are added below."""


_BINARY = ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "divmod", "pow", "lshift", "rshift", "and", "xor", "or")
_IN_PLACE = ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "lshift", "rshift", "and", "xor", "or")
_COMPARISONS = ("lt", "le", "eq", "ne", "gt", "ge")
_UNARY = ("neg", "pos", "abs", "invert", "bool", "int", "float", "complex", "index")


class ArrayOperations(_Operators):
    """Passes on what is done to it to the array that `_opened` returns.

    Two such objects compare as arrays do, element by element. As a key of a dict each is itself, as tensors of PyTorch are.
    """

    __hash__ = object.__hash__

    def _opened(self) -> NDArray[Any]:
        raise NotImplementedError

    def __getitem__(self, index: Any) -> Any:
        """Return an element, or a view of a part, which is shared as the whole is."""
        return self._opened()[_plain(index)]

    def __setitem__(self, index: Any, value: Any) -> None:
        """Write an element or a part."""
        self._opened()[_plain(index)] = _plain(value)

    def __len__(self) -> int:
        return len(self._opened())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._opened())

    def __contains__(self, value: Any) -> bool:
        return _plain(value) in self._opened()

    def __getattr__(self, name: str) -> Any:
        """Return what an array has under a name: ``sum``, ``ndim``, ``T``."""
        if name.startswith("_") or not hasattr(_array_type(), name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        return getattr(self._opened(), name)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """Apply a universal function to the arrays."""
        out = options.get("out")
        if out is not None:
            options["out"] = tuple(map(_plain, out))
        if "where" in options:
            options["where"] = _plain(options["where"])
        results = getattr(ufunc, method)(*map(_plain, inputs), **options)
        if out is None:
            return results
        results = results if isinstance(results, tuple) else (results,)
        given = tuple(result if wanted is None else wanted for wanted, result in zip(out, results, strict=True))
        return given[0] if len(given) == 1 else given


def _array_type() -> Any:
    import numpy as np

    return np.ndarray


def _plain(value: Any) -> Any:
    """Return the array of such an object; anything else unchanged."""
    return value._opened() if isinstance(value, ArrayOperations) else value


def _forward(name: str) -> Callable[..., Any]:
    """Return a method that does what the array's method does."""

    def method(self: Any, *others: Any) -> Any:
        return getattr(self._opened(), name)(*map(_plain, others))

    method.__name__ = name
    return method


def _change(name: str) -> Callable[..., Any]:
    """Return a method that changes the array, and returns what has it."""
    forward = _forward(name)

    def method(self: Any, other: Any) -> Any:
        return NotImplemented if forward(self, other) is NotImplemented else self

    method.__name__ = name
    return method


for _name in (*_BINARY, *(f"r{name}" for name in _BINARY), *_COMPARISONS, *_UNARY):
    setattr(_Operators, f"__{_name}__", _forward(f"__{_name}__"))
for _name in _IN_PLACE:
    setattr(_Operators, f"__i{_name}__", _change(f"__i{_name}__"))

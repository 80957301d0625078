"""Batches of one argument: which argument it is, how it is cut, and what its function's type hints say of the result. Pure."""

from __future__ import annotations

import builtins
import collections
import functools
import inspect
import itertools
import types
import typing
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from objproxy._worker.mutable import SHARED_MARK
from objproxy.inspecting import signature_of
from objproxy.reductions import (
    dict_merge_reduction,
    flatten_reduction,
    histogram_reduction,
    set_union_reduction,
    string_concatenation_reduction,
)

Reduction = Callable[[list[Any]], Any]

#: Stands for a type hint that says nothing that could be understood.
_UNKNOWN = object()

#: The reduction for what a function says that it returns; the first that fits. A Counter counts, so its values are added.
_REDUCTIONS: tuple[tuple[Any, Reduction], ...] = (
    (str, string_concatenation_reduction),
    (collections.Counter, histogram_reduction),
    (Mapping, dict_merge_reduction),
    (Set, set_union_reduction),
    (list, flatten_reduction),
)


class UnsplittableError(TypeError, ValueError):
    """A value that has no order or no length; programs written for MultiWorker expect a ``ValueError``."""


def is_splittable(value: Any) -> bool:
    """Whether `value` has parts that follow each other: a sequence, an array, a frame, a range."""
    if isinstance(value, (Mapping, Set)) or hasattr(type(value), SHARED_MARK):  # parts of a shared array would be copies
        return False
    return hasattr(value, "__getitem__") and hasattr(value, "__len__") and getattr(value, "shape", None) != ()


def split(data: Any, n_batches: int) -> list[Any]:
    """Cut `data` into consecutive batches.

    Parameters
    ----------
    data : sequence, array, data frame or range, length n_items
        Cut along its first axis; each batch is of its own kind.
    n_batches : int
        Most batches.

    Returns
    -------
    list
        min(n_batches, n_items) batches, whose lengths differ by at most one, longer ones first.

    Raises
    ------
    UnsplittableError
        `data` has no order, or no length.
    """
    if not is_splittable(data):
        raise UnsplittableError(
            f"a {type(data).__name__} cannot be cut into batches; expected a list or another sequence, an array, a data frame "
            "or a range. Make a list of it first: list(...)"
        )
    n_items = len(data)
    n_batches = min(n_batches, n_items)
    if not n_batches:
        return []
    size, n_longer = divmod(n_items, n_batches)
    ends = [size * i + min(i, n_longer) for i in range(n_batches + 1)]
    return [_cut(data, start, stop) for start, stop in itertools.pairwise(ends)]


def _cut(data: Any, start: int, stop: int) -> Any:
    if hasattr(data, "iloc"):  # pandas: plain slices of a frame may mean labels
        return data.iloc[start:stop]
    try:
        return data[start:stop]
    except TypeError:  # a sequence without slices, such as a deque
        return [data[i] for i in range(start, stop)]


class Hints:
    """The parameters of a function and what their type hints say.

    Parameters
    ----------
    function : callable
        Hints may be of any age: ``typing.List[int]``, ``list[int]``, ``list``, ``Optional[...]``, strings. Of a compiled
        function that does not tell its parameters the first is batched.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = getattr(function, "__qualname__", None) or type(function).__qualname__
        self.signature = _signature(function)
        self._names = _Names(function)
        self._parameters = [parameter for parameter in self.signature.parameters.values() if parameter.kind not in _COLLECTORS]
        if self._parameters and self._parameters[0].name == "self":  # of a method that is not bound yet
            del self._parameters[0]

    @property
    def extra(self) -> str:
        """The name of the parameter that collects further keywords, or ""."""
        kinds = {parameter.kind: parameter.name for parameter in self.signature.parameters.values()}
        return kinds.get(inspect.Parameter.VAR_KEYWORD, "")

    def batched_arg(self) -> str:
        """Choose the parameter to batch.

        Returns
        -------
        str
            If all parameters have a type hint, the first whose hint is that of a sequence, array or data frame, or else the
            first whose hint leaves it open; without all hints the first.

        Raises
        ------
        ValueError
            There is none.
        """
        if not self._parameters:
            raise ValueError(f"{self.name}() has no parameters, so there is nothing to batch")
        if any(parameter.annotation is inspect.Parameter.empty for parameter in self._parameters):
            return self._parameters[0].name
        hints = {parameter.name: self._names.resolve(parameter.annotation) for parameter in self._parameters}
        for is_good in (_is_hint_of_sequence, _is_open_hint):
            for name, hint in hints.items():
                if is_good(hint):
                    return name
        raise ValueError(
            f"no parameter of {self.name}{self.signature} has the type hint of a list or another sequence; "
            "say with batched_arg='...' which one to batch"
        )

    def check_arg(self, name: str) -> None:
        """Check that there is such a parameter.

        Raises
        ------
        ValueError
            There is none.
        """
        if not isinstance(name, str):
            raise TypeError(f"batched_arg={name!r}: expected the name of a parameter")
        if name not in [parameter.name for parameter in self._parameters] and not self.extra:
            raise ValueError(f"batched_arg={name!r}: {self.name}{self.signature} has no such parameter")

    def reduction(self) -> Reduction | None:
        """Choose the reduction for what the function says that it returns; None if there is none that fits."""
        kind = _kind_of(self._names.resolve(self.signature.return_annotation))
        if kind is Sequence:
            return flatten_reduction
        return next((reduction for base, reduction in _REDUCTIONS if isinstance(kind, type) and issubclass(kind, base)), None)


#: Kinds of parameters that collect what is left.
_COLLECTORS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature, or, of what tells none or takes anything, one with a first parameter to batch."""
    try:
        signature = signature_of(function)
    except (TypeError, ValueError):
        return signature_of(_takes_anything)
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    takes_anything = kinds and kinds[0] is inspect.Parameter.VAR_POSITIONAL
    return signature_of(_takes_anything) if takes_anything else signature


def _takes_anything(data, /, *args, **kwargs):  # type: ignore[no-untyped-def]  # it shall have no type hints
    raise NotImplementedError("this is a signature, not a function")


def _kind_of(hint: Any) -> Any:
    """Return the class behind a type hint: list for ``List[int]``."""
    hint = getattr(hint, "__value__", hint)  # ``type Numbers = list[int]``
    if typing.get_origin(hint) is typing.Annotated:
        return _kind_of(typing.get_args(hint)[0])
    return typing.get_origin(hint) or hint


def _is_hint_of_sequence(hint: Any) -> bool:
    kind = _kind_of(hint)
    if kind in (typing.Union, types.UnionType):
        return any(_is_hint_of_sequence(part) for part in typing.get_args(getattr(hint, "__value__", hint)))
    if not isinstance(kind, type):
        return False
    if issubclass(kind, Sequence):
        return not issubclass(kind, (str, bytes))  # rather a constant of the call
    return hasattr(kind, "__len__") and (hasattr(kind, "iloc") or hasattr(kind, "__array__"))


def _is_open_hint(hint: Any) -> bool:
    """Whether a hint allows a sequence among others: an iterable, anything, a type variable, a name that is not known here."""
    kind = _kind_of(hint)
    if kind in (Any, _UNKNOWN) or isinstance(kind, typing.TypeVar):
        return True
    return isinstance(kind, type) and issubclass(Sequence, kind)


class _Names(dict[str, Any]):
    """The names that the hints of a function may use; one that is only known to type checkers stands for anything."""

    def __init__(self, function: Any) -> None:
        while isinstance(function, functools.partial):
            function = function.func
        function = inspect.unwrap(function)
        if not hasattr(function, "__globals__"):
            function = getattr(function, "__func__", None) or type(function).__call__
        super().__init__(getattr(function, "__globals__", {}))
        cells = getattr(function, "__closure__", None) or ()
        self.update(zip(getattr(getattr(function, "__code__", None), "co_freevars", ()), map(_content, cells), strict=False))

    def __missing__(self, name: str) -> Any:
        return getattr(builtins, name, Any)

    def resolve(self, hint: Any) -> Any:
        """Return a hint; one that is a string, as after ``from __future__ import annotations``, is evaluated."""
        if isinstance(hint, typing.ForwardRef):
            hint = hint.__forward_arg__
        if not isinstance(hint, str):
            return hint
        try:
            return self.resolve(eval(hint, {}, self))
        except Exception:  # whatever stands there says nothing of a sequence
            return _UNKNOWN


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet
        return Any

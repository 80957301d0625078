"""The names of ObjectProxyPool's helpers: shared arrays and iterables with a length."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from objproxy.shared import SharedArray


class SharedArrayWrapper(SharedArray):
    """`SharedArray` under its old name, with its old attributes.

    Parameters
    ----------
    array : array_like
        Is copied; it keeps its dtype.
    """

    @property
    def array(self) -> Any:
        """The array in this process; None after `close`."""
        return self._array

    @property
    def remoteArray(self) -> SharedArrayWrapper:
        """What to pass to a method: the shared array itself."""
        return self

    @property
    def name(self) -> str:
        """A name of its own."""
        return f"objproxy-{self._key}"

    @property
    def data(self) -> Any:
        """The memory of the array; None after `close`."""
        return None if self._array is None else self._array.data


class Unpacker:
    """Gives the ``ndarray`` in a ``with`` block, whatever a method was passed: a shared array or a plain one.

    Parameters
    ----------
    array : SharedArray or ndarray
        What the method got.
    """

    def __init__(self, array: Any) -> None:
        self._array = array

    def __enter__(self) -> Any:
        return unpack(self._array)

    def __exit__(self, *_exc_info: object) -> None:
        self._array = None


def unpack(value: Any) -> Any:
    """Return the ``ndarray`` of a shared array; anything else unchanged."""
    return value.array if isinstance(value, SharedArray) else value


class lenzip(Sequence[Any]):
    """``zip`` with a length, that of the shortest; what has no length is read when the length is first asked for.

    Parameters
    ----------
    *iterables : iterable
        At least one.

    Raises
    ------
    ValueError
        There is none.
    """

    def __init__(self, *iterables: Iterable[Any]) -> None:
        if not iterables:
            raise ValueError("lenzip() takes at least one iterable")
        self._iterables: list[Iterable[Any]] = list(iterables)

    def _read(self) -> list[Sequence[Any]]:
        self._iterables = [it if hasattr(it, "__len__") and hasattr(it, "__getitem__") else list(it) for it in self._iterables]
        return self._iterables  # type: ignore[return-value]

    def __len__(self) -> int:
        return min(map(len, self._read()))

    def __getitem__(self, index: Any) -> Any:
        columns = self._read()
        if isinstance(index, slice):
            return list(zip(*columns, strict=False))[index]
        return tuple(column[range(len(self))[index]] for column in columns)

    def __iter__(self) -> Iterator[Any]:
        # Not before the first item is asked for: list() asks for the length in between, which reads iterators.
        yield from zip(*self._iterables, strict=False)


class lenrepeat(Sequence[Any]):
    """``itertools.repeat`` with a length.

    Parameters
    ----------
    value : object
        Each item.
    number : int
        How many.
    """

    def __init__(self, value: Any, number: int) -> None:
        if isinstance(number, bool) or not hasattr(number, "__index__"):
            raise TypeError(f"lenrepeat(..., {number!r}): expected a number of items")
        self._value = value
        self._number = max(0, int(number))

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, index: Any) -> Any:
        chosen = range(self._number)[index]
        return [self._value] * len(chosen) if isinstance(chosen, range) else self._value

    def __iter__(self) -> Iterator[Any]:
        return itertools.repeat(self._value, self._number)


def iterlen(iterable: Iterable[Any]) -> int:
    """Return the length of an iterable, without reading it.

    Raises
    ------
    TypeError
        It has none, as iterators do not.
    """
    try:
        return len(iterable)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"{type(iterable).__name__} has no length; make a list of it first, or use lenzip or lenrepeat"
        ) from None

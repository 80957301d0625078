"""The names of ObjectProxyPool's helpers: shared arrays and iterables with a length."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from objproxy.shared import SharedArray


class SharedArrayWrapper(SharedArray):
    """`SharedArray` under its old name, with its old attributes.

    Parameters
    ----------
    array : array_like
        Is copied. An ``ndarray`` keeps its dtype. Anything else becomes floats, as in ObjectProxyPool, so that floats can be
        written into ``SharedArrayWrapper([0, 0, 0])``; complex numbers, dates and records, which floats cannot hold, keep
        their dtype.
    """

    def __init__(self, array: Any) -> None:
        super().__init__(_as_floats(array))

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


def _as_floats(array: Any) -> Any:
    """Return an ``ndarray`` as it is, and anything else as an array of floats, unless floats cannot hold it."""
    import numpy as np

    if type(array) is np.ndarray or isinstance(array, np.ma.MaskedArray):
        return array
    found = np.asarray(array)
    if found.dtype.kind in "biufc":
        return found.astype(np.result_type(found.dtype, float))
    return found.astype(float) if found.dtype.kind in "OSU" else found


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
    """``zip`` with a length, that of the shortest.

    Parameters
    ----------
    *iterables : iterable
        At least one. The length is taken from those that have one; iterators are read, no further than the shortest, when
        the length or an item is first asked for. Endless ones (``itertools.repeat``, ``count``, ``cycle``) are not read for
        the length.

    Raises
    ------
    ValueError
        There is none.
    TypeError
        From ``len()`` and from the index: all of them are endless.
    """

    def __init__(self, *iterables: Iterable[Any]) -> None:
        if not iterables:
            raise ValueError("lenzip() takes at least one iterable")
        self._iterables: list[Iterable[Any]] = list(iterables)
        self._has_read_iterators = False

    def _length(self) -> int | float:
        """Return the length; infinite if all iterables are endless."""
        lengths = [_known_length(iterable) for iterable in self._iterables]
        shortest = min((length for length in lengths if length is not None), default=math.inf)
        if None not in lengths:
            return shortest

        # Read all iterators in step: so none is read beyond the end of the shortest.
        unknown = [at for at, length in enumerate(lengths) if length is None]
        rows = zip(*(self._iterables[at] for at in unknown), strict=False)
        columns = list(zip(*itertools.islice(rows, None if shortest == math.inf else int(shortest)), strict=True))
        for at, column in zip(unknown, columns or [()] * len(unknown), strict=True):
            self._iterables[at] = column
        return len(columns[0]) if columns else 0

    def _read(self) -> tuple[list[Sequence[Any]], int]:
        """Return what can be indexed in place of each iterable, and their common length."""
        length = len(self)
        for at, iterable in enumerate(self._iterables):
            self._iterables[at] = _column(iterable, length)
        return self._iterables, length  # type: ignore[return-value]

    def __len__(self) -> int:
        length = self._length()
        self._has_read_iterators = True
        if length == math.inf:
            raise TypeError("lenzip() of endless iterables has no length; zip them with one that ends")
        return int(length)

    def __getitem__(self, index: Any) -> Any:
        columns, length = self._read()
        chosen = range(length)[index]
        if isinstance(chosen, range):
            return [tuple(column[at] for column in columns) for at in chosen]
        return tuple(column[chosen] for column in columns)

    def __iter__(self) -> Iterator[Any]:
        # Not before the first item is asked for: list() asks for the length in between, which reads iterators.
        columns = self._read()[0] if self._has_read_iterators and self._length() != math.inf else self._iterables
        yield from zip(*columns, strict=False)


def _known_length(iterable: Any) -> int | float | None:
    """Return how many items there are: infinite if it is known to be endless, None if only reading it tells."""
    if isinstance(iterable, lenzip):
        return iterable._length()
    if hasattr(iterable, "__len__"):
        return len(iterable)
    if isinstance(iterable, itertools.repeat):
        try:
            return int(iterable.__length_hint__())  # exact; operator.length_hint() gives 0 for an endless one
        except TypeError:
            return math.inf
    return math.inf if isinstance(iterable, (itertools.count, itertools.cycle)) else None


def _column(iterable: Any, length: int) -> Sequence[Any]:
    """Return a sequence of the first `length` items, or a longer one; it is the iterable itself if an index tells its items."""
    import numpy as np

    if isinstance(iterable, itertools.repeat):
        return lenrepeat(next(iterable), length) if length else ()
    is_endless = isinstance(iterable, lenzip) and iterable._length() == math.inf
    if isinstance(iterable, (Sequence, np.ndarray)) and not is_endless:  # not a mapping or a series: their index is a label
        return iterable  # type: ignore[return-value]
    return list(itertools.islice(iterable, length))


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
        advice = "it is endless" if _known_length(iterable) == math.inf else "make a list of it first"
        raise TypeError(f"{type(iterable).__name__} has no length: {advice}, or use lenzip or lenrepeat") from None

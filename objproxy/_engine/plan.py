"""From one call to its tasks, lazily: cut the caller's iterables into columns of arguments.

Nothing here waits, sends or knows of workers; the iterables are the caller's, and are only advanced in the caller's
thread.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from objproxy._engine.messages import Failure
from objproxy._engine.payload import Payload
from objproxy._worker.mutable import SHARED_MARK, is_immutable
from objproxy._worker.wire import Constant, Operation
from objproxy.handling import is_a

Encoder = Callable[[Operation], Any]


class Source(Protocol):
    """Where a map gets its items from: an `ItemSource`, or a queue that may be empty for a while."""

    method: str
    n_pulled: int
    error: BaseException | None
    is_exhausted: bool

    @property
    def n_left(self) -> int | None:
        """Items still to come; None if that cannot be known."""
        ...

    def pull(self, n_items: int) -> Payload | None:
        """Take at most `n_items` items; None if there are none now."""
        ...

    def close(self) -> None:
        """Let go of the items: nobody will pull again."""
        ...


class ItemSource:
    """The items of a map: positional and keyword iterables, zipped to the shortest.

    Parameters
    ----------
    method : str
        Name of the method.
    args : sequence of iterable
        One for each positional parameter.
    kwargs : mapping of str to iterable
        One for each keyword parameter.

    Attributes
    ----------
    n_pulled : int
        Items taken so far.
    n_left : int or None
        Items still to come; None if that cannot be known.
    error : BaseException or None
        What an iterable raised; the items before it are good.
    is_exhausted : bool
        Whether there is nothing more.
    is_endless : bool
        Whether all iterables are known to be endless.
    """

    def __init__(self, method: str, args: Sequence[Iterable[Any]], kwargs: Mapping[str, Iterable[Any]]) -> None:
        if not args and not kwargs:
            raise TypeError(
                f"{method}(map_args=True) needs at least one iterable; to call it once on each worker leave map_args out"
            )
        iterables = [*args, *kwargs.values()]
        for position, iterable in enumerate(iterables):
            is_iterable = isinstance(iterable, Iterable) or hasattr(iterable, "__getitem__")
            if not is_iterable or hasattr(type(iterable), SHARED_MARK):  # rows of a shared array would be copies
                raise TypeError(
                    f"{method}(map_args=True): {_argument_name(position, args, kwargs)} is a "
                    f"{type(iterable).__name__}, not an iterable; for a value that is the same for all items "
                    "give itertools.repeat(value)"
                )
        self.method = method
        self.n_pulled = 0
        self.error: BaseException | None = None
        self.is_exhausted = False
        self.total = _shortest_length(iterables)
        self.is_endless = all(map(_is_endless, iterables))
        self._names = tuple(kwargs)
        self._constants = _find_constants(iterables)
        varying = [iterable for position, iterable in enumerate(iterables) if position not in self._constants]
        self._iterators: list[Iterator[Any]] = [iter(iterable) for iterable in varying]
        self._reuse = ReuseWatch(varying)

    @property
    def n_left(self) -> int | None:
        """Items still to come; None if that cannot be known."""
        return None if self.total is None else max(self.total - self.n_pulled, 0)

    def pull(self, n_items: int) -> Payload | None:
        """Take at most `n_items` items; None if there are no more."""
        if self.is_exhausted:
            return None
        items: list[Any] = []
        is_single = self._reuse.pulls_singly
        try:
            # extend() keeps what it has got when the iterator raises.
            items.extend(itertools.islice(self._rows(), 1 if is_single else n_items))
            if is_single and items:
                n_items = self._reuse.limit(items[0], n_items)
                items.extend(itertools.islice(self._rows(), n_items - 1))
        except BaseException as exc:
            self.error = exc
            self.is_exhausted = True
            if not is_a(exc, Exception):
                raise
        if len(items) < n_items:
            self.is_exhausted = True
        if not items:
            return None
        self.n_pulled += len(items)
        columns: list[Any] = [items] if len(self._iterators) == 1 else list(zip(*items, strict=True))
        for position, constant in self._constants.items():  # in ascending order, so that each finds its place
            columns.insert(position, constant)
        return Payload(Operation("map", self.method, tuple(columns), self._names))

    def _rows(self) -> Iterator[Any]:
        return self._iterators[0] if len(self._iterators) == 1 else zip(*self._iterators)  # noqa: B905 - the shortest wins

    def close(self) -> None:
        """Close the iterables that are generators: nobody will pull again."""
        self.is_exhausted = True
        for iterator in self._iterators:
            close = getattr(iterator, "close", None)
            if close is not None and isinstance(iterator, Iterator) and hasattr(iterator, "gi_frame"):
                close()


class ReuseWatch:
    """Finds iterators that give one object again and again and change it in between: a buffer that is filled anew.

    Such an object has to be pickled before the next one is pulled. So the first two items of an iterator are pulled singly if
    they can change, and if they are the same object, all are.

    Parameters
    ----------
    iterables : sequence of iterable
        Those that are zipped.

    Attributes
    ----------
    pulls_singly : bool
        Whether the next item is to be pulled alone.
    """

    def __init__(self, iterables: Sequence[Iterable[Any]]) -> None:
        self._positions = [
            at for at, it in enumerate(iterables) if isinstance(it, Iterator) and type(it) is not itertools.repeat
        ]
        self._is_alone = len(iterables) == 1
        self._first: list[Any] | None = None
        self.pulls_singly = bool(self._positions)

    def limit(self, item: Any, n_items: int) -> int:
        """Look at an item that was pulled alone; return how many of the `n_items` that are wanted may be pulled with it."""
        if self._positions:
            self._look(item)
        return 1 if self.pulls_singly else n_items

    def _look(self, item: Any) -> None:
        values = [item] if self._is_alone else [item[at] for at in self._positions]
        if self._first is None:
            self._first = values
            self.pulls_singly = not all(map(is_immutable, values))
            return
        self.pulls_singly = any(a is b and not is_immutable(a) for a, b in zip(self._first, values, strict=True))
        self._first, self._positions = None, []  # it is known


def _find_constants(iterables: Sequence[Iterable[Any]]) -> dict[int, Constant]:
    """Return what stands for each endless ``itertools.repeat`` among the iterables, unless there is nothing else."""
    found = {
        position: Constant(next(iterable))
        for position, iterable in enumerate(iterables)
        if type(iterable) is itertools.repeat and _is_endless(iterable)
    }
    return found if len(found) < len(iterables) else {}


def _is_endless(iterable: Iterable[Any]) -> bool:
    if type(iterable) is itertools.repeat:
        return _length(iterable) is None
    return type(iterable) in (itertools.count, itertools.cycle)


def _argument_name(position: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    return f"argument {position}" if position < len(args) else f"argument {list(kwargs)[position - len(args)]!r}"


def _shortest_length(iterables: Sequence[Iterable[Any]]) -> int | None:
    """Return the smallest length that is known; an iterable that does not tell may be shorter or endless."""
    known = [length for length in map(_length, iterables) if length is not None]
    return min(known) if known else None


def _length(iterable: Iterable[Any]) -> int | None:
    try:
        length = operator.length_hint(iterable, -1)
    except Exception:  # a length that cannot be asked for is not known; iterating will tell
        return None
    return length if length >= 0 else None


def n_items(payload: Payload) -> int:
    """Return how many items the payload of a "map" holds."""
    return len(next(column for column in payload.operation.args if type(column) is not Constant))


def encode_items(payload: Payload, encode: Encoder, fail: Callable[[int, Exception], BaseException]) -> list[Payload | Failure]:
    """Encode a payload; where that fails, item by item, so that one bad item costs nobody else.

    Returns
    -------
    list
        One payload with all items; or for each item a payload, or a `Failure` with what ``fail(offset, error)`` gave.
    """
    try:
        payload.data = encode(payload.operation)
    except Exception as exc:
        count = n_items(payload)
        if count == 1:
            return [Failure(fail(0, exc))]
        return [_encode_one(payload.slice(i, i + 1), encode, functools.partial(fail, i)) for i in range(count)]
    return [payload]


def _encode_one(payload: Payload, encode: Encoder, fail: Callable[[Exception], BaseException]) -> Payload | Failure:
    try:
        payload.data = encode(payload.operation)
    except Exception as exc:
        return Failure(fail(exc))
    return payload

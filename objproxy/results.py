"""From outcomes to what the caller gets: errors are raised with notes, numbers and arrays are stacked.

Stacking never changes a value. Numbers of one type, and arrays of one shape and dtype, become one array with the call
on axis 0; everything else, mixed ints and floats among it, becomes a one-dimensional array of objects.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Sequence
from typing import Any, cast

_INT64 = range(-(2**63), 2**63)


def shape_results(pieces: list[Sequence[Any]], stack_results: bool | Callable[[list[Any]], Any]) -> Any:
    """Return the results in the form that ``stack_results=`` asks for.

    Parameters
    ----------
    pieces : list of sequence
        The results, in order, in consecutive pieces.
    stack_results : bool or callable
        True stacks, False gives a list, a callable gets that list.
    """
    if stack_results is True:
        return _stack_pieces(pieces)
    results = list(itertools.chain.from_iterable(pieces))
    return stack_results(results) if callable(stack_results) else results


def _stack_pieces(pieces: list[Sequence[Any]]) -> Any:
    """Stack; pieces that are buffers of numbers already are only copied."""
    import numpy as np  # who never stacks never loads it

    kinds = {piece.typecode if isinstance(piece, array) else None for piece in pieces}
    if len(kinds) == 1 and None not in kinds:
        buffers = cast("list[array[Any]]", pieces)
        return np.concatenate([np.frombuffer(buffer, dtype=buffer.typecode) for buffer in buffers])
    return stack(list(itertools.chain.from_iterable(pieces)))


def stack(results: list[Any]) -> Any:
    """Stack a list of results.

    Parameters
    ----------
    results : list
        What the calls returned.

    Returns
    -------
    ndarray
        Of shape ``(len(results), *shape)`` for numbers (shape ``()``) and arrays of one shape and dtype, else of shape
        ``(len(results),)`` and dtype object.
    """
    import numpy as np

    kinds = set(map(type, results))
    if not kinds:
        return np.empty(0)
    if len(kinds) == 1:
        stacked = _stack_one_kind(kinds.pop(), results)
        if stacked is not None:
            return stacked

    objects = np.empty(len(results), dtype=object)
    for index, result in enumerate(results):  # an assignment of the whole list would look into lists of one length
        objects[index] = result
    return objects


def _stack_one_kind(kind: type, results: list[Any]) -> Any:
    import numpy as np

    if kind is int:
        fits = min(results) in _INT64 and max(results) in _INT64
        return np.fromiter(results, np.int64, len(results)) if fits else None
    if kind in (float, bool, complex) or issubclass(kind, (np.number, np.bool_)):
        return np.array(results)
    if kind is np.ndarray:
        first = results[0]
        if all(result.shape == first.shape and result.dtype == first.dtype for result in results):
            return np.stack(results, dtype=first.dtype)  # without the dtype the byte order would become the machine's
    return None

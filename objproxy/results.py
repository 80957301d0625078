"""Give results the form that the caller asked for: a list, or one array.

Stacking never changes what a value equals. Numbers become one array of the type that holds each of them exactly, arrays of
one shape and dtype one array, tensors of PyTorch likewise one tensor, tuples and lists of one length rows. The call is on
axis 0. Everything else becomes a one-dimensional array of objects: subclasses of arrays and tensors too, since stacking would
lose a mask, a unit or a name.
"""

from __future__ import annotations

import itertools
import sys
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

_INT64 = range(-(2**63), 2**63)
_UINT64 = range(2**64)
#: Integers that a float holds, each of them and its neighbours.
_FLOAT64 = range(-(2**53), 2**53 + 1)
#: Types of rows. Subclasses are none: a named tuple would lose its names.
_ROWS = {tuple, list}
#: Most axes of an array, in every version of NumPy.
_MAX_NDIM = 32


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
    import numpy as np  # loaded by the first call that stacks

    kinds = {piece.typecode if isinstance(piece, array) else None for piece in pieces}
    if kinds and None not in kinds:
        buffers = cast("list[array[Any]]", pieces)
        arrays = [np.frombuffer(buffer, dtype=buffer.typecode) for buffer in buffers if len(buffer)]
        if len(kinds) == 1 or all(_are_exact_floats(numbers) for numbers in arrays):
            return np.concatenate(arrays)  # of ints and floats: floats
    return stack(list(itertools.chain.from_iterable(pieces)))


def _are_exact_floats(numbers: Any) -> bool:
    return numbers.dtype.kind == "f" or (int(numbers.min()) in _FLOAT64 and int(numbers.max()) in _FLOAT64)


def stack(results: list[Any]) -> Any:
    """Stack a list of results.

    Parameters
    ----------
    results : list
        What the calls returned.

    Returns
    -------
    ndarray or torch.Tensor
        Of shape ``(len(results),)`` for numbers, of the type that holds each exactly; ``(len(results), *shape)`` for arrays
        of one shape and dtype, and a tensor of that shape for such tensors; ``(len(results), k, ...)`` for tuples and lists
        of one length k > 0, numeric if all that they hold are numbers, or arrays of numbers (or tensors) of one shape and
        dtype, else of dtype object and shape
        ``(len(results), k)``. Anything else: shape ``(len(results),)`` and dtype object.
    """
    import numpy as np

    if not results:
        return np.empty(0)
    kinds = set(map(type, results))
    if kinds <= _ROWS:
        stacked = _stack_rows(results)
    elif kinds == {np.ndarray}:
        stacked = _stack_arrays(results)
    elif kinds == {_tensor_type()}:
        stacked = _stack_tensors(results)
    else:
        stacked = _stack_numbers(kinds, results)
    return _objects(results) if stacked is None else stacked


def _objects(values: Sequence[Any]) -> Any:
    import numpy as np

    return np.fromiter(values, object, len(values))  # unlike np.array, it does not look into what has a length


# ---- arrays and rows -------------------------------------------------------------------------------------------------


def _stack_arrays(arrays: list[Any]) -> Any:
    """Stack arrays of one shape and dtype; return None for others."""
    import numpy as np

    first = arrays[0]
    if all(result.shape == first.shape and result.dtype == first.dtype for result in arrays):
        return np.stack(arrays, dtype=first.dtype)  # without the dtype the byte order would become the machine's
    return None


def _tensor_type() -> Any:
    return getattr(sys.modules.get("torch"), "Tensor", None)


def _stack_tensors(tensors: list[Any]) -> Any:
    """Stack dense tensors of one shape, dtype and device; return None for others."""
    torch: Any = sys.modules["torch"]
    first = tensors[0]
    if first.layout is not torch.strided or first.is_quantized:
        return None
    about = {(tensor.shape, tensor.dtype, tensor.device, tensor.layout) for tensor in tensors}
    return torch.stack(tensors) if len(about) == 1 else None


def _stack_rows(rows: list[Any]) -> Any:
    """Stack tuples and lists of one length; return None if they have several, or none."""
    n_columns = _common_length(rows)
    if not n_columns:
        return None

    cells = list(itertools.chain.from_iterable(rows))
    stacked = _stack_cells(cells, ndim=2) if _begins_with_a_value(cells[0]) else None
    if stacked is None:
        stacked = _objects(cells)
    return stacked.reshape(len(rows), n_columns, *stacked.shape[1:])


def _stack_cells(cells: list[Any], ndim: int) -> Any:
    """Stack what rows hold, if it is nothing but numbers: bare ones, in rows again, or in arrays."""
    import numpy as np

    kinds = set(map(type, cells))
    if kinds <= _ROWS:
        n_columns = _common_length(cells)
        inner = _stack_cells(list(itertools.chain.from_iterable(cells)), ndim + 1) if n_columns else None
        return None if inner is None else inner.reshape(len(cells), n_columns, *inner.shape[1:])
    if kinds == {np.ndarray}:
        has_numbers = cells[0].dtype.kind in "biufc" and ndim + cells[0].ndim <= _MAX_NDIM
        return _stack_arrays(cells) if has_numbers else None
    if kinds == {_tensor_type()}:
        return _stack_tensors(cells)
    return _stack_numbers(kinds, cells)


def _common_length(rows: Iterable[Any]) -> int | None:
    lengths = set(map(len, rows))
    return lengths.pop() if len(lengths) == 1 else None


def _begins_with_a_value(cell: Any) -> bool:
    """Tell whether rows in rows end somewhere. A list may hold itself; an array has a limited number of axes."""
    for _ in range(_MAX_NDIM - 2):
        if type(cell) not in _ROWS:
            return True
        if not cell:
            return False
        cell = cell[0]
    return False


# ---- numbers ---------------------------------------------------------------------------------------------------------


def _stack_numbers(kinds: set[type], values: list[Any]) -> Any:
    """Stack numbers in the type that holds each of them exactly; return None if there is none, or not all are numbers."""
    import numpy as np

    if len(kinds) == 1:
        return _stack_one_type(next(iter(kinds)), values)
    if kinds == {bool, np.bool_}:
        return np.array(values)
    dtypes = {kind: _number_dtype(kind) for kind in kinds}
    if any(own is None for own in dtypes.values()):  # not `in`: None equals the dtype of float
        return None
    dtype = _exact_dtype(dtypes, values)
    return None if dtype is None else np.array(values, dtype=dtype)


def _stack_one_type(kind: type, values: list[Any]) -> Any:
    """Stack numbers of one type, as nearly all are; return None if that is none of numbers, or an int is beyond int64."""
    import numpy as np

    if kind is int:
        # An unsigned array would turn 0 - 1 into 2**64 - 1.
        fits = min(values) in _INT64 and max(values) in _INT64
        return np.fromiter(values, np.int64, len(values)) if fits else None
    if kind in (float, bool, complex):
        return np.array(values)
    if not issubclass(kind, np.generic):
        return None
    if kind is np.timedelta64:
        return np.array(values) if len({value.dtype for value in values}) == 1 else None
    return np.array(values) if kind is np.bool_ or _number_dtype(kind) is not None else None


def _number_dtype(kind: type) -> Any:
    """Return the dtype of a type of numbers; None for any other type, bools and subclasses among them."""
    import numpy as np

    if kind in (int, float, complex):
        return np.dtype({int: np.int64, float: np.float64, complex: np.complex128}[kind])
    if not issubclass(kind, np.number) or issubclass(kind, np.timedelta64):
        return None
    dtype = np.dtype(kind)
    return dtype if dtype.type is kind else None


def _exact_dtype(dtypes: dict[type, Any], values: list[Any]) -> Any:
    """Return the dtype that holds each of these numbers exactly; None if there is none."""
    import numpy as np

    dtype = np.result_type(*dtypes.values())  # exact, but for integers of 64 bits with others
    wide = {kind for kind, own in dtypes.items() if own.kind in "iu" and own.itemsize == 8}
    if not wide or (dtype.kind in "iu" and int not in wide):
        return dtype

    ints = [int(value) for value in values if type(value) in wide]
    lowest, highest = min(ints), max(ints)
    if any(own.kind in "fc" for own in dtypes.values()):
        return dtype if lowest in _FLOAT64 and highest in _FLOAT64 else None
    if lowest in _INT64 and highest in _INT64:
        return np.dtype(np.int64)
    is_unsigned = np.dtype(np.uint64) in dtypes.values() and lowest in _UINT64 and highest in _UINT64
    return np.dtype(np.uint64) if is_unsigned else None

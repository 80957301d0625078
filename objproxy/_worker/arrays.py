"""Pickle NumPy's arrays, and those of its subclasses, with their memory beside the pickle.

NumPy gives the memory of an ``ndarray`` out of band, but not always so that it arrives writable. Of a subclass it makes a copy
in the pickle. A subclass that leaves pickling to ``ndarray`` is rebuilt here as NumPy does it: by ``ndarray.__new__`` and
``__array_finalize__(None)``. One that has its own way is left alone, but for two that are known: masked arrays and quantities.
"""

from __future__ import annotations

import functools
import pickle
import sys
from typing import Any

import numpy as np

from objproxy._worker import segments
from objproxy._worker.reducers import Reduce

_ARRAY: Any = np.ndarray
_OWN_WAYS = ("__reduce_ex__", "__reduce__", "__setstate__", "__getstate__")


def find_reducer(kind: type, *, is_frozen: bool) -> Reduce | None:
    """Return how arrays of a subclass are reduced; None if in their own way."""
    if not issubclass(kind, np.ndarray):
        return None
    if kind is np.ndarray:
        return freeze_array if is_frozen else reduce_array
    if _leaves_pickling_to(kind, _ARRAY):
        return functools.partial(_reduce_subclass, is_frozen)
    if issubclass(kind, np.ma.MaskedArray) and kind is not _MASKED_RECORD and _leaves_pickling_to(kind, np.ma.MaskedArray):
        return functools.partial(_reduce_masked, is_frozen)
    quantity = getattr(sys.modules.get("astropy.units"), "Quantity", None)
    if quantity is not None and issubclass(kind, quantity) and _leaves_pickling_to(kind, quantity):
        return functools.partial(_reduce_quantity, is_frozen)
    return None


#: One record of a masked array.
_MASKED_RECORD: Any = getattr(np.ma, "mvoid", None)


def _leaves_pickling_to(kind: Any, base: Any) -> bool:
    return all(getattr(kind, name, None) is getattr(base, name, None) for name in _OWN_WAYS)


def reduce_array(array: Any) -> Any:
    """Pickle an array so that it arrives writable and in its own byte order, which NumPy's way does not always see to."""
    flags = array.flags
    if flags.writeable and (flags.c_contiguous or flags.f_contiguous) and array.dtype.isnative:
        return array.__reduce_ex__(5)
    return freeze_array(array, is_frozen=False)


def freeze_array(array: Any, is_frozen: bool = True) -> Any:
    """Pickle an array so that it arrives read-only."""
    if not _has_plain_memory(array):
        return array.__reduce_ex__(5)
    return _rebuild_array, (*_memory_of(array), is_frozen)


def _has_plain_memory(array: Any) -> bool:
    return not array.dtype.hasobject and bool(array.dtype.itemsize)


def _memory_of(array: Any) -> tuple[Any, Any, tuple[int, ...], str]:
    """Return the memory of an ndarray, its dtype, shape and order."""
    flags = array.flags
    order = "F" if flags.f_contiguous and not flags.c_contiguous else "C"
    raw = array.ravel(order).view("u1")  # bytes: dates, for instance, have no buffer of their own
    return pickle.PickleBuffer(raw), array.dtype, array.shape, order


def _rebuild_array(buffer: Any, dtype: Any, shape: tuple[int, ...], order: Any, is_frozen: bool) -> Any:
    return np.frombuffer(_open(buffer, is_frozen), dtype).reshape(shape, order=order)


def _open(buffer: Any, is_frozen: bool) -> Any:
    """Return the memory that came: read-only, or writable, whatever it was."""
    view = memoryview(buffer)
    if is_frozen:
        return view.toreadonly()
    if view.readonly:
        # The pickle says that nobody may write the buffer. But this copy of it belongs to whoever gets it.
        return view.obj if isinstance(view.obj, (bytearray, segments.Mapping)) else bytearray(view)
    return buffer


def _reduce_subclass(is_frozen: bool, array: Any) -> Any:
    """Reduce an array whose class leaves pickling to ``ndarray``."""
    if not _has_plain_memory(array):
        return array.__reduce_ex__(5)
    return _rebuild_subclass, (type(array), *_memory_of(_ARRAY.view(array, _ARRAY)), is_frozen)


def _rebuild_subclass(kind: type, buffer: Any, dtype: Any, shape: tuple[int, ...], order: Any, is_frozen: bool) -> Any:
    if 0 in shape:  # NumPy asks for a buffer that is not empty
        return _ARRAY.__new__(kind, shape, dtype, order=order)
    return _ARRAY.__new__(kind, shape, dtype, _open(buffer, is_frozen), order=order)


def _reduce_quantity(is_frozen: bool, quantity: Any) -> Any:
    """Reduce numbers with a unit, which is an attribute."""
    if not _has_plain_memory(quantity):
        return quantity.__reduce_ex__(5)
    return (*_reduce_subclass(is_frozen, quantity), vars(quantity), None, None, _set_attributes)


def _set_attributes(quantity: Any, attributes: dict[str, Any]) -> None:
    vars(quantity).update(attributes)


def _reduce_masked(is_frozen: bool, array: Any) -> Any:
    """Reduce a masked array as two arrays: data and mask, or no mask."""
    if not _has_plain_memory(array):
        return array.__reduce_ex__(5)
    mask = np.ma.getmask(array)
    parts = [None if part is np.ma.nomask else _Memory(_ARRAY.view(part, _ARRAY), is_frozen) for part in (array, mask)]
    return _rebuild_masked, (type(array), array.baseclass, *parts, array._fill_value, array.hardmask)


class _Memory:
    """Stands for an array in a pickle, of which only the memory counts.

    Parameters
    ----------
    array : ndarray
        The array.
    is_frozen : bool
        Whether it shall arrive read-only.
    """

    __slots__ = ("_array", "_is_frozen")

    def __init__(self, array: Any, is_frozen: bool) -> None:
        self._array = array
        self._is_frozen = is_frozen

    def __reduce_ex__(self, _protocol: Any) -> Any:
        return freeze_array(self._array, self._is_frozen)


def _rebuild_masked(kind: Any, base: Any, data: Any, mask: Any, fill_value: Any, is_hard: bool) -> Any:
    made = kind.__new__(kind, data.view(base), mask=np.ma.nomask if mask is None else mask, hard_mask=is_hard)
    made._fill_value = fill_value
    made._sharedmask = False  # the mask came with it, and belongs to nobody else
    return made

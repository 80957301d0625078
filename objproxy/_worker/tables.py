"""Pickle polars' frames and series with their memory beside the pickle.

Their own way serializes everything, and copies that twice. But they tell where their memory is, and take memory that lies
elsewhere, by the Arrow C data interface. It needs no library: structures of pointers, read and made with `ctypes`.

::

    frame ── __arrow_c_stream__ ──> schema, batches of arrays ──> format, lengths, and for each buffer a PickleBuffer
    equal frame <── pl.DataFrame(Stream) <── structures again, which keep the memory until polars releases them

References
----------
https://arrow.apache.org/docs/format/CDataInterface.html and CStreamInterface.html
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from objproxy._worker.reducers import Reduce

#: Below this the own way is as fast.
_LARGE_MIN = 1 << 16


def find_reducer(kind: type, *, is_frozen: bool) -> Reduce | None:
    """Return how frames and series are reduced; None if in their own way. Their memory is never written."""
    polars: Any = sys.modules.get("polars")
    if polars is None or not hasattr(kind, "__arrow_c_stream__"):
        return None
    if kind is getattr(polars, "DataFrame", None):
        return functools.partial(_reduce, "DataFrame")
    return functools.partial(_reduce, "Series") if kind is getattr(polars, "Series", None) else None


def _reduce(name: str, table: Any) -> Any:
    """Reduce a table; one that is small, or that would not come back as it is, in its own way."""
    nbytes = table.estimated_size()
    if nbytes < _LARGE_MIN:
        return table.__reduce_ex__(5)
    from objproxy._worker import arrow

    try:
        if not _comes_back(name, table.clear()):
            return table.__reduce_ex__(5)
        schema, batches, n_shipped = arrow.describe(table)
    except arrow.UnknownLayoutError:
        return table.__reduce_ex__(5)
    if n_shipped > 2 * nbytes:  # it is a part of a larger one, whose memory would go with it
        return table.__reduce_ex__(5)
    return _rebuild, (name, schema, batches)


def _comes_back(name: str, empty: Any) -> bool:
    """Return whether a table without rows has the same types again after such a passage."""
    from objproxy._worker import arrow

    try:
        schema, batches, _ = arrow.describe(empty)
        again = _rebuild(name, schema, batches)
    except Exception:  # polars has no Arrow type for a column of objects, and panics are exceptions of its own
        return False
    if name == "Series":
        return bool(again.dtype == empty.dtype and again.name == empty.name)
    return bool(again.schema == empty.schema)


def _rebuild(name: str, schema: Any, batches: Any) -> Any:
    import polars

    from objproxy._worker import arrow

    return getattr(polars, name)(arrow.Stream(schema, batches))

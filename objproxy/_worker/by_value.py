"""Pickling by value: for what lives in ``__main__``, which a worker cannot import, and for what has no name anywhere."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from objproxy._worker.reducers import Reducers


def make_pickler(
    sink: Any,
    buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None,
    special: Reducers | None = None,
) -> Any:
    """Return a pickler of protocol 5 that writes to a file.

    Parameters
    ----------
    sink : object
        Has ``write``.
    buffer_callback : callable or None
        As for `pickle.Pickler`.
    special : Reducers or None
        How objects of these very types are reduced.
    """
    from objproxy._worker.code_pickler import ByValuePickler  # loads cloudpickle

    pickler = ByValuePickler(sink, 5, buffer_callback=buffer_callback)
    own = (Reducers({}, is_frozen=False) if special is None else special).extended({memoryview: _reduce_view})
    # The class has a table too, which would hide one that is set in the usual way.
    vars(pickle.Pickler)["dispatch_table"].__set__(pickler, pickler.dispatch_table.new_child(own))
    return pickler


def _reduce_view(view: memoryview) -> Any:
    """Reduce a memory view to its array, with format and shape; cloudpickle would make bytes of it."""
    import numpy as np

    return _make_view, (np.asarray(view), view.readonly)


def _make_view(array: Any, is_readonly: bool) -> memoryview:
    return memoryview(array).toreadonly() if is_readonly else memoryview(array)

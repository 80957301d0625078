"""Pickling by value: for what lives in ``__main__``, which a worker cannot import, and for what has no name anywhere.

cloudpickle does it. Since its version 3.1.3 it no longer sends in which file a function's code stands, and without that no
traceback shows the user's own lines; so that goes along from here.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any

Reduce = Callable[[Any], Any]


def make_pickler(
    sink: Any,
    buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None,
    special: Mapping[type, Reduce] | None = None,
) -> Any:
    """Return a pickler of protocol 5 that writes to a file.

    Parameters
    ----------
    sink : object
        Has ``write``.
    buffer_callback : callable or None
        As for `pickle.Pickler`.
    special : mapping of type to callable, or None
        How objects of these very types are reduced.
    """
    import cloudpickle

    pickler = cloudpickle.Pickler(sink, 5, buffer_callback=buffer_callback)
    inherited = pickler.dispatch_table
    own = {
        CodeType: functools.partial(_reduce_code, inherited[CodeType]),
        memoryview: _reduce_view,
        **(special or {}),
    }
    # The class has a table too, which would hide one that is set in the usual way.
    vars(pickle.Pickler)["dispatch_table"].__set__(pickler, inherited.new_child(own))
    return pickler


def _reduce_code(reduce: Reduce, code: CodeType) -> Any:
    make, args = reduce(code)
    return _make_code, (make, args, code.co_filename)


def _make_code(make: Callable[..., CodeType], args: tuple[Any, ...], filename: str) -> CodeType:
    return make(*args).replace(co_filename=filename)


def _reduce_view(view: memoryview) -> Any:
    """Reduce a memory view to its array, with format and shape; cloudpickle would make bytes of it."""
    import numpy as np

    return _make_view, (np.asarray(view), view.readonly)


def _make_view(array: Any, is_readonly: bool) -> memoryview:
    return memoryview(array).toreadonly() if is_readonly else memoryview(array)

"""Values of many kinds, for what happens to values on their way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

#: Values of many kinds; the argument is the number of the worker or item.
VALUES: dict[str, Callable[[int], Any]] = {
    "int": lambda i: i,
    "float": lambda i: i + 0.5,
    "bool": lambda i: i % 2 == 0,
    "complex": lambda i: complex(i, 1),
    "numpy float32": lambda i: np.float32(i),
    "numpy bool": lambda i: np.bool_(i % 2),
    "big int": lambda i: 2**64 + i,
    "ints, one of them big": lambda i: 2**63 if i == 1 else i,
    "int or float": lambda i: i if i % 2 else float(i),
    "int or bool": lambda i: i if i % 2 else True,
    "int or None": lambda i: i if i % 2 else None,
    "float or numpy float": lambda i: float(i) if i % 2 else np.float64(i),
    "None": lambda i: None,
    "memory view": lambda i: memoryview(np.arange(i, i + 3)),
    "str": lambda i: f"text {i}",
    "tuple": lambda i: (i, i),
    "list of one": lambda i: [i],
    "tuple or list": lambda i: (i, 1) if i % 2 else [i, 0.5],
    "tuple of rows": lambda i: ((i, 1), [2, 0.5]),
    "tuple of arrays": lambda i: (np.full(4, i + 0.5), np.zeros(4)),
    "tuple with a text": lambda i: (i, "text"),
    "tuple with a bool": lambda i: (i, True),
    "tuple with a big int": lambda i: (0.5, 2**60),
    "tuple with an array": lambda i: (i, np.zeros(2)),
    "tuple with an empty list": lambda i: ([],),
    "tuples of two lengths": lambda i: (0,) * (i + 1),
    "empty tuple": lambda i: (),
    "array": lambda i: np.full((2, 3), i, dtype=np.int16),
    "0-d array": lambda i: np.array(i),
    "empty array": lambda i: np.empty((0, 4)),
    "big-endian array": lambda i: np.full(3, i, dtype=">f8"),
    "text array": lambda i: np.array(["ab", f"{i}"]),
    "arrays of two shapes": lambda i: np.zeros(i + 1),
    "arrays of two types": lambda i: np.zeros(2, dtype=np.float32 if i % 2 else np.float64),
    "object array": lambda i: np.array([i, None], dtype=object),
    "record array": lambda i: np.array([(i, 1.5)], dtype=[("a", "i4"), ("b", "f8")]),
    "matrix": lambda i: np.ma.masked_array([i, 1], mask=[True, False]),
}

"""How often each task has run, counted outside of everything that the library does, so that it is a witness."""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy as np


class RunCounts:
    """One byte for each task in a file that all processes map; an object that is pickled opens it again.

    Parameters
    ----------
    path : str
        The file; it is made larger if it is too small.
    n_numbers : int
        Number of tasks.
    """

    def __init__(self, path: str, n_numbers: int) -> None:
        self._path = path
        self._n_numbers = n_numbers
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(descriptor).st_size < n_numbers:
                os.ftruncate(descriptor, n_numbers)
            self._bytes = mmap.mmap(descriptor, n_numbers)
        finally:
            os.close(descriptor)

    def note(self, number: int) -> int:
        """Count that a task begins, and return how often it has begun; no task runs twice at one time."""
        self._bytes[number] += 1
        return self._bytes[number]

    def read(self) -> np.ndarray:
        """Return all counts."""
        return np.frombuffer(self._bytes[:], np.uint8)

    def __reduce__(self) -> Any:
        return RunCounts, (self._path, self._n_numbers)

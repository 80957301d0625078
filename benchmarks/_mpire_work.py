"""The work of the three benchmarks that MPIRE was published with: of the same kind, not the same code."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

#: Words, and filters, are random, and the same in every run.
_SEED = 42

_N_BYTES_PER_WORD = 20

#: A prefix is popular from so many occurrences on.
_POPULAR = 4

_FILTER_SIZE = 4

#: Of a filtered image each of so many rows and columns is kept.
_STEP = 5

#: Rows that are convolved at a time, a multiple of the step: what fits into a cache, so that processors count, not memory.
_BLOCK = 10


def make_image(size: int) -> Any:
    """Return a square image; all of it is 1, so that each pixel of a filtered one is the filter's sum."""
    import numpy as np

    return np.ones((size, size))


def make_filters(n_filters: int) -> list[Any]:
    """Return small random filters."""
    import numpy as np

    rng = np.random.default_rng(_SEED)
    return list(rng.normal(size=(n_filters, _FILTER_SIZE, _FILTER_SIZE)))


def process_image(image: Any, kernel: Any) -> Any:
    """Convolve an image with a small filter, and thin the result out."""
    import numpy as np

    n = image.shape[0] - _FILTER_SIZE + 1
    result = np.empty((-(-n // _STEP), -(-n // _STEP)))
    for top in range(0, n, _BLOCK):
        block = _convolve(image[top : top + _BLOCK + _FILTER_SIZE - 1], kernel)
        result[top // _STEP : (top + _BLOCK) // _STEP] = block[::_STEP, ::_STEP]
    return result


def _convolve(rows: Any, kernel: Any) -> Any:
    import numpy as np

    n_rows, n_columns = rows.shape[0] - _FILTER_SIZE + 1, rows.shape[1] - _FILTER_SIZE + 1
    total, term = np.zeros((n_rows, n_columns)), np.empty((n_rows, n_columns))
    for row in range(_FILTER_SIZE):
        for column in range(_FILTER_SIZE):
            np.multiply(rows[row : row + n_rows, column : column + n_columns], kernel[row, column], out=term)
            total += term
    return total


def are_filtered(results: Iterable[Any], filters: Sequence[Any]) -> bool:
    """Return whether these are the filtered images, in the order of the filters."""
    import numpy as np

    return all(np.allclose(result, kernel.sum()) for result, kernel in zip(results, filters, strict=True))


class ImageFilter:
    """The function above as a method."""

    def process(self, image: Any, kernel: Any) -> Any:
        """Convolve an image with a filter."""
        return process_image(image, kernel)


def make_documents(n_documents: int, n_words: int) -> list[list[bytes]]:
    """Return documents of random words; they have half of `n_words` to one and a half times as many."""
    source = random.Random(_SEED)
    return [
        [source.randbytes(_N_BYTES_PER_WORD) for _ in range(source.randint(n_words // 2, n_words * 3 // 2))]
        for _ in range(n_documents)
    ]


class PrefixCount:
    """Counts, document by document, how often words begin with what."""

    def __init__(self) -> None:
        self._counts: defaultdict[bytes, int] = defaultdict(int)
        self._n_words = 0

    def add_document(self, document: list[bytes]) -> None:
        """Count the prefixes of a document's words."""
        self._n_words += len(document)
        counts = self._counts
        for word in document:
            for length in range(1, len(word)):
                counts[word[:length]] += 1

    def get_popular(self) -> tuple[int, set[bytes]]:
        """Return how many words were counted, and the prefixes that many of them have."""
        return self._n_words, {prefix for prefix, count in self._counts.items() if count >= _POPULAR}


def have_counted(parts: Iterable[tuple[int, set[bytes]]], documents: Sequence[Sequence[bytes]]) -> bool:
    """Return whether all workers together have counted each word once, and found what is popular among one-byte prefixes."""
    counted = list(parts)
    popular = set().union(*(prefixes for _, prefixes in counted))
    return sum(n for n, _ in counted) == sum(map(len, documents)) and any(len(prefix) == 1 for prefix in popular)


@lru_cache(maxsize=1)
def _own_counter(_trial: int) -> PrefixCount:
    """Return this process's counter for a trial: the state of a worker of a pool that knows functions only."""
    return PrefixCount()


def add_document(trial: int, document: list[bytes]) -> None:
    """Count with this process's own counter."""
    _own_counter(trial).add_document(document)


def get_popular(trial: int) -> tuple[int, set[bytes]]:
    """Return what this process's own counter has found."""
    return _own_counter(trial).get_popular()


def add_document_to(counter: Any, document: list[bytes]) -> None:
    """Count with a counter that lives elsewhere."""
    counter.add_document(document)


class Model:
    """Something that takes long to load, and then answers quickly."""

    def __init__(self, n_entries: int, size: int) -> None:
        import numpy as np

        # Pure Python, which takes its time and needs no memory.
        self._offset = float(sum((i * 2654435761) % 4294967291 for i in range(n_entries)) % 1000)
        self._data = np.linspace(0.0, 1.0, size)
        self._scratch = np.empty(size)

    def evaluate(self, index: int) -> Any:
        """Return an array for a number."""
        import numpy as np

        scratch = self._scratch
        np.sin(self._data, out=scratch)
        np.exp(scratch, out=scratch)
        np.sqrt(scratch, out=scratch)
        return scratch[::10] + (self._offset + index)


def are_evaluated(results: Iterable[Any], expected: Any) -> bool:
    """Return whether these are what a model answers to 0, 1, 2, ..., given its answer to 0, in any order."""
    import numpy as np

    ordered = sorted(results, key=lambda result: float(result[0]))
    return all(np.allclose(result, expected + index) for index, result in enumerate(ordered))


@lru_cache(maxsize=1)
def _own_model(_trial: int, n_entries: int, size: int) -> Model:
    """Return this process's model for a trial; it is loaded once."""
    return Model(n_entries, size)


def evaluate(trial: int, n_entries: int, size: int, index: int) -> Any:
    """Let this process's own model answer."""
    return _own_model(trial, n_entries, size).evaluate(index)

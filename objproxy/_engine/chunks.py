"""How many items go into the next message of a map. Pure.

Chunks start at one item, because nothing is known of the method. Each answer tells how long its items took; the next chunks
aim at a fixed time of work for a message, long against the 10 us that a message costs, short against the whole call. When the
number of items is known, a chunk is at most a share of what is left, so that chunks shrink towards the end and the workers
finish together: guided self-scheduling (Polychronopoulos and Kuck, IEEE Trans. Comput. C-36 (1987) 1425).
"""

from __future__ import annotations

#: Seconds of work that a message shall hold.
TARGET_SECONDS = 0.004

#: A chunk is at most what is left divided by this and by the number of workers.
_SHARES_PER_WORKER = 3

#: A chunk is at most this many times the largest before, so that one lucky measurement does no harm.
_MAX_GROWTH = 64

#: Of the mean time of an item, the share that the newest message decides.
_NEWEST_WEIGHT = 0.3

_LARGEST = 1 << 17


class ChunkSizer:
    """Chooses the sizes of the chunks of one map.

    Parameters
    ----------
    n_workers : int
        Workers that share the items.
    chunksize : int or None
        What the caller asked for; None adapts.
    """

    def __init__(self, n_workers: int, chunksize: int | None = None) -> None:
        self._n_workers = max(n_workers, 1)
        self._chunksize = chunksize
        self._seconds_per_item: float | None = None
        self._largest = 1

    @property
    def seconds_per_item(self) -> float | None:
        """Mean time of an item so far; None before the first answer."""
        return self._seconds_per_item

    def observe(self, count: int, seconds: float) -> None:
        """Learn that `count` items took `seconds` of a worker."""
        newest = seconds / count
        mean = self._seconds_per_item
        # The first answer is slow: caches are cold and modules are being loaded. Believe a faster one at once.
        if mean is None or newest < mean / 4:
            self._seconds_per_item = newest
        else:
            self._seconds_per_item = mean + _NEWEST_WEIGHT * (newest - mean)

    def next_size(self, n_left: int | None) -> int:
        """Return the size of the next chunk, at least 1.

        Parameters
        ----------
        n_left : int or None
            Items that are not in a chunk yet; None if that is not known.
        """
        if self._chunksize is not None:
            return self._chunksize
        if self._seconds_per_item is None:
            return 1

        size = int(TARGET_SECONDS / max(self._seconds_per_item, 1e-9))
        size = min(size, self._largest * _MAX_GROWTH, _LARGEST)
        if n_left is not None:
            size = min(size, n_left // (_SHARES_PER_WORKER * self._n_workers))
        size = max(size, 1)
        self._largest = max(self._largest, size)
        return size

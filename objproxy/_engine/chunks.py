"""How many items go into the next message of a map. Pure.

Chunks start at one item, because nothing is known of the method. Each answer tells how long its items took; the next
chunks aim at a fixed time of work for a message, long against the 10 us that a message costs, short against the whole
call. When the number of items is known, a chunk is at most a share of what is left, so that chunks shrink towards the
end and the workers finish together: guided self-scheduling (Polychronopoulos and Kuck, IEEE Trans. Comput. C-36 (1987)
1425).
"""

from __future__ import annotations

#: Seconds of work that a message shall hold.
TARGET_SECONDS = 0.004

#: A chunk need not be shorter than this for the workers to finish together: a message costs 10 to 20 us.
_MIN_SECONDS = 0.0005

#: A chunk is at most what is left divided by this and by the number of workers.
_SHARES_PER_WORKER = 2

#: A chunk is at most this many times the largest before, so that one lucky measurement does no harm.
_MAX_GROWTH = 64

#: What the answers before count, after one more answer.
_MEMORY = 0.7

_LARGEST = 1 << 17

#: Work that may lie ahead of a worker, and the most chunks of a fixed size that it is cut into.
_JOINED_SECONDS = 0.001
_MAX_JOINED = 16


class ChunkSizer:
    """Chooses the sizes of the chunks of one map.

    Parameters
    ----------
    n_workers : int
        Workers that share the items.
    chunksize : int or None
        What the caller asked for; None adapts.
    may_join : bool
        Whether a message may hold several chunks of a size that the caller asked for.
    """

    def __init__(self, n_workers: int, chunksize: int | None = None, *, may_join: bool = True) -> None:
        self._n_workers = max(n_workers, 1)
        self._chunksize = chunksize
        self._may_join = may_join
        self._n_items = 0.0  # of the latest answers, older ones fading
        self._seconds = 0.0
        self._n_answers = 0
        self._n_items_in_all = 0
        self._seconds_in_all = 0.0
        self._largest = 1

    @property
    def seconds_per_item(self) -> float | None:
        """Mean time of an item; None before the first answer.

        The larger of the mean lately and the mean of the whole map: where few items take most of the time, a run of short
        ones must not make chunks large, for the next long item would hold all of its chunk back.
        """
        if not self._n_items:
            return None
        lately = self._seconds / self._n_items
        return max(lately, self._seconds_in_all / self._n_items_in_all) if self._n_items_in_all else lately

    def observe(self, count: int, seconds: float) -> None:
        """Learn that `count` items took `seconds` of a worker.

        Items count, not answers: the first answers are short, and slow, since caches are cold and modules are being
        loaded.
        """
        self._n_items = _MEMORY * self._n_items + count
        self._seconds = _MEMORY * self._seconds + seconds
        self._n_answers += 1
        if self._n_answers > self._n_workers:  # the first answer of a worker is no measure: it may have loaded a module
            self._n_items_in_all += count
            self._seconds_in_all += seconds

    def next_size(self, n_left: int | None) -> int:
        """Return the size of the next chunk, at least 1.

        Parameters
        ----------
        n_left : int or None
            Items that are not in a chunk yet; None if that is not known.
        """
        if self._chunksize is not None:
            return self._chunksize * self._n_joined(self._chunksize, n_left)
        mean = self.seconds_per_item
        if mean is None:
            return 1

        seconds = max(mean, 1e-9)
        size = min(int(TARGET_SECONDS / seconds), self._largest * _MAX_GROWTH, _LARGEST)
        if n_left is not None:
            fair = n_left // (_SHARES_PER_WORKER * self._n_workers)
            size = min(size, max(fair, int(_MIN_SECONDS / seconds)))
        size = max(size, 1)
        self._largest = max(self._largest, size)
        return size

    def _n_joined(self, chunksize: int, n_left: int | None) -> int:
        """Return how many chunks of a fixed size share a message.

        A worker is sent chunks ahead while they are very short, so that it need not wait between them. Chunks that
        would lie ahead of one worker anyway may as well travel together.
        """
        mean = self.seconds_per_item
        if mean is None or not self._may_join:
            return 1
        seconds = max(chunksize * mean, 1e-9)
        n_joined = min(int(_JOINED_SECONDS / seconds), _MAX_JOINED)
        if n_left is not None:
            n_joined = min(n_joined, n_left // (chunksize * _SHARES_PER_WORKER * self._n_workers))
        return max(n_joined, 1)

"""The generators that a whole process shares, ``random`` and the legacy ``numpy.random``: their seeds in a worker.

Without a seed each worker gets a state that no other has. With one, that state follows from the worker's stream, and each
item of a fan-out finds both generators seeded from a stream of its own. So its numbers depend neither on the worker nor on the
chunk. Between items of fan-outs the worker's own state is put back: what a broadcast draws does not depend on them either.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from objproxy._worker.context import Worker


def seed_worker(words: tuple[int, ...] | None) -> None:
    """Give ``random`` and, if it is loaded, ``numpy.random`` a state that no other worker has.

    A worker that was forked from a process that had drawn numbers would draw the same ones again.
    """
    if words is None:
        words = tuple(int.from_bytes(os.urandom(4), "little") for _ in range(8))
    else:
        # A seed was asked for, so both global generators are part of the promise.
        import random  # noqa: F401

        import numpy.random  # noqa: F401

    # Where a generator is not loaded yet, it will draw its own seed from the system when it is.
    _seed(",".join(map(str, words)), words)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(words[0])


def _seed(for_python: int | str, for_numpy: Any) -> None:
    python_random = sys.modules.get("random")
    if python_random is not None:
        python_random.seed(for_python)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed(for_numpy)


class ItemStreams:
    """Seeds the global generators for the items of fan-outs; a worker of a pool without a seed has none.

    Parameters
    ----------
    worker : Worker
        Whose random streams they are.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._own: tuple[Any, Any] | None = None  # the worker's own states, while those of items are in place

    def enter(self) -> None:
        """Keep the worker's own states: items come."""
        if self._own is None:
            self._own = sys.modules["random"].getstate(), sys.modules["numpy.random"].get_state()

    def leave(self) -> None:
        """Put the worker's own states back: something comes that is no item."""
        if self._own is not None:
            python_state, numpy_state = self._own
            sys.modules["random"].setstate(python_state)
            sys.modules["numpy.random"].set_state(numpy_state)
            self._own = None

    def seed_item(self) -> None:
        """Seed both generators for the item that runs now; they get different words, since both are the same algorithm."""
        words = self._worker.item_seed_words()
        _seed(int.from_bytes(words[:4].tobytes(), "little"), words[4:])

"""Read the iterators that were put into a stream: a thread of the stream does, one iterator after another."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from objproxy._engine.stream_run import InputError

if TYPE_CHECKING:
    from objproxy._engine.streaming import TaskStream


def read(stream: TaskStream) -> None:
    """Read the iterators that were put, one after another, as the workers need their items."""
    while True:
        with stream._changed:
            n_wanted = _wait_for_room(stream)
            if not n_wanted:
                stream._reader = None
                return
            items = stream._inputs[0]
        try:
            for item in islice(items, n_wanted):
                _add_read(stream, item)
                n_wanted -= 1
        except BaseException as exc:  # raised again in the thread that gets the results
            _end_input(stream, exc)
        else:
            if n_wanted:
                _end_input(stream, None)
        stream._feed()


def _add_read(stream: TaskStream, item: Any) -> None:
    """Add one item; reading the next may take long, so the keeper sees to it that this one is not held back."""
    with stream._changed:
        if not stream._is_closed:
            stream._n_put += 1
            stream._queue.items.append(item)
    if stream._keeper is None:
        stream._see_to_keeper()


def _end_input(stream: TaskStream, error: BaseException | None) -> None:
    """Go on to the next iterator; an error of this one takes the place of a result, behind those of its items."""
    with stream._changed:
        if stream._is_closed:
            return
        stream._inputs.popleft()
        stream._queue.is_open_ended = bool(stream._inputs)
        if error is not None:
            stream._queue.items.append(InputError(error))
            stream._queue.n_errors += 1
            stream._n_put += 1
        stream._changed.notify_all()


def _wait_for_room(stream: TaskStream) -> int:
    """Return how many items to read, 0 when there is nothing left to read; `_changed` is held."""
    while stream._inputs and not stream._is_closed and stream._broken_by is None:
        n_wanted = stream._run.n_wanted(stream._n_arrived - stream._n_given)
        if n_wanted:
            return n_wanted
        stream._n_sleeping += 1
        stream._changed.wait()
        stream._n_sleeping -= 1
    return 0

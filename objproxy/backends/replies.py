"""Read the results that a worker sends, lane by lane."""

from __future__ import annotations

import io
import pickle
import pickletools
from array import array
from collections.abc import Callable, Sequence
from typing import Any

from objproxy._worker import wire
from objproxy._worker.outcome import Failure, decode_error
from objproxy.errors import ResultPickleError

Unpack = Callable[[Any], Any]


def decode_segments(
    body: bytes, at: int, worker_id: int, method: str, unpack: Unpack = pickle.loads
) -> tuple[Sequence[Any], Sequence[int]]:
    """Return the outcomes in `body` from `at` on, and the offsets of those that are a `Failure`.

    `unpack` rebuilds a value of which the worker has sent large buffers ahead.

    Numbers of one type come back as an ``array.array``, which costs nothing to make and little to stack.
    """
    view = memoryview(body)
    lane, count, nbytes = wire.SEGMENT_HEAD.unpack_from(body, at)
    begin = at + wire.SEGMENT_HEAD.size
    if begin + nbytes == len(body):  # one segment, as nearly always
        outcomes = _decode(lane, count, view[begin:], worker_id, method, unpack)
        return outcomes, _failed(lane, outcomes)

    pieces: list[Any] = []
    while at < len(body):
        lane, count, nbytes = wire.SEGMENT_HEAD.unpack_from(body, at)
        at += wire.SEGMENT_HEAD.size + nbytes
        pieces += _decode(lane, count, view[at - nbytes : at], worker_id, method, unpack)
    return pieces, _failed(wire.PICKLES, pieces)


def _failed(lane: int, outcomes: Sequence[Any]) -> Sequence[int]:
    if lane not in (wire.PICKLES, wire.ERRORS, wire.PARCEL):
        return ()
    return [offset for offset, outcome in enumerate(outcomes) if type(outcome) is Failure]


def _decode(lane: int, count: int, data: memoryview, worker_id: int, method: str, unpack: Unpack) -> Sequence[Any]:
    if lane in (wire.PICKLES, wire.PARCEL):
        return _unpickle(count, data, worker_id, method, unpack if lane == wire.PARCEL else pickle.loads)
    if lane == wire.INTS:
        return array("q", data.tobytes())
    if lane == wire.FLOATS:
        return array("d", data.tobytes())
    if lane == wire.NONES:
        return [None] * count
    if lane == wire.ERRORS:
        return [Failure(decode_error(data))] * count
    raise wire.ChannelClosedError(f"protocol error: unknown lane {lane}")


def _unpickle(count: int, data: memoryview, worker_id: int, method: str, unpack: Unpack) -> list[Any]:
    if count == 1:
        try:
            return [unpack(data)]
        except BaseException as exc:
            return [_unreadable(exc, worker_id, method)]

    stream = io.BytesIO(data)
    results: list[Any] = []
    for _ in range(count):
        begin = stream.tell()
        try:
            results.append(pickle.load(stream))
        except BaseException as exc:
            results.append(_unreadable(exc, worker_id, method))
            stream.seek(begin)
            for _opcode in pickletools.genops(stream):  # find the end of the bad one without running it
                pass
    return results


def _unreadable(exc: BaseException, worker_id: int, method: str) -> Failure:
    """Make an error of its item alone of what a result does while it is rebuilt, even if it is an exit."""
    error = ResultPickleError(worker_id, method, "unknown", f"rebuilding it here raised {type(exc).__name__}: {exc}")
    error.__cause__ = exc
    return Failure(error)

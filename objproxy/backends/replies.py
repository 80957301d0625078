"""Read what a worker sends: results lane by lane, log records, reports; and what a dead worker has left in its journal.

Three things can go wrong, and they are kept apart:

- what the worker sent is no message, or not one that it was asked for: `ChannelClosedError` with "protocol error". The worker
  cannot be trusted any more;
- a result cannot be rebuilt here, whatever its own code raises: the error of its item alone;
- a log record or a report cannot be rebuilt here: it is dropped, and logged.
"""

from __future__ import annotations

import io
import logging
import pickle
from array import array
from collections.abc import Callable, Sequence
from typing import Any

from objproxy._engine import messages as m
from objproxy._worker import wire
from objproxy._worker.outcome import Failure, decode_error
from objproxy.backends.links import Link
from objproxy.errors import ResultPickleError
from objproxy.handling import describe, log_error

Unpack = Callable[[Any], Any]

_logger = logging.getLogger("objproxy")

#: What the unpickler raises for bytes that are no pickle; a pickle's own code may raise these too.
_DAMAGES = (pickle.UnpicklingError, EOFError)


def take_reply(link: Link, body: bytes) -> m.Replied:
    """Take the next reply of a worker in.

    Raises
    ------
    ChannelClosedError
        It answers what the worker was not asked, or more than it was asked: another process writes to its channel.
    """
    seq, is_last, nanoseconds = wire.REPLY_HEAD.unpack_from(body)
    if not link.sent or link.sent[0][0] != seq:
        if seq in link.tasks:
            return _take_reply_of_task(link, seq, body, nanoseconds / 1e9)
        _check_is_asked(link, seq)
    _seq, method, count = link.sent[0]
    outcomes, failed = decode_segments(
        body, wire.REPLY_HEAD.size, link.worker_id, method, link.lane.unpack, limit=count - link.received
    )
    if is_last:
        link.sent.popleft()
        link.received = 0
    else:
        link.received += len(outcomes)
    return m.Replied(link.worker_id, link.generation, seq, outcomes, failed, is_last, nanoseconds / 1e9)


def _take_reply_of_task(link: Link, seq: int, body: bytes, seconds: float) -> m.Replied:
    """Take the one answer of a concurrent task in."""
    method = link.tasks.pop(seq)
    outcomes, failed = decode_segments(body, wire.REPLY_HEAD.size, link.worker_id, method, link.lane.unpack, limit=1)
    return m.Replied(link.worker_id, link.generation, seq, outcomes, failed, True, seconds)


def take_stopping(link: Link, body: bytes) -> m.Stopping:
    """Take in that a concurrent task is being cancelled."""
    (seq,) = wire.TASK_HEAD.unpack_from(body)
    if seq not in link.tasks:
        raise wire.ChannelClosedError(f"protocol error: it stops task {seq}, which was not sent or is answered")
    return m.Stopping(link.worker_id, link.generation, seq, body[wire.TASK_HEAD.size :].decode(errors="replace"))


def take_unreadable(link: Link, body: bytes) -> m.Unreadable:
    """Take in that a worker could not unpickle a message of several items."""
    (seq,) = wire.UNREADABLE_BODY.unpack(body)
    _check_is_asked(link, seq)
    link.sent.popleft()
    return m.Unreadable(link.worker_id, link.generation, seq)


def _check_is_asked(link: Link, seq: int) -> None:
    if not link.sent or link.sent[0][0] != seq:
        asked = f"message {link.sent[0][0]}" if link.sent else "nothing"
        raise wire.ChannelClosedError(f"protocol error: it answered message {seq}, but {asked} was to be answered")


def recover(link: Link, died: m.Died) -> m.Died:
    """Add to the death of a worker what its journal tells of the message that it was answering."""
    if link.tasks:
        return _recover_tasks(link, died)
    if not link.sent:
        return died
    seq, method, count = link.sent[0]
    try:
        found = link.journal.recover(seq, link.received)
        if found is None:
            return died
        segment, running = found
        outcomes, failed = ((), ()) if segment is None else decode_segments(segment.packed(), 0, link.worker_id, method)
        if len(outcomes) > count - link.received:
            raise ValueError(f"{len(outcomes)} results of {count} items")
    except Exception as exc:
        # Something has written over it. Each of the items may have run, so none of them may run again.
        return died._replace(running=count - 1, started_seq=seq, detail=died.detail or _describe_damage(exc))
    return died._replace(
        recovered=outcomes,
        failed=failed,
        running=running,
        started_seq=seq,
        is_unpickling=link.journal.is_unpickling,
    )


def _recover_tasks(link: Link, died: m.Died) -> m.Died:
    """Add which of its concurrent tasks had begun."""
    try:
        return died._replace(begun=link.journal.recover_tasks() & link.tasks.keys())
    except Exception as exc:
        return died._replace(begun=frozenset(link.tasks), detail=died.detail or _describe_damage(exc))


def _describe_damage(error: Exception) -> str:
    return f"Its journal is damaged ({describe(error)}): something in it has written where it must not"


def load_message(body: bytes, worker_id: int) -> Sequence[Any]:
    """Return a log record or a report, alone in a list; an empty list if its own code fails here, which is logged."""
    try:
        return [pickle.loads(body)]
    except BaseException as exc:
        _check_is_whole(exc, body)
        log_error(_logger, "what worker %d logged or reported cannot be rebuilt here", exc, worker_id)
        return []


def decode_segments(
    body: bytes,
    at: int,
    worker_id: int,
    method: str,
    unpack: Unpack = pickle.loads,
    *,
    limit: int | None = None,
) -> tuple[Sequence[Any], Sequence[int]]:
    """Return the outcomes in `body` from `at` on, and the offsets of those that are a `Failure`.

    `unpack` rebuilds a value of which the worker has sent large buffers ahead. More than `limit` outcomes are a protocol error.

    Numbers of one type come back as an ``array.array``, which costs nothing to make and little to stack.
    """
    view = memoryview(body)
    lane, count, nbytes = wire.SEGMENT_HEAD.unpack_from(body, at)
    begin = at + wire.SEGMENT_HEAD.size
    if begin + nbytes == len(body):  # one segment, as nearly always
        if limit is not None and count > limit:
            raise _too_many(count, limit)
        outcomes = _decode(lane, count, view[begin:], worker_id, method, unpack)
        return outcomes, _failed(lane, outcomes)

    pieces: list[Any] = []
    while at < len(body):
        lane, count, nbytes = wire.SEGMENT_HEAD.unpack_from(body, at)
        at += wire.SEGMENT_HEAD.size + nbytes
        if limit is not None and len(pieces) + count > limit:
            raise _too_many(len(pieces) + count, limit)
        pieces += _decode(lane, count, view[at - nbytes : at], worker_id, method, unpack)
    return pieces, _failed(wire.PICKLES, pieces)


def _too_many(count: int, limit: int) -> wire.ChannelClosedError:
    return wire.ChannelClosedError(f"protocol error: {count} results came where {limit} were missing")


def _failed(lane: int, outcomes: Sequence[Any]) -> Sequence[int]:
    if lane not in (wire.PICKLES, wire.ERRORS, wire.PARCEL):
        return ()
    return [offset for offset, outcome in enumerate(outcomes) if type(outcome) is Failure]


def _decode(lane: int, count: int, data: memoryview, worker_id: int, method: str, unpack: Unpack) -> Sequence[Any]:
    if lane in (wire.PICKLES, wire.PARCEL):
        return _unpickle(count, data, worker_id, method, unpack if lane == wire.PARCEL else None)
    if lane in (wire.INTS, wire.FLOATS):
        if len(data) != 8 * count:
            raise wire.ChannelClosedError(f"protocol error: {count} numbers in {len(data)} bytes")
        return array("q" if lane == wire.INTS else "d", data.tobytes())
    if lane == wire.NONES:
        return [None] * count
    if lane == wire.ERRORS:
        return [Failure(decode_error(data))] * count
    raise wire.ChannelClosedError(f"protocol error: unknown lane {lane}")


def _unpickle(count: int, data: memoryview, worker_id: int, method: str, unpack: Unpack | None) -> list[Any]:
    """Unpickle `count` results, with `unpack` if the worker has sent buffers of theirs ahead."""
    if count == 1:
        try:
            return [pickle.loads(data) if unpack is None else unpack(data)]
        except BaseException as exc:
            if unpack is None:
                _check_is_whole(exc, data)
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
            _skip_pickle(stream)
    return results


def _check_is_whole(exc: BaseException, data: bytes | memoryview) -> None:
    """Raise ChannelClosedError if unpickling `data` has failed because it is no pickle."""
    if type(exc) not in _DAMAGES:
        return
    try:
        _skip_pickle(io.BytesIO(data))
    except Exception:
        raise wire.ChannelClosedError(f"protocol error: bytes that are no pickle ({describe(exc)})") from exc


def _unreadable(exc: BaseException, worker_id: int, method: str) -> Failure:
    """Make an error of its item alone of what a result does while it is rebuilt, even if it is an exit."""
    error = ResultPickleError(worker_id, method, "unknown", f"rebuilding it here raised {describe(exc)}")
    error.__cause__ = exc
    return Failure(error)


def _skip_pickle(stream: io.BytesIO) -> None:
    """Read to the end of a pickle without running it."""
    import pickletools  # who meets no bad pickle never loads it

    for _opcode in pickletools.genops(stream):
        pass

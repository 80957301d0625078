"""Run the items of one chunk in a worker process and answer them, each result in the journal as soon as it exists.

Numbers take a fast lane: results that are plain ints, floats or None are written into the journal as they are, 30 ns each,
and travel as one buffer. Anything else is pickled one by one, at the moment it is returned, so that an object that the method
changes later crosses as it was.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from typing import Any

from objproxy._worker import wire
from objproxy._worker.execute import Host
from objproxy._worker.journal import BASE, DONE, LANE, USED, Journal, Segment
from objproxy._worker.outcome import encode_error, type_name
from objproxy.errors import ResultPickleError

#: Results that exist are sent after this time, so that bars move and consumers of a lazy map need not wait for a chunk.
_FLUSH_SECONDS = 0.05

#: A block of items is run without a look at the clock; blocks grow while they take less than this.
_BLOCK_SECONDS = 0.001
_MAX_BLOCK = 4096

#: A chunk whose results change their type more often than this is pickled one by one.
_LANE_CHANGES = 2

_LANES = {int: wire.INTS, float: wire.FLOATS, type(None): wire.NONES}
_END = object()


class ChunkRunner:
    """Runs chunks on the object of a worker.

    Parameters
    ----------
    host : Host
        The object.
    channel : WorkerChannel
        Where the answers go.
    journal : Journal
        Where results are kept until they are sent.
    """

    def __init__(self, host: Host, channel: wire.WorkerChannel, journal: Journal) -> None:
        self._host = host
        self._channel = channel
        self._journal = journal
        self._lane_changes = 0
        self._seq = 0
        self._method = ""
        self._began = self._flushed = 0.0

    def run(self, seq: int, operation: wire.Operation, count: int) -> None:
        """Run `count` items and answer them all."""
        self._seq, self._method = seq, operation.name
        self._began = self._flushed = time.perf_counter()
        self._lane_changes = 0
        calls = self._calls(operation)
        header, block = self._journal.header, 1
        header[LANE] = wire.NONES
        while header[DONE] < count:
            before, end = time.perf_counter(), min(header[DONE] + block, count)
            try:
                self._run_block(itertools.islice(calls, block))
                if header[DONE] < end:
                    # A StopIteration of the method looks like the end of the items; its arguments are used up.
                    raise StopIteration("raised by the method")
            except BaseException as exc:
                self._send_error(encode_error(exc))
            block = self._next_block(block, before)

        self.answer(seq, self._began, self._journal.segment(), last=True)

    def _calls(self, operation: wire.Operation) -> Iterable[Any]:
        try:
            return self._host.calls(operation)
        except BaseException as exc:  # no such method, or its __getattr__ raises: the error of every item
            return map(_raise, itertools.repeat(exc))

    def answer(self, seq: int, began: float, *segments: Segment, last: bool = True) -> None:
        """Send the results in `segments`; `last` says that the batch is answered in full."""
        parts: list[bytes] = [wire.REPLY_HEAD.pack(seq, last, int((time.perf_counter() - began) * 1e9))]
        for segment in segments:
            parts.append(wire.SEGMENT_HEAD.pack(segment.lane, segment.count, len(segment.data)))
            parts.append(segment.data)
        self._channel.send(wire.REPLY, *parts)

    def _next_block(self, block: int, before: float) -> int:
        now = time.perf_counter()
        if now - self._flushed > _FLUSH_SECONDS:
            self._flush()
        if now - before < _BLOCK_SECONDS:
            return min(2 * block, _MAX_BLOCK)
        return max(block // 2, 1)

    def _run_block(self, values: Iterable[Any]) -> None:
        """Run items; each time a result does not fit the current lane, change the lane and go on."""
        while True:
            lane = self._journal.header[LANE]
            value = self._fill_pickles(values) if lane == wire.PICKLES else _fill(values, self._journal, lane)
            if value is _END:
                return
            self._change_lane(value)

    def _change_lane(self, value: Any) -> None:
        """Make room for `value`, which did not fit, and store it."""
        lane = _LANES.get(type(value), wire.PICKLES)
        if lane != self._journal.header[LANE] and self._journal.header[DONE]:
            self._lane_changes += 1
        if self._lane_changes > _LANE_CHANGES:
            lane = wire.PICKLES

        self._flush()
        self._journal.header[LANE] = lane
        if _fill((value,), self._journal, lane) is not _END:
            self._journal.header[LANE] = wire.PICKLES
            self._store_pickled(value)

    def _fill_pickles(self, values: Iterable[Any]) -> Any:
        for value in values:
            self._store_pickled(value)
            if time.perf_counter() - self._flushed > _FLUSH_SECONDS:
                self._flush()
        return _END

    def _store_pickled(self, value: Any) -> None:
        try:
            data = wire.dumps(self._host.settle(value))
        except BaseException as exc:
            worker_id = self._host.worker.worker_id
            self._send_error(encode_error(ResultPickleError(worker_id, self._method, type_name(value), str(exc))))
            return

        header, body = self._journal.header, self._journal.body
        if header[USED] + len(data) > len(body):
            self._flush()
        if len(data) > len(body):
            self._send_now(Segment(wire.PICKLES, 1, data))
            return

        end = header[USED] + len(data)
        body[header[USED] : end] = data
        header[USED] = end
        header[DONE] += 1

    def _send_error(self, data: bytes) -> None:
        self._send_now(Segment(wire.ERRORS, 1, data))

    def _send_now(self, segment: Segment) -> None:
        """Send the journal and then `segment`, which was never in it, and count its item."""
        self.answer(self._seq, self._began, self._journal.segment(), segment, last=False)
        self._journal.header[DONE] += 1
        self._journal.forget()
        self._flushed = time.perf_counter()

    def _flush(self) -> None:
        if self._journal.header[DONE] > self._journal.header[BASE]:
            self.answer(self._seq, self._began, self._journal.segment(), last=False)
        self._journal.forget()
        self._flushed = time.perf_counter()


def _raise(error: BaseException) -> Any:
    raise error


def _fill(values: Iterable[Any], journal: Journal, lane: int) -> Any:
    """Run items as long as their results fit `lane`; return the first that does not, or _END.

    This is the hot loop: it runs once for each item of a map of tiny items.
    """
    header = journal.header
    done = header[DONE]
    at = done - header[BASE]
    if lane == wire.NONES:
        for value in values:
            if value is not None:
                return value
            done += 1
            header[DONE] = done
        return _END

    if lane == wire.PICKLES:
        return next(iter(values), _END)

    kind: type = int if lane == wire.INTS else float
    slots = journal.ints if lane == wire.INTS else journal.floats
    for value in values:
        if type(value) is not kind:
            return value
        try:
            slots[at] = value
        except (ValueError, IndexError):  # beyond 64 bits, or the journal is full
            return value
        at += 1
        done += 1
        header[DONE] = done
    return _END

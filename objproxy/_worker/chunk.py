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

from objproxy._worker import forking, wire
from objproxy._worker.distress import Interrupt
from objproxy._worker.event_loop import PLAIN, is_awaitable
from objproxy._worker.execute import Host
from objproxy._worker.journal import COUNT, LANE, USED, Journal, Segment
from objproxy._worker.outcome import encode_error, explain_result
from objproxy._worker.parcel import Parcel
from objproxy._worker.plane import WorkerPlane

#: Results that exist are sent after this time, so that bars move and consumers of a lazy map need not wait for a chunk.
_FLUSH_SECONDS = 0.05

#: A block of items is run without a look at the clock; blocks grow while they take less than this.
_BLOCK_SECONDS = 0.001
_MAX_BLOCK = 4096

#: A chunk does not begin with a larger block: its items may be slower than those of the chunk before.
_FIRST_BLOCK = 64

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
    plane : WorkerPlane
        Where large results go.
    interrupt : Interrupt
        Whether the parent has given this worker up.
    """

    def __init__(
        self, host: Host, channel: wire.WorkerChannel, journal: Journal, plane: WorkerPlane, interrupt: Interrupt
    ) -> None:
        self._host = host
        self._channel = channel
        self._journal = journal
        self._plane = plane
        self._interrupt = interrupt
        self._seq = 0
        self._method = ""
        self._count = 0  # items of the chunk
        self._done = 0  # those that are finished
        self._sent = 0  # those whose results have been sent
        self._lane_changes = 0
        self._block = 1
        self._began = self._flushed = 0.0

    def run(self, seq: int, operation: wire.Operation, count: int) -> None:
        """Run `count` items and answer them all."""
        self._seq, self._method, self._count = seq, operation.name, count
        self._done = self._sent = self._lane_changes = 0
        self._block = min(self._block, _FIRST_BLOCK)
        self._began = self._flushed = time.perf_counter()
        calls = self._calls(operation)
        while self._done < count:
            before, end = time.perf_counter(), min(self._done + self._block, count)
            try:
                self._run_block(itertools.islice(calls, end - self._done))
                if self._done < end:
                    # A StopIteration of the method looks like the end of the items; its arguments are used up.
                    raise StopIteration("raised by the method")
            except BaseException as exc:
                if forking.is_child:
                    forking.end_child(exc)
                self._done = self._journal.done
                self._send_now(Segment(wire.ERRORS, 1, encode_error(exc)))
            if self._interrupt.has_come:
                return  # nobody waits for the rest
            self._adapt_block(before)

        self._answer(self._unsent(), is_last=True)

    def _calls(self, operation: wire.Operation) -> Iterable[Any]:
        try:
            return self._host.calls(operation)
        except BaseException as exc:  # no such method, or its __getattr__ raises: the error of every item
            return map(_raise, itertools.repeat(exc))

    def _adapt_block(self, before: float) -> None:
        now = time.perf_counter()
        if now - self._flushed > _FLUSH_SECONDS:
            self._flush(self._journal.header[LANE])
        if now - before < _BLOCK_SECONDS:
            self._block = min(4 * self._block, _MAX_BLOCK)
        else:
            self._block = max(self._block // 4, 1)

    def _run_block(self, values: Iterable[Any]) -> None:
        """Run items; each time a result does not fit the current lane, change the lane and go on."""
        while True:
            lane = self._journal.header[LANE]
            if lane == wire.PICKLES:
                self._fill_pickles(values)
                return
            value, at = _fill(values, self._journal, lane, self._done - self._sent)
            self._done = self._sent + at
            if value is _END:
                return
            self._change_lane(value)

    def _change_lane(self, value: Any) -> None:
        """Make room for `value`, which did not fit, and store it."""
        if forking.is_child:  # nothing fits a journal that was taken away
            forking.end_child()
        lane = _LANES.get(type(value), wire.PICKLES)
        if lane != self._journal.header[LANE] and self._done:
            self._lane_changes += 1
        if self._lane_changes > _LANE_CHANGES:
            lane = wire.PICKLES

        self._flush(lane)
        if lane != wire.PICKLES:
            rest, at = _fill((value,), self._journal, lane, 0)
            self._done += at
            if rest is _END:
                return
            self._flush(wire.PICKLES)
        self._store_pickled(value)

    def _fill_pickles(self, values: Iterable[Any]) -> None:
        for value in values:
            self._store_pickled(value)
            if time.perf_counter() - self._flushed > _FLUSH_SECONDS:
                self._flush(wire.PICKLES)

    def _store_pickled(self, value: Any) -> None:
        if type(value) not in PLAIN and is_awaitable(value):  # the first test saves most values a call
            value = self._host.loop.run(value)
        if forking.is_child:  # before a large result is written where the worker writes its own
            forking.end_child()
        try:
            data = self._plane.pack(self._host.keep(value))
        except BaseException as exc:
            error = explain_result(exc, self._host.worker.worker_id, self._method, value)
            self._send_now(Segment(wire.ERRORS, 1, encode_error(error)))
            return

        if isinstance(data, Parcel):
            self._send_now(Segment(wire.PARCEL, 1, data.stream), self._plane.lend(data))
            return

        header, body = self._journal.header, self._journal.body
        if header[USED] + len(data) > len(body):
            self._flush(wire.PICKLES)
        if len(data) > len(body):
            self._send_now(Segment(wire.PICKLES, 1, data))
            return

        end = header[USED] + len(data)
        body[header[USED] : end] = data
        header[USED] = end
        header[COUNT] += 1
        self._done += 1

    def _unsent(self) -> Segment:
        return self._journal.segment(self._done - self._sent)

    def _send_now(self, segment: Segment, parts: bytes = b"") -> None:
        """Send the journal and then `segment`, which was never in it, and count its item."""
        self._answer(self._unsent(), segment, large=parts)
        self._done += 1
        self._empty(self._journal.header[LANE])

    def _flush(self, lane: int) -> None:
        """Send what is in the journal, and go on in `lane`."""
        if self._done > self._sent:
            self._answer(self._unsent())
        self._empty(lane)

    def _empty(self, lane: int) -> None:
        self._sent = self._done
        self._journal.open_lane(lane, self._done, self._count - self._done)
        self._flushed = time.perf_counter()

    def _answer(self, *segments: Segment, is_last: bool = False, large: bytes = b"") -> None:
        parts: list[bytes] = [wire.REPLY_HEAD.pack(self._seq, is_last, int((time.perf_counter() - self._began) * 1e9))]
        for segment in segments:
            parts.append(wire.SEGMENT_HEAD.pack(segment.lane, segment.n_items, len(segment.data)))
            parts.append(segment.data)
        if large:
            self._channel.write(wire.frame(wire.PARTS, large) + wire.frame(wire.REPLY, *parts))
        else:
            self._channel.send(wire.REPLY, *parts)


def _raise(error: BaseException) -> Any:
    raise error


def _fill(values: Iterable[Any], journal: Journal, lane: int, at: int) -> tuple[Any, int]:
    """Run items as long as their results fit `lane`; `at` of them are in the journal already.

    Returns the first result that does not fit, or _END, and the number of results in the journal then. This is the hot loop: it
    runs once for each item of a map of tiny items.
    """
    if lane == wire.NONES:
        header = journal.header
        for value in values:
            if value is not None:
                return value, at
            at += 1
            try:
                header[COUNT] = at
            except ValueError:  # the journal was taken away: this is a forked child
                return value, at
        return _END, at

    kind: type = int if lane == wire.INTS else float
    slots = journal.slots[lane]
    for value in values:
        if type(value) is not kind:
            return value, at
        try:
            slots[at] = value
        except (ValueError, IndexError):  # beyond 64 bits, or the journal is full, or taken away (a forked child)
            return value, at
        at += 1
    return _END, at

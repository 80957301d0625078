"""What the loop of a worker process and its concurrent tasks have in common: frames in, answers out; and those tasks."""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Callable
from typing import Any

from objproxy._worker import forking, wire
from objproxy._worker.distress import Interrupt
from objproxy._worker.execute import Host
from objproxy._worker.journal import Journal
from objproxy._worker.loans import Part, unpack_parts
from objproxy._worker.outcome import Failure, encode_error, explain_result
from objproxy._worker.parcel import Parcel
from objproxy._worker.plane import WorkerPlane
from objproxy._worker.tasks import Ended, Tasks


def receive(channel: wire.WorkerChannel, plane: WorkerPlane, journal: Journal | None = None) -> tuple[int, bytes, list[Part]]:
    """Wait for the next frame that is not about shared memory; return it with its parts."""
    parts: list[Part] = []
    while True:
        kind, body = channel.receive()
        if kind == wire.PARTS:
            parts = unpack_parts(body)
        elif kind == wire.OPEN:
            if journal is not None:
                journal.begin_loading()
            plane.open_shared(body, parts)
            parts = []
        else:
            return kind, body, parts


def answer(
    channel: wire.WorkerChannel, plane: WorkerPlane, seq: int, seconds: float, lane: int, data: bytes | Parcel, count: int = 1
) -> None:
    """Send the last answer of a batch."""
    head = wire.REPLY_HEAD.pack(seq, True, int(seconds * 1e9))
    if isinstance(data, bytes):
        channel.send(wire.REPLY, head, wire.SEGMENT_HEAD.pack(lane, count, len(data)), data)
        return
    parts, stream = plane.lend(data), data.stream
    reply = wire.frame(wire.REPLY, head, wire.SEGMENT_HEAD.pack(wire.PARCEL, count, len(stream)), stream)
    channel.write(wire.frame(wire.PARTS, parts) + reply)


def pack_outcome(
    plane: WorkerPlane, worker_id: int, method: str, value: Any, *, may_share: bool = True
) -> tuple[int, bytes | Parcel]:
    """Return the lane and the bytes of what a call returned, or of the error of a result that cannot be sent."""
    try:
        return wire.PICKLES, plane.pack(value, may_share=may_share)
    except BaseException as exc:
        return wire.ERRORS, encode_error(explain_result(exc, worker_id, method, value))


class TaskServer:
    """Serves concurrent tasks, from the first until none runs any more.

    While it does, the worker is either in its event loop, or here: between two turns of the loop it sends the answers of tasks
    that have ended, and begins and cancels those that the parent says.

    Parameters
    ----------
    channel, journal, host, plane, interrupt
        As for `WorkerLoop`.
    """

    def __init__(
        self, channel: wire.WorkerChannel, journal: Journal, host: Host, plane: WorkerPlane, interrupt: Interrupt
    ) -> None:
        self._channel = channel
        self._journal = journal
        self._host = host
        self._plane = plane
        self._interrupt = interrupt
        self._tasks = Tasks(host)
        self._places: dict[int, int] = {}  # in the journal, of the tasks that run, by their numbers
        self._free: list[int] = []  # a heap of places that were used; between two calls of `serve`, of all that were

    def serve(self, body: bytes, parts: list[Part], after_answer: Callable[[], None]) -> None:
        """Run a task, and all that come before it and they have ended; call ``after_answer()`` now and then."""
        self._journal.open_tasks()
        self._begin(body, parts)
        del body, parts
        try:
            while self._tasks.is_any_running and not self._interrupt.has_come:
                self._turn(after_answer)
        except KeyboardInterrupt:
            self._clean_up()
            raise
        if self._interrupt.has_come:
            self._clean_up()

    def _turn(self, after_answer: Callable[[], None]) -> None:
        """Send the answers that are due; then take a frame in, or run the loop until there is something to do."""
        all_ended = self._tasks.take_ended()
        for ended in all_ended:
            self._answer(ended)
        if all_ended:
            after_answer()
            del all_ended, ended  # results may be large
        if forking.is_child:  # a task has forked; this process has no business with the others
            forking.end_child()
        if not self._tasks.is_any_running:
            return
        channel = self._channel
        if channel.has_frame() or self._host.loop.wait_for_descriptor(channel.fileno(), seconds=channel.on_idle()):
            kind, body, parts = receive(self._channel, self._plane)
            if kind == wire.TASK:
                self._begin(body, parts)
            elif kind == wire.CANCEL:
                self._cancel(*wire.TASK_HEAD.unpack(body))
            else:
                raise wire.ChannelClosedError(f"protocol error: a frame of kind {kind} came while concurrent tasks run")

    def _begin(self, body: bytes, parts: list[Part]) -> None:
        seq, call_number, start, _count = wire.CALL_HEAD.unpack_from(body)
        place = heapq.heappop(self._free) if self._free else len(self._places)
        self._places[seq] = place
        self._journal.begin_task(place, seq)
        try:
            operation = wire.Operation(*self._plane.unpack(memoryview(body)[wire.CALL_HEAD.size :], parts))
        except BaseException as exc:
            if forking.is_child:
                forking.end_child(exc)
            self._answer(Ended(seq, "", Failure(exc), 0.0))
            return
        self._journal.begin_item_of_task(place)
        self._tasks.begin(seq, operation, (call_number, start) if call_number else None)

    def _cancel(self, seq: int) -> None:
        stack = self._tasks.cancel(seq)
        if stack is not None:  # else its answer is on its way
            self._channel.send(wire.STOPPING, wire.TASK_HEAD.pack(seq), stack.encode(errors="replace"))

    def _answer(self, ended: Ended) -> None:
        outcome = ended.outcome
        if forking.is_child:
            forking.end_child(outcome.error if type(outcome) is Failure else None)
        if type(outcome) is Failure:
            lane: int = wire.ERRORS
            data: bytes | Parcel = encode_error(outcome.error)
        else:
            lane, data = pack_outcome(self._plane, self._host.worker.worker_id, ended.method, outcome)
        answer(self._channel, self._plane, ended.seq, ended.seconds, lane, data)
        self._plane.drop_unshared()
        place = self._places.pop(ended.seq)
        self._journal.end_task(place)
        heapq.heappush(self._free, place)

    def _clean_up(self) -> None:
        """Let the tasks of a worker that the parent has given up clean up; it is killed if that takes long."""
        self._tasks.cancel_all()
        with contextlib.suppress(wire.ChannelClosedError):
            while self._tasks.is_any_running:
                for ended in self._tasks.run():
                    self._answer(ended)

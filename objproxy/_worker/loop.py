"""The loop of a worker process: read a frame, do what it says, answer; until the parent says stop or is gone."""

from __future__ import annotations

import functools
import pickle
import sys
import time
from typing import Any

from objproxy._worker import boot as booting
from objproxy._worker import context, debugger, distress, forking, lineage, natives, platform, wire
from objproxy._worker.chunk import ChunkRunner
from objproxy._worker.distress import Interrupt
from objproxy._worker.event_loop import EventLoop
from objproxy._worker.execute import Host
from objproxy._worker.journal import Journal
from objproxy._worker.leaving import Steps, leave
from objproxy._worker.loans import Part
from objproxy._worker.outcome import encode_error
from objproxy._worker.parcel import Parcel
from objproxy._worker.plane import WorkerPlane
from objproxy._worker.seeding import ItemStreams
from objproxy._worker.serving import TaskServer, answer, pack_outcome, receive


class WorkerLoop:
    """Serves one object on one channel.

    Parameters
    ----------
    channel : WorkerChannel
        To the parent.
    journal : Journal
        What is left behind if this process dies.
    host : Host
        The object.
    plane : WorkerPlane
        Its part of the shared memory.
    interrupt : Interrupt
        Whether the parent has given this worker up.
    max_rss : int or None
        Bytes of memory above which this process asks to be replaced.
    """

    def __init__(
        self,
        channel: wire.WorkerChannel,
        journal: Journal,
        host: Host,
        plane: WorkerPlane,
        interrupt: Interrupt,
        max_rss: int | None,
    ) -> None:
        self._interrupt = interrupt
        self._max_rss = max_rss
        self._channel = channel
        self._journal = journal
        self._host = host
        self._plane = plane
        self._chunks = ChunkRunner(host, channel, journal, plane, interrupt)
        self._tasks = TaskServer(channel, journal, host, plane, interrupt)
        self._item_base: tuple[int, int] | None = None
        host.worker._locate_item = self._locate_item

    def run(self) -> bool:
        """Serve until the parent says stop, or has given this worker up; whether the object's own end shall be run."""
        while not self._interrupt.has_come:
            kind, body, parts = receive(self._channel, self._plane, self._journal)
            if kind == wire.CALL:
                self._serve(body, parts)
                del body, parts  # may stand for much memory, and the next call may be long in coming
                self._watch_memory()
            elif kind == wire.TASK:
                self._tasks.serve(body, parts, self._watch_memory)
                del body, parts
            elif kind in (wire.STOP, wire.LEAVE):
                return kind == wire.STOP
        return False

    def _watch_memory(self) -> None:
        """Ask for a replacement, once, when this process has grown too large."""
        if self._max_rss is not None and (platform.resident_bytes() or 0) > self._max_rss:
            self._max_rss = None
            self._channel.send(wire.OUTGROWN)

    def _serve(self, body: bytes, parts: list[Part]) -> None:
        seq, call_number, start, count = wire.CALL_HEAD.unpack_from(body)
        self._journal.begin(seq)
        began = time.perf_counter()
        try:
            operation = wire.Operation(*self._plane.unpack(memoryview(body)[wire.CALL_HEAD.size :], parts))
        except BaseException as exc:  # whatever the user's __setstate__ raises is the error of its item
            if forking.is_child:
                forking.end_child(exc)
            if count > 1:  # which one it is turns out when they come one by one
                self._channel.send(wire.UNREADABLE, wire.UNREADABLE_BODY.pack(seq))
            else:
                answer(self._channel, self._plane, seq, time.perf_counter() - began, wire.ERRORS, encode_error(exc), count)
            return

        if forking.is_child:
            forking.end_child()
        self._journal.begin_items()
        del body  # may be large, and the call may take long
        self._item_base = (call_number, start) if call_number else None
        self._host.worker.begin_calls()
        if self._host.item_streams is not None:
            self._choose_streams(self._host.item_streams, operation.verb)
        if operation.verb == "map":
            self._chunks.run(seq, operation, count)
        else:
            lane, data = self._perform(operation)
            del operation  # its arrays are given back before the answer can lead to the next call
            answer(self._channel, self._plane, seq, time.perf_counter() - began, lane, data)
        self._plane.drop_unshared()
        self._item_base = None

    def _choose_streams(self, streams: ItemStreams, verb: str) -> None:
        """Have the global generators be the worker's own, or ready for items; those of a map are seeded one by one."""
        if self._item_base is None:
            streams.leave()
            return
        streams.enter()
        if verb != "map":
            streams.seed_item()

    def _perform(self, operation: wire.Operation) -> tuple[int, bytes | Parcel]:
        """Carry one operation out; return the lane and the bytes of its outcome."""
        try:
            value = self._host.perform(operation)
        except BaseException as exc:  # SystemExit and KeyboardInterrupt too are the call's error; the worker lives
            if forking.is_child:
                forking.end_child(exc)
            return wire.ERRORS, encode_error(exc)
        if forking.is_child:
            forking.end_child()
        return pack_outcome(self._plane, self._host.worker.worker_id, operation.name, value, may_share=operation.verb != "get")

    def _locate_item(self) -> tuple[int, int] | None:
        if self._item_base is None:
            return None
        call_number, start = self._item_base
        return call_number, start + self._journal.done


def run_worker(channel_fd: int, journal_fd: int, evidence_fd: int, segments_fd: int | None = None) -> None:
    """Be a worker process: boot from the first frame, serve, leave. Never returns.

    Parameters
    ----------
    channel_fd : int
        The worker's end of its channel.
    journal_fd : int
        Shared memory for its journal.
    evidence_fd : int
        A pipe for what it says when it is in trouble; see `distress`.
    segments_fd : int or None
        Shared memory for large buffers, where it needs no names.
    """
    lineage.enter_helper()
    interrupt = distress.install(evidence_fd)
    channel = wire.WorkerChannel(channel_fd, natives.Lock())
    journal = Journal(journal_fd)
    natives.close(journal_fd)
    steps, status, delete_object = Steps(channel), 0, _do_nothing
    forking.protect(channel.detach, journal.detach, lambda: distress.detach(evidence_fd))
    try:
        booted = _boot(channel, segments_fd)
        if booted is not None:
            host, plane, boot = booted
            delete_object = functools.partial(_delete_object, host, plane)
            channel.on_idle = plane.trim
            host.loop.tell_when_made(lambda: _wait_in_loop(channel, host.loop))
            if WorkerLoop(channel, journal, host, plane, interrupt, boot.max_rss).run() and host.has_end():
                status = _finish(host, channel, steps)
    except wire.ChannelClosedError:
        status = 1
    except BaseException as exc:  # the object's own close() raised: say so, and leave all the same
        if forking.is_child:
            forking.end_child(exc)
        if not interrupt.has_come:
            sys.excepthook(*sys.exc_info())
        status = 1
    finally:
        leave(status, steps, delete_object)


def _wait_in_loop(channel: wire.WorkerChannel, loop: EventLoop) -> None:
    """Have the worker run its event loop whenever it waits for the parent."""
    channel.wait_for_descriptor = loop.wait_for_descriptor
    forking.protect_also(loop.detach)


def _do_nothing() -> None:
    pass


def _delete_object(host: Host, plane: WorkerPlane) -> None:
    plane.forget_results()
    host.forget()


def _finish(host: Host, channel: wire.WorkerChannel, steps: Steps) -> int:
    """Run the object's own end and tell the parent what it raises; return the exit code."""
    steps.tell(wire.FINISHING)
    try:
        host.finish()
    except BaseException as exc:
        channel.send(wire.END_FAILED, host.name_of_end().encode(), b"\0", encode_error(exc))
        return 1
    return 0


def _boot(channel: wire.WorkerChannel, segments_fd: int | None) -> tuple[Host, WorkerPlane, booting.Boot] | None:
    """Bring the worker up and tell the parent; None if the constructor failed."""
    _kind, body = channel.receive()
    boot: booting.Boot = pickle.loads(body)
    prefix, base = boot.segments_prefix, boot.segments_base
    plane = WorkerPlane(segments_fd, prefix, base, boot.shared_memory_limit, channel.write)

    def read_cargo() -> Any:
        _kind, body, parts = receive(channel, plane)
        return plane.unpack(body, parts)

    try:
        plane.open_tables()
        booting.apply_environment(boot)
        worker = make_worker(boot, channel)
        _send_logs_home(channel, worker, boot.log_levels)
        debugger.install(channel, worker)
        host, ready = booting.build_host(boot, worker, read_cargo)
    except BaseException as exc:
        if forking.is_child:
            forking.end_child(exc)
        channel.send(wire.INIT_FAILED, encode_error(exc))
        return None

    if forking.is_child:
        forking.end_child()
    channel.send(wire.READY, pickle.dumps(ready))
    return host, plane, boot


def make_worker(boot: booting.Boot, channel: wire.WorkerChannel) -> context.Worker:
    """Make the answer to ``current_worker()`` and install it."""

    def on_progress(done: int, total: int | None) -> None:
        channel.send(wire.PROGRESS, pickle.dumps((done, total)))

    worker = context.Worker(
        boot.worker_id,
        boot.n_workers,
        device=pickle.loads(boot.device),
        generation=boot.generation,
        pool_name=boot.pool_name,
        entropy=boot.entropy,
        depth=boot.depth,
        on_progress=on_progress,
    )
    context.enter_worker(worker, whole_process=True)
    return worker


def _send_logs_home(channel: wire.WorkerChannel, worker: context.Worker, levels: dict[str, int]) -> None:
    from objproxy._worker.logs import send_records_home

    send_records_home(channel, worker, levels)

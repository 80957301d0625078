"""Workers that are processes: one channel each, nothing shared between them.

::

    parent                               nursery                          worker
    ------                               -------                          ------
    socketpair, journal
    "start" + descriptors ─────────────> fork ──────────────────────────> run_worker
    BOOT frame ───────────────────────────────── channel ───────────────> build the object
                                                 channel <─────────────── READY or INIT_FAILED
    CALL frames ──────────────────────────────── channel ───────────────> call
                                                 channel <─────────────── REPLY
                                         reap <───────────────────────────X
    "exited" <───────────────────────────┘
    read the channel to its end, then the journal: what is missing is lost

A worker is dead when the nursery has reaped it. The end of its channel comes first but is no proof: a process that it forked
may hold the channel open, and a worker may close it by mistake; such a worker is killed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import signal
import socket
import sys
import time
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

from objproxy._engine import messages as m
from objproxy._worker import journal as journals
from objproxy._worker import wire
from objproxy._worker.arena import Arena
from objproxy._worker.boot import Ready
from objproxy._worker.outcome import decode_error
from objproxy._worker.parcel import Parcel, pack, pack_operation
from objproxy._worker.wire import Operation
from objproxy.backends.base import Capabilities, PoolContext, WorkerInfo
from objproxy.backends.nurseries import START_METHODS, NurseryLostError, PoolNursery, interpreter, open_nursery, warm_up
from objproxy.backends.plane import Lane, program_plane
from objproxy.backends.poller import WRITABLE, Poller
from objproxy.backends.replies import decode_segments
from objproxy.errors import WorkerInitError


class _Link:
    """The parent's end of one worker."""

    __slots__ = (
        "detail",
        "fd",
        "generation",
        "info",
        "is_ended",
        "journal",
        "lane",
        "outgoing",
        "pid",
        "reader",
        "received",
        "sent",
        "sock",
        "started_at",
        "worker_id",
    )

    def __init__(
        self,
        worker_id: int,
        generation: int,
        sock: socket.socket,
        reader: wire.FrameReader,
        journal: journals.Journal,
        lane: Lane,
        now: float,
    ) -> None:
        self.worker_id = worker_id
        self.generation = generation
        self.sock = sock
        self.fd = sock.fileno()
        self.journal = journal
        self.lane = lane
        self.reader = reader
        self.outgoing: deque[memoryview] = deque()  # what the channel had no room for
        self.sent: deque[tuple[int, str]] = deque()  # batches not answered in full: (seq, method)
        self.received = 0  # items of the oldest of them that have arrived
        self.pid: int | None = None
        self.info = WorkerInfo()
        self.started_at = now
        self.detail = ""
        self.is_ended = False  # nothing more will come on the channel


class ProcessBackend:
    """Runs each worker in a process."""

    name = "process"
    capabilities = Capabilities(can_kill=True, crosses_processes=True, binds_devices=True, start_methods=START_METHODS)

    def __init__(self) -> None:
        self._settings: dict[str, Any] = {}
        self._nursery: PoolNursery | None = None
        self._links: dict[int, _Link] = {}
        self._by_fd: dict[int, _Link] = {}
        self._plane = program_plane()
        self._arena: Arena | None = None  # for arguments on their way
        self._events: list[m.Event] = []
        self._space = memoryview(bytearray(wire.READ_SIZE))  # for one read of any channel
        self._poller = Poller()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._poller.add(self._wake_read)
        self._is_closed = False
        _open_backends.add(self)

    def open(self, context: PoolContext) -> None:
        """Note how the program looks now: the workers will look the same."""
        self._recipe = context.recipe
        self._on_progress = context.on_progress
        self._on_log = context.on_log
        self._on_forget = context.on_forget
        self._shared_memory_limit = context.shared_memory_limit
        self._arena = self._plane.open_arena(context.shared_memory_limit)
        start_method = context.start_method or START_METHODS[0]
        self._settings = {
            "start_method": start_method,
            "environ": _apply(dict(os.environ), context.environ),
            "path": list(sys.path),
            "argv": list(sys.argv),
            "cwd": _working_directory(),
            "executable": interpreter(),
            "modules": list(context.modules),
        }
        self._preload = context.preload
        if start_method != "fork":
            warm_up()  # it starts while the class is being pickled

    # ---- the protocol ---------------------------------------------------------------------------------------------------

    #: Return the monotonic time.
    now = staticmethod(time.monotonic)

    def encode(self, operation: Operation) -> bytes | Parcel:
        """Pickle, here and now."""
        return pack_operation(operation, self._arena)

    def pack(self, value: Any) -> bytes | Parcel:
        """Pickle a value."""
        return pack(value, self._arena)

    def start(self, worker_id: int, generation: int) -> None:
        """Ask the nursery for a worker and send it what it needs to come up."""
        nursery = self._nursery or self._open_nursery()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                link, journal_fd = self._make_link(worker_id, generation, ours)
            except BaseException:  # no descriptors are left, perhaps
                ours.close()
                raise
            inherited = (theirs.fileno(), journal_fd, self._plane.segments.fd)
            try:
                nursery.start_worker(worker_id, generation, tuple(fd for fd in inherited if fd is not None))
            except NurseryLostError:
                pass  # its end is in the poller, and will be told as the end of every worker
            finally:
                os.close(journal_fd)
        self._links[worker_id] = self._by_fd[link.fd] = link
        self._poller.add(link.fd)
        self._boot(link)

    def _make_link(self, worker_id: int, generation: int, ours: socket.socket) -> tuple[_Link, int]:
        """Return the parent's end of a new worker, and the descriptor of its journal."""
        ours.setblocking(False)
        reader = wire.FrameReader(ours, self._space)
        lane = Lane(self._plane, functools.partial(self._on_forget, worker_id))
        journal_fd = journals.create()
        return _Link(worker_id, generation, ours, reader, journals.Journal(journal_fd), lane, self.now()), journal_fd

    def _boot(self, link: _Link) -> None:
        """Send what a worker needs to come up."""
        cargo = self._recipe.cargo(link.worker_id, link.generation)
        boot = self._recipe.boot(link.worker_id, link.generation)._replace(
            n_replays=len(cargo) - 1,
            segments_prefix=self._plane.segments.prefix,
            segments_base=link.lane.base,
            shared_memory_limit=self._shared_memory_limit,
        )
        self._write(link, wire.frame(wire.BOOT, pickle.dumps(boot, 5)))
        for packed in cargo:
            self._write_packed(link, wire.CARGO, b"", packed)

    def _open_nursery(self) -> PoolNursery:
        preload = self._preload() if self._settings["start_method"] == "forkserver" else None
        self._nursery = open_nursery({**self._settings, "preload": preload})
        self._poller.add(self._nursery.fileno())
        return self._nursery

    def send(self, worker_id: int, batch: m.Batch) -> None:
        """Write a batch to a worker's channel, as far as it has room; the rest follows when it has."""
        link = self._links.get(worker_id)
        if link is None:
            return  # dead: its last reply, which has led here, and its end were found together, and the end comes next
        rules = batch.rules
        head = wire.CALL_HEAD.pack(batch.seq, rules.call_number, batch.start, batch.count)
        link.sent.append((batch.seq, rules.method))
        self._write_packed(link, wire.CALL, head, batch.payload.data)

    def _write_packed(self, link: _Link, kind: int, head: bytes, data: bytes | Parcel) -> None:
        if isinstance(data, Parcel):
            self._write(link, link.lane.announce(data) + wire.frame(kind, head, data.stream))
        else:
            self._write(link, wire.frame(kind, head, data))

    def end(self, worker_id: int, generation: int, is_polite: bool) -> None:
        """Ask a worker to end, or have it killed."""
        link = self._links.get(worker_id)
        if link is None or link.generation != generation:
            return
        if is_polite:
            self._write(link, wire.frame(wire.STOP))
        else:
            self._kill(link)

    def wait(self, timeout: float | None) -> Sequence[m.Event]:
        """Wait for channels and the nursery."""
        ready = self._poller.wait(timeout)  # an interrupt (Ctrl-C) in here does no harm
        try:
            for fd, mask in ready:
                self._serve_descriptor(fd, mask)
        except BaseException:
            # Something may have been read and not taken in. Nobody can tell what, so nothing of a busy worker is believed.
            for link in self._links.values():
                if link.sent:
                    self._kill(link)
            raise
        events, self._events = self._events, []
        return events

    def _serve_descriptor(self, fd: int, mask: int) -> None:
        link = self._by_fd.get(fd)
        if link is not None:
            if mask & WRITABLE:
                self._write_more(link)
            if mask != WRITABLE:
                self._read(link)
        elif fd == self._wake_read:
            with contextlib.suppress(BlockingIOError):
                os.read(fd, 4096)
        elif self._nursery is not None and fd == self._nursery.fileno():
            self._hear_nursery(self._nursery)

    def wake(self) -> None:
        """Make `wait` return."""
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake_write, b"x")

    def info(self, worker_id: int) -> WorkerInfo:
        """Return what is known of a worker."""
        link = self._links.get(worker_id)
        return link.info if link is not None else WorkerInfo()

    def close(self) -> None:
        """End the nursery and give the descriptors back."""
        if self._is_closed:
            return
        self._is_closed = True
        _open_backends.discard(self)
        if self._nursery is not None:
            self._nursery.close()
        for link in self._links.values():  # none, but for those that the kernel could not end
            link.lane.end(is_certain=False)
        self._close_descriptors()
        if self._arena is not None:
            self._plane.close_arena(self._arena)

    def abandon(self) -> None:
        """Close what a forked child has inherited."""
        if not self._is_closed:
            self._is_closed = True
            if self._nursery is not None:
                self._nursery.abandon()
            self._close_descriptors()

    def _close_descriptors(self) -> None:
        for link in self._links.values():
            link.sock.close()
            link.journal.close()
        self._links.clear()
        self._by_fd.clear()
        self._poller.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    # ---- channels -------------------------------------------------------------------------------------------------------

    def _write(self, link: _Link, data: bytes) -> None:
        if not link.outgoing:
            try:
                sent = os.write(link.fd, data)
            except BlockingIOError:
                sent = 0
            except OSError:  # the worker is gone; its end will be told by the nursery
                return
            if sent == len(data):
                return
            data = memoryview(data)[sent:]  # type: ignore[assignment]
            self._poller.watch_writable(link.fd, True)
        link.outgoing.append(memoryview(data))

    def _write_more(self, link: _Link) -> None:
        while link.outgoing:
            data = link.outgoing[0]
            try:
                sent = os.write(link.fd, data)
            except BlockingIOError:
                return
            except OSError:
                link.outgoing.clear()
                break
            if sent < len(data):
                link.outgoing[0] = data[sent:]
            else:
                link.outgoing.popleft()
        if not link.is_ended:
            self._poller.watch_writable(link.fd, False)

    def _read(self, link: _Link) -> bool:
        """Read what is there and take the frames in; False when nothing more will come."""
        try:
            for kind, body in link.reader.read():
                if kind == wire.REPLY:
                    self._handle_reply(link, body)
                else:
                    self._handle_frame(link, kind, body)
        except BlockingIOError:
            return False
        except wire.ChannelClosedError as exc:
            link.detail = str(exc) if "protocol" in str(exc) else link.detail
            self._end_of_channel(link)
            return False
        except Exception as exc:  # damaged bytes: whatever they do to the decoder, the worker cannot be trusted any more
            link.detail = f"What it sent could not be understood ({type(exc).__name__}: {exc})"
            self._end_of_channel(link)
            return False
        return True

    def _end_of_channel(self, link: _Link) -> None:
        if not link.is_ended:
            link.is_ended = True
            self._poller.remove(link.fd)
            # It is ending; if it is not, it has closed its channel and cannot be reached again. Where its start has not been
            # told yet, that is in the nursery's channel, which is read in the same turn, and it is killed then.
            if link.pid is not None:
                self._kill(link)

    def _kill(self, link: _Link) -> None:
        if self._nursery is None:
            return
        if link.pid is None:  # it has not been forked yet: the nursery is still loading the class, perhaps for ever
            self._nursery.kill()
        else:
            self._nursery.signal_worker(link.worker_id, link.generation, signal.SIGKILL)

    def _handle_frame(self, link: _Link, kind: int, body: bytes) -> None:
        if kind == wire.READY:
            ready: Ready = pickle.loads(body)
            seconds = self.now() - link.started_at
            link.pid = ready.pid
            link.info = WorkerInfo(ready.pid, max(0.0, seconds - ready.init_seconds), ready.init_seconds, ready.attributes)
            self._events.append(m.Ready(link.worker_id, link.generation))
        elif kind == wire.INIT_FAILED:
            self._events.append(m.InitFailed(link.worker_id, link.generation, self._init_error(link, body)))
        elif kind == wire.OUTGROWN:
            self._events.append(m.Outgrown(link.worker_id, link.generation))
        elif kind == wire.PARTS:
            link.lane.expect(body)
        elif kind == wire.LOG:
            self._on_log(pickle.loads(body))
        elif kind == wire.PROGRESS:
            self._on_progress(link.worker_id, *pickle.loads(body))
        else:
            raise wire.ChannelClosedError(f"unknown kind of frame {kind}")

    def _handle_reply(self, link: _Link, body: bytes) -> None:
        seq, is_last, nanoseconds = wire.REPLY_HEAD.unpack_from(body)
        method = link.sent[0][1]
        outcomes, failed = decode_segments(body, wire.REPLY_HEAD.size, link.worker_id, method, link.lane.unpack)
        if is_last:
            link.sent.popleft()
            link.received = 0
        else:
            link.received += len(outcomes)
        self._events.append(m.Replied(link.worker_id, link.generation, seq, outcomes, failed, is_last, nanoseconds / 1e9))

    def _init_error(self, link: _Link, body: bytes) -> WorkerInitError:
        cause = decode_error(body)
        device = self._recipe.device(link.worker_id)
        error = WorkerInitError(
            link.worker_id,
            f"its constructor raised {type(cause).__name__}: {cause}",
            device=str(device) if device is not None else None,
            remote_traceback=getattr(cause.__cause__, "text", ""),
        )
        error.__cause__ = cause
        return error

    # ---- the nursery ----------------------------------------------------------------------------------------------------

    def _hear_nursery(self, nursery: PoolNursery) -> None:
        try:
            verb, worker_id, generation, value = nursery.receive()
        except NurseryLostError:
            self._lose_nursery(nursery)
            return
        if verb == "born":
            nursery.is_born(value)
            return
        link = self._links.get(worker_id)
        if link is None or link.generation != generation:
            return
        if verb == "started":
            link.pid = value
            if link.is_ended:
                self._kill(link)
        else:
            self._bury(link, value)

    def _lose_nursery(self, nursery: PoolNursery) -> None:
        """Take in that the nursery has ended, and its workers with it; the next start makes a new one."""
        self._nursery = None
        self._poller.remove(nursery.fileno())
        nursery.close()
        for link in list(self._links.values()):
            link.detail = "The process that loads its class and watches over it has ended"
            self._bury(link, -signal.SIGKILL, is_reaped=False)

    def _bury(self, link: _Link, exitcode: int, *, is_reaped: bool = True) -> None:
        """Read what is left of a dead worker."""
        while not link.is_ended and self._read(link):
            pass
        if not link.is_ended:
            link.is_ended = True
            self._poller.remove(link.fd)
        self._events.append(self._autopsy(link, exitcode))
        del self._links[link.worker_id], self._by_fd[link.fd]
        link.sock.close()
        link.journal.close()
        link.lane.end(is_certain=is_reaped)

    def _autopsy(self, link: _Link, exitcode: int) -> m.Died:
        died = m.Died(link.worker_id, link.generation, exitcode, link.pid, detail=link.detail)
        if not link.sent:
            return died
        seq, method = link.sent[0]
        found = link.journal.recover(seq, link.received)
        if found is None:
            return died
        segment, running = found
        outcomes, failed = ((), ()) if segment is None else decode_segments(segment.packed(), 0, link.worker_id, method)
        return died._replace(recovered=outcomes, failed=failed, running=running, started_seq=seq)


def _apply(environ: dict[str, str], changes: dict[str, str | None]) -> dict[str, str]:
    for name, value in changes.items():
        if value is None:
            environ.pop(name, None)
        else:
            environ[name] = value
    return environ


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "/"


_open_backends: weakref.WeakSet[ProcessBackend] = weakref.WeakSet()


def _abandon_all() -> None:
    """Close, in a forked child, the channels of every pool of the parent: a copy would keep dead workers' channels open."""
    for backend in list(_open_backends):
        backend.abandon()


os.register_at_fork(after_in_child=_abandon_all)

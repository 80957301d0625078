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
import sys
import time
import weakref
from collections.abc import Sequence
from typing import Any

from objproxy._engine import failures
from objproxy._engine import messages as m
from objproxy._worker import journal as journals
from objproxy._worker import natives, platform, process_state, wire
from objproxy._worker.arena import Arena
from objproxy._worker.boot import Ready
from objproxy._worker.descriptors import make_pipe, make_socket_pair
from objproxy._worker.hubs import WRITABLE
from objproxy._worker.items import pack_operation
from objproxy._worker.outcome import decode_error
from objproxy._worker.parcel import Parcel, pack
from objproxy._worker.shared_values import registered
from objproxy._worker.wire import Operation
from objproxy.backends.base import Capabilities, PoolContext, WorkerInfo
from objproxy.backends.debugging import DebugDesk
from objproxy.backends.links import Link
from objproxy.backends.nurseries import START_METHODS, NurseryLostError, PoolNursery, find_executable, open_nursery
from objproxy.backends.plane import Lane, program_plane
from objproxy.backends.poller import Poller
from objproxy.backends.replies import load_message, recover, take_reply, take_stopping, take_unreadable
from objproxy.backends.shared_objects import ArgumentSharing
from objproxy.backends.surroundings import apply_changes, working_directory
from objproxy.handling import describe

_END_STEPS = {wire.FINISHING: "finishing", wire.JOINING: "joining", wire.LEAVING: "leaving"}


class ProcessBackend:
    """Runs each worker in a process."""

    name = "process"
    capabilities = Capabilities(
        can_kill=True,
        crosses_processes=True,
        binds_devices=True,
        start_methods=START_METHODS,
        can_run_concurrently=True,
    )

    def __init__(self) -> None:
        self._settings: dict[str, Any] = {}
        self._nursery: PoolNursery | None = None
        self._links: dict[int, Link] = {}
        self._by_fd: dict[int, Link] = {}
        self._buried: list[Link] = []  # dead, and not closed yet
        self._inspected: dict[int, Link] = {}  # by the descriptors of their pipes
        self._memory_kills = platform.MemoryKills()
        self._plane = program_plane()
        self._arena: Arena | None = None  # for arguments on their way
        self._sharing: ArgumentSharing | None = None  # what they share, once a type is registered
        self._events: list[m.Event] = []
        self._space = memoryview(bytearray(wire.READ_SIZE))  # for one read of any channel
        self._desk = DebugDesk()
        self._poller = Poller()
        self._wake_read, self._wake_write = make_pipe()
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
            "environ": apply_changes(dict(os.environ), context.environ),
            "path": list(sys.path),
            "argv": list(sys.argv),
            "cwd": working_directory(),
            "executable": find_executable(start_method),  # this also starts the root, while the class is being pickled
            "modules": list(context.modules),
            "state": process_state.read_state() if start_method != "fork" else None,
        }
        self._preload = context.preload
        self._argument_modules = context.argument_modules

    # ---- the protocol ---------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Return the monotonic time, without the time in which somebody was asked to type."""
        return time.monotonic() - self._desk.paused

    def encode(self, operation: Operation) -> bytes | Parcel:
        """Pickle, here and now."""
        if not registered:
            return pack_operation(operation, self._arena)
        if self._sharing is None:
            self._sharing = ArgumentSharing(self._arena)
        return self._sharing.pack(operation)

    def pack(self, value: Any) -> bytes | Parcel:
        """Pickle a value."""
        return pack(value, self._arena)

    def start(self, worker_id: int, generation: int) -> None:
        """Ask the nursery for a worker and send it what it needs to come up."""
        cargo = self._recipe.cargo(worker_id, generation)  # there may be no room for it: before anything is opened
        nursery = self._nursery or self._open_nursery()
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            link, inherited = self._make_link(worker_id, generation, theirs, ours)
            self._poller.add(link.fd)
            ours.callback(self._poller.remove, link.fd)
            with contextlib.suppress(NurseryLostError):  # its end is in the poller, and will be told as that of every worker
                nursery.start_worker(worker_id, generation, inherited)
            ours.pop_all()  # they live as long as the link
        self._links[worker_id] = self._by_fd[link.fd] = link
        self._boot(link, cargo)

    def _make_link(
        self, worker_id: int, generation: int, theirs: contextlib.ExitStack, ours: contextlib.ExitStack
    ) -> tuple[Link, tuple[int, ...]]:
        """Return the parent's end of a new worker, and the descriptors for the worker.

        What is opened is put on the two stacks at once: where descriptors run out, none may stay open.
        """
        mine, its = make_socket_pair()
        ours.enter_context(mine)
        theirs.enter_context(its)
        mine.setblocking(False)
        evidence_fd, its_evidence = make_pipe()
        ours.callback(natives.close, evidence_fd)
        theirs.callback(natives.close, its_evidence)
        os.set_blocking(evidence_fd, False)
        journal_fd = journals.create()
        theirs.callback(natives.close, journal_fd)
        journal = journals.Journal(journal_fd)
        ours.callback(journal.close)
        lane = Lane(self._plane, functools.partial(self._on_forget, worker_id))
        ours.callback(lane.end)
        reader = wire.FrameReader(mine, self._space)
        link = Link(worker_id, generation, mine, evidence_fd, reader, journal, lane, self.now())
        inherited = (its.fileno(), journal_fd, its_evidence, self._plane.segments.fd)
        return link, tuple(fd for fd in inherited if fd is not None)

    def _boot(self, link: Link, cargo: Sequence[Any]) -> None:
        """Send what a worker needs to come up."""
        boot = self._recipe.boot(link.worker_id, link.generation)._replace(
            n_replays=len(cargo) - 1,
            segments_prefix=self._plane.segments.prefix,
            segments_base=link.lane.base,
            shared_memory_limit=self._shared_memory_limit,
        )
        link.write(wire.frame(wire.BOOT, pickle.dumps(boot, 5)), self._poller)
        for packed in cargo:
            self._write_packed(link, wire.CARGO, b"", packed)

    def _open_nursery(self) -> PoolNursery:
        preload = self._preload() if self._settings["start_method"] == "forkserver" else None
        # What the class and its constructor's arguments need is imported once, not by each worker.
        modules = [] if preload is None else [*self._settings["modules"], *self._argument_modules()]
        self._nursery = open_nursery({**self._settings, "preload": preload, "modules": modules})
        self._poller.add(self._nursery.fileno())
        return self._nursery

    def send(self, worker_id: int, batch: m.Batch) -> None:
        """Write a batch to a worker's channel, as far as it has room; the rest follows when it has."""
        link = self._links.get(worker_id)
        if link is None:
            return  # dead: its last reply, which has led here, and its end were found together, and the end comes next
        rules = batch.rules
        head = wire.CALL_HEAD.pack(batch.seq, rules.call_number, batch.start, batch.count)
        if rules.concurrency:
            link.tasks[batch.seq] = rules.method
            self._write_packed(link, wire.TASK, head, batch.payload.data)
            return
        link.sent.append((batch.seq, rules.method, batch.count))
        self._write_packed(link, wire.CALL, head, batch.payload.data)

    def stop(self, worker_id: int, generation: int, seq: int, limit: float | None) -> None:
        """Have a worker cancel a task; the journal knows when that began."""
        link = self._links.get(worker_id)
        if link is None or link.generation != generation or seq not in link.tasks:
            return
        if limit is not None:
            began = link.journal.began_task(seq) - self._desk.paused
            if began + limit > self.now():
                self._events.append(m.NotDue(worker_id, generation, seq, began))
                return
        link.write(wire.frame(wire.CANCEL, wire.TASK_HEAD.pack(seq)), self._poller)

    def _write_packed(self, link: Link, kind: int, head: bytes, data: bytes | Parcel) -> None:
        if isinstance(data, Parcel):
            link.write(link.lane.announce(data) + wire.frame(kind, head, data.stream), self._poller)
        else:
            link.write(wire.frame(kind, head, data), self._poller)

    def end(self, worker_id: int, generation: int, how: str) -> None:
        """Ask a worker to end, interrupt it, or have it killed."""
        link = self._links.get(worker_id)
        if link is None or link.generation != generation:
            return
        if how in ("ask", "leave"):
            link.write(wire.frame(wire.STOP if how == "ask" else wire.LEAVE), self._poller)
        elif how == "interrupt":
            link.is_given_up = True
            self._signal(link, signal.SIGINT)
        else:
            self._signal(link, signal.SIGKILL)

    def inspect(self, worker_id: int, generation: int, is_last_call: bool, limit: float | None = None) -> None:
        """Have a worker write its stacks into its pipe."""
        link = self._links.get(worker_id)
        if link is None or link.generation != generation:
            return
        began = link.began() - self._desk.paused
        if limit is not None and not link.is_being_inspected and began + limit > self.now():
            self._events.append(m.Inspected(worker_id, generation, "", began=began))
        elif is_last_call or link.pid is None or not platform.hears(link.pid, platform.STACK_SIGNAL):
            self._tell_stack(link)
        elif not link.is_being_inspected:
            link.begin_inspection(self._poller)
            self._inspected[link.evidence_fd] = link
            self._signal(link, platform.STACK_SIGNAL)
        elif link.has_fallen_silent():
            self._tell_stack(link)

    def _tell_stack(self, link: Link) -> None:
        self._inspected.pop(link.evidence_fd, None)
        link.read_evidence()
        activity = None if link.pid is None else platform.process_activity(link.pid)
        self._events.append(m.Inspected(link.worker_id, link.generation, link.end_inspection(self._poller), activity))

    def wait(self, timeout: float | None) -> Sequence[m.Event]:
        """Wait for channels and the nursery."""
        if self._buried:
            self._close_buried()
        ready = self._poller.wait(0 if self._events else timeout)
        try:
            for fd, mask in ready:
                self._serve_descriptor(fd, mask)
        except BaseException:
            # Something may have been read and not taken in. Nobody can tell what, so nothing of a busy worker is believed.
            for link in list(self._links.values()):  # another thread may start a worker
                if (link.sent or link.tasks) and not link.is_ended:
                    self._end_of_channel(link)
            raise
        events, self._events = self._events, []
        return events

    def _serve_descriptor(self, fd: int, mask: int) -> None:
        link = self._by_fd.get(fd)
        if link is not None:
            if mask & WRITABLE:
                link.write_more(self._poller)
            if mask != WRITABLE:
                self._read(link)
        elif fd in self._inspected:
            if self._inspected[fd].read_evidence():
                self._tell_stack(self._inspected[fd])
        elif fd == self._wake_read:
            with contextlib.suppress(BlockingIOError):
                natives.read(fd, 4096)
        elif self._nursery is not None and fd == self._nursery.fileno():
            self._hear_nursery(self._nursery)

    def wake(self) -> None:
        """Make `wait` return."""
        with contextlib.suppress(BlockingIOError, OSError):
            natives.write(self._wake_write, b"x")

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
        if self._sharing is not None:
            self._sharing.close()
        if self._arena is not None:
            self._plane.close_arena(self._arena)

    def abandon(self) -> None:
        """Close what a forked child has inherited."""
        if not self._is_closed:
            self._is_closed = True
            self._arena = None  # its memory is the parent's too
            if self._nursery is not None:
                self._nursery.abandon()
            self._close_descriptors()

    def _close_descriptors(self) -> None:
        for link in (*self._links.values(), *self._buried):
            link.close()
        self._buried.clear()
        self._links.clear()
        self._inspected.clear()
        self._by_fd.clear()
        self._poller.close()
        natives.close(self._wake_read)
        natives.close(self._wake_write)

    # ---- channels -------------------------------------------------------------------------------------------------------

    def _read(self, link: Link) -> bool:
        """Read what is there and take the frames in; False when nothing more will come."""
        try:
            for kind, body in link.reader.read():
                if kind == wire.REPLY:
                    reply = take_reply(link, body)
                    self._events.append(reply)
                    if reply.is_last and self._desk.is_in_use:
                        self._desk.leave(link.worker_id)  # its task has ended in the midst of a session
                else:
                    self._handle_frame(link, kind, body)
        except BlockingIOError:
            return False
        except wire.ChannelClosedError as exc:
            link.detail = str(exc) if "protocol" in str(exc) else link.detail
            self._end_of_channel(link)
            return False
        except (MemoryError, RecursionError) as exc:  # what was read is lost
            link.detail = f"The program had no room to read what it sent ({describe(exc)})"
            self._end_of_channel(link)
            return False
        except Exception as exc:  # damaged bytes: whatever they do to the decoder, the worker cannot be trusted any more
            link.detail = f"protocol error: what it sent could not be understood ({describe(exc)})"
            self._end_of_channel(link)
            return False
        return True

    def _end_of_channel(self, link: Link) -> None:
        link.is_ended = True
        self._poller.remove(link.fd)
        # It is ending; if it is not, it has closed its channel and cannot be reached again. Where its start has not been
        # told yet, that is in the nursery's channel, which is read in the same turn, and it is killed then.
        if link.pid is not None:
            self._signal(link, signal.SIGKILL)

    def _signal(self, link: Link, number: int) -> None:
        if self._nursery is None:
            return
        if link.pid is not None:
            self._nursery.signal_worker(link.worker_id, link.generation, number)
        elif number == signal.SIGKILL:  # it has not been forked yet: the nursery is still loading the class, perhaps for ever
            self._nursery.kill()

    def _handle_frame(self, link: Link, kind: int, body: bytes) -> None:
        if kind == wire.READY:
            if link.info.pid is not None:
                raise wire.ChannelClosedError("protocol error: it said a second time that it is ready")
            ready: Ready = pickle.loads(body)
            seconds = self.now() - link.started_at
            link.pid = ready.pid
            link.info = WorkerInfo(ready.pid, max(0.0, seconds - ready.init_seconds), ready.init_seconds, ready.attributes)
            self._events.append(m.Ready(link.worker_id, link.generation))
        elif kind == wire.INIT_FAILED:
            device = self._recipe.device(link.worker_id)
            cause, device_text = decode_error(body), str(device) if device is not None else None
            error = failures.raised_in_constructor(link.worker_id, cause, device_text)
            self._events.append(m.InitFailed(link.worker_id, link.generation, error))
        elif kind == wire.STOPPING:
            self._events.append(take_stopping(link, body))
        elif kind == wire.UNREADABLE:
            self._events.append(take_unreadable(link, body))
        elif kind == wire.OUTGROWN:
            self._events.append(m.Outgrown(link.worker_id, link.generation))
        elif kind == wire.ENDING:
            self._events.append(m.Ending(link.worker_id, link.generation, _END_STEPS[body[0]]))
        elif kind == wire.END_FAILED:
            method, _, encoded = body.partition(b"\0")
            self._events.append(m.EndFailed(link.worker_id, link.generation, method.decode(), decode_error(encoded)))
        elif kind == wire.PARTS:
            link.lane.expect(body)
        elif kind == wire.SHARED:
            link.lane.keep(body)
        elif kind == wire.UNSHARED:
            link.lane.drop(body)
        elif kind == wire.DEBUG_IN and link.is_given_up:
            self._answer_debugger(link, b"")  # nobody is asked for a call that nobody wants: its debugger ends
        elif kind in (wire.DEBUG_OUT, wire.DEBUG_IN, wire.DEBUG_END):
            self._desk.serve(link.worker_id, kind, body, functools.partial(self._answer_debugger, link))
        elif kind == wire.LOG:
            for record in load_message(body, link.worker_id):
                self._on_log(record)
        elif kind == wire.PROGRESS:
            for report in load_message(body, link.worker_id):
                self._on_progress(link.worker_id, *report)
        else:
            raise wire.ChannelClosedError(f"protocol error: unknown kind of frame {kind}")

    def _answer_debugger(self, link: Link, line: bytes) -> None:
        if not link.is_ended:
            link.write(wire.frame(wire.DEBUG_LINE, line), self._poller)

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
        if verb == "lacking":
            self._refuse_all(nursery, value)
            return
        link = self._links.get(worker_id)
        if link is None or link.generation != generation:
            return
        if verb == "started":
            link.pid = value
            if link.is_ended:
                self._signal(link, signal.SIGKILL)
        elif verb == "refused":
            self._refuse(link, value)
        else:
            self._bury(link, *value)

    def _refuse(self, link: Link, number: int) -> None:
        error = OSError(number, f"{os.strerror(number)}: the system has no room for worker {link.worker_id}")
        self._events.append(m.StartFailed(link.worker_id, link.generation, error))
        self._forget(link)

    def _refuse_all(self, nursery: PoolNursery, number: int) -> None:
        """Take in that the system has no room for the nursery; the next start asks for one anew."""
        self._nursery = None
        self._poller.remove(nursery.fileno())
        nursery.close()
        for link in list(self._links.values()):
            self._refuse(link, number)

    def _lose_nursery(self, nursery: PoolNursery) -> None:
        """Take in that the nursery has ended, and its workers with it; the next start makes a new one."""
        self._nursery = None
        self._poller.remove(nursery.fileno())
        nursery.close()
        for link in list(self._links.values()):
            link.detail = "The process that loads its class and watches over it has ended"
            self._bury(link, -signal.SIGKILL, is_reaped=False)

    def _bury(self, link: Link, exitcode: int, peak_rss: int | None = None, *, is_reaped: bool = True) -> None:
        """Read what is left of a dead worker."""
        while not link.is_ended and self._read(link):
            pass
        self._events.append(self._autopsy(link, exitcode)._replace(peak_rss=peak_rss))
        self._forget(link, is_reaped=is_reaped)

    def _forget(self, link: Link, *, is_reaped: bool = True) -> None:
        self._desk.leave(link.worker_id)
        if not link.is_ended:
            link.is_ended = True
            self._poller.remove(link.fd)
        del self._links[link.worker_id], self._by_fd[link.fd]
        self._buried.append(link)
        link.lane.end(is_certain=is_reaped)

    def _close_buried(self) -> None:
        """Close the descriptors of workers whose deaths the rules have taken in.

        Until then a thread that does not lead may be sending to such a worker, or asking where it stands: it found the link
        just before that was forgotten, and would write to a number that is another descriptor by now.
        """
        while self._buried:
            link = self._buried.pop()
            self._inspected.pop(link.evidence_fd, None)
            link.end_inspection(self._poller)
            link.close()

    def _autopsy(self, link: Link, exitcode: int) -> m.Died:
        self._inspected.pop(link.evidence_fd, None)
        link.read_evidence()
        detail, trace = link.detail or self._memory_kills.explain(exitcode), link.end_inspection(self._poller)
        died = m.Died(link.worker_id, link.generation, exitcode, link.pid, detail=detail, trace=trace)
        return recover(link, died)


_open_backends: weakref.WeakSet[ProcessBackend] = weakref.WeakSet()


def _abandon_all() -> None:
    """Close, in a forked child, the channels of every pool of the parent: a copy would keep dead workers' channels open."""
    for backend in list(_open_backends):
        backend.abandon()


os.register_at_fork(after_in_child=_abandon_all)

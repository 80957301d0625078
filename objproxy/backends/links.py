"""The parent's end of one worker process: its channel, what is on its way, and what it says when it is in trouble."""

from __future__ import annotations

import re
from collections import deque

from objproxy._worker import journal as journals
from objproxy._worker import natives, platform, wire
from objproxy._worker.descriptors import NO_SIGNAL, StreamSocket
from objproxy.backends.base import WorkerInfo
from objproxy.backends.plane import Lane
from objproxy.backends.poller import Poller

#: What a signal handler of the worker leaves in the pipe besides text: the numbers of signals.
_SIGNAL_BYTES = re.compile(rb"[^\n\t\x20-\xff]")
_STACK_BYTE = bytes([platform.STACK_SIGNAL])
_PIPE_BYTES = 1 << 16

#: The frames below a worker's loop, which are the same in every worker: how its process came to be.
_OWN_FRAMES = re.compile(r"(?<= in run_worker\n)(  File .*\n)+")


class Link:
    """One worker, as the back end sees it.

    Parameters
    ----------
    worker_id, generation : int
        Which one it is.
    sock : socket
        The parent's end of its channel.
    evidence_fd : int
        The reading end of the pipe into which it says where it stands (see ``_worker/distress.py``).
    reader : FrameReader
        Reads `sock`.
    journal : Journal
        What it leaves behind.
    lane : Lane
        Its part of the shared memory.
    now : float
        The time.
    """

    __slots__ = (
        "_evidence",
        "_n_looked_at",
        "detail",
        "evidence_fd",
        "fd",
        "generation",
        "info",
        "is_being_inspected",
        "is_ended",
        "is_given_up",
        "journal",
        "lane",
        "outgoing",
        "pid",
        "reader",
        "received",
        "sent",
        "sock",
        "started_at",
        "tasks",
        "worker_id",
    )

    def __init__(
        self,
        worker_id: int,
        generation: int,
        sock: StreamSocket,
        evidence_fd: int,
        reader: wire.FrameReader,
        journal: journals.Journal,
        lane: Lane,
        now: float,
    ) -> None:
        self.worker_id = worker_id
        self.generation = generation
        self.sock = sock
        self.fd = sock.fileno()
        self.evidence_fd = evidence_fd
        self.journal = journal
        self.lane = lane
        self.reader = reader
        self.outgoing: deque[memoryview] = deque()  # what the channel had no room for
        self.sent: deque[tuple[int, str, int]] = deque()  # batches not answered in full: (seq, method, number of items)
        self.tasks: dict[int, str] = {}  # concurrent tasks that were not answered, by their numbers: the methods
        self.received = 0  # items of the oldest of them that have arrived
        self.pid: int | None = None
        self.info = WorkerInfo()
        self.started_at = now
        self.detail = ""
        self.is_ended = False  # nothing more will come on the channel
        self.is_given_up = False  # it was interrupted, and will be ended
        self.is_being_inspected = False
        self._evidence = b""
        self._n_looked_at = 0  # bytes of it, at the last look

    def write(self, data: bytes, poller: Poller) -> None:
        """Write as much as the channel has room for; the rest follows when it has."""
        if not self.outgoing:
            try:
                sent = self.sock.send(data, NO_SIGNAL)
            except BlockingIOError:
                sent = 0
            except OSError:  # the worker is gone; its end will be told by the nursery
                return
            if sent == len(data):
                return
            data = memoryview(data)[sent:]  # type: ignore[assignment]
            poller.watch_writable(self.fd, True)
        self.outgoing.append(memoryview(data))

    def write_more(self, poller: Poller) -> None:
        """Write what had no room before."""
        while self.outgoing:
            data = self.outgoing[0]
            try:
                sent = self.sock.send(data, NO_SIGNAL)
            except BlockingIOError:
                return
            except OSError:
                self.outgoing.clear()
                break
            if sent < len(data):
                self.outgoing[0] = data[sent:]
            else:
                self.outgoing.popleft()
        if not self.is_ended:
            poller.watch_writable(self.fd, False)

    def began(self) -> float:
        """Return when the oldest batch began to run, as the journal says it; 0 if there is none."""
        return self.journal.began(self.sent[0][0]) if self.sent else 0.0

    def begin_inspection(self, poller: Poller) -> None:
        """Forget what was said before, and listen; only now, since else every signal of the user's would wake the parent."""
        self.read_evidence()
        self._evidence = b""
        self._n_looked_at = 0
        self.is_being_inspected = True
        poller.add(self.evidence_fd)

    def read_evidence(self) -> bool:
        """Take in what the worker has said; whether the stacks that it was asked for are complete."""
        try:
            while data := natives.read(self.evidence_fd, _PIPE_BYTES):
                self._evidence += data
        except BlockingIOError:
            return _STACK_BYTE in self._evidence
        return True  # nobody can write any more

    def has_fallen_silent(self) -> bool:
        """Whether the worker has said something, and nothing more since this was asked last: the byte will not come."""
        n_before, self._n_looked_at = self._n_looked_at, len(self._evidence)
        return 0 < self._n_looked_at == n_before

    def end_inspection(self, poller: Poller) -> str:
        """Return what was said, and listen no more."""
        if self.is_being_inspected:
            self.is_being_inspected = False
            poller.remove(self.evidence_fd)
        said, self._evidence = self._evidence, b""
        return _OWN_FRAMES.sub("", _SIGNAL_BYTES.sub(b"", said.partition(_STACK_BYTE)[0]).decode(errors="replace"))

    def close(self) -> None:
        """Give the descriptors back; nobody polls them any more."""
        self.sock.close()
        self.journal.close()
        natives.close(self.evidence_fd)

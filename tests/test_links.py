"""The parent's ends of things: channels, pollers, the channel of a nursery, the back end between them."""

from __future__ import annotations

import array
import os
import pickle
import select
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faulty import Meeting, Victim
from objproxy import ProxyPool, ResultPickleError, TaskTimeoutError, WorkerDiedError
from objproxy._engine import messages as m
from objproxy._engine import watch
from objproxy._worker import platform, wire
from objproxy._worker.outcome import Failure
from objproxy.backends import nurseries, surroundings
from objproxy.backends.links import Link
from objproxy.backends.nurseries import NurseryLostError, PoolNursery
from objproxy.backends.poller import WRITABLE, Poller
from objproxy.backends.process import ProcessBackend
from objproxy.backends.replies import decode_segments
from targets import PATIENCE_SECONDS, poll_until


@pytest.fixture(params=["epoll", "portable"])
def poller(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Poller]:
    with monkeypatch.context() as patch:
        if request.param == "portable":
            patch.setenv("OBJPROXY_PORTABLE", "1")
        made = Poller()
    yield made
    made.close()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def make_link(sock: socket.socket) -> Link:
    """Return a link that has nothing but its channel."""
    return Link(0, 0, sock, -1, wire.FrameReader(sock), None, None, 0.0)  # type: ignore[arg-type]


def fill(sock: socket.socket) -> int:
    """Write until there is room for nothing more; return how much it was."""
    n_bytes = 0
    for size in (1 << 16, 1):
        try:
            while True:
                n_bytes += sock.send(b"x" * size)
        except BlockingIOError:
            continue
    return n_bytes


def read(sock: socket.socket, n_bytes: int) -> bytes:
    data = b""
    while len(data) < n_bytes:
        data += sock.recv(n_bytes - len(data))
    return data


# ---- channels --------------------------------------------------------------------------------------------------------


def test_what_a_channel_has_no_room_for_follows_in_order(poller: Poller, ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    link = make_link(ours)
    poller.add(link.fd)
    n_bytes = fill(ours)
    for data in (b"first", b"second"):
        link.write(data, poller)
    link.write_more(poller)
    assert [bytes(data) for data in link.outgoing] == [b"first", b"second"]
    assert poller.wait(0) == []
    read(theirs, n_bytes)
    assert poller.wait(PATIENCE_SECONDS) == [(link.fd, WRITABLE)]
    link.write_more(poller)
    assert read(theirs, 11) == b"firstsecond"
    assert poller.wait(0) == []
    poller.remove(link.fd)


def test_what_a_dead_worker_was_still_to_be_sent_is_forgotten(
    poller: Poller, ends: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = ends
    link = make_link(ours)
    poller.add(link.fd)
    fill(ours)
    link.write(b"never read", poller)
    theirs.close()
    poller.remove(link.fd)
    link.is_ended = True
    link.write_more(poller)
    link.write(b"nor this", poller)
    assert not link.outgoing


def test_results_of_which_one_cannot_be_rebuilt_are_read_around_it() -> None:
    values = [pickle.dumps(1), b"cno_such_module\nname\n.", pickle.dumps(3)]
    body = wire.SEGMENT_HEAD.pack(wire.PICKLES, 3, sum(map(len, values))) + b"".join(values)
    outcomes, failed = decode_segments(body, 0, 0, "work")
    assert ([outcomes[0], outcomes[2]], list(failed)) == ([1, 3], [1])
    assert isinstance(outcomes[1], Failure)
    assert isinstance(outcomes[1].error, ResultPickleError)


def test_results_of_a_kind_that_is_not_known_end_the_channel() -> None:
    data = array.array("q", [1]).tobytes()
    with pytest.raises(wire.ChannelClosedError, match="lane 99"):
        decode_segments(wire.SEGMENT_HEAD.pack(99, 1, len(data)) + data, 0, 0, "work")


# ---- the back end ----------------------------------------------------------------------------------------------------


class Liar(Victim):
    """Sends its parent what is no answer."""

    def send(self, kind: int, body: bytes) -> None:
        for fd in map(int, os.listdir("/proc/self/fd")):
            if _is_stream(fd):
                os.write(fd, wire.frame(kind, body))
        os._exit(0)


def _is_stream(fd: int) -> bool:
    try:
        with socket.socket(fileno=os.dup(fd)) as copy:
            return copy.family == socket.AF_UNIX
    except OSError:
        return False


@pytest.mark.parametrize(("kind", "says"), [(wire.REPLY, "could not be understood"), (99, "unknown kind of frame 99")])
def test_an_answer_that_cannot_be_understood_ends_its_worker_alone(kind: int, says: str) -> None:
    with ProxyPool(Liar, worker_count=2) as pool:
        with pytest.raises(WorkerDiedError) as caught:
            pool[0].send(kind, b"?")
        assert says in str(caught.value)
        assert pool.obey.map(range(4)) == [0, 1, 2, 3]


def test_workers_that_are_not_there_are_neither_ended_nor_inspected() -> None:
    with ProxyPool(Victim, worker_count=1) as pool:
        backend: ProcessBackend = pool._core.backend  # type: ignore[assignment]
        for worker_id, generation in ((9, 0), (0, 9)):
            backend.end(worker_id, generation, "kill")
            backend.inspect(worker_id, generation, False)
        batch = type("Batch", (), {})()
        backend.send(9, batch)
        assert pool.obey(1).tolist() == [1]
        assert pool.workers[0].generation == 0


def test_an_interrupt_of_a_worker_whose_start_is_not_told_yet_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer may come before the nursery's word; a kill would take the nursery, and with it every worker."""
    with ProxyPool(Victim, worker_count=2) as pool:
        backend: Any = pool._core.backend
        link, kills = backend._links[0], []
        pid, link.pid = link.pid, None
        with monkeypatch.context() as patch:
            patch.setattr(backend._nursery, "kill", lambda: kills.append("nursery"))
            backend.end(0, 0, "interrupt")
            assert kills == []
            backend.end(0, 0, "kill")
            assert kills == ["nursery"]
        link.pid = pid


class HeldSignals:
    """Signals for workers that are on their way until the test lets them go: the machine is busy.

    Parameters
    ----------
    backend : ProcessBackend
        That of a pool.
    monkeypatch : MonkeyPatch
        Ends it.
    """

    def __init__(self, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self._signal = backend._signal
        self._held: list[tuple[Link, int]] = []
        monkeypatch.setattr(backend, "_signal", lambda *args: self._held.append(args))

    def let_go(self) -> None:
        for args in self._held:
            self._signal(*args)


def test_a_worker_that_is_asked_twice_where_it_stands_tells_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ProxyPool(Victim, worker_count=1) as pool:
        backend: Any = pool._core.backend
        meeting = Meeting(tmp_path / "meeting")
        future = pool.obey.submit(meeting)
        meeting.pid()
        poll_until(lambda: pool._core.driver._leading.locked())
        signals = HeldSignals(backend, monkeypatch)  # else it may have told before it is asked again
        with pool._core.driver._lock:
            for _ in range(2):
                backend.inspect(0, 0, False)
        signals.let_go()
        poll_until(lambda: pool._core.driver.state.workers[0].n_stacks == 1)
        meeting.end()
        assert future.result(PATIENCE_SECONDS) == "met"
        assert pool._core.driver.state.workers[0].n_stacks == 1


def test_a_worker_that_ran_too_long_on_a_busy_machine_tells_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_MAX_LOOKS", 1_000_000)
    with ProxyPool(Victim, worker_count=1) as pool, monkeypatch.context() as patch:
        signals = HeldSignals(pool._core.backend, patch)
        future = pool.obey.options(timeout=0.01).submit(Meeting(tmp_path / "never over"))
        poll_until(lambda: pool._core.driver.state.workers[0].n_looks > 3)
        patch.undo()
        signals.let_go()
        with pytest.raises(TaskTimeoutError) as caught:
            future.result(PATIENCE_SECONDS)
        assert "in obey" in caught.value.stack


def test_an_interrupt_while_answers_are_read_costs_those_who_were_busy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody can tell how much of an answer was taken in; a worker that had nothing to answer is left alone."""
    with ProxyPool(Victim, worker_count=2) as pool:
        pids, meeting = pool.pid.broadcast(), Meeting(tmp_path / "meeting")
        backend: Any = pool._core.backend

        def interrupt(*_args: Any) -> None:
            monkeypatch.undo()
            raise KeyboardInterrupt

        monkeypatch.setattr(backend, "_serve_descriptor", interrupt)
        opener = threading.Thread(target=lambda: (meeting.pid(), backend.wake()))
        opener.start()
        with pytest.raises(KeyboardInterrupt):
            pool[0].obey(meeting)
        opener.join(PATIENCE_SECONDS)
        assert pool.wait_ready(PATIENCE_SECONDS)
        again = pool.pid.options(return_exceptions=True)()
        assert again[1] == pids[1]
        assert pool.pid.broadcast()[0] != pids[0]


def test_an_answer_that_is_still_to_be_read_when_the_death_is_told_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The word of the nursery may be heard before the channel of the worker is looked at."""
    with ProxyPool(Victim, worker_count=1) as pool:
        backend: Any = pool._core.backend
        monkeypatch.setattr(pool._core.driver._pump, "call", lambda: None)  # nobody turns the engine but this thread
        future, link = pool.obey.submit(7), backend._links[0]
        for fd, end in ((link.fd, lambda: os.kill(link.pid, signal.SIGKILL)), (backend._nursery.fileno(), lambda: None)):
            assert select.select([fd], [], [], PATIENCE_SECONDS)[0]
            end()

        def look(_timeout: float | None) -> list[tuple[int, int]]:
            monkeypatch.undo()
            return [(backend._nursery.fileno(), 1)]

        monkeypatch.setattr(backend._poller, "wait", look)
        assert future.result(PATIENCE_SECONDS) == 7
        assert pool.wait_ready(PATIENCE_SECONDS)
        assert pool.workers[0].generation == 1


def test_a_line_for_a_debugger_that_has_ended_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    with ProxyPool(Victim, worker_count=1) as pool:
        backend: Any = pool._core.backend
        link = backend._links[0]
        backend._answer_debugger(link, b"too late\n")
        assert pool.obey(1).tolist() == [1]
        written: list[bytes] = []
        with monkeypatch.context() as patch:
            patch.setattr(Link, "write", lambda _link, data, _poller: written.append(data))
            for is_ended in (True, False):
                link.is_ended = is_ended
                backend._answer_debugger(link, b"nobody reads it\n")
        assert written == [wire.frame(wire.DEBUG_LINE, b"nobody reads it\n")]


def test_a_worker_that_was_given_up_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever pressed Ctrl-C at the prompt of its debugger would find it there again."""
    with ProxyPool(Victim, worker_count=1) as pool:
        backend: Any = pool._core.backend
        link = backend._links[0]
        written: list[bytes] = []
        with monkeypatch.context() as patch:
            patch.setattr(Link, "write", lambda _link, data, _poller: written.append(data))
            link.is_given_up = True
            backend._handle_frame(link, wire.DEBUG_IN, b"")
            link.is_given_up = False
        assert written == [wire.frame(wire.DEBUG_LINE, b"")]
        assert not backend._desk.is_in_use


def test_a_variable_that_was_taken_away_is_not_handed_over() -> None:
    assert surroundings.apply_changes({"A": "1", "B": "2"}, {"A": None, "C": "3"}) == {"B": "2", "C": "3"}


def test_what_a_nursery_tells_of_workers_that_are_forgotten_is_ignored() -> None:
    with ProxyPool(Victim, worker_count=1) as pool:
        backend: Any = pool._core.backend

        class Told:
            @staticmethod
            def receive() -> Any:
                return "exited", 9, 0, (0, 0)

        backend._hear_nursery(Told())
        assert pool.obey(1).tolist() == [1]


def test_a_worker_that_starts_when_its_channel_has_ended_already_is_killed() -> None:
    with ProxyPool(Victim, worker_count=1) as pool:
        backend: Any = pool._core.backend
        link = backend._links[0]
        pid = link.pid

        class Told:
            @staticmethod
            def receive() -> Any:
                return "started", 0, 0, pid

        link.is_ended = True
        backend._hear_nursery(Told())
        link.is_ended = False
        poll_until(lambda: pool.workers[0].generation == 1)
        assert pool.obey.submit(1).result(PATIENCE_SECONDS) == 1


def test_a_program_whose_folder_is_gone_has_pools_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with ProxyPool(Victim, worker_count=1) as pool:
        assert pool.obey(1).tolist() == [1]


def test_a_back_end_that_gives_up_workers_gives_their_memory_back() -> None:
    """Those that the kernel could not end."""
    pool = ProxyPool(Victim, worker_count=1)
    pool._core._finalizer.detach()
    backend: Any = pool._core.backend
    lane = backend._links[0].lane
    backend.close()
    assert not backend._links
    assert lane._segments.is_there(lane.base)


# ---- nurseries -------------------------------------------------------------------------------------------------------


def test_a_nursery_that_is_gone_is_told_where_it_matters() -> None:
    ours, theirs = socket.socketpair()
    nursery = PoolNursery(ours, None)
    theirs.close()
    with pytest.raises(NurseryLostError):
        nursery.start_worker(0, 0, ())
    nursery.signal_worker(0, 0, 9)
    with pytest.raises(NurseryLostError):
        nursery.receive()
    nursery.close()


def test_a_nursery_that_cannot_be_made_leaves_no_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_theirs: socket.socket) -> None:
        raise OSError("no room")

    monkeypatch.setattr(nurseries._root, "ask_for_nursery", refuse)
    with pytest.raises(OSError, match="no room"):
        ProxyPool(Victim, worker_count=1)


def test_the_root_is_started_when_something_is_entrusted_to_it_and_again_when_it_was_killed() -> None:
    root = nurseries._Root()
    root.kill_nursery(os.getpid())  # there is none yet
    root.entrust("/dev/shm/objproxy-of-this-test-")
    try:
        first = root._process
        assert first is not None
        first.kill()
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                root.ask_for_nursery(theirs)
                # The channel takes a message although nobody will read it; the next one finds that out.
                first.wait()
                if root._process is first:
                    root.ask_for_nursery(theirs)
            assert root._process is not first
            assert select.select([ours], [], [], 0) == ([], [], [])  # a nursery has it, and waits
    finally:
        root._stop()
        root._stop()


def test_handles_of_processes_are_only_where_the_system_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert platform.watch_process(2**22 + 1) is None  # there is none
    monkeypatch.setenv("OBJPROXY_PORTABLE", "1")
    assert platform.watch_process(os.getpid()) is None


def test_events_of_a_start_that_was_refused_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with ProxyPool(Victim, worker_count=1) as pool:
        backend: Any = pool._core.backend
        link = backend._links[0]

        class Told:
            @staticmethod
            def receive() -> Any:
                return "refused", 0, 0, 11

        with monkeypatch.context() as patch:
            patch.setattr(backend, "_forget", lambda _link: None)
            backend._hear_nursery(Told())
        (event,) = backend._events
        backend._events.clear()
        assert isinstance(event, m.StartFailed)
        assert "no room for worker 0" in str(event.error)
        assert backend._links[0] is link

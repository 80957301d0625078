"""What a worker does beside its calls: generators that it keeps, interrupts, its end of a debugger's terminal, its channel."""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from objproxy._worker import debugger, wire
from objproxy._worker.context import Worker
from objproxy._worker.distress import Interrupt
from objproxy._worker.execute import Host, StreamEnd
from objproxy._worker.outcome import StreamHandle
from objproxy._worker.wire import Operation


class Counter:
    """Counts, and notes which of its generators have ended."""

    def __init__(self) -> None:
        self.ended: list[int] = []

    def count(self, stop: int) -> Iterator[int]:
        try:
            yield from range(stop)
        finally:
            self.ended.append(stop)


@pytest.fixture
def host() -> Host:
    return Host(Counter(), Worker(0, 1))


def perform(host: Host, verb: str, *args: Any) -> Any:
    return host.perform(Operation(verb, "count", args, {}))


# ---- generators ------------------------------------------------------------------------------------------------------


def test_a_generator_is_kept_until_it_has_ended(host: Host) -> None:
    handle = perform(host, "call", 1)
    assert isinstance(handle, StreamHandle)
    assert perform(host, "next", handle.stream_id, 0) == 0
    for _ in range(2):  # the second time it is not known any more
        assert isinstance(perform(host, "next", handle.stream_id, 0), StreamEnd)
    assert host.instance.ended == [1]


def test_a_generator_of_an_earlier_worker_is_lost(host: Host) -> None:
    handle = perform(host, "call", 1)
    with pytest.raises(RuntimeError, match="'count' was lost"):
        perform(host, "next", handle.stream_id, 7)
    perform(host, "drop", handle.stream_id, 7)
    assert perform(host, "next", handle.stream_id, 0) == 0


def test_a_generator_that_is_dropped_ends_once(host: Host) -> None:
    handle = perform(host, "call", 5)
    perform(host, "next", handle.stream_id, 0)
    for _ in range(2):
        perform(host, "drop", handle.stream_id, 0)
    assert host.instance.ended == [5]


def test_generators_end_with_their_worker(host: Host) -> None:
    handles = [perform(host, "call", stop) for stop in (3, 4)]
    for handle in handles:
        perform(host, "next", handle.stream_id, 0)
    host.finish()
    assert host.instance.ended == [3, 4]


# ---- interrupts ------------------------------------------------------------------------------------------------------


def test_an_interrupt_is_raised_once() -> None:
    """A second would hit the cleaning up."""
    interrupt = Interrupt()
    with pytest.raises(KeyboardInterrupt, match="given this call up"):
        interrupt.handle(signal.SIGINT, None)
    interrupt.handle(signal.SIGINT, None)
    assert interrupt.has_come


# ---- the channel, and the debugger's terminal ------------------------------------------------------------------------


@pytest.fixture
def ends() -> Iterator[tuple[wire.WorkerChannel, socket.socket]]:
    ours, theirs = socket.socketpair()
    channel = wire.WorkerChannel(ours.detach(), threading.Lock())
    with channel._sock, theirs:
        yield channel, theirs


def test_a_frame_of_one_kind_is_taken_out_of_its_turn(ends: tuple[wire.WorkerChannel, socket.socket]) -> None:
    channel, parent = ends
    sender = threading.Thread(target=lambda: parent.sendall(wire.frame(wire.STOP) + wire.frame(wire.DEBUG_LINE, b"next\n")))
    sender.start()
    assert channel.receive_only(wire.DEBUG_LINE) == b"next\n"
    sender.join()
    parent.sendall(wire.frame(wire.CALL, b"later"))
    assert [channel.receive(), channel.receive()] == [(wire.STOP, b""), (wire.CALL, b"later")]


def test_a_worker_that_waits_does_now_and_then_what_can_wait(ends: tuple[wire.WorkerChannel, socket.socket]) -> None:
    channel, parent = ends
    seconds: Iterator[float | None] = iter((0.001, 0.001, None))

    def look() -> float | None:
        wait = next(seconds)
        if wait is None:
            parent.sendall(wire.frame(wire.STOP))
        return wait

    channel.on_idle = look
    assert channel.receive() == (wire.STOP, b"")
    assert next(seconds, "none left") == "none left"


def test_a_terminal_writes_reads_and_is_given_back(ends: tuple[wire.WorkerChannel, socket.socket]) -> None:
    channel, parent = ends
    terminal = debugger.Terminal(channel)
    assert terminal.write("> ") == 2
    terminal.flush()
    parent.sendall(wire.frame(wire.DEBUG_LINE, b"p x\n"))
    assert terminal.readline() == "p x\n"
    terminal.leave()
    frames = wire.frame(wire.DEBUG_OUT, b"> ") + wire.frame(wire.DEBUG_IN) + wire.frame(wire.DEBUG_END)
    assert parent.recv(len(frames) + 1) == frames


def test_another_debugger_of_the_users_stays(
    ends: tuple[wire.WorkerChannel, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONBREAKPOINT", "0")
    before = sys.breakpointhook
    debugger.install(ends[0], Worker(0, 1))
    assert sys.breakpointhook is before


def test_a_parent_that_is_gone_ends_the_channel(ends: tuple[wire.WorkerChannel, socket.socket]) -> None:
    channel, parent = ends
    parent.close()
    with pytest.raises(wire.ChannelClosedError):
        channel.send(wire.OUTGROWN)
    with pytest.raises(wire.ChannelClosedError):
        channel.receive()

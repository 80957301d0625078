"""What a dead worker leaves behind: the journal says which items are finished and which was running, wherever death came."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objproxy._worker import journal as journals
from objproxy._worker import wire
from objproxy._worker.chunk import ChunkRunner
from objproxy._worker.context import Worker
from objproxy._worker.distress import Interrupt
from objproxy._worker.execute import Host
from objproxy._worker.journal import Journal
from objproxy._worker.outcome import Failure
from objproxy.backends.replies import decode_segments


class DiedError(BaseException):
    """Stands for the end of the worker: nothing in it may run any more."""


class Script:
    """An object whose method returns, raises, or dies at item `last`."""

    def __init__(self, outcomes: list[Any], last: int) -> None:
        self.outcomes = outcomes
        self.last = last

    def play(self, index: int) -> Any:
        if index == self.last:
            raise DiedError
        outcome = self.outcomes[index]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class Tape:
    """A channel that keeps what is sent, until the worker is dead; or that dies itself in mid-send."""

    def __init__(self, n_frames: int | None = None) -> None:
        self.frames: list[bytes] = []
        self.n_frames = n_frames

    def send(self, _kind: int, *parts: bytes) -> None:
        if self.n_frames is not None and len(self.frames) == self.n_frames:
            raise DiedError  # the parent drops a frame that is not complete
        self.frames.append(b"".join(parts))


@pytest.fixture
def journal() -> Iterator[Journal]:
    fd = journals.create()
    made = Journal(fd)
    os.close(fd)
    yield made
    made.close()


class SmallResults:
    """Stands for the shared memory of a worker whose results are all small."""

    pack = staticmethod(wire.dumps)


def run_until_death(journal: Journal, tape: Tape, outcomes: list[Any], last: int) -> None:
    """Run a chunk in which the worker dies at item `last`, or while it sends its frame ``tape.n_frames``."""

    class MortalHost(Host):
        pass

    runner = ChunkRunner(MortalHost(Script(outcomes, last), Worker(0, 1)), tape, journal, SmallResults(), Interrupt())  # type: ignore[arg-type]
    journal.begin(7)
    n_before = len(tape.frames)
    original = runner._send_now

    def send_now(segment: journals.Segment, parts: bytes = b"") -> None:
        # An item that "died" must not be answered as one that raised.
        if b"DiedError" in segment.data:
            raise DiedError
        original(segment)

    runner._send_now = send_now  # type: ignore[method-assign]
    try:
        runner.run(7, wire.Operation("map", "play", (list(range(len(outcomes))),), ()), len(outcomes))
    except DiedError:
        assert len(tape.frames) >= n_before


def what_arrived(tape: Tape) -> list[Any]:
    received: list[Any] = []
    for body in tape.frames:
        outcomes, _ = decode_segments(body, wire.REPLY_HEAD.size, 0, "play")
        received += list(outcomes)
    return received


def same(value: Any, expected: Any) -> bool:
    if isinstance(expected, Exception):
        return isinstance(value, Failure) and type(value.error) is type(expected)
    return type(value) is type(expected) and value == expected


RESULTS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.none(),
    st.booleans(),
    st.text(max_size=5),
    st.binary(min_size=40_000, max_size=40_001),
    st.just(ValueError("no")),
)


@settings(max_examples=150)
@given(data=st.data(), outcomes=st.lists(RESULTS, min_size=1, max_size=60))
def test_wherever_a_worker_dies_only_the_running_item_is_lost(data: st.DataObject, outcomes: list[Any]) -> None:
    last = data.draw(st.integers(0, len(outcomes)))
    n_frames = data.draw(st.one_of(st.none(), st.integers(0, 5)))
    fd = journals.create()
    journal = Journal(fd)
    os.close(fd)
    tape = Tape(n_frames)
    run_until_death(journal, tape, outcomes, last)

    known = what_arrived(tape)
    found = journal.recover(7, len(known))
    assert found is not None
    segment, running = found
    if segment is not None:
        known += list(decode_segments(segment.packed(), 0, 0, "play")[0])
    journal.close()

    assert all(same(value, expected) for value, expected in zip(known, outcomes, strict=False))
    if n_frames is None or len(tape.frames) < n_frames:
        assert len(known) == last or last == len(outcomes)
        assert running is None or running == len(known)
    elif running is not None:
        assert running == len(known)


def test_a_batch_that_had_not_started_leaves_nothing(journal: Journal) -> None:
    journal.begin(3)
    assert journal.recover(4, 0) is None


def test_results_that_have_arrived_are_not_told_twice(journal: Journal) -> None:
    journal.begin(1)
    journal.open_lane(wire.INTS, 0, 10)
    for index in range(4):
        journal.slots[wire.INTS][index] = index
    assert journal.recover(1, 4) == (None, 4)
    segment, running = journal.recover(1, 0) or (None, None)
    assert segment is not None
    assert list(array("q", segment.data)) == [0, 1, 2, 3]
    assert running == 4


def test_a_result_that_is_not_counted_yet_means_that_nothing_was_running(journal: Journal) -> None:
    journal.begin(1)
    journal.open_lane(wire.PICKLES, 2, 10)
    assert journal.recover(1, 3) == (None, None)

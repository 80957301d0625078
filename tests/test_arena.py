"""The arena: memory is used again, never under anybody who still has it, and given back when nobody does."""

from __future__ import annotations

import errno
import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from objproxy import SharedMemoryFullError
from objproxy._worker import arena as arenas
from objproxy._worker import loans
from objproxy._worker.arena import Arena, Extent
from objproxy._worker.loans import BESIDE, TABLE_BYTES, Borrower, LoanTable, Part
from objproxy._worker.segments import PAGE, RANGE, MemorySegments, NamedSegments

KINDS = [MemorySegments, NamedSegments]
MB = 1 << 20


class Setting:
    """An arena, and borrowers of it."""

    def __init__(self, kind: type[Any], limit: int | None = None, n_borrowers: int = 1) -> None:
        self.segments = kind()
        self.tables: list[LoanTable] = []
        self.borrowers: list[Borrower] = []
        for number in range(n_borrowers):
            self.segments.make(number * TABLE_BYTES, TABLE_BYTES)
            self.segments.reserve(number * TABLE_BYTES, 0, TABLE_BYTES)
            memory = [self.segments.map(number * TABLE_BYTES, TABLE_BYTES, is_shared=True) for _ in range(2)]
            self.tables.append(LoanTable(memory[0]))
            self.borrowers.append(Borrower(self.segments, memory[1]))
        self.arena = Arena(self.segments, RANGE, limit)

    def take(self, nbytes: int, byte: int = 1) -> Extent:
        extent = self.arena.take(nbytes)
        extent.write(bytes([byte]) * nbytes)
        return extent

    def lend(self, extent: Extent, number: int = 0) -> Part:
        table = self.tables[number]
        return Part(extent.block.offset, extent.nbytes, BESIDE, extent.lend(table), table.is_crowded)

    def bytes_in_use(self) -> int:
        """Return the memory of all segments but the tables."""
        if self.segments.fd is not None:
            return os.stat(self.segments.fd).st_blocks * 512 - TABLE_BYTES * len(self.tables)
        start = Path(self.segments.prefix)
        paths = [path for path in start.parent.glob(f"{start.name}*") if int(path.name.rpartition("-")[2], 16) >= RANGE]
        return sum(path.stat().st_blocks * 512 for path in paths)


@pytest.fixture(params=KINDS, ids=["memory", "named"])
def setting(request: pytest.FixtureRequest) -> Iterator[Setting]:
    made = Setting(request.param, n_borrowers=3)
    yield made
    made.segments.close()


@pytest.fixture(params=KINDS, ids=["memory", "named"])
def limited(request: pytest.FixtureRequest) -> Iterator[Setting]:
    made = Setting(request.param, limit=4 * MB)
    yield made
    made.segments.close()


# ---- using again ----------------------------------------------------------------------------------------------------------


def test_a_free_segment_serves_the_next_request_of_its_size(setting: Setting) -> None:
    offset = setting.take(MB).block.offset
    again = setting.take(MB - 100, byte=2)
    assert again.block.offset == offset
    assert not again.is_fresh
    assert setting.arena.held == MB


def test_a_segment_that_is_held_is_not_used_again(setting: Setting) -> None:
    first, second = setting.take(MB, 1), setting.take(MB, 2)
    assert first.block.offset != second.block.offset
    assert bytes(first.block.mapping[:5]) == b"\1" * 5  # type: ignore[index]


def test_a_segment_on_loan_is_not_used_again(setting: Setting) -> None:
    extent = setting.take(MB, 1)
    part, offset = setting.lend(extent), extent.block.offset
    mapping = setting.borrowers[0].open(part)
    del extent
    other = setting.take(MB, 2)
    assert other.block.offset != offset
    assert bytes(mapping[:]) == b"\1" * MB
    del mapping
    assert setting.take(MB, 3).block.offset == offset


def test_a_segment_that_several_have_is_free_when_the_last_returns_it(setting: Setting) -> None:
    extent = setting.take(MB, 1)
    offset = extent.block.offset
    mappings = [borrower.open(setting.lend(extent, number)) for number, borrower in enumerate(setting.borrowers)]
    del extent
    while mappings:
        assert setting.take(MB, 2).block.offset != offset
        assert bytes(mappings[0][:3]) == b"\1\1\1"
        mappings.pop()
    extents = [setting.take(MB, 3) for _ in range(2)]
    assert offset in {extent.block.offset for extent in extents}


def test_a_small_loan_is_copied_and_returned_at_once(setting: Setting) -> None:
    extent = setting.take(5000, 3)
    data = setting.borrowers[0].open(setting.lend(extent))
    assert type(data) is bytearray
    assert data == b"\3" * 5000
    assert not extent.block.is_lent()


def test_sizes_fall_into_classes_that_waste_at_most_an_eighth() -> None:
    for nbytes in [*range(1, 3 * PAGE), *(n + d for n in (1 << 15, 1 << 20, 3 << 19, 1 << 33) for d in (-1, 0, 1))]:
        capacity = arenas._size_class(nbytes)
        assert capacity % PAGE == 0
        assert nbytes <= capacity < max(nbytes + PAGE, nbytes * 9 / 8 + 1)
        assert arenas._size_class(capacity) == capacity


def test_a_fresh_segment_is_zero_and_one_that_was_used_says_so(setting: Setting) -> None:
    extent = setting.arena.take(MB)
    assert extent.is_fresh
    assert not any(extent.block.mapping[:])  # type: ignore[index]
    extent.write(b"\xff" * MB)
    del extent
    assert not setting.arena.take(MB).is_fresh
    setting.arena.trim(0.0)
    again = setting.arena.take(MB)
    assert again.is_fresh
    assert not any(again.block.mapping[:])  # type: ignore[index]


# ---- giving back ----------------------------------------------------------------------------------------------------------


def test_trim_gives_back_what_nobody_has(setting: Setting) -> None:
    extents = [setting.take(MB, i) for i in range(4)]
    assert setting.bytes_in_use() >= 4 * MB
    mapping = setting.borrowers[0].open(setting.lend(extents[0]))
    del extents[:3]
    assert setting.arena.trim(0.0) == 0
    assert setting.arena.held == 2 * MB
    assert setting.bytes_in_use() == 2 * MB
    assert bytes(mapping[:2]) == b"\0\0"
    assert bytes(extents[0].block.mapping[:2]) == b"\3\3"  # type: ignore[index]
    del mapping
    extents.clear()
    setting.arena.trim(0.0)
    assert (setting.arena.held, setting.bytes_in_use()) == (0, 0)


def test_trim_leaves_what_was_used_a_moment_ago(setting: Setting) -> None:
    del [setting.take(MB)][:]
    assert setting.arena.trim(1000.0) == MB
    assert setting.arena.held == MB


def test_a_trimmed_segment_can_be_filled_again(setting: Setting) -> None:
    for i in range(3):
        extent = setting.take(MB, i)
        assert bytes(setting.borrowers[0].open(setting.lend(extent))[:]) == bytes([i]) * MB
        del extent
        setting.arena.trim(0.0)


def test_a_closed_arena_gives_back_what_is_in_use_as_soon_as_it_is_not(setting: Setting) -> None:
    kept, dropped = setting.take(MB, 1), setting.take(MB, 2)
    del dropped
    setting.arena.close()
    assert setting.bytes_in_use() == MB
    assert bytes(kept.block.mapping[:2]) == b"\1\1"  # type: ignore[index]
    del kept
    assert setting.bytes_in_use() == 0


def test_a_range_that_a_closed_arena_has_left_can_be_used_by_another(setting: Setting) -> None:
    setting.take(MB)
    setting.arena.close()
    assert setting.arena.held == 0
    setting.arena = Arena(setting.segments, RANGE)
    assert setting.take(MB, 2).block.offset == RANGE


def test_the_death_of_a_borrower_ends_its_loans(setting: Setting) -> None:
    extent = setting.take(MB)
    mapping = setting.borrowers[0].open(setting.lend(extent))
    del extent
    setting.arena.trim(0.0)
    assert setting.arena.held == MB
    setting.tables[0].end()
    setting.arena.trim(0.0)
    assert setting.arena.held == 0
    del mapping


def test_what_a_dead_lender_had_lent_stays_and_the_rest_is_given_back(setting: Setting) -> None:
    extents = [setting.take(MB, i) for i in range(5)]
    borrower = setting.borrowers[0]
    mappings = [borrower.open(setting.lend(extents[i])) for i in (3, 1)]
    borrower.outlive_lender(RANGE, 2 * RANGE)
    assert setting.bytes_in_use() == 2 * MB
    assert [bytes(mapping[:2]) for mapping in mappings] == [b"\3\3", b"\1\1"]
    mappings.pop()
    assert setting.bytes_in_use() == MB
    assert bytes(mappings[0][:]) == b"\3" * MB
    mappings.pop()
    assert setting.bytes_in_use() == 0


def test_nothing_is_left_of_a_dead_lender_of_whom_nothing_is_held(setting: Setting) -> None:
    extents = [setting.take(MB, i) for i in range(3)]
    setting.borrowers[0].outlive_lender(RANGE, 2 * RANGE)
    assert setting.bytes_in_use() == 0
    del extents


# ---- not enough -----------------------------------------------------------------------------------------------------------


def test_the_limit_holds_and_the_arena_goes_on(limited: Setting) -> None:
    extents = [limited.take(MB, i) for i in range(4)]
    for _ in range(3):
        with pytest.raises(SharedMemoryFullError, match=f"shared_memory_limit={4 * MB}") as caught:
            limited.take(MB)
        assert (caught.value.needed, caught.value.free) == (MB, 0)
    assert [bytes(extent.block.mapping[:1]) for extent in extents] == [b"\0", b"\1", b"\2", b"\3"]  # type: ignore[index]
    del extents[2:]
    assert limited.take(MB, 9).block.mapping[0] == 9  # type: ignore[index]


def test_free_segments_of_other_sizes_make_room(limited: Setting) -> None:
    for nbytes in (MB, 2 * MB, 3 * MB, 4 * MB, 64 << 10):
        extent = limited.take(nbytes)
        assert limited.arena.held <= 4 * MB
        del extent
    with pytest.raises(SharedMemoryFullError):
        limited.take(5 * MB)
    assert limited.arena.held == 0
    assert limited.take(4 * MB).nbytes == 4 * MB


def test_a_request_within_the_limit_is_not_refused_for_its_rounding(limited: Setting) -> None:
    limited.arena.limit = 4 * MB - 8 * PAGE
    assert limited.take(4 * MB - 8 * PAGE).nbytes == 4 * MB - 8 * PAGE


def test_a_machine_without_free_memory_is_not_asked_for_it(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setting.segments, "free_bytes", lambda: 3 * MB)
    with pytest.raises(SharedMemoryFullError, match=r"smaller chunksize.*--shm-size") as caught:
        setting.take(8 * MB)
    assert (caught.value.needed, caught.value.free) == (8 * MB, 3 * MB)
    assert (setting.arena.held, setting.bytes_in_use()) == (0, 0)
    assert setting.take(2 * MB).nbytes == 2 * MB


def test_memory_that_lies_idle_is_given_back_before_a_request_is_refused(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting.take(4 * MB)
    monkeypatch.setattr(setting.segments, "free_bytes", lambda: 6 * MB - setting.bytes_in_use())
    extent = setting.take(5 * MB)
    assert extent.nbytes == 5 * MB


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOMEM])
def test_a_system_that_has_no_room_is_told_in_the_same_words(
    setting: Setting, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(setting.segments, "reserve", refuse)
        with pytest.raises(SharedMemoryFullError, match="--shm-size") as caught:
            setting.take(MB)
        assert caught.value.needed == MB
        assert isinstance(caught.value.__cause__, OSError)
    assert setting.arena.held == 0
    assert bytes(setting.take(MB, 4).block.mapping[:2]) == b"\4\4"  # type: ignore[index]


# ---- tables ---------------------------------------------------------------------------------------------------------------


def test_a_crowded_table_asks_borrowers_to_copy(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loans, "_CROWDED", 3)
    borrower = setting.borrowers[0]
    kept = []
    for i in range(8):
        extent = setting.take(MB, i)
        kept.append(borrower.open(setting.lend(extent)))
        del extent
    assert [type(data) is bytearray for data in kept] == [False] * 4 + [True] * 4 or len(borrower.live) <= 5
    assert len(borrower.live) < 8
    assert [data[0] for data in kept] == list(range(8))
    assert setting.arena.held <= 6 * MB


def test_a_full_table_says_so(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loans, "N_SLOTS", 3)
    extent = setting.take(5000)
    parts = [setting.lend(extent) for _ in range(3)]
    with pytest.raises(OSError, match="more segments than it has taken in"):
        setting.lend(extent)
    for part in parts:
        setting.borrowers[0].give_back(part.slot)
    assert not extent.block.is_lent()
    assert setting.lend(extent).slot in range(3)


def test_slots_are_used_again(setting: Setting) -> None:
    slots = set()
    for _ in range(50):
        extent = setting.take(5000)
        part = setting.lend(extent)
        slots.add(part.slot)
        setting.borrowers[0].open(part)
        del extent
    assert len(slots) <= 3


def test_threads_take_lend_and_return_at_once(setting: Setting) -> None:
    wrong: list[Any] = []
    guard = threading.Lock()  # a worker's table has one lender at a time

    def use(number: int) -> None:
        for i in range(150):
            extent = setting.take(300_000, byte=(number * 50 + i) % 251)
            with guard:
                part = setting.lend(extent)
            mapping = setting.borrowers[0].open(part)
            del extent
            if bytes(mapping[::4096]) != bytes([(number * 50 + i) % 251]) * len(mapping[::4096]):
                wrong.append((number, i))

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    setting.arena.trim(0.0)
    assert (wrong, setting.arena.held) == ([], 0)


# ---- all of it, in any order ----------------------------------------------------------------------------------------------


class ArenaMachine(RuleBasedStateMachine):
    """Two borrowers, one lender, any order of events: what is in use keeps its bytes, and lies nowhere else's."""

    kind: type[Any] = MemorySegments
    extents = Bundle("extents")
    mappings = Bundle("mappings")

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(loans, "MAP_MIN", 3 * PAGE)
        self.setting = Setting(self.kind, limit=600 * PAGE, n_borrowers=2)
        self.held: dict[int, tuple[Extent, int]] = {}
        self.borrowed: dict[int, tuple[Any, int, Part, int]] = {}
        self.dead: set[int] = set()
        self.count = 0

    @rule(target=extents, nbytes=st.sampled_from([1, PAGE, 3 * PAGE, 3 * PAGE + 5, 20 * PAGE, 100 * PAGE, 400 * PAGE]))
    def take(self, nbytes: int) -> Any:
        self.count += 1
        try:
            extent = self.setting.take(nbytes, self.count % 250 + 1)
        except SharedMemoryFullError as exc:
            over = exc.needed + self.setting.arena.held - 600 * PAGE
        else:
            over = 0
            self.held[self.count] = extent, self.count % 250 + 1
        if over:
            assert over > 0
            return multiple()
        return self.count

    @rule(target=mappings, key=extents, number=st.integers(0, 1))
    def lend(self, key: int, number: int) -> Any:
        if key not in self.held or number in self.dead:
            return multiple()
        self.count += 1
        extent, byte = self.held[key]
        part = self.setting.lend(extent, number)
        self.borrowed[self.count] = self.setting.borrowers[number].open(part), byte, part, number
        return self.count

    @rule(key=consumes(extents))
    def let_go(self, key: int) -> None:
        self.held.pop(key, None)

    @rule(key=consumes(mappings))
    def give_back(self, key: int) -> None:
        self.borrowed.pop(key, None)

    @rule(number=st.integers(0, 1))
    def borrower_dies(self, number: int) -> None:
        if self.count % 5 == 0:
            self.dead.add(number)
            self.setting.tables[number].end()
            self.borrowed = {key: entry for key, entry in self.borrowed.items() if entry[3] != number}

    @rule()
    def trim(self) -> None:
        self.setting.arena.trim(0.0)

    @invariant()
    def everything_in_use_keeps_its_bytes(self) -> None:
        for extent, byte in self.held.values():
            assert bytes(extent.block.mapping[: extent.nbytes]) == bytes([byte]) * extent.nbytes  # type: ignore[index]
        for data, byte, part, _ in self.borrowed.values():
            assert bytes(data[: part.nbytes]) == bytes([byte]) * part.nbytes

    @invariant()
    def nothing_in_use_overlaps(self) -> None:
        offsets = {extent.block.offset: arenas._size_class(extent.nbytes) for extent, _ in self.held.values()}
        assert len(offsets) == len(self.held)
        for data, _, part, _ in self.borrowed.values():
            if type(data) is not bytearray:
                offsets[part.offset] = arenas._size_class(part.nbytes)
        end = 0
        for offset, capacity in sorted(offsets.items()):
            assert offset >= end
            end = offset + capacity

    @invariant()
    def the_limit_holds(self) -> None:
        assert 0 <= self.setting.arena.held <= 600 * PAGE

    def teardown(self) -> None:
        self.held.clear()
        self.borrowed.clear()
        try:
            assert self.setting.arena.trim(0.0) == 0
            assert self.setting.arena.held == 0
            assert self.setting.bytes_in_use() == 0
        finally:
            self.setting.segments.close()
            self.patch.undo()


class NamedArenaMachine(ArenaMachine):
    kind = NamedSegments


TestArenaMachine = ArenaMachine.TestCase
TestArenaMachine.settings = settings(max_examples=60, stateful_step_count=40)
TestNamedArenaMachine = NamedArenaMachine.TestCase
TestNamedArenaMachine.settings = settings(max_examples=25, stateful_step_count=30)

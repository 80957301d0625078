"""How many items go into the next message."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from objproxy._engine.chunks import TARGET_SECONDS, ChunkSizer

seconds = st.floats(0.0, 1000.0)
answers = st.lists(st.tuples(st.integers(1, 10**6), seconds), max_size=20)


def make_sizer(n_workers: int = 2, chunksize: int | None = None, *, per_item: float | None = None) -> ChunkSizer:
    sizer = ChunkSizer(n_workers, chunksize)
    if per_item is not None:
        sizer.observe(1, per_item)
    return sizer


def grown_size(sizer: ChunkSizer, n_left: int | None) -> int:
    """Return the size when the bound on growth is left behind."""
    for _ in range(5):
        size = sizer.next_size(n_left)
    return size


def test_the_first_chunk_is_one_item() -> None:
    assert make_sizer().next_size(10**6) == 1


def test_slow_items_travel_alone() -> None:
    assert make_sizer(per_item=1.0).next_size(10**6) == 1


def test_fast_items_fill_the_time_of_a_message() -> None:
    size = grown_size(make_sizer(per_item=1e-6), 10**9)
    assert size == int(TARGET_SECONDS / 1e-6)


def test_one_lucky_measurement_does_not_make_a_huge_chunk() -> None:
    assert make_sizer(per_item=1e-9).next_size(10**9) <= 64


def test_an_endless_input_gets_full_chunks() -> None:
    assert grown_size(make_sizer(per_item=1e-6), None) == int(TARGET_SECONDS / 1e-6)


def test_chunks_shrink_towards_the_end() -> None:
    sizer = make_sizer(4, per_item=1e-4)
    sizes = [sizer.next_size(n_left) for n_left in (1000, 300, 100, 30, 10, 1)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0]


def test_a_chunksize_that_was_asked_for_is_kept_while_items_are_slow() -> None:
    sizer = make_sizer(chunksize=7)
    assert sizer.next_size(100) == 7
    sizer.observe(7, 7.0)
    assert sizer.next_size(100) == 7


def test_a_message_holds_whole_chunks_of_the_size_that_was_asked_for() -> None:
    sizer = make_sizer(chunksize=7)
    sizer.observe(7, 7e-6)
    size = sizer.next_size(10**6)
    assert size > 7
    assert size % 7 == 0


def test_chunks_are_not_joined_where_each_has_to_travel_alone() -> None:
    sizer = ChunkSizer(2, 1, may_join=False)
    sizer.observe(1, 1e-6)
    assert sizer.next_size(10**6) == 1


def test_a_slow_first_answer_is_soon_forgotten() -> None:
    """Caches are cold, and modules are being loaded."""
    sizer = make_sizer(per_item=0.05)
    for _ in range(12):
        count = sizer.next_size(10**6)
        sizer.observe(count, count * 1e-6)
    assert sizer.next_size(10**6) > 500


def test_items_that_become_slow_get_short_chunks() -> None:
    sizer = make_sizer(per_item=1e-6)
    grown_size(sizer, 10**6)
    for _ in range(10):
        count = sizer.next_size(10**6)
        sizer.observe(count, count * 0.01)
    assert sizer.next_size(10**6) <= 4


@given(answers, st.integers(0, 100), st.none() | st.integers(0, 10**9))
def test_every_chunk_has_an_item_at_least(seen: list[tuple[int, float]], n_workers: int, n_left: int | None) -> None:
    sizer = ChunkSizer(n_workers)
    for count, taken in seen:
        sizer.observe(count, taken)
        assert sizer.next_size(n_left) >= 1


@given(st.integers(1, 20), st.integers(1, 3000), st.floats(1e-7, 0.1))
def test_the_workers_finish_together(n_workers: int, n_items: int, per_item: float) -> None:
    """Greedy workers that take chunks of this size are never apart by more than a message's worth and an item."""
    sizer, ends, n_left = ChunkSizer(n_workers), [0.0] * n_workers, n_items
    while n_left:
        size = min(sizer.next_size(n_left), n_left)
        n_left -= size
        first = ends.index(min(ends))
        ends[first] += size * per_item
        sizer.observe(size, size * per_item)
    assert max(ends) - min(ends) <= TARGET_SECONDS + 2 * per_item

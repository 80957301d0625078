"""The items of one chunk in a worker: what leaves it at once, what waits in the journal, what is an error of every item."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from objproxy import ProxyPool
from objproxy._worker import journal as journals


class Maker:
    """Makes results of any size, at any pace."""

    def text(self, nbytes: int) -> str:
        return "x" * nbytes

    def rows(self, n_rows: int) -> list[str]:
        return [f"row {row}" for row in range(n_rows)]

    def accents(self, n_letters: int) -> str:
        return "é" * n_letters

    def number(self, seconds: float) -> float:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            pass
        return seconds

    def word(self, seconds: float) -> str:
        return str(self.number(seconds))

    def lost(self, item: int) -> int:
        return item

    def lose(self) -> None:
        del type(self).lost


@pytest.fixture(scope="module")
def pool() -> Iterator[ProxyPool[Maker]]:
    with ProxyPool(Maker, worker_count=1) as made:
        yield made


@pytest.mark.parametrize("share", [0.3, 0.6, 1.5])
def test_results_that_the_journal_has_no_room_for_are_sent_at_once(pool: ProxyPool[Maker], share: float) -> None:
    sizes = [int(share * journals.NBYTES) + i for i in range(6)]
    assert [len(text) for text in pool.text.options(chunksize=6).map(sizes)] == sizes


def test_results_of_many_parts_that_are_larger_than_the_journal_are_sent_at_once(pool: ProxyPool[Maker]) -> None:
    results = pool.rows.options(chunksize=3).map([20_000] * 3)
    assert [(len(rows), rows[-1]) for rows in results] == [(20_000, "row 19999")] * 3


def test_a_text_that_grows_beyond_the_journal_while_it_is_pickled_is_sent_at_once(pool: ProxyPool[Maker]) -> None:
    """Half as large as its pickle, it seems small enough to need no care."""
    results = pool.accents.options(chunksize=3).map([90_000] * 3)
    assert results == ["é" * 90_000] * 3


@pytest.mark.parametrize("method", ["number", "word"])
def test_results_of_slow_items_do_not_wait_for_the_end_of_their_chunk(pool: ProxyPool[Maker], method: str) -> None:
    results = getattr(pool, method).options(chunksize=4).map([0.06] * 4)
    assert [float(result) for result in results] == [0.06] * 4


def test_a_method_that_is_not_there_is_the_error_of_every_item() -> None:
    with ProxyPool(Maker, worker_count=1) as pool:
        pool.lose()
        outcomes = pool.lost.options(on_error="return", chunksize=3).map(range(3))
    assert [type(outcome) for outcome in outcomes] == [AttributeError] * 3

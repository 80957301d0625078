"""With ``seed=`` the numbers of a fan-out depend on nothing but the seed, also those of the global generators."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from objproxy import ProxyPool
from seed_targets import Drawing

N_ITEMS = 12

WAYS: list[dict[str, Any]] = [
    {"worker_count": 1},
    {"worker_count": 2},
    {"worker_count": 3, "start_method": "fork"},
    {"worker_count": 2, "start_method": "spawn"},
]


def run_everywhere(draw: Callable[[ProxyPool[Drawing]], Any], ways: list[dict[str, Any]] | None = None) -> Any:
    """Return what is drawn, which has to be the same in each way of making the pool."""
    drawn = []
    for way in ways or WAYS:
        with ProxyPool(Drawing, seed=7, **way) as pool:
            drawn.append(draw(pool))
    assert all(numbers == drawn[0] for numbers in drawn), drawn
    return drawn[0]


def check_all_different(items: list[tuple[float, ...]]) -> None:
    """Check that no stream is that of another item or another generator."""
    numbers = [number for item in items for number in item]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("chunksize", [None, 1, 5])
def test_a_map_draws_the_same_anywhere(chunksize: int | None) -> None:
    def draw(pool: ProxyPool[Drawing]) -> Any:
        method = pool.draw.options(chunksize=chunksize)
        return method.map(range(N_ITEMS)), method.map(range(N_ITEMS), again=itertools.repeat([]))

    first, second = run_everywhere(draw)
    check_all_different([*first, *second])


def test_chunks_make_no_difference() -> None:
    def draw(chunksize: int | None) -> Any:
        with ProxyPool(Drawing, seed=7, worker_count=2) as pool:
            return pool.draw.options(chunksize=chunksize).map(range(N_ITEMS))

    assert draw(None) == draw(1) == draw(5) == draw(100)


@pytest.mark.parametrize(
    "items", [list(range(N_ITEMS)), [[] for _ in range(N_ITEMS)], [object] * N_ITEMS, [{"a": []}] * N_ITEMS]
)
def test_what_the_items_are_makes_no_difference(items: Any) -> None:
    with ProxyPool(Drawing, seed=7, worker_count=2) as pool:
        drawn = pool.draw.options(chunksize=4).map(items)
    with ProxyPool(Drawing, seed=7, worker_count=1) as pool:
        assert pool.draw.map(range(N_ITEMS)) == drawn


def test_all_fan_outs_draw_the_same_anywhere() -> None:
    async def draw_async(pool: ProxyPool[Drawing]) -> Any:
        items = [numbers async for numbers in pool.draw.aimap(range(N_ITEMS))]
        return [*items, await pool.draw.aio()]

    def draw(pool: ProxyPool[Drawing]) -> Any:
        drawn = list(pool.draw.imap(range(N_ITEMS)))
        drawn += [future.result() for future in [pool.draw.submit() for _ in range(N_ITEMS)]]
        with pool.draw.stream() as stream:
            stream.put(list(range(N_ITEMS)))
            stream.end()
            drawn += list(stream)
        return drawn + asyncio.run(draw_async(pool))

    check_all_different(run_everywhere(draw, WAYS[:2]))


def test_results_as_they_come_draw_the_same() -> None:
    run_everywhere(lambda pool: sorted(pool.draw.imap_unordered(range(N_ITEMS))), WAYS[:2])


def test_rounds_draw_the_same_on_any_number_of_workers() -> None:
    run_everywhere(lambda pool: pool.draw(range(N_ITEMS), map_args=True, synchronize=True, stack_results=list), WAYS[:2])


def test_a_broadcast_draws_the_same_whoever_took_which_item() -> None:
    def draw(chunksize: int | None) -> Any:
        with ProxyPool(Drawing, seed=7, worker_count=2) as pool:
            before = pool.draw.broadcast()
            pool.draw_many.options(chunksize=chunksize).map(range(N_ITEMS))
            pool.draw.submit().result()
            return before, pool.draw.broadcast()

    with ProxyPool(Drawing, seed=7, worker_count=2) as pool:
        undisturbed = pool.draw.broadcast(), pool.draw.broadcast()
    assert draw(None) == draw(1) == draw(5) == undisturbed


def test_a_seed_of_items_is_a_child_of_the_pools() -> None:
    words = np.random.SeedSequence(7, spawn_key=(2**31, 1, 3, 0)).generate_state(8)
    with ProxyPool(Drawing, seed=7, worker_count=1) as pool:
        drawn = pool.draw.map(range(N_ITEMS))[3]
    assert drawn[0] == random.Random(int.from_bytes(words[:4].tobytes(), "little")).random()
    assert drawn[1] == np.random.RandomState(words[4:]).random()


def test_without_a_seed_all_items_differ() -> None:
    with ProxyPool(Drawing, worker_count=2) as pool, ProxyPool(Drawing, worker_count=2) as other:
        drawn = [*pool.draw.map(range(N_ITEMS)), *other.draw.map(range(N_ITEMS))]
    assert len({numbers[1] for numbers in drawn}) == 2 * N_ITEMS


def test_an_item_that_is_tried_again_draws_the_same_numbers() -> None:
    with ProxyPool(FailingFirst, seed=7, worker_count=1) as pool:
        again = pool.draw.options(retries=1, retry_on=(ValueError,)).map(range(4))
    with ProxyPool(Drawing, seed=7, worker_count=2) as pool:
        assert pool.draw.map(range(4)) == again


class FailingFirst(Drawing):
    """Fails once for each item, after drawing."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def draw(self, item: Any = 0, *, again: Any = None) -> tuple[float, ...]:
        drawn = super().draw(item)
        if item not in self.seen:
            self.seen.add(item)
            raise ValueError(item)
        return drawn


def test_a_librarys_own_generator_repeats_with_the_recipe_of_the_readme() -> None:
    pytest.importorskip("mesa")
    run_everywhere(lambda pool: pool.simulate.map(range(6)), WAYS[:2])


def test_graphs_of_networkx_repeat() -> None:
    pytest.importorskip("networkx")
    graphs = run_everywhere(lambda pool: pool.edges.map(range(6)), WAYS[:2])
    assert len(set(map(str, graphs))) > 1


def test_the_programs_own_generators_are_left_alone_where_workers_are_threads() -> None:
    random.seed(1)
    state = random.getstate()
    with ProxyPool(Threaded, seed=7, worker_count=2, backend="thread") as pool:
        drawn = pool.draw.map(range(N_ITEMS))
    assert random.getstate() == state
    with ProxyPool(Drawing, seed=7, worker_count=2) as pool:
        assert [numbers[2] for numbers in pool.draw.map(range(N_ITEMS))] == drawn


class Threaded:
    """Draws from its own stream alone."""

    def draw(self, _item: int) -> float:
        from objproxy import current_worker

        return float(current_worker().rng.random())

"""Options of a call that are given as arguments of the method: the error says where they belong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from objproxy import ProxyPool


class Scorer:
    def score(self, x: int) -> int:
        return 2 * x

    def wait(self, x: int, timeout: float = 1.0) -> float:
        return x * timeout

    def take(self, x: int, **others: Any) -> tuple[int, dict[str, Any]]:
        return x, others


@pytest.fixture(scope="module", params=["class", "factory"])
def pool(request: pytest.FixtureRequest) -> Iterator[Any]:
    with ProxyPool(Scorer if request.param == "class" else lambda: Scorer(), worker_count=1, backend="serial") as made:
        yield made


@pytest.fixture(scope="module")
def scorer() -> Iterator[ProxyPool[Scorer]]:
    with ProxyPool(Scorer, worker_count=1, backend="serial") as made:
        yield made


def _collect(items: Any) -> list[Any]:
    async def run() -> list[Any]:
        return [item async for item in items]

    return asyncio.run(run())


CALLS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "options": (lambda pool: pool.score.options(chunksize=5)([1], map_args=True), "map_args"),
    "call": (lambda pool: pool.score([1], retries=5), "retries"),
    "call of items": (lambda pool: pool.score([1], map_args=True, on_error="skip"), "on_error"),
    "map": (lambda pool: pool.score.map([1], map_args=True), "map_args"),
    "imap": (lambda pool: pool.score.imap([1], buffersize=3), "buffersize"),
    "imap_unordered": (lambda pool: pool.score.imap_unordered([1], chunksize=3), "chunksize"),
    "aimap": (lambda pool: _collect(pool.score.aimap([1], timeout=3)), "timeout"),
    "submit": (lambda pool: pool.score.submit(1, timeout=5), "timeout"),
    "aio": (lambda pool: asyncio.run(pool.score.aio(1, priority=5)), "priority"),
    "broadcast": (lambda pool: pool.score.broadcast(1, return_exceptions=True), "return_exceptions"),
    "stream": (lambda pool: pool.score.stream(buffersize=4), "buffersize"),
    "instance": (lambda pool: pool[0].score(1, timeout=3), "timeout"),
    "instance submit": (lambda pool: pool[0].score.submit(1, stack_results=False), "stack_results"),
    "instance options": (lambda pool: pool[0].score.options(retries=2)(1, synchronize_workers=True), "synchronize_workers"),
}


@pytest.mark.parametrize("call", CALLS)
def test_an_option_among_the_arguments_is_told_where_it_belongs(scorer: ProxyPool[Scorer], call: str) -> None:
    make, name = CALLS[call]
    with pytest.raises(TypeError, match=rf"'{name}' is an option .* into options\(\.\.\.\): score\.options\({name}="):
        make(scorer)


def test_several_and_misspelt_options_are_named(scorer: ProxyPool[Scorer]) -> None:
    with pytest.raises(TypeError, match=r"'timeout' and 'retries' are options .* score.options\(timeout=..., retries=...\)"):
        scorer.score([1], map_args=True, timeout=3, retries=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"'time_out' \(did you mean 'timeout'\?\) .* score.options\(timeout=...\)"):
        scorer.score.submit(1, time_out=3)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'colour'$"):
        scorer.score.submit(1, colour=3)


def test_a_map_of_a_method_of_which_nothing_is_known_says_so_too(pool: Any) -> None:
    with pytest.raises(TypeError, match=r"'map_args' is an option .* itertools.repeat|'map_args' is an option"):
        pool.score.map([1], map_args=True)


def test_a_parameter_of_the_method_is_the_methods(pool: Any) -> None:
    assert pool.wait.submit(2, timeout=5).result() == 10
    assert pool.wait.options(timeout=None)(2, timeout=5) == [10]
    assert pool.wait.map([2, 3], timeout=[5, 6]) == [10, 18]
    assert pool.take.options(chunksize=1).broadcast(2, map_args=True) == [(2, {"map_args": True})]
    assert pool.take.submit(2, timeout=5).result() == (2, {"timeout": 5})
    assert pool.take.map([2], timeout=[5]) == [(2, {"timeout": 5})]

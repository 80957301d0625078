"""Pools of every start method."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

import pytest

from mpire_ways import MakePool
from objproxy.mpire import WorkerPool


def _maker(start_method: str) -> Iterator[MakePool]:
    made: list[WorkerPool] = []

    def make(n_jobs: int = 2, **options: Any) -> WorkerPool:
        made.append(WorkerPool(n_jobs, start_method=start_method, **options))
        return made[-1]

    yield make
    for pool in made:
        pool.terminate()


@pytest.fixture(scope="session", autouse=True)
def standard_library() -> Iterator[None]:
    """Start what `multiprocessing` keeps for the life of the program, so that no test seems to leave it behind."""
    resource_tracker.ensure_running()
    value = multiprocessing.Value("i", 0)
    yield
    del value


@pytest.fixture(params=("fork", "forkserver", "threading"))
def make_any(request: pytest.FixtureRequest) -> Iterator[MakePool]:
    """Give a maker of pools, for each start method."""
    yield from _maker(request.param)


@pytest.fixture(params=("fork", "forkserver"))
def make_process(request: pytest.FixtureRequest) -> Iterator[MakePool]:
    """Give a maker of pools, for each start method that has processes."""
    yield from _maker(request.param)


@pytest.fixture
def make_pool() -> Iterator[MakePool]:
    """Give a maker of pools of the default start method."""
    yield from _maker("fork")

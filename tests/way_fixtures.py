"""Fixtures for tests that run in every way: the ways in which a pool can run, and pools that end with their test.

The conftest of a folder whose tests shall have them imports all names of this module. A test that asks for `make_pool` or
`shared_pool` runs once in each of `WAYS`; the marks of `pytest_configure` leave out the ways in which its subject does not
exist.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from objproxy import ProxyPool
from targets import Model
from ways import WAYS, MakePool, Way


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "processes: only where workers are processes")
    config.addinivalue_line("markers", "concurrent: only where workers run at the same time as the caller")
    config.addinivalue_line("markers", "in_memory: only where workers share the caller's memory")
    config.addinivalue_line("markers", "not_fork: not where workers are forked from the program itself")
    config.addinivalue_line("markers", "not_spawn: not where workers are fresh interpreters, which then run as any others")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "way" not in metafunc.fixturenames:
        return
    marks = {mark.name for mark in metafunc.definition.iter_markers()}
    ways = [way for way in WAYS if _fits(way, marks)]
    metafunc.parametrize("way", ways, ids=[way.name for way in ways], scope="module")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the tests of a module together by way, so that each way's pool is made once.

    pytest does so by the position of a parameter among those of its test, which is another where marks leave out ways.
    """
    modules = {path: i for i, path in enumerate(dict.fromkeys(item.path for item in items))}
    items.sort(key=lambda item: (modules[item.path], _way_number(item)))


def _way_number(item: pytest.Item) -> int:
    callspec = getattr(item, "callspec", None)
    way = callspec.params.get("way") if callspec is not None else None
    return WAYS.index(way) if isinstance(way, Way) else -1


def _fits(way: Way, marks: set[str]) -> bool:
    if "not_fork" in marks and way.name == "fork":
        return False
    if "not_spawn" in marks and way.name == "spawn":
        return False
    if "in_memory" in marks and way.is_process:
        return False
    return (way.is_process or "processes" not in marks) and (way.is_concurrent or "concurrent" not in marks)


@pytest.fixture(scope="module", autouse=True)
def environ(request: pytest.FixtureRequest) -> Iterator[None]:
    """Set the variables of the way while its tests run."""
    way = request.getfixturevalue("way") if "way" in request.fixturenames else None
    with pytest.MonkeyPatch.context() as patch:
        for name, value in way.environ if way is not None else ():
            patch.setenv(name, value)
        yield


@pytest.fixture
def make_pool(way: Way) -> Iterator[MakePool]:
    """Give a maker of pools that end with the test."""
    made: list[ProxyPool[Any]] = []

    def make(cls: Any = Model, worker_count: int | None = 2, **options: Any) -> ProxyPool[Any]:
        pool: ProxyPool[Any] = ProxyPool(cls, worker_count=worker_count, **{**way.options, **options})
        made.append(pool)
        return pool

    yield make
    for pool in made:
        if "COVERAGE_RUN" in os.environ:
            pool.close(timeout=2.0)  # a worker that is killed leaves no figures
        pool.kill()


@pytest.fixture(scope="module")
def shared_pool(way: Way) -> Iterator[ProxyPool[Model]]:
    """Give a pool of three models for the tests of a module that leave it as it was."""
    with ProxyPool(Model, worker_count=3, **way.options) as pool:
        yield pool

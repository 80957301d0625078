"""Exceptions that resist handling, in the rooms for users of other libraries: they come as they come from a pool."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from objproxy import RemoteError
from objproxy.mpire import WorkerPool
from objproxy.mtasklite import Pool
from objproxy.ompr import OMPRException, OMPRunner
from objproxy.workercontext import MultiWorker
from resisting import RESISTING, Runner, work, work_batch
from targets import PATIENCE_SECONDS


def _kinds(how: str) -> tuple[type[BaseException], ...]:
    return type(RESISTING[how]()), RemoteError


def _check(how: str, calls: Iterable[Callable[[], Any]]) -> None:
    for call in calls:
        with pytest.raises(_kinds(how)):
            call()


@pytest.mark.parametrize("start_method", ["fork", "threading"])
def test_errors_of_a_worker_pool_that_resist_are_raised_as_they_are(start_method: str) -> None:
    """C22: Mutation: ``contextlib.contextmanager`` around a map: what is raised is `FrozenInstanceError`."""
    with WorkerPool(2, start_method=start_method, keep_alive=True) as pool:
        for how in RESISTING:
            calls = [
                lambda how=how: pool.map(work, [None, how, None]),
                lambda how=how: list(pool.imap_unordered(work, [None, how, None])),
                lambda how=how: pool.apply(work, (how,)),
                lambda how=how: pool.apply_async(work, (how,)).get(PATIENCE_SECONDS),
            ]
            _check(how, calls)
        assert pool.map(work, [None] * 3) == [1] * 3


def test_errors_of_a_runner_that_resist_are_the_results_of_their_tasks() -> None:
    """C22: as by the verbs of a pool."""
    with OMPRunner(Runner, devices=[None, None]) as runner:
        for how in RESISTING:
            runner.process([{"how": None}, {"how": how}, {"how": None}])
            first, error, last = runner.get_all_results()
            assert first == last == 1
            assert type(error) is OMPRException
            assert type(error.__cause__) in _kinds(how)


@pytest.mark.parametrize("use_threads", [False, True])
def test_errors_of_an_mtasklite_pool_that_resist_are_raised_or_deferred(use_threads: bool) -> None:
    """C22: as by the verbs of a pool."""
    for how in ("FrozenError", "TextExitsError", "ClassLiesError", "FalseError", "NoTracebackError"):
        with Pool(work, n_jobs=2, use_threads=use_threads) as pool:
            _check(how, [lambda pool=pool, how=how: list(pool([None, how, None]))])
        with Pool(work, n_jobs=2, use_threads=use_threads, exception_behavior="deferred") as pool:
            results = pool([None, how, None])
            got = [next(results) for _ in range(3)]
            assert [got[0], got[2]] == [1, 1]
            assert type(got[1]) in _kinds(how)


def test_errors_of_a_multi_worker_that_resist_are_raised_as_they_are() -> None:
    """C22: as by the verbs of a pool."""
    with MultiWorker(work_batch, 2) as parallel:
        for how in RESISTING:
            _check(how, [lambda how=how: parallel([None, how])])
        assert parallel([None, None]) == [[1], [1]]

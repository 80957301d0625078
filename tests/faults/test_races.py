"""Faults and ends at every moment of a call (C, D, E): nobody waits at a gate here, so what is first is not known.

Each test goes through moments from before a call is sent until after its answer has come; whatever is first, there is one
outcome, of those that are possible, and the pool is whole.
"""

from __future__ import annotations

import concurrent.futures as cf
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from faulty import Victim
from objproxy import PoolClosedError, ProxyPool, WorkerDiedError
from targets import PATIENCE_SECONDS, poll_until
from ways import MakePool

pytestmark = pytest.mark.race

OFTEN = (10_000, 1.0)

#: Turns of an empty loop from the moment at which a call begins; the last come long after its answer.
MOMENTS = [n * n * 300 for n in range(14)]


def spin(n_turns: int) -> None:
    for _ in range(n_turns):
        pass


@contextmanager
def killing(pool: ProxyPool[Any], worker_id: int, moment: int) -> Iterator[None]:
    """Kill a worker from another thread at a moment of what is done here, and wait for its successor."""
    worker, may_go = pool.workers[worker_id], threading.Event()
    pid = worker.pid
    assert pid is not None

    def kill() -> None:
        may_go.wait(PATIENCE_SECONDS)
        spin(moment)
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    may_go.set()
    yield
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()

    def is_replaced() -> bool:
        pool.obey.submit(0).result(PATIENCE_SECONDS)  # makes the engine look
        return pool.workers[worker_id].generation == worker.generation + 1 and pool.wait_ready(PATIENCE_SECONDS)

    poll_until(is_replaced)


@pytest.mark.processes
def test_a_map_in_which_a_worker_is_killed_at_any_moment_loses_one_item_at_most(make_pool: MakePool) -> None:
    """C1, C18: before it is sent anything, while it runs, between two items, when it has answered."""
    pool = make_pool(Victim, max_restarts=OFTEN)
    for n, moment in enumerate(MOMENTS):
        with killing(pool, n % 2, moment):
            outcomes = pool.obey.options(on_error="return").map(range(40))
        lost = [item for item, outcome in enumerate(outcomes) if outcome != item]
        assert all(isinstance(outcomes[item], WorkerDiedError) and outcomes[item].started for item in lost), moment
        assert len(lost) <= 1, moment
        assert pool.obey.map(range(4)) == [0, 1, 2, 3]


@pytest.mark.processes
def test_a_call_whose_worker_is_killed_at_any_moment_has_its_result_or_its_death(make_pool: MakePool) -> None:
    """D3: also where its answer is on the way."""
    pool = make_pool(Victim, worker_count=1, max_restarts=OFTEN)
    for moment in MOMENTS:
        with killing(pool, 0, moment):
            futures = [pool.obey.submit(7) for _ in range(3)]
            outcomes = [future.exception(PATIENCE_SECONDS) or future.result() for future in futures]
        dead = [outcome for outcome in outcomes if outcome != 7]
        assert [type(outcome) for outcome in dead] in ([], [WorkerDiedError]), moment


@pytest.mark.concurrent
@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_pool_that_ends_while_another_thread_submits_leaves_nothing_pending(make_pool: MakePool, end: str) -> None:
    """E1: what was accepted by a pool that is closed is finished; what a killed pool has not done is told."""
    for moment in MOMENTS[::3]:
        pool, futures, begun = make_pool(Victim), [], threading.Event()
        thread = threading.Thread(target=submit_until_closed, args=(pool, futures, begun))
        thread.start()
        begun.wait(PATIENCE_SECONDS)
        spin(moment)
        getattr(pool, end)()
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()
        assert not cf.wait(futures, PATIENCE_SECONDS).not_done
        errors = {type(future.exception()) for future in futures} - {type(None)}
        assert errors <= ({PoolClosedError} if end == "kill" else set())
        assert all(future.result() == n for n, future in enumerate(futures) if future.exception() is None)


def submit_until_closed(pool: ProxyPool[Any], futures: list[cf.Future[Any]], begun: threading.Event) -> None:
    with pytest.raises(PoolClosedError):  # noqa: PT012
        while True:
            futures.append(pool.obey.submit(len(futures)))
            begun.set()


@pytest.mark.concurrent
def test_a_call_that_is_cancelled_at_any_moment_is_done_or_cancelled(make_pool: MakePool) -> None:
    """C8: its neighbours are done, and no worker's state is told as lost."""
    pool = make_pool(Victim)
    for moment in MOMENTS:
        futures = [pool.obey.submit(n) for n in range(6)]
        spin(moment)
        is_cancelled = futures[1].cancel()
        assert not cf.wait(futures, PATIENCE_SECONDS).not_done
        assert futures[1].cancelled() == is_cancelled
        assert [n for n, future in enumerate(futures) if future.cancelled() or future.result() != n] == [1] * is_cancelled
        assert pool.obey(5).tolist() == [5, 5]

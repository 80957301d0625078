"""Methods that are coroutines, and asynchronous generators, on every back end."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coroutine_targets import AsyncClosed, Client, Closed, Entered, FailingAtEnd, make_client
from objproxy import ProxyPool
from targets import PATIENCE_SECONDS, CustomError, poll_until
from ways import MakePool, Way


@pytest.fixture(scope="module")
def clients(way: Way) -> Iterator[ProxyPool[Client]]:
    """Give a pool of one object."""
    with ProxyPool(Client, worker_count=1, **way.options) as pool:
        assert pool[0].double(1) == 2  # its event loop stays, with descriptors, also in the caller
        yield pool


KINDS = ("double", "double_later", "future", "decorated", "of_class", "of_nothing")


# ---- one after another -----------------------------------------------------------------------------------------------


def test_what_a_method_gives_is_awaited(clients: ProxyPool[Client]) -> None:
    for name in KINDS:
        method = getattr(clients, name)
        assert getattr(clients[0], name)(2) == 4
        assert method.broadcast(2) == [4]
        assert method.map(range(30)) == list(range(0, 60, 2))
        assert method.submit(2).result(PATIENCE_SECONDS) == 4
    assert list(clients.double.imap(range(5))) == [0, 2, 4, 6, 8]
    assert sorted(clients.double.imap_unordered(range(5))) == [0, 2, 4, 6, 8]
    assert (clients[0](2), clients(2).tolist()) == (4, [4])
    assert (clients[0].size, clients.size.tolist()) == (7, [7])
    with clients.double.stream() as stream:
        stream.put(range(3))
        stream.end()
        assert list(stream) == [0, 2, 4]


def test_all_calls_of_a_worker_have_one_event_loop(clients: ProxyPool[Client]) -> None:
    loops = {clients[0].locked(0), *clients.locked.map(range(3)), *clients.locked.options(concurrency=3).map(range(3))}
    assert len(loops) == 1


def test_the_error_of_a_coroutine_is_that_of_its_call(clients: ProxyPool[Client]) -> None:
    hows = [0, "error", 1, "exit", "interrupt", "cancelled", 2]
    for options in ({}, {"concurrency": 1}, {"concurrency": 10}):
        results = clients.fail.options(on_error="return", **options).map(hows)
        kinds = [type(result).__name__ for result in results]
        assert kinds == ["int", "CustomError", "int", "SystemExit", "KeyboardInterrupt", "CancelledError", "int"]
        assert results[1].code == 3
        assert "in fail" in str(results[1].__cause__)
        with pytest.raises(SystemExit):
            clients[0].fail_in_a_child.options(**options)(0)
    assert clients.workers[0].generation == 0


def test_without_the_option_tasks_do_not_overlap(make_pool: MakePool) -> None:
    pool = make_pool(Client, 1)
    futures = [pool.double.submit(x) for x in range(10)]
    assert pool.double.map(range(10)) == [future.result(PATIENCE_SECONDS) for future in futures]
    assert pool[0].peak == 1


# ---- at the same time ------------------------------------------------------------------------------------------------


@pytest.mark.concurrent
def test_tasks_of_one_worker_overlap(clients: ProxyPool[Client]) -> None:
    """Each waits until all of them are there."""
    meet, meet_here = clients.meet.options(concurrency=5), clients[0].meet.options(concurrency=5)
    fives = itertools.repeat(5)

    async def awaited() -> list[int]:
        return [x async for x in meet.aimap(range(5), fives)]

    for results in (
        lambda: meet.map(range(5), fives),
        lambda: list(meet.imap(range(5), fives)),
        lambda: sorted(meet.imap_unordered(range(5), fives)),
        lambda: [future.result(PATIENCE_SECONDS) for future in [meet.submit(x, 5) for x in range(5)]],
        lambda: [future.result(PATIENCE_SECONDS) for future in [meet_here.submit(x, 5) for x in range(5)]],
        lambda: asyncio.run(awaited()),
    ):
        assert results() == [0, 1, 2, 3, 4]
        clients.leave()


def test_more_items_than_tasks_at_once(clients: ProxyPool[Client]) -> None:
    results = clients.double.options(concurrency=4).map(range(50))
    assert results == list(range(0, 100, 2))
    assert list(clients.double.options(concurrency=4, buffersize=3).imap(range(20))) == list(range(0, 40, 2))
    assert 1 <= clients[0].peak <= 4


def test_a_plain_method_may_be_called_so(clients: ProxyPool[Client]) -> None:
    for name in ("plain", "plain_with_a_loop"):
        assert getattr(clients, name).options(concurrency=4).map(range(5)) == [0, 2, 4, 6, 8]


def test_the_number_is_checked(clients: ProxyPool[Client]) -> None:
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="concurrency"):
            clients.double.options(concurrency=wrong)
    for wrong in (True, 1.5, "2"):
        with pytest.raises((TypeError, ValueError), match="concurrency"):
            clients.double.options(concurrency=wrong)


def test_random_numbers_do_not_depend_on_what_overlaps(make_pool: MakePool) -> None:
    all_options: list[dict[str, int]] = [{}, {"concurrency": 1}, {"concurrency": 5}]
    drawn = [make_pool(Client, 2, seed=3).draw.options(**options).map(range(10)) for options in all_options]
    assert drawn[0] == drawn[1] == drawn[2]
    assert len(set(drawn[0])) == 10


@pytest.mark.concurrent
def test_a_task_that_is_cancelled_costs_itself_alone(make_pool: MakePool, gates: Any) -> None:
    """With concurrency=None too: then the coroutine travels alone."""
    pool = make_pool(Client, 1)
    gate, started = gates("gate"), [gates("first"), gates("second")]
    for options in ({}, {"concurrency": 2}):
        future = pool.wait.options(**options).submit(gate, started[0])
        poll_until(lambda: started[0].is_open)
        if options:
            other = pool.wait.options(concurrency=2).submit(gate, started[1])
            poll_until(lambda: started[1].is_open)
        assert future.cancel()
        poll_until(future.done)
        if options:
            gate.open()
            assert other.result(PATIENCE_SECONDS) == "waited"
        assert pool[0].notes[-1] == "cancelled"
        started[0].path.unlink()
    assert pool.workers[0].generation == 0


@pytest.mark.concurrent
def test_several_tasks_are_shown(make_pool: MakePool, gates: Any) -> None:
    pool, gate = make_pool(Client, 1, timeline=True), gates("gate")
    started = [gates(f"started-{i}") for i in range(3)]
    futures = [pool.wait.options(concurrency=3).submit(gate, own) for own in started]
    poll_until(lambda: all(own.is_open for own in started))
    view = pool.workers[0]
    assert (view.state, view.method, view.n_running) == ("busy", "wait", 3)
    gate.open()
    assert [future.result(PATIENCE_SECONDS) for future in futures] == ["waited"] * 3
    spans = [span for span in pool.insights().timeline if span.kind == "call"]
    assert max(span.began for span in spans) < min(span.began + span.seconds for span in spans)


# ---- asynchronous generators -----------------------------------------------------------------------------------------


def test_an_asynchronous_generator_streams(clients: ProxyPool[Client]) -> None:
    assert list(clients[0].rows(5)) == [0, 1, 2, 3, 4]
    assert [list(rows) for rows in clients.rows(2)] == [[0, 1]]
    assert [list(rows) for rows in clients.rows.map(range(3))] == [[], [0], [0, 1]]
    rows = clients[0].rows(3)
    assert [next(rows) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(CustomError):
        next(rows)
    with pytest.raises(StopIteration):
        next(rows)


def test_an_asynchronous_generator_that_is_left_runs_its_end(make_pool: MakePool) -> None:
    pool = make_pool(Client, 1)
    with pool[0].rows(100) as rows:
        assert next(rows) == 0
    assert pool[0].notes == ["end of rows"]
    rows = pool[0].rows(100)
    assert next(rows) == 0
    del rows
    poll_until(lambda: pool[0].notes == ["end of rows"] * 2)


def test_a_generator_is_awaited_by_the_caller(clients: ProxyPool[Client]) -> None:
    async def main() -> None:
        assert [row async for row in clients[0].rows(4)] == [0, 1, 2, 3]
        async with await clients.rows.aio(100) as rows:
            assert await anext(rows) == 0
        with pytest.raises(StopAsyncIteration):
            await anext(rows)
        assert await clients.double.aio(4) == 8
        assert clients[0].double(4) == 8  # a caller in a running loop, a notebook say
        assert clients.double.options(concurrency=2).map(range(3)) == [0, 2, 4]

    asyncio.run(main())


# ---- beginnings and ends ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "note"), [(Closed, "close"), (AsyncClosed, "aclose"), (Entered, "aexit")])
def test_the_end_of_an_object_may_be_a_coroutine(make_pool: MakePool, tmp_path: Path, cls: type, note: str) -> None:
    """Its tasks that go on in the background are cancelled behind it."""
    path = tmp_path / "notes"
    pool = make_pool(cls, 1, init_args=(str(path),))
    assert pool[0].touch() == (cls is Entered)
    pool.close()
    assert path.read_text().split() == [note, "task"]


def test_the_end_of_an_object_that_fails_is_told(make_pool: MakePool) -> None:
    pool = make_pool(FailingAtEnd, 1)
    pool.touch()
    with pytest.raises(CustomError, match="the end"):
        pool.close()


def test_a_factory_may_be_a_coroutine(make_pool: MakePool) -> None:
    pool = make_pool(make_client, 1, init_args=(3,))
    assert (pool[0].double(2), pool[0].beats) == (4, 3)
    assert pool[0].notes[0] == pool[0].locked(0)

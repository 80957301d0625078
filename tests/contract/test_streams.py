"""Streams: items are put, and results got, at any time and from any thread."""

from __future__ import annotations

import itertools
import queue
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from objproxy import PoolClosedError, ProxyPool, TaskTimeoutError, WorkerDiedError
from stream_targets import Clerk
from targets import LIMIT_SECONDS, PATIENCE_SECONDS, Locked, poll_until
from ways import MakePool, Way


@pytest.fixture(scope="module")
def clerks(way: Way) -> Iterator[ProxyPool[Clerk]]:
    """Give a pool of two for all tests that leave it as it was."""
    with ProxyPool(Clerk, worker_count=2, **way.options) as pool:
        yield pool


def test_results_come_in_the_order_of_the_items(clerks: ProxyPool[Clerk]) -> None:
    with clerks.do.stream() as stream:
        stream.put(range(500))
        stream.put(list(range(500, 3000)))
        stream.put((3000,))
        assert [stream.get() for _ in range(3001)] == [2 * x for x in range(3001)]
        with pytest.raises(queue.Empty):
            stream.get()


def test_unordered_results_are_all_there(clerks: ProxyPool[Clerk]) -> None:
    with clerks.do.stream(ordered=False) as stream:
        stream.put(list(range(3000)))
        stream.end()
        assert sorted(stream) == [2 * x for x in range(3000)]


@pytest.mark.concurrent
def test_unordered_results_come_as_they_are_ready(clerks: ProxyPool[Clerk], gates: Any) -> None:
    gate, started = gates("gate"), gates("started")
    with clerks.do.stream(ordered=False) as stream:
        stream.put([("wait", "late", gate, started)])
        poll_until(lambda: started.is_open)
        stream.put([1, 2])
        assert {stream.get(), stream.get()} == {2, 4}
        gate.open()
        assert stream.get() == "late"


@pytest.mark.concurrent
def test_items_may_be_put_while_another_thread_waits_for_a_result(clerks: ProxyPool[Clerk], gates: Any) -> None:
    """They are sent at once, not when the result has come: the second item opens the gate that the first waits at."""
    gate, started, got = gates("gate"), gates("started"), []
    with clerks.do.stream() as stream:
        stream.put([("wait", "first", gate)])
        consumer = threading.Thread(target=lambda: got.extend([stream.get(), stream.get()]))
        consumer.start()
        stream.put([("wait", "second", gate, started)])
        poll_until(lambda: started.is_open)
        gate.open()
        consumer.join(PATIENCE_SECONDS)
        assert got == ["first", "second"]


@pytest.mark.concurrent
def test_the_workers_go_on_while_nobody_gets_anything(make_pool: MakePool, gates: Any) -> None:
    last = gates("last")
    last.open()
    pool = make_pool(Clerk)
    with pool.do.options(chunksize=1).stream() as stream:
        reached = gates("reached")
        stream.put([*range(200), ("wait", "end", last, reached)])
        poll_until(lambda: reached.is_open)  # more than what is sent ahead was done, and this thread did nothing
        poll_until(lambda: stream.n_done == 201)
        assert stream.take() == [*range(0, 400, 2), "end"]


def test_an_iterator_is_read_as_its_items_are_needed(clerks: ProxyPool[Clerk]) -> None:
    numbers = itertools.count()
    with clerks.do.options(buffersize=10).stream() as stream:
        stream.put(numbers)
        assert [stream.get() for _ in range(50)] == list(range(0, 100, 2))
        assert stream.n_put <= 60
        assert stream.n_outstanding is None
    assert next(numbers) <= 61


@pytest.mark.concurrent
def test_what_a_slow_iterator_gave_is_not_held_back(clerks: ProxyPool[Clerk], gates: Any) -> None:
    gate = gates("gate")

    def items() -> Iterator[int]:
        yield from range(3)
        gate.wait()
        yield 3

    with clerks.do.stream() as stream:
        stream.put(items())
        assert [stream.get(PATIENCE_SECONDS) for _ in range(3)] == [0, 2, 4]
        with pytest.raises(queue.Empty):
            stream.get(0)
        stream.put([5])  # its place is behind the iterator's
        gate.open()
        assert [stream.get(PATIENCE_SECONDS) for _ in range(2)] == [6, 10]
        with pytest.raises(queue.Empty):
            stream.get()


def test_an_iterator_that_raises_does_so_behind_the_results_before_it(clerks: ProxyPool[Clerk]) -> None:
    error = OSError("disk")

    def items() -> Iterator[int]:
        yield from range(12)
        raise error

    with clerks.do.stream() as stream:
        stream.put(items())
        stream.put([7])
        assert [stream.get() for _ in range(12)] == list(range(0, 24, 2))
        with pytest.raises(OSError, match="disk") as caught:
            stream.get()
        assert caught.value is error
        assert stream.get() == 14


def test_a_failed_item_raises_in_its_turn_and_the_stream_goes_on(clerks: ProxyPool[Clerk]) -> None:
    with clerks.do.stream() as stream:
        stream.put([1, ("raise", "x"), 3, ("stop",), 5])
        assert stream.get() == 2
        with pytest.raises(ValueError, match="bad item x") as caught:
            stream.get()
        assert "item 1" in caught.value.__notes__[0]
        assert stream.get() == 6
        with pytest.raises(RuntimeError, match="StopIteration"):
            stream.get()
        assert stream.get() == 10


def test_errors_can_be_returned_skipped_or_answered(clerks: ProxyPool[Clerk]) -> None:
    items = [1, ("raise", "x"), 3, ("return", ValueError("fine"))]
    results: dict[Any, list[str]] = {}
    for on_error in ("return", "skip", lambda index, item, error: f"{index} {item[1]} {error}"):
        with clerks.do.stream(on_error=on_error) as stream:
            stream.put(items)
            stream.end()
            results[on_error if isinstance(on_error, str) else "answer"] = [str(result) for result in stream]
    assert results["return"] == ["2", "bad item x", "6", "fine"]
    assert results["skip"] == ["2", "6", "fine"]
    assert results["answer"] == ["2", "1 x bad item x", "6", "fine"]


def test_take_gives_what_is_ready_and_no_more_than_asked(clerks: ProxyPool[Clerk]) -> None:
    with clerks.do.stream(on_error="return") as stream:
        assert stream.take() == []
        stream.put([1, 2, ("raise", "x"), 4, 5])
        poll_until(lambda: stream.n_done == 5)
        assert stream.take(2) == [2, 4]
        assert [str(result) for result in stream.take()] == ["bad item x", "8", "10"]
        assert stream.n_outstanding == 0


def test_take_raises_an_error_that_is_first_and_leaves_one_that_is_not(clerks: ProxyPool[Clerk]) -> None:
    with clerks.do.stream() as stream:
        stream.put([1, ("raise", "x"), 3])
        poll_until(lambda: stream.n_done == 3)
        taken = [stream.take(1)]
        with pytest.raises(ValueError, match="bad item x"):
            stream.take()
        assert taken == [[2]]
        assert stream.take() == [6]


def test_the_queue_can_be_bounded(clerks: ProxyPool[Clerk]) -> None:
    with clerks.do.stream(maxsize=5) as stream:
        with pytest.raises(queue.Full, match="maxsize=5"):
            stream.put(list(range(6)))
        assert stream.n_put == 0
        stream.put(range(100))  # as an iterator it is read as there is room
        assert [stream.get() for _ in range(100)] == list(range(0, 200, 2))


@pytest.mark.concurrent
def test_results_that_nobody_got_can_be_bounded(make_pool: MakePool) -> None:
    pool = make_pool(Clerk)
    with pool.do.options(buffersize=4).stream() as stream:
        stream.put(list(range(100)))
        poll_until(lambda: stream.n_done == 4)
        assert [stream.get() for _ in range(100)] == list(range(0, 200, 2))
        assert sum(pool.n_done) == 100


@pytest.mark.concurrent
def test_waiting_for_a_result_can_end_and_be_taken_up_again(clerks: ProxyPool[Clerk], gates: Any) -> None:
    gate = gates("gate")
    with clerks.do.stream() as stream:
        stream.put([("wait", 7, gate)])
        for _ in range(3):
            with pytest.raises(queue.Empty):
                stream.get(0.01)
        gate.open()
        assert stream.get(PATIENCE_SECONDS) == 7


def test_an_ended_stream_takes_nothing_more(clerks: ProxyPool[Clerk]) -> None:
    with clerks.do.stream() as stream:
        stream.put([1])
        stream.end()
        with pytest.raises(ValueError, match="ended"):
            stream.put([2])
        assert list(stream) == [2]
        assert list(stream) == []


def test_iterating_waits_for_what_others_put(clerks: ProxyPool[Clerk]) -> None:
    with clerks.do.stream() as stream:

        def produce() -> None:
            for x in range(20):
                stream.put([x])
            stream.end()

        producer = threading.Thread(target=produce)
        producer.start()
        assert list(stream) == list(range(0, 40, 2))
        producer.join(PATIENCE_SECONDS)


@pytest.mark.concurrent
def test_many_threads_put_and_get_and_nothing_is_lost(clerks: ProxyPool[Clerk]) -> None:
    n_threads, n_items, got = 4, 300, []
    with clerks.do.stream(ordered=False) as stream:
        start = threading.Barrier(2 * n_threads)

        def produce(number: int) -> None:
            start.wait()
            for x in range(n_items):
                stream.put([number * n_items + x])

        def consume() -> None:
            start.wait()
            got.extend(stream)

        producers = [threading.Thread(target=produce, args=(number,)) for number in range(n_threads)]
        consumers = [threading.Thread(target=consume) for _ in range(n_threads)]
        for thread in (*producers, *consumers):
            thread.start()
        for thread in producers:
            thread.join(PATIENCE_SECONDS)
        stream.end()
        for thread in consumers:
            thread.join(PATIENCE_SECONDS)
        assert sorted(got) == [2 * x for x in range(n_threads * n_items)]


@pytest.mark.concurrent
def test_closing_a_stream_forgets_what_waits_and_leaves_the_pool_usable(make_pool: MakePool, gates: Any) -> None:
    pool, gate = make_pool(Clerk), gates("gate")
    stream = pool.do.options(chunksize=1).stream()
    stream.put([("wait", x, gate) for x in range(20)])
    stream.close()
    gate.open()
    with pytest.raises(queue.Empty):
        stream.get()
    with pytest.raises(ValueError, match="ended"):
        stream.put([1])
    assert pool.do.map([1, 2]) == [2, 4]
    assert sum(pool.n_done) <= 2 + 6


@pytest.mark.concurrent
def test_who_waits_for_a_result_is_told_when_the_stream_is_closed(clerks: ProxyPool[Clerk], gates: Any) -> None:
    gate, started, caught = gates("gate"), gates("started"), []
    stream = clerks.do.stream()
    stream.put([("wait", 1, gate, started)])

    def consume() -> None:
        try:
            stream.get()
        except queue.Empty as exc:
            caught.append(exc)

    consumers = [threading.Thread(target=consume) for _ in range(2)]
    for consumer in consumers:
        consumer.start()
    poll_until(lambda: started.is_open)
    stream.close()
    for consumer in consumers:
        consumer.join(PATIENCE_SECONDS)
    assert len(caught) == 2
    gate.open()


def test_a_pool_that_ends_is_told(make_pool: MakePool) -> None:
    pool = make_pool(Clerk)
    stream = pool.do.stream()
    pool.close()
    with pytest.raises(PoolClosedError):
        stream.put([1])
    stream.close()


@pytest.mark.processes
def test_what_cannot_be_pickled_costs_nobody_else(clerks: ProxyPool[Clerk]) -> None:
    with clerks.do.stream(on_error="return") as stream:
        stream.put([1, ("return", Locked()), 3])
        results = [stream.get(PATIENCE_SECONDS) for _ in range(3)]
    assert results[::2] == [2, 6]
    assert "lock" in str(results[1])


@pytest.mark.processes
def test_deaths_and_time_outs_cost_the_item_and_nothing_else(make_pool: MakePool) -> None:
    pool = make_pool(Clerk, max_restarts=(50, 1.0))
    with pool.do.options(retries=1).stream(on_error="return") as stream:
        stream.put([1, ("die",), 2])
        before, died, after = (stream.get(PATIENCE_SECONDS) for _ in range(3))
    assert (before, after) == (2, 4)
    assert isinstance(died, WorkerDiedError)
    assert died.attempts == 2
    with pool.do.options(timeout=LIMIT_SECONDS).stream(on_error="return") as stream:
        stream.put([1, ("hang",), 2])
        before, hung, after = (stream.get(PATIENCE_SECONDS) for _ in range(3))
    assert (before, after) == (2, 4)
    assert isinstance(hung, TaskTimeoutError)


def test_generators_are_streams_of_the_caller(clerks: ProxyPool[Clerk]) -> None:
    with clerks.do.stream() as stream:
        stream.put([("rows", 3)])
        assert list(stream.get()) == [0, 1, 2]


def test_what_a_stream_cannot_keep_is_refused(make_pool: MakePool) -> None:
    pool = make_pool(Clerk)
    with pytest.raises(ValueError, match="progress_bar"):
        pool.do.options(progress_bar=True).stream()
    with pytest.raises(ValueError, match="on_error"):
        pool.do.stream(on_error="never")
    with pytest.raises(ValueError, match="maxsize"):
        pool.do.stream(maxsize=0)
    with pytest.raises(ValueError, match="dedicated"):
        make_pool(Clerk, dedicated=True).do.stream()
    with pool.do.stream() as stream, pytest.raises(TypeError, match="iterable"):
        stream.put(5)


def test_a_stream_that_nobody_holds_is_forgotten(clerks: ProxyPool[Clerk]) -> None:
    stream = clerks.do.stream()
    stream.put([1])
    assert stream.get() == 2
    remembered = weakref.ref(stream)
    del stream
    poll_until(lambda: remembered() is None)  # its thread ends when there has been nothing to do for a while
    assert clerks.do.map([1]) == [2]

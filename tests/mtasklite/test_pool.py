"""Programs that were written for mtasklite's `Pool` run with the import changed."""

from __future__ import annotations

import functools
import gc
import itertools
import os
import signal
import sys
import threading
import time
import types
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from objproxy import NotSupportedError, TaskTimeoutError, WorkerDiedError
from objproxy.mtasklite import ArgumentPassing, ExceptionBehaviour, Pool, delayed_init, is_exception, streaming
from objproxy.mtasklite.constants import ArgumentError
from targets import LIMIT_SECONDS, Gate, poll_until


def square(number):
    return number * number


def fail_on_odd(number):
    if number % 2:
        raise KeyError(number)
    return number


def return_error(number):
    return ValueError(number)


def die_of_three(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def sleep_on_three(number):
    if number == 3:
        time.sleep(600)  # it is ended before
    return number


def exit_on_three(number):
    if number == 3:
        sys.exit(7)
    return number


def return_lock(number):
    return threading.Lock()


def wait_at(path):
    Gate(path).wait()
    return path


def append_to(path, item):
    with open(path, "a") as file:
        file.write(".")
    return item


def fail_on_three(item):
    if item == 3:
        raise ValueError("three")
    return item


def three(a, b, c):
    return a, b, c


@delayed_init
class Counter:
    """Counts its calls."""

    def __init__(self, name, start=0):
        self.name = name
        self.n_calls = start

    def __call__(self, item):
        self.n_calls += 1
        return self.name, item, self.n_calls


@delayed_init
class Broken:
    def __init__(self, text):
        raise LookupError(text)

    def __call__(self, item):
        return item


class Watched:
    """An input that knows how far it was pulled."""

    def __init__(self, items: Any) -> None:
        self.n_pulled = 0
        self._items = iter(items)

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self.n_pulled += 1
            yield item


KINDS = {
    "processes": {"n_jobs": 3},
    "threads": {"n_jobs": 3, "use_threads": True},
    "inline": {"n_jobs": 1},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_unordered", [False, True])
@pytest.mark.parametrize("sizes", [(None, None), (1, 1), (1, 2), (4, 1), (4, 4)])
def test_every_item_has_its_result(kind: str, is_unordered: bool, sizes: tuple[int | None, int | None]) -> None:
    """Also a check that a pool can be used again: a second use of several workers hung."""
    options = {"chunk_size": sizes[0], "chunk_prefill_ratio": sizes[1], "is_unordered": is_unordered}
    with Pool(square, **KINDS[kind], **options) as pool:
        for n_items, is_sized in itertools.product((0, 1, 2, 7), (False, True)):
            results = pool(range(n_items) if is_sized else (i for i in range(n_items)))
            found = list(results)
            assert (sorted(found) if is_unordered else found) == [i * i for i in range(n_items)]


@pytest.mark.parametrize(
    ("argument_type", "items"),
    [
        (ArgumentPassing.AS_ARGS, [[1, 2, 3]]),
        (ArgumentPassing.AS_KWARGS, [{"a": 1, "b": 2, "c": 3}]),
        ("args", [(1, 2, 3)]),
    ],
)
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_arguments_are_passed_in_each_way(argument_type: str, items: list[Any], n_jobs: int) -> None:
    with Pool(three, n_jobs, argument_type=argument_type) as pool:
        assert list(pool(items)) == [(1, 2, 3)]


def test_single_argument_is_called_direct_by_pqdm() -> None:
    assert list(Pool(square, 1, argument_type="direct")([3])) == [9]
    assert list(Pool(square, 1, argument_type=None)([3])) == [9]


def test_none_is_an_item_and_a_result_like_any_other() -> None:
    with Pool(lambda item: item, 2) as pool:
        assert list(pool([None, 1, None])) == [None, 1, None]


def test_length_is_that_of_the_input() -> None:
    with Pool(square, 2) as pool:
        results = pool([1, 2, 3])
        assert len(results) == 3
        assert next(results) == 1
        assert len(results) == 3
        assert results.parent_obj is pool
        with pytest.raises(TypeError, match="the input has no length"):
            len(pool(iter([1])))


# ---- workers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_threads", [False, True])
def test_a_list_gives_each_worker_its_own_object(use_threads: bool) -> None:
    with Pool([Counter("a"), Counter("b", start=10)], use_threads=use_threads) as pool:
        results = list(pool(range(20)))
        assert [item for _, item, _ in results] == list(range(20))
        assert {name for name, _, _ in results} == {"a", "b"}
        more = list(pool(range(20)))  # the same objects as before
    last = {name: n_calls for name, _, n_calls in (*results, *more)}
    assert last["a"] + last["b"] - 10 == 40


def test_threads_do_not_share_one_object() -> None:
    """One shell for all threads was one object, built without a lock."""
    barrier = threading.Barrier(3, timeout=30)

    @delayed_init
    class Meeting:
        def __call__(self, item):
            barrier.wait()  # so that each thread has one item
            return id(self)

    with Pool(Meeting(), n_jobs=3, use_threads=True) as pool:
        assert len(set(pool(range(3)))) == 3


class Tripler:
    def __call__(self, item):
        return 3 * item

    def method(self, item):
        return self(item)


class Callable:
    def __call__(self, item):
        return ("callable", item)

    def method(self, item):
        return ("method", item)


def test_workers_may_be_of_any_kind_and_mixed() -> None:
    for worker, expected in [
        (len, 2),
        (str.upper, "AB"),
        (Callable(), ("callable", "ab")),
        (Callable().method, ("method", "ab")),
        (list, ["a", "b"]),
        (functools.partial(int, base=16), 171),
        (lambda item: item[::-1], "ba"),
    ]:
        assert list(Pool(worker, 1)(["ab"])) == [expected]
    factor = 3
    with Pool(
        (lambda x: factor * x, functools.partial(int.__mul__, 3), Callable().__class__.__name__.__class__.__len__), 3
    ) as pool:
        assert pool.num_workers == 3
    with Pool([Counter("a"), square, lambda x: -x, functools.partial(max, 5), len]) as pool:
        assert pool.num_workers == 5


@pytest.mark.parametrize(
    ("workers", "n_jobs", "words"),
    [
        ([], None, "the list of workers is empty"),
        (square, None, "n_jobs is needed"),
        ([square, square], 3, r"n_jobs=3 for a list of 2 workers"),
        (3, 2, "3 is no worker"),
        ([square, "x"], None, "'x' is no worker"),
        (Counter, 2, r"Counter is a delayed class; give an object of it: Counter\(...\)"),
    ],
)
def test_bad_workers_are_refused_in_words(workers: Any, n_jobs: int | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Pool(workers, n_jobs)
    with pytest.raises(AssertionError):  # what programs expect
        Pool(workers, n_jobs)


@pytest.mark.parametrize(
    "options", [{"argument_type": "both"}, {"exception_behavior": "never"}, {"exception_behaviour": "never"}], ids=str
)
def test_unknown_words_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="expected one of '"):
        Pool(square, 2, **options)


@pytest.mark.parametrize(("n_jobs", "n_workers"), [(0, 1), (-3, 1), (2.9, 2)])
def test_numbers_of_jobs_are_rounded(n_jobs: Any, n_workers: int) -> None:
    with Pool(square, n_jobs) as pool:
        assert pool.num_workers == n_workers
        assert list(pool([2])) == [4]


def test_one_worker_runs_inline_and_keeps_its_state() -> None:
    thread_ids: list[int] = []
    with Pool(lambda item: thread_ids.append(threading.get_ident()), 1) as pool:
        list(pool([1, 2]))
    assert thread_ids == [threading.get_ident()] * 2
    with Pool(Counter("a"), 1) as pool:
        assert list(pool([1])) == [("a", 1, 1)]
        assert list(pool([1])) == [("a", 1, 2)]


# ---- lazy and bounded ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({"n_jobs": 2}, 2),
        ({"n_jobs": 2, "is_unordered": True}, 4),
        ({"n_jobs": 2, "use_threads": True}, 2),
        ({"n_jobs": 2, "chunk_size": 5}, 5),
        ({"n_jobs": 2, "chunk_size": 1}, 1),
        ({"n_jobs": 2, "chunk_size": 3, "is_unordered": True, "chunk_prefill_ratio": 3}, 9),
        ({"n_jobs": 1}, 1),
    ],
    ids=str,
)
def test_at_most_one_batch_is_pulled_ahead_of_the_consumer(options: dict[str, Any], most: int) -> None:
    items = Watched(itertools.count())
    with Pool(square, **options) as pool:
        results = pool(items)
        assert items.n_pulled == 0
        worst = 0
        for n_yielded, _ in enumerate(itertools.islice(results, 8)):
            worst = max(worst, items.n_pulled - n_yielded)
    assert 1 <= worst <= most


def test_a_batch_of_tiny_items_grows_with_what_was_consumed() -> None:
    items = Watched(itertools.count())
    with Pool(square, 2) as pool:
        worst = 0.0
        for n_yielded, _ in enumerate(itertools.islice(pool(items), 1_000)):
            worst = max(worst, (items.n_pulled - n_yielded) / max(n_yielded / 4, 2))
            assert items.n_pulled - n_yielded <= 2048
    assert worst <= 1.5


def test_a_batch_is_what_the_consumer_takes_in_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(streaming, "time", types.SimpleNamespace(perf_counter=lambda: now))
    pace = streaming.Pace(least=2, most=100)
    assert pace.batch_size() == 2
    pace.n_consumed, now = 80, 0.040  # 40 in twenty milliseconds, but a fourth of what was consumed is less
    assert pace.batch_size() == 20
    pace.n_consumed = 160
    assert pace.batch_size() == 40
    pace.n_consumed, now = 10_000, 0.080
    assert pace.batch_size() == 100
    pace.n_consumed, now = 10_001, 4.0  # the consumer has become slow
    assert pace.batch_size() == 2


def test_unbounded_reads_the_whole_input_first() -> None:
    items = Watched(range(50))
    with Pool(square, 2, bounded=False) as pool:
        results = pool(items)
        assert next(results) == 0
        assert items.n_pulled == 50
        assert list(results) == [i * i for i in range(1, 50)]


def test_unbounded_workers_go_on_while_nobody_takes_results(tmp_path: Any) -> None:
    log = tmp_path / "log"
    log.touch()
    with Pool(append_to, 2, argument_type="args", bounded=False) as pool:
        results = pool((str(log), item) for item in range(300))
        poll_until(lambda: log.stat().st_size == 300)
        assert list(results) == list(range(300))


def test_unbounded_errors_come_in_their_turn() -> None:
    with Pool(fail_on_three, 2, bounded=False, exception_behavior="ignore") as pool:
        assert [type(result) for result in pool(range(6))] == [int, int, int, ValueError, int, int]
    with Pool(fail_on_three, 2, bounded=False) as pool, pytest.raises(ValueError, match="three"):
        list(pool(range(6)))


def test_workers_run_while_the_consumer_is_busy(tmp_path: Any) -> None:
    paths = [str(tmp_path / name) for name in "ab"]
    with Pool(wait_at, 2, is_unordered=True) as pool:
        results = pool(paths)
        Gate(paths[1]).open()
        assert next(results) == paths[1]  # the first item does not hold the second back
        Gate(paths[0]).open()
        assert next(results) == paths[0]


def test_the_input_may_raise_whatever_the_behaviour() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    for options in KINDS.values():
        with Pool(square, exception_behavior="ignore", **options) as pool:
            results = pool(items())
            assert next(results) == 1
            with pytest.raises(OSError, match="the disk is gone") as caught:
                next(results)
            assert caught.traceback[-1].name == "items"
            assert list(results) == []


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
class TestExceptions:
    def test_immediate_raises_the_first(self, kind: str) -> None:
        with Pool(fail_on_odd, **KINDS[kind]) as pool:
            results = pool(range(6))
            assert next(results) == 0
            with pytest.raises(KeyError, match="1"):
                next(results)
            assert list(results) == []
            assert list(pool([2, 4])) == [2, 4]

    def test_deferred_yields_them_and_raises_them_at_the_end(self, kind: str) -> None:
        with Pool(fail_on_odd, exception_behavior=ExceptionBehaviour.DEFERRED, **KINDS[kind]) as pool:
            results = pool(range(4))
            found = [next(results) for _ in range(4)]
            with pytest.raises(Exception, match="KeyError") as caught:
                next(results)
        assert [is_exception(result) for result in found] == [False, True, False, True]
        assert caught.type is Exception
        assert [error.args for error in caught.value.args] == [(1,), (3,)]

    @pytest.mark.parametrize("spelling", ["exception_behavior", "exception_behaviour"])
    def test_ignore_yields_them(self, kind: str, spelling: str) -> None:
        with Pool(fail_on_odd, **{spelling: "ignore"}, **KINDS[kind]) as pool:
            found = list(pool(range(4)))
        assert [type(result) for result in found] == [int, KeyError, int, KeyError]

    @pytest.mark.parametrize("behaviour", ["immediate", "deferred", "ignore"])
    def test_an_exception_that_is_returned_is_a_value(self, kind: str, behaviour: str) -> None:
        """It counted as raised."""
        with Pool(return_error, exception_behavior=behaviour, **KINDS[kind]) as pool:
            assert [error.args for error in pool(range(3))] == [(0,), (1,), (2,)]


def test_a_remote_error_has_its_traceback() -> None:
    with Pool(fail_on_odd, 2) as pool, pytest.raises(KeyError) as caught:
        list(pool([1]))
    assert "in fail_on_odd" in str(caught.value.__cause__)


def test_a_dead_worker_is_replaced_and_its_item_reported() -> None:
    """It hung."""
    with Pool(die_of_three, 2, exception_behavior="ignore") as pool:
        found = list(pool(range(8)))
    assert [result for result in found if not is_exception(result)] == [0, 1, 2, 4, 5, 6, 7]
    assert isinstance(found[3], WorkerDiedError)
    with Pool(die_of_three, 2) as pool, pytest.raises(WorkerDiedError, match="SIGKILL"):
        list(pool([3]))


def test_many_deaths_do_not_end_the_pool() -> None:
    with Pool(die_of_three, 2, exception_behavior="ignore") as pool:
        found = list(pool([3] * 12 + [1]))
    assert [type(result) for result in found] == [WorkerDiedError] * 12 + [int]


def test_a_result_that_cannot_be_sent_is_that_items_error() -> None:
    """It hung."""
    with Pool(return_lock, 2, exception_behavior="ignore") as pool:
        assert all("cannot pickle" in str(error) for error in pool([1, 2, 3]))


def test_an_item_that_cannot_be_sent_is_that_items_error() -> None:
    with Pool(square, 2, exception_behavior="ignore") as pool:
        found = list(pool([1, threading.Lock(), 3]))
    assert (found[0], found[2]) == (1, 9)
    assert isinstance(found[1], TypeError)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_task_that_takes_too_long_is_ended(n_jobs: int) -> None:
    """The option had no effect; a single worker is a process with it, since a call in this thread cannot be ended."""
    with Pool(sleep_on_three, n_jobs, task_timeout=LIMIT_SECONDS, exception_behaviour="ignore") as pool:
        found = list(pool(range(5)))
    assert isinstance(found[3], TaskTimeoutError)
    assert [*found[:3], found[4]] == [0, 1, 2, 4]


def test_a_time_limit_for_threads_is_refused() -> None:
    with pytest.raises(NotSupportedError, match="timeout"):
        Pool(square, 2, use_threads=True, task_timeout=1.0)


@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_a_worker_that_exits_is_an_error_of_its_item(kind: str) -> None:
    with Pool(exit_on_three, exception_behavior="ignore", **KINDS[kind]) as pool:
        found = list(pool(range(5)))
    assert isinstance(found[3], RuntimeError)
    assert str(found[3]) == "the worker called sys.exit(7)"
    assert "exit_on_three" in str(found[3].__cause__)


@pytest.mark.parametrize("kind", KINDS)
def test_a_constructor_that_fails_is_told_once_as_itself(kind: str) -> None:
    """Every item failed with it, and the constructor was tried for each."""
    with pytest.raises(LookupError, match="no such weights"):
        Pool(Broken("no such weights"), exception_behavior="ignore", **KINDS[kind])


def test_an_object_that_is_not_callable_is_refused_in_words() -> None:
    @delayed_init
    class Silent:
        pass

    with pytest.raises(TypeError, match="objects of Silent are not callable"):
        Pool(Silent(), 2)


# ---- life ------------------------------------------------------------------------------------------------------------


def test_exited_tells_of_the_with_block_alone() -> None:
    with Pool(square, 2) as pool:
        results = pool([1, 2])
        assert not results.parent_obj.exited
    assert pool.exited
    pool = Pool(square, 2)
    assert list(pool([1])) == [1]
    assert not pool.exited
    with pool([1]) as results:
        pass
    assert results.parent_obj.exited


@pytest.mark.parametrize("kind", KINDS)
def test_breaking_off_without_a_with_block_leaves_nothing_behind(kind: str) -> None:
    """At once: nothing waits for the garbage collector."""
    gc.disable()
    try:
        pool = Pool(square, **KINDS[kind])
        is_alive = weakref.ref(pool)
        for result in pool(itertools.count()):
            if result > 100:
                break
        del pool
        assert is_alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_without_a_with_block_leaves_nothing_behind(kind: str) -> None:
    def odd_input() -> Iterator[int]:
        yield 0
        raise OSError("the disk is gone")

    gc.disable()
    try:
        for items, expected in ((range(4), KeyError), (odd_input(), OSError)):
            pool = Pool(fail_on_odd, **KINDS[kind])
            is_alive = weakref.ref(pool)
            with pytest.raises(expected) as caught:
                list(pool(items))
            del pool, caught
            assert is_alive() is None
    finally:
        gc.enable()


def test_an_inline_error_has_its_whole_traceback() -> None:
    with pytest.raises(KeyError) as caught:
        list(Pool(fail_on_odd, 1)([1]))
    assert "fail_on_odd" in [entry.name for entry in caught.traceback]


def test_leaving_a_with_block_forgets_what_has_not_run(tmp_path: Any) -> None:
    ran = tmp_path / "ran"

    def note(item):
        with ran.open("a") as file:
            file.write(f"{item}\n")
        if item == 0:
            raise KeyError(item)
        Gate(tmp_path / "never").wait()

    with Pool([note] * 2, bounded=False, join_timeout=0.1) as pool, pytest.raises(KeyError):
        list(pool(range(100)))
    assert len(ran.read_text().splitlines()) <= 3


def test_several_inputs_may_be_streamed_at_one_time() -> None:
    with Pool(square, 2) as pool:
        assert list(zip(pool([1, 2, 3]), pool([4, 5, 6]), strict=True)) == [(1, 16), (4, 25), (9, 36)]

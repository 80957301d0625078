"""`objproxy.parallelise`: a function and a decorator over batches of one argument."""

from __future__ import annotations

import gc
import os
import signal
import statistics
import threading
import weakref
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import objproxy
from objproxy import ParallelFunction, ProxyPool, WorkerDiedError, parallelise, reductions
from objproxy.reductions import average_reduction, flatten_reduction, histogram_reduction, max_reduction, sum_reduction
from test_batches import CASES


@parallelise(worker_count=2)
def squares(numbers: list[int]) -> list[int]:
    return [number * number for number in numbers]


@pytest.fixture(autouse=True)
def decorated_function_is_closed():
    yield
    squares.close()


def pids(items: Any) -> list[int]:
    return [os.getpid()] * len(items)


def die_of_minus_one(numbers: list[int]) -> list[int]:
    if -1 in numbers:
        os.kill(os.getpid(), signal.SIGKILL)
    return numbers


def test_a_decorated_function_of_a_module_runs_in_processes() -> None:
    assert squares([1, 2, 3]) == [1, 4, 9]
    assert squares.__name__ == "squares"
    assert len(squares.pool) == 2


def test_each_batch_runs_on_a_worker_of_its_own() -> None:
    with parallelise(pids, worker_count=2, reduction=flatten_reduction) as run:
        found = run(range(5))
    assert len(found) == 5
    assert found[0] == found[2] != found[3] == found[4]
    assert os.getpid() not in found


def test_fewer_items_than_workers_make_fewer_batches() -> None:
    with parallelise(lambda items: items, worker_count=4, backend="thread") as run:
        assert run((1, 2)) == [(1,), (2,)]


@pytest.mark.parametrize("name", CASES)
def test_the_parallel_result_is_the_serial_one(name: str) -> None:
    """For every reduction and size; the same worker threads for all examples, since starting them is not what is tested."""
    reduction = getattr(reductions, name)

    with parallelise(reduction, worker_count=3, reduction=reduction, batched_arg="results", backend="serial") as run:

        @settings(max_examples=30)
        @given(st.lists(CASES[name], max_size=12))
        def check(items: list[Any]) -> None:
            try:
                expected = reduction(items)
            except ValueError as exc:
                with pytest.raises(ValueError, match=str(exc)):
                    run(items)
            else:
                assert run(items) == expected

        check()


def items_for(name: str) -> list[Any]:
    items: dict[str, list[Any]] = {
        "flatten_reduction": [[1], [2, 3], []],
        "set_union_reduction": [{1}, {2, 1}, {5}],
        "dict_merge_reduction": [{1: 1}, {1: 2}, {2: 3}],
        "average_reduction": [Fraction(1), Fraction(5), Fraction(7)],
        "string_concatenation_reduction": ["a", "b", "c"],
    }
    return items.get(name, [6, 3, 6])


class Echo:
    def give_back(self, item: Any) -> Any:
        return item


def test_every_reduction_makes_the_value_of_a_map() -> None:
    with ProxyPool(Echo, worker_count=2) as pool:
        for name in CASES:
            reduction = getattr(reductions, name)
            found = pool.give_back(items_for(name), map_args=True, stack_results=reduction)
            assert found == reduction(items_for(name)), name


@pytest.mark.parametrize("name", CASES)
def test_the_parallel_result_is_the_serial_one_in_processes(name: str) -> None:
    items, reduction = items_for(name), getattr(reductions, name)
    with parallelise(reduction, worker_count=2, reduction=reduction) as run:
        assert run(items) == reduction(items)


@pytest.mark.parametrize("size", range(6))
def test_an_average_is_that_of_all_items_at_every_size(size: int) -> None:
    with parallelise(statistics.mean, worker_count=4, reduction=average_reduction, backend="serial") as mean:
        items = [Fraction(i * i) for i in range(size)]
        if items:
            assert mean(items) == statistics.mean(items)
        else:
            with pytest.raises(statistics.StatisticsError):
                mean(items)


def test_empty_input_gives_the_value_of_the_function_itself() -> None:
    with parallelise(
        lambda xs: min(xs, default=None), worker_count=2, reduction=lambda values: values[0], backend="serial"
    ) as low:
        assert low([]) is None
    with parallelise(sum, worker_count=2, reduction=None, backend="serial") as sums:
        assert sums([]) == []
    with parallelise(lambda a: a * 2, worker_count=2, reduction=np.concatenate, backend="serial") as double:
        assert double(np.empty((0, 3), np.float32)).dtype == np.float32


def test_combine_gets_the_sizes_of_the_batches() -> None:
    def pooled_variance(variances: list[float], sizes: list[int]) -> tuple[list[float], list[int]]:
        return variances, sizes

    with parallelise(statistics.pvariance, worker_count=3, combine=pooled_variance, backend="serial") as run:
        assert run([1, 3, 5, 5, 7]) == ([1, 0, 0], [2, 2, 1])


def test_other_arguments_are_the_same_for_every_batch() -> None:
    def scale(factor: int, numbers: list[int], *rest: int, offset: int = 0, **names: int) -> list[Any]:
        return [factor * number + offset + sum(rest) + names.get("more", 0) for number in numbers]

    with parallelise(scale, worker_count=2, backend="serial") as run:
        assert run(10, [1, 2, 3], 5, offset=100, more=1000) == [1115, 1125, 1135]
        assert run(numbers=range(2), factor=1) == [0, 1]


def test_an_extra_keyword_can_be_batched() -> None:
    def collect(**names: Any) -> list[Any]:
        return [(names["tag"], name) for name in names["names"]]

    with parallelise(collect, worker_count=2, batched_arg="names", reduction=flatten_reduction, backend="serial") as run:
        assert run(tag=1, names=["a", "b"]) == [(1, "a"), (1, "b")]


def test_lambdas_closures_and_bound_methods_work_in_processes() -> None:
    factor = 3

    class Scaler:
        def scale(self, numbers: list[int]) -> list[int]:
            return [factor * number for number in numbers]

    for function in (lambda numbers: [factor * number for number in numbers], Scaler().scale):
        with parallelise(function, worker_count=2, reduction=flatten_reduction) as run:
            assert run([1, 2, 3]) == [3, 6, 9]


def test_methods_can_be_decorated() -> None:
    class Scaler:
        def __init__(self, factor: int) -> None:
            self.factor = factor

        @parallelise(worker_count=2, reduction=flatten_reduction, backend="serial")
        def scale(self, numbers):
            return [self.factor * number for number in numbers]

    assert Scaler(3).scale([1, 2]) == [3, 6]
    assert isinstance(Scaler.scale, ParallelFunction)
    Scaler.scale.close()


def test_arrays_are_cut_and_joined() -> None:
    table = np.arange(14.0).reshape(7, 2)
    with parallelise(np.sqrt, worker_count=3, batched_arg="x", reduction=np.concatenate) as root:
        assert (root(table) == np.sqrt(table)).all()


def test_counts_are_added_by_type_hint() -> None:
    def count(words: list[str]) -> Counter[str]:
        return Counter(words)

    with parallelise(count, worker_count=2, backend="serial") as run:
        assert run(["a", "b", "a"]) == Counter(a=2, b=1)


def test_a_histogram_of_batches_is_that_of_all_items() -> None:
    with parallelise(histogram_reduction, worker_count=2, reduction=histogram_reduction) as run:
        assert run(["a", "b", "a"]) == {"a": 2, "b": 1}


def test_an_error_of_the_function_is_raised_as_itself() -> None:
    with parallelise(squares.__wrapped__, worker_count=2) as run:
        with pytest.raises(TypeError, match="can't multiply sequence") as caught:
            run([1, 2, 3, "x"])
        assert "squares" in str(caught.value.__cause__)
        assert run([1, 2]) == [1, 4]


def test_a_dead_worker_is_told_and_replaced() -> None:
    with parallelise(die_of_minus_one, worker_count=2) as run:
        with pytest.raises(WorkerDiedError, match="SIGKILL"):
            run([1, 2, -1])
        assert run([1, 2, 3]) == [1, 2, 3]


def test_submit_gives_the_value_later() -> None:
    with parallelise(squares.__wrapped__, worker_count=2) as run:
        calls = [run.submit([1, 2, 3]), run.submit([4]), run.submit([])]
        assert [call.result(30) for call in calls] == [[1, 4, 9], [16], []]
        assert [len(call.futures) for call in calls] == [2, 1, 1]
        assert all(call.done() for call in calls)


def test_waiting_for_a_submitted_call_may_time_out() -> None:
    gate = threading.Event()
    with parallelise(lambda xs: gate.wait(30), worker_count=1, backend="thread") as run:
        call = run.submit([1])
        with pytest.raises(TimeoutError, match="nothing is lost"):
            call.result(0.01)
        assert not call.done()
        gate.set()
        assert call.result(30) == [True]


def test_the_workers_end_when_nobody_holds_the_function() -> None:
    gc.disable()  # at once: nothing waits for the garbage collector
    try:
        run = parallelise(sum, worker_count=2, reduction=sum)
        assert run([1, 2, 3]) == run.submit([1, 2, 3]).result() == 6
        is_alive = weakref.ref(run)
        del run
        assert is_alive() is None
    finally:
        gc.enable()


def test_a_closed_function_starts_again() -> None:
    run = parallelise(pids, worker_count=1, reduction=flatten_reduction)
    first = run([1])
    run.close()
    assert run([1]) != first
    run.close()
    run.close()


def test_leaving_by_an_exception_ends_what_runs() -> None:
    with pytest.raises(KeyError), parallelise(lambda xs: threading.Event().wait(), worker_count=1) as run:  # noqa: PT012
        run.submit([1])
        raise KeyError("leave")


def test_a_parallel_function_crosses_to_other_processes() -> None:
    class Caller:
        def call(self, function: Any, numbers: list[int]) -> Any:
            with function:
                return function(numbers)

    with ProxyPool(Caller, worker_count=1) as pool:
        assert pool[0].call(parallelise(squares.__wrapped__, worker_count=2), [1, 2, 3]) == [1, 4, 9]


def test_first_calls_of_several_threads_make_one_pool() -> None:
    with parallelise(sum, worker_count=2, reduction=sum, backend="thread") as run:
        pools: list[Any] = []
        threads = [threading.Thread(target=lambda: pools.append(run.pool)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({id(pool) for pool in pools}) == 1


def test_verbose_tells_how_a_call_is_shared_out(capsys: pytest.CaptureFixture[str]) -> None:
    with parallelise(sum, worker_count=2, reduction=sum, verbose=True, backend="serial") as run:
        run([1, 2, 3])
    assert capsys.readouterr().out == "sum: 2 workers share parameter 'iterable', batches of 1 or 2 items\n"
    with parallelise(sum, worker_count=2, reduction=sum, backend="serial") as run:
        run([1, 2, 3])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"batched_arg": "nothing"}, ValueError, "has no such parameter"),
        ({"batched_arg": 3}, TypeError, "expected the name of a parameter"),
        ({"reduction": "flatten"}, ValueError, "expected a function of the list of results"),
        ({"reduction": 3}, TypeError, "expected a function of the list of results"),
        ({"combine": 3}, TypeError, r"expected a function of \(results, sizes\)"),
        ({"combine": max, "reduction": max}, ValueError, "give one of them"),
        ({"worker_count": 0}, ValueError, "worker_count=0"),
    ],
)
def test_bad_options_are_refused_in_words(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        parallelise(squares.__wrapped__, **options)


def test_bad_calls_are_refused_in_words() -> None:
    with pytest.raises(TypeError, match="parallelise needs a function; got 3"):
        parallelise(3)  # type: ignore[call-overload]
    with parallelise(max, worker_count=2, reduction=max_reduction, backend="serial") as run:
        assert run([3, 9, 4]) == 9
        with pytest.raises(TypeError, match="missing a required argument"):
            run()
        with pytest.raises(TypeError, match="cannot be cut into batches"):
            run({1, 2})

    def collect(**names: Any) -> Any:
        return names

    with parallelise(collect, worker_count=2, batched_arg="words", backend="serial") as run:
        assert run(words=[1, 2]) == [{"words": [1]}, {"words": [2]}]
        with pytest.raises(TypeError, match="was called without its batched argument 'words'"):
            run(tag=3)


def test_the_default_of_the_batched_argument_is_batched() -> None:
    def scale(factor: int, numbers: Sequence[int] = (1, 2, 3)) -> list[int]:
        return [factor * number for number in numbers]

    with parallelise(scale, worker_count=2, backend="serial") as run:
        assert run(10) == [10, 20, 30]


def test_all_of_it_is_public() -> None:
    assert {"ParallelCall", "ParallelFunction", "parallelise"} <= set(objproxy.__all__)
    assert "squares(numbers" in repr(squares)
    assert sum_reduction([1, 2]) == 3

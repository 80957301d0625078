"""``pool.method(...)`` without `map_args`: every instance runs the call exactly once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from objproxy import ProxyPool
from targets import PATIENCE_SECONDS, CustomError, Model
from ways import MakePool


def test_every_instance_runs_the_call_exactly_once_in_the_order_of_the_workers(make_pool: MakePool) -> None:
    pool = make_pool(worker_count=3)
    for n_calls in range(1, 201):
        assert pool.count().tolist() == [n_calls] * 3
        assert pool.who().tolist() == [0, 1, 2]


def test_positional_and_keyword_arguments_arrive_on_every_instance(shared_pool: ProxyPool[Model]) -> None:
    assert shared_pool.score(3, factor=4, bias=0.5).tolist() == [12.5] * 3
    assert shared_pool.gather_arguments(1, a=2, stack_results=False) == [((1,), {"a": 2})] * 3


def test_a_call_without_a_result_gives_none_from_each(shared_pool: ProxyPool[Model]) -> None:
    assert shared_pool.nothing(stack_results=False) == [None, None, None]


def test_the_verb_broadcast_gives_a_list_untouched(shared_pool: ProxyPool[Model]) -> None:
    results = shared_pool.who.broadcast()
    assert type(results) is list
    assert results == [0, 1, 2]
    assert all(type(result) is int for result in results)


def test_results_can_be_reduced_by_a_callable(shared_pool: ProxyPool[Model]) -> None:
    assert shared_pool.who(stack_results=sum) == 3
    assert shared_pool.make("array", stack_results=np.vstack).shape == (6, 3)


def test_the_error_of_the_lowest_worker_is_raised_and_its_notes_name_the_others(shared_pool: ProxyPool[Model]) -> None:
    with pytest.raises(ValueError, match="bad luck on 1") as caught:
        shared_pool.raise_on((2, 1))
    notes = "\n".join(caught.value.__notes__)
    assert "worker 1" in notes
    assert "raise_on" in notes
    assert "worker 2 failed too: ValueError: bad luck on 2" in notes
    assert "worker 0" not in notes


def test_a_failing_broadcast_still_runs_on_every_instance(make_pool: MakePool) -> None:
    pool = make_pool()
    with pytest.raises(CustomError):
        pool.raise_custom()
    assert pool.count().tolist() == [1, 1]


def test_exceptions_can_be_returned_side_by_side_with_results(shared_pool: ProxyPool[Model]) -> None:
    results = shared_pool.raise_on.options(return_exceptions=True)((1,))
    assert [type(result) for result in results] == [int, ValueError, int]
    assert "worker 1" in results[1].__notes__[0]


def test_failing_workers_can_be_left_out(shared_pool: ProxyPool[Model]) -> None:
    assert shared_pool.raise_on.options(on_error="skip")((1,)).tolist() == [0, 2]


def test_each_instance_has_a_state_of_its_own(make_pool: MakePool) -> None:
    pool = make_pool()
    pool[1].count()
    assert pool.count().tolist() == [1, 2]


@pytest.mark.processes
def test_arguments_and_results_are_copies_in_processes(make_pool: MakePool) -> None:
    pool, given = make_pool(), [1]
    pool.remember(given)
    given.append(2)
    pool.read_history(stack_results=False)[0].append(3)
    assert pool.read_history(stack_results=False) == [[[1]], [[1]]]


@pytest.mark.in_memory
def test_arguments_pass_by_reference_in_memory(make_pool: MakePool) -> None:
    given = [1]
    assert all(result is given for result in make_pool().echo(given, stack_results=False))


def test_several_threads_may_use_one_pool(make_pool: MakePool, tmp_path: Path) -> None:
    pool, results, errors = make_pool(), [], []

    def use(number: int) -> None:
        try:
            for _ in range(20):
                results.append(pool.score(number).tolist() == [2 * number] * 2)
                results.append(pool.score(range(number, number + 5), map_args=True)[0] == 2 * number)
                results.append(pool[number % 2].score(number) == 2 * number)
                results.append(pool.score.submit(number).result(PATIENCE_SECONDS) == 2 * number)
        except BaseException as exc:  # a thread's own errors would only be printed
            errors.append(exc)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert errors == []
    assert results == [True] * (4 * 20 * 4)


def test_a_factory_in_place_of_a_class_is_called_in_each_worker(make_pool: MakePool) -> None:
    from targets import make_model

    pool = make_pool(make_model)
    assert pool.rate.tolist() == [9.0, 10.0]
    assert pool.score(4, factor=2).tolist() == [8, 8]


def test_a_class_that_nobody_can_import_works(make_pool: MakePool) -> None:
    class Local:
        def add(self, x: int, y: int) -> int:
            return x + y

    pool = make_pool(Local)
    assert pool.add(1, y=2).tolist() == [3, 3]
    assert pool.add(range(3), [4, 5, 6], map_args=True).tolist() == [4, 6, 8]


def test_a_class_of_the_standard_library_works(make_pool: MakePool) -> None:
    from collections import Counter

    pool: Any = make_pool(Counter)
    pool.update("abca")
    assert pool.get("a").tolist() == [2, 2]

"""``pool[i]``, iteration and the other dunders."""

from __future__ import annotations

from typing import Any

import pytest

from objproxy import ProxyPool
from targets import Callable_, CustomError, Model
from ways import MakePool


def test_the_plain_result_comes_back(shared_pool: ProxyPool[Model]) -> None:
    assert [shared_pool[i].who() for i in range(3)] == [0, 1, 2]
    assert shared_pool[0].score(3, factor=3, bias=1) == 10
    assert type(shared_pool[0].score(3)) is int
    assert shared_pool[1].echo([1, {"a": 2}]) == [1, {"a": 2}]


def test_negative_numbers_count_from_the_end(shared_pool: ProxyPool[Model]) -> None:
    assert shared_pool[-1].who() == 2
    assert shared_pool[-3].who() == 0


@pytest.mark.parametrize("index", [3, -4, 100])
def test_a_worker_that_does_not_exist_is_an_index_error(shared_pool: ProxyPool[Model], index: int) -> None:
    with pytest.raises(IndexError, match=rf"pool\[{index}\]: there are 3 workers"):
        _ = shared_pool[index]


@pytest.mark.parametrize("index", ["0", 1.0, None, slice(0, 2)], ids=repr)
def test_an_index_of_another_type_is_a_type_error(shared_pool: ProxyPool[Model], index: Any) -> None:
    with pytest.raises(TypeError, match="expected the number of a worker"):
        _ = shared_pool[index]


def test_attributes_of_one_instance(make_pool: MakePool) -> None:
    pool = make_pool()
    pool[0].rate = 4
    assert pool[0].rate == 4
    assert pool[1].rate == 1.5
    assert pool[0].scale == 3


def test_an_error_of_one_instance_names_it(shared_pool: ProxyPool[Model]) -> None:
    with pytest.raises(CustomError) as caught:
        shared_pool[2].raise_custom()
    assert caught.value.code == 42
    assert any("worker 2" in note and "raise_custom" in note for note in caught.value.__notes__)


def test_length_iteration_and_truth(shared_pool: ProxyPool[Model]) -> None:
    assert len(shared_pool) == 3
    assert [instance.who() for instance in shared_pool] == [0, 1, 2]
    assert bool(shared_pool)


def test_calling_the_pool_calls_the_instances(make_pool: MakePool) -> None:
    pool = make_pool(Callable_)
    assert pool(10, plus=1).tolist() == [11, 12]
    assert pool([1, 2, 3], map_args=True, synchronize=True).tolist() == [1, 3, 3]
    assert pool[1](5) == 6
    with pytest.raises(TypeError, match="missing a required argument"):
        pool()


def test_calling_a_pool_whose_instances_are_not_callable_is_a_type_error(shared_pool: ProxyPool[Model]) -> None:
    with pytest.raises(TypeError, match="Model"):
        shared_pool(1)
    with pytest.raises(TypeError, match="Model"):
        shared_pool[0](1)  # type: ignore[operator]


def test_an_instance_is_its_own_worker_in_every_verb(shared_pool: ProxyPool[Model]) -> None:
    method: Any = shared_pool[1].place
    assert method(4) == (4, 1)
    assert method.submit(5).result(30) == (5, 1)
    assert method.options(priority=3)(6) == (6, 1)


def test_return_exceptions_of_one_instance(shared_pool: ProxyPool[Model]) -> None:
    method: Any = shared_pool[0].raise_at
    assert isinstance(method.options(return_exceptions=True)(1, 1), ValueError)
    assert method.options(return_exceptions=True)(2, 1) == 2


def test_instances_and_methods_say_what_they_are(shared_pool: ProxyPool[Model]) -> None:
    assert "instance 1" in repr(shared_pool[1])
    assert "score" in repr(shared_pool.score)
    assert "worker 1" in repr(shared_pool[1].score)
    assert "Model" in repr(shared_pool)
    assert "3 workers" in repr(shared_pool)


def test_methods_are_found_once_and_can_be_kept(shared_pool: ProxyPool[Model]) -> None:
    score = shared_pool.score
    assert shared_pool.score is score
    assert score(1).tolist() == [2, 2, 2]

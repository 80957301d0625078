"""Data attributes of the instances, read and set through the pool."""

from __future__ import annotations

import gc
import operator
import sys
import weakref
from typing import Any

import numpy as np
import pytest

from objproxy import ProxyPool
from targets import HasPoolNames, Model, Oddities, Slotted, Tally, WithProperties
from ways import MakePool


def test_an_attribute_is_read_from_every_instance(make_pool: MakePool) -> None:
    pool = make_pool(init_args_each=[(0.5,), (1.5,)])
    assert pool.rate.tolist() == [0.5, 1.5]
    assert pool.rate.dtype == np.float64
    assert pool.tag.tolist() == ["m", "m"]
    assert pool.tag.dtype == object


def test_an_attribute_is_set_on_every_instance(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.rate = 7
    assert pool.rate.tolist() == [7, 7]
    pool[1].rate = 8
    assert pool.rate.tolist() == [7, 8]
    pool.fresh = "new"
    assert pool.fresh.tolist() == ["new", "new"]


def test_class_attributes_are_data_too(shared_pool: ProxyPool[Model]) -> None:
    pool: Any = shared_pool
    assert pool.scale.tolist() == [3, 3, 3]
    assert pool.offsets.tolist() == [[1, 2]] * 3


def test_properties_are_read_and_set(make_pool: MakePool) -> None:
    pool = make_pool(WithProperties)
    assert pool.level.tolist() == [0, 1]
    pool.level = 4
    assert pool.level.tolist() == [4, 4]
    assert pool.frozen.tolist() == [5, 5]
    assert pool.cached.tolist() == [[4], [4]]


def test_errors_of_properties_are_their_own(make_pool: MakePool) -> None:
    pool = make_pool(WithProperties)
    with pytest.raises(RuntimeError, match="this property is broken"):
        _ = pool.broken
    with pytest.raises(ValueError, match="must not be negative"):
        pool.level = -1
    with pytest.raises(AttributeError):
        pool.fixed = 3
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = pool.lost
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = pool[0].lost
    assert pool.fixed.tolist() == [11, 11]


def test_slots_are_data(make_pool: MakePool) -> None:
    pool = make_pool(Slotted)
    assert pool.size.tolist() == [5, 5]
    assert pool.grow(2).tolist() == [7, 7]


def test_static_and_class_methods_are_methods(make_pool: MakePool) -> None:
    pool = make_pool(WithProperties)
    assert pool.add(1, 2).tolist() == [3, 3]
    assert pool.class_name("!").tolist() == ["WithProperties!"] * 2
    assert pool[0].add(1, b=4) == 5


def test_a_method_that_the_constructor_sets_is_a_method(shared_pool: ProxyPool[Model]) -> None:
    pool: Any = shared_pool
    assert pool.shout("a").tolist() == ["A"] * 3
    assert pool.shout(["a", "b"], map_args=True).tolist() == ["A", "B"]
    assert pool[1].shout("c") == "C"


def test_what_an_instance_cannot_be_asked_is_an_error_in_the_caller(shared_pool: ProxyPool[Model]) -> None:
    pool: Any = shared_pool
    for holder in (pool, pool[0], pool.remote):
        with pytest.raises(AttributeError, match=r"'scoer'; did you mean 'score'"):
            _ = holder.scoer
        with pytest.raises(AttributeError, match=r"'rates'; did you mean 'rate'"):
            _ = holder.rates
    assert not hasattr(pool, "nothing_like_it_at_all")


def test_underscored_names_are_never_forwarded(shared_pool: ProxyPool[Model]) -> None:
    pool: Any = shared_pool
    for holder in (pool, pool[0], pool.remote):
        with pytest.raises(AttributeError, match="_secret"):
            _ = holder._secret
        with pytest.raises(AttributeError, match="_secret"):
            holder._secret = 1


def test_names_of_a_metaclass_are_not_names_of_the_objects(make_pool: MakePool) -> None:
    pool = make_pool(Oddities)
    assert pool.register.tolist() == [5, 5]
    with pytest.raises(AttributeError, match="mro"):
        _ = pool.mro


def test_callable_objects_and_decorated_methods_take_their_own_arguments(make_pool: MakePool) -> None:
    pool = make_pool(Oddities)
    assert pool.twice(4).tolist() == [8, 8]
    assert pool.query("text").tolist() == ["session: text"] * 2
    assert pool[0].query("text") == "session: text"


def test_a_class_inside_the_class_is_called_in_the_workers(shared_pool: ProxyPool[Model]) -> None:
    pool: Any = shared_pool
    assert [part.size for part in pool.Part(4)] == [4, 4, 4]


def test_the_pools_own_names_win_and_remote_reaches_the_class(make_pool: MakePool) -> None:
    with pytest.warns(UserWarning, match=r"pool\.remote\.workers"):
        pool = make_pool(HasPoolNames)
    assert [worker.id for worker in pool.workers] == [0, 1]
    assert pool.remote.workers().tolist() == ["the class's"] * 2
    assert pool.remote.insights([1, 2, 3], map_args=True).tolist() == [1, 2, 3]
    assert pool.remote.remote.tolist() == ["a data attribute"] * 2
    pool.remote.remote = 5
    assert pool.remote.remote.tolist() == [5, 5]
    with pytest.raises(AttributeError, match=r"pool\.remote\.workers = "):
        pool.workers = 3


@pytest.mark.processes
def test_a_value_that_cannot_be_pickled_cannot_be_read_or_set(make_pool: MakePool) -> None:
    import threading

    pool = make_pool()
    with pytest.raises(TypeError, match="lock"):
        pool.rate = threading.Lock()
    assert pool.rate.tolist() == [1.5, 1.5]


def values_of(pool: Any, name: str) -> list[Any]:
    return [getattr(instance, name) for instance in pool]


def test_an_operator_is_applied_on_every_instance(make_pool: MakePool) -> None:
    pool: Any = make_pool(Tally, worker_count=3)
    pool.n += 1
    assert values_of(pool, "n") == [1, 2, 3]
    pool.remote.n *= 10
    pool[1].n -= 5
    assert values_of(pool, "n") == [10, 15, 30]
    for instance in pool:
        instance.n //= 5
    assert pool.n.tolist() == [2, 3, 6]
    assert pool.types().tolist() == [["int", "list", "tuple"]] * 3


def test_every_operator_is_the_instances_own(make_pool: MakePool) -> None:
    pool: Any = make_pool(Tally)
    pool.n += 7
    pool.n -= 1
    pool.n *= 4
    pool.n <<= 2
    pool.n >>= 1
    pool.n |= 1
    pool.n ^= 3
    pool.n &= 0xFF
    pool.n **= 2
    pool.n %= 1000
    pool.n //= 2
    pool.n /= 4
    expected = []
    for n in range(2):
        value: Any = ((((n + 7 - 1) * 4) << 2 >> 1 | 1) ^ 3) & 0xFF
        expected.append(value**2 % 1000 // 2 / 4)
    assert values_of(pool, "n") == expected
    pool.matrix @= np.full((2, 2), 3.0)
    assert pool[1].matrix.tolist() == [[3, 3], [3, 3]]


def test_an_operator_meets_what_the_instance_holds_and_no_array_of_it(make_pool: MakePool) -> None:
    pool: Any = make_pool(Tally)
    pool.big *= 2**40
    pool.n += 0.5
    pool.text += "b"
    pool.items += [5]
    pool.pair += (3,)
    pool.is_on += 1
    pool.weights *= 0.5
    pool.level += 1
    pool.limit -= 1
    assert values_of(pool, "big") == [2**80, 2**80]
    assert values_of(pool, "n") == [0.5, 1.5]
    assert values_of(pool, "text") == ["ab", "ab"]
    assert values_of(pool, "items") == [[1, 5], [1, 5]]
    assert pool.keeps_its_list().all()  # it was changed in place
    assert values_of(pool, "pair") == [(1, 2, 3), (1, 2, 3)]
    assert values_of(pool, "is_on") == [2, 2]
    assert [weights.tolist() for weights in values_of(pool, "weights")] == [[0.5, 0.5], [1.0, 1.0]]
    assert values_of(pool, "level") == [2, 2]
    assert values_of(pool, "limit") == [8, 8]


def test_an_operator_that_does_not_fit_is_the_error_of_the_instances(make_pool: MakePool) -> None:
    pool: Any = make_pool(Tally)
    with pytest.raises(TypeError, match="str") as caught:
        pool.text += 1
    assert "worker 1 failed too" in "".join(caught.value.__notes__)
    for holder in (pool, pool[0], pool.remote):
        with pytest.raises(AttributeError, match=r"'levle'; did you mean 'level'"):
            holder.levle += 1
        with pytest.raises(TypeError):
            holder.types += 1
        with pytest.raises(AttributeError, match="underscored"):
            holder._level += 1
    with pytest.raises(AttributeError, match="workers"):
        pool.workers += (1,)
    assert values_of(pool, "text") == ["a", "a"]
    assert values_of(pool, "level") == [1, 1]


def test_the_array_that_was_read_is_not_set_on_every_instance(make_pool: MakePool) -> None:
    pool: Any = make_pool(Tally)
    values = pool.n
    values += 1
    with pytest.raises(TypeError, match=r"pool\.n \+= \.\.\."):
        pool.n = values
    with pytest.raises(TypeError, match="holds the values of all instances"):
        setattr(pool, "n", operator.iadd(pool.n, 1))  # noqa: B010
    assert values_of(pool, "n") == [0, 1]
    pool.ratio = values  # under another name, or as a copy, it is meant
    pool.n = values.copy()
    assert pool[1].ratio.tolist() == pool[1].n.tolist() == [1, 2]


def test_an_attribute_that_was_read_is_not_kept(make_pool: MakePool) -> None:
    pool: Any = make_pool(Tally)
    values = weakref.ref(pool.n)
    gc.collect()
    assert values() is None


def test_an_operator_is_seen_wherever_the_statement_stands(make_pool: MakePool) -> None:
    pool: Any = make_pool(Tally)
    many_names = "".join(f"name_{i} = pool\n" for i in range(300))  # so that instructions have long arguments
    exec(f"{many_names}pool.n += 1\npool.n += 1", {"pool": pool})
    sys_trace = sys.gettrace()
    sys.settrace(lambda *_event: None)
    try:
        exec("for holder in (pool, pool.remote): holder.n += 1", {"pool": pool})
    finally:
        sys.settrace(sys_trace)
    assert values_of(pool, "n") == [4, 5]
    assert (same := pool).n.tolist() == [4, 5]
    assert same is pool

"""What the caller can see and is told before a worker is touched: signatures, help, options."""

from __future__ import annotations

import inspect
import pydoc
from typing import Any

import pytest

from objproxy import NotSupportedError, ProxyPool
from targets import Model, Oddities, WithProperties
from ways import MakePool, Way


def test_the_signature_is_the_methods_own(shared_pool: ProxyPool[Model]) -> None:
    for method in (shared_pool.score, shared_pool[0].score):
        assert list(inspect.signature(method).parameters) == ["x", "factor", "bias"]
        assert inspect.signature(method).return_annotation == "float"


def test_the_docstring_is_the_methods_own(shared_pool: ProxyPool[Model]) -> None:
    for method in (shared_pool.score, shared_pool[0].score):
        assert method.__name__ == "score"
        assert inspect.getdoc(method) == inspect.getdoc(Model.score)


def test_help_shows_the_classs_own(shared_pool: ProxyPool[Model]) -> None:
    for method in (shared_pool.score, shared_pool[0].score):
        assert inspect.isroutine(method)
        text = pydoc.plain(pydoc.render_doc(method))
        assert "score(x: float, factor: float = 2, *, bias: float = 0) -> float" in text.replace("'", "")
        assert "Score one sample." in text


def test_dir_lists_the_pools_names_the_classs_and_the_instances(shared_pool: ProxyPool[Model]) -> None:
    names = dir(shared_pool)
    assert {"close", "kill", "workers", "remote", "score", "who", "rate", "tag", "scale", "shout"} <= set(names)
    assert names == sorted(names)
    assert not [name for name in names if name.startswith("_")]
    assert {"score", "rate"} <= set(dir(shared_pool[0]))
    assert {"score", "rate"} <= set(dir(shared_pool.remote))
    assert "kill" not in dir(shared_pool.remote)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "missing a required argument: 'x'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((1,), {"bais": 3}, "unexpected keyword argument 'bais'"),
        ((1,), {"x": 3}, "multiple values for argument 'x'"),
    ],
)
def test_wrong_arguments_are_a_type_error_in_the_caller(
    shared_pool: ProxyPool[Model], args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    columns = [[arg] for arg in args], {name: [value] for name, value in kwargs.items()}
    calls = (
        lambda: shared_pool.score(*args, **kwargs),
        lambda: shared_pool[1].score(*args, **kwargs),
        lambda: shared_pool.score.submit(*args, **kwargs),
        lambda: shared_pool.score.broadcast(*args, **kwargs),
        lambda: shared_pool.score(*columns[0], map_args=True, **columns[1]),
        lambda: shared_pool.score.imap(*columns[0], **columns[1]),
    )
    for call in calls:
        with pytest.raises(TypeError, match=message) as caught:
            call()
        assert "score(x: " in str(caught.value)
        assert caught.value.__cause__ is None


def test_methods_of_classes_and_modules_check_their_arguments_too(make_pool: MakePool) -> None:
    pool = make_pool(WithProperties)
    with pytest.raises(TypeError, match="missing a required argument: 'b'"):
        pool.add(1)
    with pytest.raises(TypeError, match="missing a required argument: 'suffix'"):
        pool.class_name()


def test_a_decorated_method_shows_its_own_signature(make_pool: MakePool) -> None:
    assert "text" in inspect.signature(make_pool(Oddities).query).parameters


def test_a_keyword_of_both_names_the_way_out(shared_pool: ProxyPool[Model]) -> None:
    with pytest.raises(TypeError, match=r"'chunksize'.*pool\.split\.options\(chunksize=\.\.\.\)"):
        shared_pool.split([1], chunksize=3)
    with pytest.raises(TypeError, match=r"'map_args'.*pool\.split\.options\(map_args=\.\.\.\)"):
        shared_pool.split([1], map_args=True)
    assert shared_pool.split([1], stack_results=False) == [([1], 10, False)] * 3


def test_with_options_every_argument_is_the_methods_own(shared_pool: ProxyPool[Model]) -> None:
    method = shared_pool.split.options(stack_results=False)
    assert method([1], chunksize=3, map_args=True) == [([1], 3, True)] * 3
    mapped = shared_pool.split.options(map_args=True, stack_results=False)
    assert mapped([[1], [2]], chunksize=[3, 4]) == [([1], 3, False), ([2], 4, False)]
    keep_all = shared_pool.gather_arguments.options(stack_results=False)
    assert keep_all(stack_results=1, synchronize=2) == [((), {"stack_results": 1, "synchronize": 2})] * 3


def test_one_instances_arguments_are_all_the_methods_own(shared_pool: ProxyPool[Model]) -> None:
    assert shared_pool[0].split([1], chunksize=3, map_args=True) == ([1], 3, True)
    assert shared_pool[0].gather_arguments(map_args=True) == ((), {"map_args": True})


def test_options_add_up_and_leave_the_method_alone(shared_pool: ProxyPool[Model]) -> None:
    listing = shared_pool.score.options(stack_results=False)
    both = listing.options(map_args=True)
    assert both([1, 2]) == [2, 4]
    assert listing(1) == [2, 2, 2]
    assert shared_pool.score(1).tolist() == [2, 2, 2]


def test_an_option_that_does_not_exist_is_told_with_the_closest(shared_pool: ProxyPool[Model]) -> None:
    for method in (shared_pool.score, shared_pool[0].score):
        with pytest.raises(TypeError, match=r"no option 'chunk_size'; did you mean 'chunksize'"):
            method.options(chunk_size=3)
        with pytest.raises(TypeError, match=r"no option 'xyz'; the options are .*map_args"):
            method.options(xyz=3)


@pytest.mark.parametrize(
    "options",
    [
        {"chunksize": 0},
        {"buffersize": 0},
        {"buffersize": 2.5},
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": "1"},
        {"retries": -1},
        {"retries": 1.5},
        {"retries": True},
        {"retry_on": "ValueError"},
        {"retry_on": (ValueError, 3)},
        {"on_error": "ignore"},
        {"priority": 1.5},
        {"priority": True},
        {"stack_results": "no"},
        {"progress_bar": 7},
        {"map_args": "yes"},
        {"synchronize": 2},
        {"journal": "x"},
        {"return_exceptions": None},
        {"return_exceptions": True, "on_error": "skip"},
    ],
    ids=str,
)
def test_an_option_that_makes_no_sense_is_refused_when_it_is_given(shared_pool: ProxyPool[Model], options: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        shared_pool.score.options(**options)


def test_numpys_whole_numbers_are_whole_numbers(shared_pool: ProxyPool[Model]) -> None:
    import numpy as np

    method = shared_pool.score.options(chunksize=np.int64(2), retries=np.int64(1), priority=np.int32(1), map_args=np.True_)
    assert method(range(3)).tolist() == [0, 2, 4]


def test_what_a_back_end_cannot_do_is_told_at_once(shared_pool: ProxyPool[Model], way: Way) -> None:
    if way.is_process:
        assert shared_pool.score.options(timeout=30)(1).tolist() == [2, 2, 2]
        return
    with pytest.raises(NotSupportedError, match=rf"timeout=2.*backend='{way.name}'"):
        shared_pool.score.options(timeout=2)


@pytest.mark.in_memory
@pytest.mark.parametrize(
    "options", [{"start_method": "fork"}, {"init_timeout": 3}, {"threads_per_worker": 2}, {"cpu_ids": [0]}], ids=str
)
def test_options_of_a_pool_that_threads_cannot_honour_are_refused(make_pool: MakePool, options: dict[str, Any]) -> None:
    name = next(iter(options))
    if name == "cpu_ids":
        import os

        options = {"cpu_ids": [min(os.sched_getaffinity(0))]}
    with pytest.raises(NotSupportedError, match=name):
        make_pool(**options)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"worker_count": 0}, ValueError, "worker_count=0"),
        ({"worker_count": 1.5}, TypeError, "worker_count=1.5"),
        ({"init_args": "abc"}, TypeError, "init_args='abc'"),
        ({"init_args": 3}, TypeError, "init_args=3"),
        ({"init_kwargs": [1]}, TypeError, "init_kwargs="),
        ({"init_args_each": [(1,)]}, ValueError, "1 workers, the pool has 2"),
        ({"init_args_each": [1, 2]}, TypeError, "a tuple or a dict for each worker"),
        ({"on_restart": "never"}, ValueError, "on_restart='never'"),
        ({"max_restarts": 3}, ValueError, "max_restarts=3"),
        ({"max_tasks_per_worker": 0}, ValueError, "max_tasks_per_worker=0"),
        ({"backend": "threads"}, ValueError, "backend='threads'.*'thread'"),
        ({"backend": 3}, TypeError, "backend=3"),
        ({"seed": "abc"}, TypeError, "seed='abc'"),
        ({"seed": -1}, ValueError, "seed=-1"),
        ({"name": 3}, TypeError, "name=3"),
    ],
    ids=str,
)
def test_options_of_a_pool_are_checked_before_anything_starts(
    make_pool: MakePool, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        make_pool(**options)


def test_a_class_that_cannot_be_called_is_refused(make_pool: MakePool) -> None:
    with pytest.raises(TypeError, match="needs a class"):
        make_pool(Model())


@pytest.mark.processes
@pytest.mark.parametrize(
    ("options", "message"), [({"start_method": "forks"}, "'forks'"), ({"init_timeout": 0}, "init_timeout=0")]
)
def test_options_of_processes_are_checked(make_pool: MakePool, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_pool(**options)


@pytest.mark.processes
def test_repr_shows_the_start_method(make_pool: MakePool, way: Way) -> None:
    assert way.options.get("start_method", "forkserver") in repr(make_pool(name="mine"))
    assert "mine" in repr(make_pool(name="mine"))

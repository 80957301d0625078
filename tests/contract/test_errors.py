"""Errors of methods, and arguments and results that cannot travel."""

from __future__ import annotations

import itertools
import threading
import traceback
from typing import Any

import pytest

from objproxy import ArgumentPickleError, ObjProxyError, ProxyPool, RemoteError, RemoteTraceback, ResultPickleError
from targets import BadArgument, CustomError, Locked, Model, TwoPartError
from ways import MakePool, Way


def _calls(pool: ProxyPool[Any], name: str, *args: Any) -> list[Any]:
    """Return the ways to call a method once: each raises the method's error."""
    method, columns = getattr(pool, name), [[arg] for arg in args]
    calls = [
        lambda: method(*args),
        lambda: getattr(pool[1], name)(*args),
        lambda: method.submit(*args).result(30),
        lambda: method.broadcast(*args),
    ]
    if args:
        calls += [lambda: method(*columns, map_args=True), lambda: next(method.imap(*columns))]
        calls += [lambda: method(*columns, map_args=True, synchronize=True)]
    return calls


def test_an_error_keeps_its_type_arguments_attributes_and_notes(shared_pool: ProxyPool[Model]) -> None:
    for call in _calls(shared_pool, "raise_custom"):
        with pytest.raises(CustomError) as caught:
            call()
        error = caught.value
        assert error.args == ("custom", 42)
        assert error.code == 42
        assert error.__notes__[0] == "a note of the method"


def test_a_note_names_worker_device_method_and_item(shared_pool: ProxyPool[Model]) -> None:
    for call in _calls(shared_pool, "raise_at", 5, 5):
        with pytest.raises(ValueError, match="bad item 5") as caught:
            call()
        note = caught.value.__notes__[0]
        assert "on worker" in note
        assert "device cpu" in note
        assert "'raise_at'" in note
    with pytest.raises(ValueError, match="bad item 3") as caught:
        shared_pool.raise_at([1, 2, 3], itertools.repeat(3), map_args=True)
    assert "item 2" in caught.value.__notes__[0]


def test_the_remote_traceback_is_the_cause(shared_pool: ProxyPool[Model]) -> None:
    for call in _calls(shared_pool, "raise_custom"):
        with pytest.raises(CustomError) as caught:
            call()
        cause = caught.value.__cause__
        assert isinstance(cause, RemoteTraceback)
        assert "in raise_custom" in cause.text
        assert 'error = CustomError("custom", code=42)' not in cause.text
        assert "raise error" in cause.text
        assert "in raise_custom" in "".join(traceback.format_exception(caught.value))


def test_the_errors_own_cause_is_in_the_remote_traceback(shared_pool: ProxyPool[Model]) -> None:
    with pytest.raises(CustomError, match="outer") as caught:
        shared_pool.raise_chained()
    assert "KeyError: 'missing'" in caught.value.__cause__.text  # type: ignore[union-attr]


def test_the_same_error_raised_again_does_not_grow(shared_pool: ProxyPool[Model]) -> None:
    error = ValueError("again")
    for _ in range(3):
        with pytest.raises(ValueError, match="again") as caught:
            shared_pool[0].raise_this(error)
    assert len(caught.value.__notes__) == 1
    assert caught.value.__cause__.text.count("in raise_this") == 1  # type: ignore[union-attr]


@pytest.mark.parametrize(("method", "args", "kind"), [("exit_with", (3,), SystemExit), ("interrupt", (), KeyboardInterrupt)])
def test_exits_and_interrupts_are_the_calls_error_and_the_worker_lives(
    make_pool: MakePool, method: str, args: tuple[Any, ...], kind: type[BaseException]
) -> None:
    pool = make_pool()
    for call in _calls(pool, method, *args)[:4]:
        with pytest.raises(kind):
            call()
    assert [worker.generation for worker in pool.workers] == [0, 0]
    assert pool.count().tolist() == [1, 1]


def test_an_exit_in_a_map_is_its_items_error(make_pool: MakePool) -> None:
    pool = make_pool()
    results = pool.exit_with.options(on_error="return").map([1, 2, 3])
    assert [(type(result), result.code) for result in results] == [(SystemExit, 1), (SystemExit, 2), (SystemExit, 3)]
    assert pool.count().tolist() == [1, 1]


def test_an_exception_object_that_a_method_returns_is_a_result(shared_pool: ProxyPool[Model]) -> None:
    results = shared_pool.return_error("value", stack_results=False)
    assert [(type(result), str(result)) for result in results] == [(ValueError, "value")] * 3
    assert isinstance(shared_pool[0].return_error("value"), ValueError)
    assert [str(result) for result in shared_pool.return_error.map(["a", "b"])] == ["a", "b"]
    assert isinstance(shared_pool.return_error.submit("c").result(30), ValueError)
    assert shared_pool.return_error.submit("c").exception() is None
    assert [str(result) for result in shared_pool.return_error.imap(["a", "b"])] == ["a", "b"]
    skipped = shared_pool.return_error.options(on_error="skip").map(["a", "b"])
    assert len(skipped) == 2
    assert not hasattr(skipped[0], "__notes__")


def test_an_error_whose_constructor_wants_other_arguments_comes_as_itself(shared_pool: ProxyPool[Model]) -> None:
    with pytest.raises(TwoPartError, match="one two") as caught:
        shared_pool.raise_two_parts()
    assert (caught.value.args, caught.value.second) == (("one two",), "two")
    assert "in raise_two_parts" in str(caught.value.__cause__)
    assert shared_pool.echo(1).tolist() == [1, 1, 1]


@pytest.mark.processes
def test_an_error_that_cannot_be_rebuilt_has_a_stand_in(shared_pool: ProxyPool[Model]) -> None:
    with pytest.raises(RemoteError, match="one two") as caught:
        shared_pool.raise_unrebuildable()
    assert caught.value.type_name == "targets.UnrebuildableError"
    assert "in raise_unrebuildable" in caught.value.remote_traceback
    assert shared_pool.echo(1).tolist() == [1, 1, 1]


# ---- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.processes
def test_an_argument_that_cannot_be_pickled_is_told_in_the_caller_with_the_way_to_it(make_pool: MakePool) -> None:
    pool = make_pool()
    for call in _calls(pool, "remember", Locked()):
        with pytest.raises(ArgumentPickleError) as caught:
            call()
        assert isinstance(caught.value, TypeError)
        assert caught.value.method == "remember"
        assert "argument" in caught.value.path
        assert ".parts[1]['lock']" in caught.value.path
        assert "_thread.lock" in str(caught.value)
    assert pool.read_history(stack_results=False) == [[], []]


@pytest.mark.processes
def test_a_keyword_argument_that_cannot_be_pickled_is_named(make_pool: MakePool) -> None:
    pool = make_pool()
    with pytest.raises(ArgumentPickleError, match="argument 'value'"):
        pool.remember(value=threading.Lock())
    with pytest.raises(ArgumentPickleError, match="argument 'value'"):
        pool.remember(value=[threading.Lock()], map_args=True)


@pytest.mark.processes
def test_one_bad_item_costs_nobody_else(make_pool: MakePool) -> None:
    pool = make_pool()
    items = [1, 2, threading.Lock(), 4]
    results = pool.echo.options(on_error="return").map(items)
    assert [results[0], results[1], results[3]] == [1, 2, 4]
    assert isinstance(results[2], ArgumentPickleError)
    assert results[2].item == 2
    with pytest.raises(ArgumentPickleError, match="item 2"):
        pool.echo.map(items)
    assert pool.echo.map(range(10)) == list(range(10))


@pytest.mark.processes
def test_an_argument_whose_unpickling_raises_is_its_calls_error(make_pool: MakePool) -> None:
    pool = make_pool()
    for call in _calls(pool, "echo", BadArgument()):
        with pytest.raises(LookupError, match="cannot be rebuilt"):
            call()
    results = pool.echo.options(on_error="return", chunksize=1).map([1, BadArgument(), 3])
    assert [type(result) for result in results] == [int, LookupError, int]
    assert [worker.generation for worker in pool.workers] == [0, 0]


@pytest.mark.processes
def test_a_class_or_its_arguments_that_cannot_be_pickled_are_told_before_anything_starts(make_pool: MakePool) -> None:
    with pytest.raises(ArgumentPickleError, match=r"constructor's arguments.*lock"):
        make_pool(init_args=(threading.Lock(),))
    numbers = (number for number in range(3))

    class Enclosing:
        def use(self) -> Any:
            return next(numbers)

    with pytest.raises(ArgumentPickleError, match=r"Enclosing -> method 'use' -> enclosed 'numbers' \(generator\)"):
        make_pool(Enclosing)


# ---- results ---------------------------------------------------------------------------------------------------------


@pytest.mark.processes
def test_a_result_that_cannot_be_pickled_fails_its_item_alone_and_the_worker_lives(make_pool: MakePool) -> None:
    pool = make_pool()
    for call in _calls(pool, "return_unpicklable", 0):
        with pytest.raises(ResultPickleError) as caught:
            call()
        assert isinstance(caught.value, TypeError)
        assert caught.value.method == "return_unpicklable"
        assert "lock" in caught.value.type_name
    results = pool.return_unpicklable.options(on_error="return").map(range(6))
    assert [type(result) for result in results] == [ResultPickleError, int] * 3
    assert [worker.generation for worker in pool.workers] == [0, 0]


@pytest.mark.processes
def test_a_result_that_cannot_be_rebuilt_here_fails_its_item_alone(make_pool: MakePool) -> None:
    pool = make_pool()
    with pytest.raises(ResultPickleError, match="this cannot be rebuilt"):
        pool[0].return_bad_result()
    assert pool.count().tolist() == [1, 1]


@pytest.mark.in_memory
def test_threads_need_no_pickles(make_pool: MakePool) -> None:
    pool, lock = make_pool(), threading.Lock()
    assert pool.echo(lock, stack_results=False) == [lock, lock]
    pool.lock = lock
    assert pool[0].lock is lock


def test_our_own_errors_are_of_one_family(shared_pool: ProxyPool[Model], way: Way) -> None:
    assert issubclass(ArgumentPickleError, ObjProxyError)
    assert issubclass(ResultPickleError, ObjProxyError)
    assert (way.options.get("start_method", "process") if way.is_process else way.name) in repr(shared_pool)

"""The clock of an item starts when its arguments are there and its code is loaded; that has a limit of its own."""

from __future__ import annotations

import importlib
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from objproxy import ProxyPool, TaskTimeoutError
from objproxy._engine import watch
from objproxy._engine.messages import Policy, Rules
from objproxy._worker import journal as journals
from objproxy._worker.journal import Journal
from objproxy.mpire import WorkerPool
from objproxy.mtasklite.processes import pqdm
from objproxy.ompr import OMPRunner, RunningWorker
from state_pool import StatePool
from targets import PATIENCE_SECONDS

START_METHODS = ("forkserver", "fork", "spawn")

#: So long takes the import of a module in these tests, so long may a task run, and so long does a bad one want to run.
IMPORT_SECONDS, LIMIT, LONG = 0.6, 0.25, 600.0

SLOW_MODULE = f"""
import time
time.sleep({IMPORT_SECONDS})

def work(x):
    return x

def sleep(seconds):
    time.sleep(seconds)
    return seconds
"""


class Caller:
    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    def pid(self) -> int:
        return os.getpid()


class Processor(RunningWorker):
    def process(self, function: Callable[..., Any], x: Any) -> Any:
        return function(x)


def call_with_one(function: Callable[..., Any]) -> Any:
    return function(1)


class Stuck:
    """Never arrives."""

    def __reduce__(self) -> Any:
        return time.sleep, (LONG,)


@pytest.fixture
def slow_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that is slow to import, and that no worker has imported."""
    name = "slow_to_import"
    (tmp_path / f"{name}.py").write_text(SLOW_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module(name)
    del sys.modules[name]


# ---- the rules -----------------------------------------------------------------------------------------------------------


def start_task(limit: float = 1.0) -> tuple[StatePool, Rules]:
    pool, rules = StatePool(1), Rules("work", Policy(limit))
    pool.submit(rules)
    return pool, rules


def test_an_item_that_began_late_gets_the_rest_of_its_time() -> None:
    pool, rules = start_task()
    pool.begins[0] = 0.9
    pool.pass_time(1.0)
    assert not pool.asked
    pool.pass_time(0.8)
    assert not pool.asked
    pool.pass_time(0.2)
    assert pool.asked == [0]
    assert isinstance(error := pool.error(rules), TaskTimeoutError)
    assert (error.seconds, error.is_loading) == (1.0, False)


def test_an_item_that_began_before_it_was_sent_has_had_its_time() -> None:
    """It looks so where the clock of the pool was stopped for a debugger."""
    pool, rules = start_task()
    pool.begins[0] = -5.0
    pool.pass_time(0.99)
    assert not pool.asked
    pool.pass_time(0.02)
    assert isinstance(pool.error(rules), TaskTimeoutError)


def test_an_item_whose_arguments_are_being_unpickled_is_looked_after() -> None:
    pool, rules = start_task()
    pool.begins[0] = math.inf
    for _ in range(30):
        pool.pass_time(1.0)
    assert not pool.asked
    pool.begins[0] = 30.0
    pool.pass_time(1.0)
    assert pool.asked == [0]
    assert isinstance(error := pool.error(rules), TaskTimeoutError)
    assert not error.is_loading


@pytest.mark.parametrize(("limit", "loading"), [(1.0, 60.0), (20.0, 200.0)])
def test_unpickling_has_a_limit_of_its_own(limit: float, loading: float) -> None:
    pool, rules = start_task(limit)
    pool.begins[0] = math.inf
    while pool.now < loading - limit / 2:
        pool.pass_time(limit / 2)
        assert not pool.asked
    pool.pass_time(limit)
    assert pool.asked == [0]
    assert isinstance(error := pool.error(rules), TaskTimeoutError)
    assert (error.seconds, error.is_loading) == (loading, True)
    assert "its arguments were still being unpickled" in str(error)
    assert pool.ended == [(0, 0, "interrupt")]


def test_an_answer_on_the_way_is_not_cut_off_by_a_late_look() -> None:
    pool, rules = start_task()
    pool.begins[0] = math.inf
    pool.pass_time(1.0)
    pool.answer(0)
    pool.pass_time(1000.0)
    assert (pool.result(rules), pool.asked) == (1, [])


def test_the_journal_says_when_the_items_of_a_batch_began() -> None:
    fd = journals.create()
    journal = Journal(fd)
    os.close(fd)
    journal.begin(1)
    assert journal.began(1) == math.inf
    before = time.monotonic()
    journal.begin_items()
    assert before <= journal.began(1) <= time.monotonic()
    assert journal.began(2) == 0.0  # the worker has not looked at it
    journal.begin_loading()
    assert journal.began(2) == math.inf
    journal.close()


# ---- processes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start_method", START_METHODS)
def test_an_import_is_not_the_time_of_the_task_that_needs_it(slow_module: ModuleType, start_method: str) -> None:
    with ProxyPool(Caller, worker_count=1, start_method=start_method) as pool:
        call = pool.call.options(timeout=LIMIT)
        pids = pool.pid()
        assert call.map([slow_module.work] * 3, range(3)) == [0, 1, 2]
        assert pool.pid() == pids
        began = time.monotonic()
        with pytest.raises(TaskTimeoutError) as caught:
            call.submit(slow_module.sleep, LONG).result(PATIENCE_SECONDS)
        assert time.monotonic() - began < LONG / 10
        assert not caught.value.is_loading


@pytest.mark.parametrize("verb", ["broadcast", "instance", "submit", "imap", "put"])
def test_every_verb_starts_the_clock_after_the_import(slow_module: ModuleType, verb: str) -> None:
    with ProxyPool(Caller, worker_count=1, start_method="forkserver") as pool:
        call = pool.call.options(timeout=LIMIT, stack_results=False)
        if verb == "broadcast":
            assert call(slow_module.work, 1) == [1]
        elif verb == "instance":
            assert pool[0].call.options(timeout=LIMIT)(slow_module.work, 1) == 1
        elif verb == "submit":
            assert call.submit(slow_module.work, 1).result(PATIENCE_SECONDS) == 1
        elif verb == "imap":
            assert list(call.imap([slow_module.work], [1])) == [1]
        else:  # what was put is unpickled ahead of the call
            with pool.put(slow_module.work) as function:
                assert call(function, 1) == [1]


@pytest.mark.parametrize("start_method", START_METHODS)
def test_the_limits_of_mpire_do_not_count_imports(slow_module: ModuleType, start_method: str) -> None:
    with WorkerPool(1, start_method=start_method) as pool:
        assert pool.map(slow_module.work, range(3), task_timeout=LIMIT) == [0, 1, 2]
        with pytest.raises(TimeoutError):
            pool.map(slow_module.sleep, [LONG], task_timeout=LIMIT)
    with WorkerPool(1, start_method=start_method) as pool:
        assert pool.apply(slow_module.work, (1,), task_timeout=LIMIT) == 1
        assert list(pool.imap(slow_module.work, range(2), task_timeout=LIMIT, worker_init_timeout=LIMIT)) == [0, 1]


def test_the_limits_of_ompr_and_mtasklite_do_not_count_imports(slow_module: ModuleType) -> None:
    with OMPRunner(Processor, devices=[None], task_timeout=LIMIT, pool_options={"start_method": "forkserver"}) as runner:
        runner.process([{"function": slow_module.work, "x": 1}])
        assert runner.get_all_results() == [1]
    assert list(pqdm([slow_module.work] * 2, call_with_one, 2, task_timeout=LIMIT, disable=True)) == [1, 1]


@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_hang_while_unpickling_ends_by_its_own_limit(monkeypatch: pytest.MonkeyPatch, start_method: str) -> None:
    monkeypatch.setattr(watch, "LOADING_SECONDS", 3 * LIMIT)
    monkeypatch.setattr(watch, "_LOADING_LIMITS", 3)
    with ProxyPool(Caller, worker_count=1, start_method=start_method) as pool:
        call = pool.call.options(timeout=LIMIT, on_error="return", chunksize=1)
        first, stuck, last = call.map([str] * 3, [1, Stuck(), 2])
        assert (first, last) == ("1", "2")
        assert isinstance(stuck, TaskTimeoutError)
        assert (stuck.is_loading, stuck.seconds) == (True, 3 * LIMIT)
        assert pool.workers[0].generation == 1

"""Single tasks: apply, apply_async and AsyncResult."""

from __future__ import annotations

import logging
import os
import signal
import threading
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

import mpire_targets as targets
from mpire_ways import MakePool, every_method, every_process
from objproxy import WorkerDiedError
from objproxy.mpire import AsyncResult, WorkerPool
from objproxy.mpire.async_result import JobType
from targets import LIMIT_SECONDS, Gate, poll_until


@pytest.mark.parametrize(
    ("args", "kwargs", "result"),
    [
        ((1, 2), None, (1, 2)),
        ([1], {"x": 2}, (1, ("x", 2))),
        (5, None, (5,)),
        ("ab", None, ("ab",)),
        ({"a": 1}, None, (("a", 1),)),
        ({"a": 1}, {"b": 2}, (("a", 1), ("b", 2))),
        ((), None, ()),
    ],
)
def test_arguments_of_apply(make_any: MakePool, args: Any, kwargs: Any, result: Any) -> None:
    pool = make_any(1)
    assert pool.apply(targets.collect, args, kwargs) == result
    assert pool.apply_async(targets.collect, args, kwargs).get() == result


def test_a_result_tells_its_type(make_pool: MakePool) -> None:
    results = [make_pool().apply_async(targets.square, (3,)) for _ in range(2)]
    assert [result.type for result in results] == [JobType.APPLY] * 2
    assert results[0].job_id != results[1].job_id


def test_an_array_is_one_argument(make_pool: MakePool) -> None:
    assert make_pool().apply(targets.row_sum, np.arange(4)) == 6.0


def test_applies_keep_their_workers(make_process: MakePool) -> None:
    pool = make_process(1)
    pids = {pool.apply(targets.pid_of) for _ in range(5)} | {pool.apply_async(targets.pid_of).get() for _ in range(5)}
    assert len(pids) == 1
    assert pool.map(targets.pid_of, [0]) == [*pids]  # a map takes the workers that are there, and ends them
    assert pool.apply(targets.pid_of) not in pids


def test_functions_without_a_name_are_new_each_time(make_process: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("_MAX_KEPT", "_MAX_NUMBERED"):
        monkeypatch.setattr(f"objproxy.mpire.session.{limit}", 4)
    pool, calls = make_process(1), {"n": 0}

    def count() -> int:
        return calls["n"]

    for n in range(3):
        calls["n"] = n
        assert pool.apply(count) == n
    assert [pool.apply(lambda x: x + 1, 4) for _ in range(12)] == [5] * 12


def test_a_replaced_worker_is_told_the_functions_again(make_process: MakePool) -> None:
    pool = make_process(1)
    for _ in range(2):
        assert [pool.apply(targets.square, x) for x in range(3)] == [0, 1, 4]
        assert pool.apply(targets.add, (1,), {"b": 2}) == 3
        with pytest.raises(RuntimeError):
            pool.apply(targets.exit_at, 3)


def test_callbacks_run_before_the_result_is_given(make_any: MakePool) -> None:
    pool, told = make_any(), []
    pool.apply_async(targets.square, 3, callback=told.append).get()
    assert pool.apply(targets.square, 4, callback=told.append) == 16
    assert told == [9, 16]
    with pytest.raises(ValueError, match="bad item"):
        pool.apply(targets.fail_at, 3, callback=told.append, error_callback=lambda error: told.append(error.args))
    assert told[2:] == [("bad item", 3)]


def test_a_callback_that_raises_costs_nothing(make_any: MakePool, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: Any) -> None:
        raise LookupError("in the callback")

    pool = make_any()
    with caplog.at_level(logging.ERROR):
        results = [pool.apply_async(targets.square, x, callback=fail) for x in range(4)]
        assert [result.get() for result in results] == [0, 1, 4, 9]
    assert "in the callback" in caplog.text


def test_a_result_tells_how_far_it_is(make_any: MakePool, tmp_path: Any) -> None:
    pool, gate = make_any(1), Gate(tmp_path / "gate")
    result = pool.apply_async(targets.wait_at, (str(gate.path), 5))
    assert not result.ready()
    with pytest.raises(ValueError, match="is not ready"):
        result.successful()
    with pytest.raises(TimeoutError, match=r"0\.01"):
        result.get(timeout=0.01)
    result.wait(0.01)
    gate.open()
    result.wait()
    assert result.ready()
    assert result.successful()
    assert result.get() == result.get(timeout=0.001) == 5


@every_method
def test_an_error_of_a_task_costs_that_task_only(make_any: MakePool) -> None:
    pool = make_any(1)
    results = [pool.apply_async(targets.fail_at, x) for x in range(6)]
    assert [result.get() for result in results if result is not results[3]] == [0, 1, 2, 4, 5]
    for _ in range(2):
        with pytest.raises(ValueError, match="bad item"):
            results[3].get()
    assert not results[3].successful()


@every_process
def test_the_death_of_a_worker_costs_the_task_that_ran_only(make_process: MakePool) -> None:
    pool = make_process()
    results = [pool.apply_async(targets.exit_at, x) for x in range(6)]
    assert [result.get() for result in results if result is not results[3]] == [0, 1, 2, 4, 5]
    with pytest.raises(WorkerDiedError, match="exited with code 7"):
        results[3].get()
    with pytest.raises(RuntimeError):
        pool.apply(targets.exit_at, 3)
    assert pool.apply(targets.square, 3) == 9


def test_a_worker_that_died_idle_costs_nothing(make_process: MakePool) -> None:
    pool = make_process(1)
    pid = pool.apply(targets.pid_of)
    pool.apply_async(targets.collect).get()
    os.kill(pid, signal.SIGKILL)
    new = pool.apply(targets.pid_of)
    assert new != pid
    assert pool.map(targets.square, [2]) == [4]


def test_applies_run_beside_an_imap(make_any: MakePool) -> None:
    pool = make_any(use_worker_state=True)
    results = pool.imap(targets.see, [(x,) for x in range(5)], worker_init=targets.init_state, chunk_size=1)
    next(results)
    assert pool.apply_async(targets.kind_of, 1.5).get() == "dict,float"
    assert pool.apply(targets.kind_of, 1.5) == "dict,float"
    assert len(list(results)) == 4


def test_a_map_waits_for_tasks_before_it(make_any: MakePool, tmp_path: Any) -> None:
    pool, gate = make_any(2), Gate(tmp_path / "gate")
    result = pool.apply_async(targets.wait_at, (str(gate.path), 5))
    opener = threading.Timer(0.05, gate.open)
    opener.start()
    assert pool.map(targets.square, range(3)) == [0, 1, 4]
    opener.join()
    assert result.get() == 5


def test_init_and_exit_of_the_first_apply_hold(make_any: MakePool) -> None:
    pool = make_any(1, use_worker_state=True)
    functions = {"worker_init": targets.init_state, "worker_exit": targets.exit_state}
    assert pool.apply(targets.see, 1, **functions) == 1
    assert pool.apply(targets.see, 2, worker_init=targets.raise_error, worker_exit=targets.raise_error) == 2
    pool.stop_and_join(keep_alive=True)
    assert pool.get_exit_results() == []
    pool.stop_and_join()
    assert pool.get_exit_results() == [[1, 2]]


def test_several_threads_apply_at_a_time(make_any: MakePool) -> None:
    pool, results = make_any(2), {}

    def work(n: int) -> None:
        results[n] = [pool.apply(targets.square, x) for x in range(20 * n, 20 * n + 20)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [x for n in range(4) for x in results[n]] == [x * x for x in range(80)]


@every_process
def test_applies_with_time_limits(make_process: MakePool) -> None:
    pool = make_process(2)
    slow = pool.apply_async(targets.deaf_sleep, 60, task_timeout=0.3)
    assert pool.apply(targets.square, 3, task_timeout=30) == 9
    with pytest.raises(TimeoutError):
        slow.get()
    with pytest.raises(TimeoutError):
        pool.apply(targets.sleep, 60, task_timeout=0.1)
    assert pool.apply(targets.square, 3) == 9


def test_a_late_thread_is_told_when_it_has_ended() -> None:
    with WorkerPool(1, start_method="threading") as pool:
        with pytest.raises(TimeoutError, match=r"Worker-0 task timed out \(timeout=0.01\)"):
            pool.apply(targets.sleep, 0.05, task_timeout=0.01)
        with pytest.raises(TimeoutError, match="Worker-0 task timed out"):
            pool.map(targets.sleep, [0, 0.05], task_timeout=0.01)
        with pytest.raises(TimeoutError, match="Worker-0 worker_init timed out"):
            pool.map(targets.square, [1], worker_init=lambda: targets.sleep(0.05), worker_init_timeout=0.01)
        with pytest.raises(TimeoutError, match="Worker-0 worker_exit timed out"):
            pool.map(targets.square, [1], worker_exit=lambda: targets.sleep(0.05), worker_exit_timeout=0.01)


@pytest.mark.parametrize("order_tasks", [False, True])
def test_maps_with_time_limits(make_process: MakePool, order_tasks: bool) -> None:
    pool = make_process(2, order_tasks=order_tasks)
    assert pool.map(targets.square, range(5), task_timeout=30, worker_init_timeout=30, worker_exit_timeout=30) == [
        0,
        1,
        4,
        9,
        16,
    ]
    with pytest.raises(TimeoutError):
        pool.map(targets.deaf_sleep, [0, 60, 0], task_timeout=LIMIT_SECONDS)
    assert pool.map(targets.square, [3]) == [9]


@pytest.mark.parametrize("role", ["worker_init", "worker_exit"])
def test_init_and_exit_with_time_limits(make_process: MakePool, role: str) -> None:
    pool = make_process(1)
    with pytest.raises(TimeoutError):
        pool.map(targets.square, [1], **{role: targets.sleep_setup, f"{role}_timeout": 0.1})
    assert pool.map(targets.square, [3]) == [9]


# ---- what hung once ----------------------------------------------------------------------------------------------------


def test_any_text_can_be_a_result(make_any: MakePool) -> None:
    pool = make_any()
    assert pool.apply(targets.return_nul, 0) == "\0"
    assert pool.map_unordered(targets.return_nul, range(3)) == ["\0"] * 3
    assert list(pool.imap_unordered(targets.return_nul, range(3))) == ["\0"] * 3


def test_results_that_cannot_cross_are_errors(make_process: MakePool) -> None:
    pool = make_process(keep_alive=True)
    assert pool.apply(targets.return_lambda, 0)() == 1  # by value
    with pytest.raises(TypeError, match="cannot cross"):
        pool.apply(threading.Lock)
    with pytest.raises(TypeError, match="cannot cross"):
        pool.map(targets.return_unloadable, range(3))
    results = [pool.apply_async(targets.return_unloadable, x) for x in range(3)]
    assert [results[0].get(), results[2].get()] == [0, 2]
    with pytest.raises(TypeError, match="from a function"):
        results[1].get()


def test_arguments_that_cannot_cross_are_errors(make_process: MakePool) -> None:
    pool = make_process()
    with pytest.raises(TypeError, match="cannot send the arguments"):
        pool.apply(targets.collect, (threading.Lock(),))
    with pytest.raises(TypeError, match="cannot send the arguments"):
        pool.map(targets.collect, [1, threading.Lock()])
    assert pool.apply(lambda x: x + 1, 1) == 2


def test_nothing_is_left_pending(make_pool: MakePool) -> None:
    pool = make_pool()
    results = [pool.apply_async(targets.square, x) for x in range(50)]
    pool.stop_and_join()
    assert [result.ready() for result in results] == [True] * 50
    poll_until(lambda: all(result.successful() for result in results))


class InterruptedFuture(Future[int]):
    """The Ctrl-C comes in the moment in which the result does."""

    def __init__(self) -> None:
        super().__init__()
        self.n_looks = 0

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self.n_looks += 1
        if self.n_looks == 1:
            self.set_result(7)
            raise KeyboardInterrupt
        return super().exception(timeout)


def test_an_interrupt_is_not_lost_when_the_result_comes_at_the_same_time() -> None:
    result = AsyncResult(InterruptedFuture())
    with pytest.raises(KeyboardInterrupt):
        result.get()
    assert result.get() == 7


def test_an_interrupt_of_unpacking_costs_no_result() -> None:
    future: Future[int] = Future()
    answers = iter([KeyboardInterrupt(), 8])

    def unpack(_value: int) -> int:
        answer = next(answers)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    result = AsyncResult(future, unpack=unpack)
    with pytest.raises(KeyboardInterrupt):
        future.set_result(7)
    assert result.ready()
    assert result.get() == 8

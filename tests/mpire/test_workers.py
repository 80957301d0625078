"""Workers: what they are given, what they keep, how they begin and end."""

from __future__ import annotations

import logging
import multiprocessing
import threading
from typing import Any

import numpy as np
import pytest

import mpire_targets as targets
from mpire_ways import MakePool, every_method, every_process
from objproxy import PoolBrokenError, WorkerDiedError
from objproxy.mpire import WorkerPool, cpu_count
from objproxy.mpire.context import ThreadingContext
from targets import Gate

# ---- what functions are given ----------------------------------------------------------------------------------------


@every_method
def test_leading_arguments_come_in_order(make_any: MakePool) -> None:
    pool = make_any(1, shared_objects={"k": 1}, pass_worker_id=True, use_worker_state=True, keep_alive=True)
    assert pool.map(targets.all_leading, [(5, 6)]) == [(0, {"k": 1}, 1, (5, 6))]
    assert pool.apply(targets.all_leading, 7) == (0, {"k": 1}, 2, (7,))


def test_setters_change_what_functions_are_given(make_any: MakePool, caplog: pytest.LogCaptureFixture) -> None:
    pool = make_any(1, keep_alive=True)
    assert pool.map(targets.kind_of, [0.5]) == ["float"]
    pool.pass_on_worker_id()
    pool.set_shared_objects("s")
    pool.set_use_worker_state()
    with caplog.at_level(logging.WARNING):
        assert pool.map(targets.kind_of, [0.5]) == ["int,str,dict,float"]
    assert "Restarting workers" in caplog.text
    pool.pass_on_worker_id(False)
    pool.set_shared_objects()
    pool.set_use_worker_state(False)
    assert pool.apply(targets.kind_of, 0.5) == "float"


def test_an_array_can_be_set_as_shared_object(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.set_shared_objects(np.arange(3))
    pool.set_shared_objects(np.arange(4))
    assert pool.map(targets.mean_of_shared, [0]) == [1.5]


@pytest.mark.parametrize("shared", [0, "", [], False])
def test_shared_objects_that_are_empty_are_given_all_the_same(make_pool: MakePool, shared: Any) -> None:
    assert make_pool(1, shared_objects=shared).map(targets.collect, [5]) == [(shared, 5)]


@every_process
def test_large_shared_objects_are_there_once(make_process: MakePool) -> None:
    """What one worker writes, another does not see, and the caller's array stays as it was: copy-on-write."""
    data = np.ones(1_000_000)
    pool = make_process(shared_objects=data, order_tasks=True, keep_alive=True)
    assert pool.map(targets.write_shared, [7, 8], chunk_size=1) == [7.0, 8.0]
    means = pool.map(targets.mean_of_shared, [0, 0], chunk_size=1)
    assert means == [1 + 6e-6, 1 + 7e-6]
    assert data[0] == 1.0


@every_process
def test_large_shared_objects_cross_without_a_copy_for_each_worker(make_process: MakePool) -> None:
    pool = make_process(shared_objects={"data": np.ones(1_000_000)}, order_tasks=True)
    start_method = pool.pool_params.start_method
    before, after, is_writeable = pool.map(targets.read_shared, [0])[0]
    assert is_writeable
    # Forked workers have the program's own pages; to others the array is a file in memory, of which pages appear as they are
    # read.
    assert after - before >= (0 if start_method == "fork" else 8_000_000 // 1024)


@every_method
@pytest.mark.parametrize("make", ["Lock", "RLock"])
def test_locks_values_and_arrays_can_be_shared(make_any: MakePool, make: str) -> None:
    pool = make_any()
    shared = getattr(pool.ctx, make)(), pool.ctx.Value("i", 0, lock=False), pool.ctx.Array("i", 2, lock=False)
    pool.set_shared_objects(shared)
    pool.map(targets.count_up, [200, 300], chunk_size=1)
    assert shared[1].value == sum(shared[2]) == 500


@every_method
def test_workers_can_meet_at_a_barrier(make_any: MakePool) -> None:
    pool = make_any()
    pool.set_shared_objects(pool.ctx.Barrier(2))
    assert sorted(pool.map(targets.wait_for_all, range(2), chunk_size=1)) == [0, 1]


def test_the_context_is_that_of_the_start_method(make_any: MakePool) -> None:
    pool = make_any()
    if pool.pool_params.start_method == "threading":
        assert pool.ctx is ThreadingContext
        assert isinstance(pool.ctx.Event(), threading.Event)
    else:
        assert pool.ctx.get_start_method() == pool.pool_params.start_method


def test_forked_workers_see_the_program_as_it_is(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "setting", "changed")
    assert make_pool().map(targets.read_setting, [0]) == ["changed"]


def test_forked_workers_get_what_cannot_be_pickled(make_pool: MakePool) -> None:
    shared = (x for x in "ab")
    pool = make_pool(1, shared_objects=shared)
    assert pool.map(lambda shared, _: next(shared), [0, 0]) == ["a", "b"]
    assert next(shared) == "a"


# ---- state, beginning and end ------------------------------------------------------------------------------------------


@every_method
def test_state_init_and_exit(make_any: MakePool) -> None:
    pool = make_any(use_worker_state=True)
    items = [(x,) for x in range(20)]
    pool.map(targets.see, items, worker_init=targets.init_state, worker_exit=targets.exit_state)
    results = pool.get_exit_results()
    assert len(results) == 2
    assert sorted(results[0] + results[1]) == list(range(20))


@pytest.mark.parametrize("init", [None, targets.init_state])
def test_a_worker_without_a_task_begins_and_ends_too(make_any: MakePool, init: Any) -> None:
    pool = make_any(3, use_worker_state=True)
    pool.map(targets.see, [(5,)], worker_init=init, worker_exit=targets.exit_state)
    assert sorted(pool.get_exit_results()) == [[], [], [5]]


def test_state_is_fresh_in_each_map_unless_workers_stay(make_any: MakePool) -> None:
    pool = make_any(1, use_worker_state=True)
    assert [pool.map(targets.see, [(1,)]) for _ in range(2)] == [[1], [1]]
    pool.set_keep_alive()
    assert [pool.map(targets.see, [(1,)]) for _ in range(2)] == [[1], [2]]
    pool.stop_and_join()
    assert pool.map(targets.see, [(1,)]) == [1]


def test_workers_that_stay_end_with_the_last_exit_function(make_any: MakePool) -> None:
    pool = make_any(1, use_worker_state=True, keep_alive=True)
    pool.map(targets.see, [(1,)], worker_init=targets.init_state)
    with pytest.warns(RuntimeWarning, match="changed while the workers are kept alive"):
        pool.map(targets.see, [(2,)], worker_exit=targets.exit_state)
    assert pool.get_exit_results() == []
    pool.join()
    assert pool.get_exit_results() == [[1, 2]]


@every_method
def test_a_lifespan_ends_workers_with_their_states(make_any: MakePool) -> None:
    pool = make_any(1, use_worker_state=True)
    functions = {"worker_init": targets.init_state, "worker_exit": targets.exit_state}
    assert pool.map(targets.see, [(x,) for x in range(5)], worker_lifespan=2, **functions) == [1, 2, 1, 2, 1]
    assert pool.get_exit_results() == [[0, 1], [2, 3], [4]]


def test_a_lifespan_ends_processes(make_process: MakePool) -> None:
    pids = make_process(1).map(targets.pid_of, range(6), worker_lifespan=3, chunk_size=2)
    assert len(set(pids[:3])) == len(set(pids[3:])) == 1
    assert pids[0] != pids[3]


def test_many_short_lives_lose_nothing(make_pool: MakePool) -> None:
    pool = make_pool(2)
    for options in ({"chunk_size": 3}, {}, {"order_tasks": True}):
        pool.set_order_tasks(bool(options.pop("order_tasks", False)))
        results = pool.map(targets.square, range(60), worker_lifespan=4, worker_exit=targets.say_bye, **options)
        assert results == [x * x for x in range(60)]
        assert set(pool.get_exit_results()) == {"bye"}


@pytest.mark.parametrize("role", ["worker_init", "worker_exit"])
def test_errors_of_init_and_exit_are_raised(make_any: MakePool, role: str) -> None:
    pool = make_any()
    with pytest.raises(LookupError, match="sets up or ends"):
        pool.map(targets.square, [1], **{role: targets.raise_error})
    assert pool.map(targets.square, [1]) == [1]


def test_workers_stay_only_if_they_shall(make_process: MakePool) -> None:
    pool = make_process(1)
    assert pool.map(targets.pid_of, [0]) != pool.map(targets.pid_of, [0])
    pool.set_keep_alive()
    assert pool.map(targets.pid_of, [0]) == pool.map(lambda _: targets.pid_of(), [0])


def test_a_new_function_reaches_workers_that_stay(make_any: MakePool) -> None:
    pool = make_any(keep_alive=True)
    assert [pool.map(lambda x, n=n: n * x, [1, 2]) for n in range(5)] == [[n, 2 * n] for n in range(5)]


# ---- where they run ----------------------------------------------------------------------------------------------------


def test_workers_are_pinned(make_process: MakePool) -> None:
    cpu = min(targets.affinity(0))
    assert make_process(2, cpu_ids=[cpu]).map(targets.affinity, range(2)) == [{cpu}, {cpu}]
    assert make_process(1, cpu_ids=[[cpu]]).map(targets.affinity, range(1)) == [{cpu}]


@pytest.mark.parametrize(
    ("cpu_ids", "error", "text"),
    [
        ([0, 0, 0], ValueError, r"Number of CPU IDs \(3\) does not match number of jobs \(2\)"),
        ([9999], ValueError, "CPU ID 9999 exceeds the maximum"),
        ([-1], ValueError, "CPU IDs cannot be negative"),
        (["0"], TypeError, "either a list or a single integer"),
        ("01", TypeError, "expected a list"),
    ],
)
def test_processors_that_make_no_sense(cpu_ids: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        WorkerPool(2, cpu_ids=cpu_ids)


def test_threads_are_not_pinned() -> None:
    with pytest.raises(ValueError, match="threading"):
        WorkerPool(1, cpu_ids=[0], start_method="threading")


@every_process
@pytest.mark.parametrize("daemon", [True, False])
def test_workers_have_pools_of_their_own(make_process: MakePool, daemon: bool) -> None:
    pool = make_process(2, daemon=daemon)
    assert pool.map(targets.nested, [2, 3], chunk_size=1) == [[0, 1], [0, 1, 4]]


@pytest.mark.parametrize("n_jobs", [None, 0])
def test_as_many_workers_as_processors(n_jobs: int | None) -> None:
    assert WorkerPool(n_jobs).pool_params.n_jobs == cpu_count() == multiprocessing.cpu_count()


@pytest.mark.parametrize(("n_jobs", "error"), [(-1, ValueError), (2.5, TypeError), ("2", TypeError)])
def test_numbers_of_workers_that_make_no_sense(n_jobs: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="n_jobs should be"):
        WorkerPool(n_jobs)


def test_a_start_method_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="Unknown start method: 'bogus'"):
        WorkerPool(1, start_method="bogus")


@every_process
def test_by_value_needs_no_dill(make_process: MakePool) -> None:
    for use_dill in (False, True):
        assert make_process(1, use_dill=use_dill).map(lambda x: x + 1, [1]) == [2]


# ---- the pool's own end ------------------------------------------------------------------------------------------------


def test_a_pool_can_be_used_after_its_block(make_any: MakePool) -> None:
    pool = make_any()
    with pool:
        assert pool.map(targets.square, [2]) == [4]
    assert pool.map(targets.square, [3]) == [9]


def test_terminate_ends_what_runs(make_process: MakePool, tmp_path: Any) -> None:
    pool, gate = make_process(1), Gate(tmp_path / "never")
    result = pool.apply_async(targets.wait_at, (str(gate.path), 1))
    pool.terminate()
    with pytest.raises(RuntimeError):
        result.get()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"chunk_size": 0}, ValueError, "chunk_size should be >= 1"),
        ({"chunk_size": "3"}, TypeError, "chunk_size should be of type"),
        ({"n_splits": 0}, ValueError, "n_splits should be >= 1"),
        ({"n_splits": 1.5}, TypeError, "n_splits should be of type"),
        ({"max_tasks_active": 0}, ValueError, "max_tasks_active should be >= 1"),
        ({"worker_lifespan": 0}, ValueError, "worker_lifespan should be >= 1"),
        ({"worker_lifespan": "1"}, TypeError, "worker_lifespan should be of type"),
        ({"task_timeout": -1}, ValueError, "task_timeout should be >="),
        ({"worker_init_timeout": "a"}, TypeError, "worker_init_timeout should be of type"),
        ({"worker_exit_timeout": 0}, ValueError, "worker_exit_timeout should be >="),
        ({"progress_bar_style": "zzz"}, ValueError, "Invalid progress bar style: zzz"),
        ({"progress_bar_options": [1]}, TypeError, "should be a dictionary"),
        ({"worker_init": 5}, TypeError, "worker_init=5: expected a function"),
    ],
)
def test_parameters_are_checked_before_anything_starts(
    make_pool: MakePool, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        make_pool().map(targets.square, [1], **options)
    with pytest.raises(TypeError, match="expected an iterable"):
        make_pool().map(targets.square, 5)


def test_leaving_the_block_runs_the_exit_function_of_workers_that_stayed(make_any: MakePool) -> None:
    with make_any(2, keep_alive=True) as pool:
        pool.map(targets.square, [1], worker_exit=targets.say_bye)
        assert pool.get_exit_results() == []
    assert pool.get_exit_results() == ["bye", "bye"]
    with pytest.raises(LookupError, match="on purpose"), make_any(2, keep_alive=True) as pool:  # noqa: PT012
        pool.map(targets.square, [1], worker_exit=targets.say_bye)
        raise LookupError("on purpose")
    assert pool.get_exit_results() == []


def test_workers_that_were_all_given_up_are_replaced_for_the_next_call(
    make_process: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that dies again and again is given up; the pool says so once, and then begins anew."""
    monkeypatch.setattr("objproxy.mpire.session._MAX_RESTARTS", (1, 600.0))
    pool = make_process(1)
    for error in (WorkerDiedError, WorkerDiedError, PoolBrokenError):
        with pytest.raises(error):
            pool.apply(targets.exit_at, 3)
    assert pool.apply(targets.square, 3) == 9


def test_forked_workers_that_stay_keep_a_function_that_cannot_be_pickled(make_pool: MakePool) -> None:
    lock = threading.Lock()

    def guarded(x: int) -> int:
        with lock:
            return x + 1

    pool = make_pool(keep_alive=True)
    assert [pool.map(guarded, [n]) for n in range(3)] == [[1], [2], [3]]
    with pytest.raises(TypeError, match="pickle"):
        pool.map(lambda x: (lock, x), [1])
    assert pool.map(guarded, [1]) == [2]


# ---- kept workers and their lifespan -----------------------------------------------------------------------------------


@every_method
def test_kept_workers_stay_when_the_lifespan_changes(make_any: MakePool) -> None:
    pool = make_any(1, use_worker_state=True, keep_alive=True)
    functions: dict[str, Any] = {"func": targets.see, "worker_init": targets.init_state}
    assert pool.map(iterable_of_args=[(1,)] * 3, worker_lifespan=100, **functions) == [1, 2, 3]
    assert pool.map(iterable_of_args=[(1,)] * 3, worker_lifespan=200, **functions) == [4, 5, 6]
    assert pool.map(iterable_of_args=[(1,)] * 3, **functions) == [7, 8, 9]
    assert pool.map(iterable_of_args=[(1,)] * 4, worker_lifespan=11, **functions) == [10, 11, 1, 2]


def test_a_kept_worker_runs_its_exit_at_the_end_of_a_lifespan_that_came_later(make_pool: MakePool) -> None:
    pool = make_pool(1, use_worker_state=True, keep_alive=True)
    functions: dict[str, Any] = {"func": targets.see, "worker_init": targets.init_state, "worker_exit": targets.exit_state}
    pool.map(iterable_of_args=[(1,)] * 3, **functions)
    pool.map(iterable_of_args=[(1,)] * 4, worker_lifespan=5, **functions)
    pool.stop_and_join()
    assert [len(seen) for seen in pool.get_exit_results()] == [5, 2]

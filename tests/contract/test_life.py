"""How a pool begins, changes and ends."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from objproxy import NotSupportedError, PoolClosedError, ProxyPool, WorkerInitError
from objproxy.proxy import POOL_NAMES
from optional import need
from targets import (
    PATIENCE_SECONDS,
    Closing,
    CustomError,
    Exiting,
    FailingInit,
    Hoarder,
    Journaled,
    Model,
    Named,
    Unsnappable,
    make_text,
    poll_until,
)
from ways import MakePool, Way

psutil = need("psutil")

# ---- the end ---------------------------------------------------------------------------------------------------------


def _uses(pool: ProxyPool[Any]) -> list[Callable[[], Any]]:
    return [
        lambda: pool.score(1),
        lambda: pool.score([1], map_args=True),
        lambda: pool.score([1, 2], map_args=True, synchronize=True),
        lambda: pool.score.map([1]),
        lambda: list(pool.score.imap([1])),
        lambda: pool.score.submit(1),
        lambda: pool[0].score(1),
        lambda: pool.rate,
        lambda: setattr(pool, "rate", 1),
        lambda: pool[0].rate,
        lambda: pool.resize(3),
        lambda: pool.checkpoint(),
        lambda: pool.wait_ready(1),
    ]


@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_closed_pool_says_so_whatever_one_does(make_pool: MakePool, end: str) -> None:
    pool = make_pool()
    score = pool.score
    getattr(pool, end)()
    for use in [*_uses(pool), lambda: score(1)]:
        with pytest.raises(PoolClosedError, match="closed"):
            use()


def test_closing_twice_or_killing_afterwards_is_harmless(make_pool: MakePool) -> None:
    pool = make_pool()
    for end in (pool.close, pool.close, pool.kill, pool.kill, pool.close):
        end()
    assert "closed" in repr(pool)


def test_with_closes_and_may_not_be_used_again(way: Way) -> None:
    with ProxyPool(Model, worker_count=2, **way.options) as pool:
        assert pool.score(1).tolist() == [2, 2]
    with pytest.raises(PoolClosedError):
        pool.score(1)


@pytest.mark.parametrize(("cls", "word"), [(Closing, "close"), (Exiting, "exit")])
def test_closing_runs_each_instances_own_end_once(make_pool: MakePool, tmp_path: Path, cls: type, word: str) -> None:
    path = tmp_path / "ends"
    pool = make_pool(cls, init_args=(path,))
    pool.note("work")
    pool.close()
    pool.close()
    assert sorted(path.read_text().splitlines()) == [f"{word} 0", f"{word} 1", "work", "work"]


def test_killing_runs_no_instances_end(make_pool: MakePool, tmp_path: Path) -> None:
    path = tmp_path / "ends"
    make_pool(Closing, init_args=(path,)).kill()
    poll_until(lambda: not [thread for thread in threading.enumerate() if "objproxy-worker" in thread.name])
    assert not path.exists()


def test_the_class_s_own_close_can_be_reached(make_pool: MakePool, tmp_path: Path) -> None:
    path = tmp_path / "ends"
    pool = make_pool(Closing, init_args=(path,))
    pool.remote.close()
    assert sorted(path.read_text().splitlines()) == ["close 0", "close 1"]
    pool.note("still here")


@pytest.mark.concurrent
def test_leaving_with_by_an_exception_ends_what_runs(way: Way, gates: Any) -> None:
    gate, started = gates("gate"), gates("started")
    with pytest.raises(KeyError, match="mine"), ProxyPool(Model, worker_count=1, **way.options) as pool:  # noqa: PT012
        future = pool.report_and_wait.submit(started, gate)
        started.wait()
        raise KeyError("mine")
    assert isinstance(future.exception(PATIENCE_SECONDS), PoolClosedError)
    gate.open()


@pytest.mark.race
@pytest.mark.concurrent
def test_close_finishes_what_was_submitted(make_pool: MakePool, gates: Any, tmp_path: Path) -> None:
    pool, gate, path = make_pool(), gates("gate"), tmp_path / "lines"
    futures = [pool.wait_at.submit(gate), *(pool.append_line.submit(path, i) for i in range(10))]
    gate.open()
    pool.close()
    assert all(future.done() for future in futures)
    assert sorted(map(int, path.read_text().split())) == list(range(10))


@pytest.mark.race
@pytest.mark.processes
def test_close_past_its_time_kills(make_pool: MakePool, gates: Any) -> None:
    pool, gate, started = make_pool(), gates("gate"), gates("started")
    future = pool.report_and_wait.submit(started, gate)
    started.wait()
    pool.close(timeout=0.05)
    assert isinstance(future.exception(PATIENCE_SECONDS), PoolClosedError)


@pytest.mark.race
@pytest.mark.concurrent
def test_another_thread_may_kill_the_pool_under_a_call(make_pool: MakePool, gates: Any) -> None:
    pool, gate, started = make_pool(worker_count=1), gates("gate"), gates("started")

    def kill() -> None:
        started.wait()
        pool.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(PoolClosedError):
        pool.report_and_wait(started, gate)
    thread.join(PATIENCE_SECONDS)


def test_join_waits_for_the_end_of_a_pool(make_pool: MakePool) -> None:
    """A habit from `multiprocessing.Pool`."""
    pool = make_pool()
    with pytest.raises(ValueError, match=r"still running; call close\(\)"):
        pool.join()
    pool.close()
    assert pool.join() is None
    killed = make_pool()
    killed.kill()
    assert killed.join() is None


def test_a_class_that_has_join_keeps_its_own(way: Way) -> None:
    with ProxyPool(str, worker_count=2, init_args=("-",), **way.options) as pool:
        assert pool.join("ab").tolist() == ["a-b", "a-b"]
        with pytest.raises(AttributeError):
            _ = pool.remote.joint
    with ProxyPool(make_text, worker_count=1, **way.options) as made:
        assert made.join("ab").tolist() == ["a-b"]


def test_a_pool_that_is_forgotten_is_ended_with_a_warning(way: Way) -> None:
    pool = ProxyPool(Model, worker_count=1, name="lost", **way.options)
    pid = pool.workers[0].pid
    with pytest.warns(ResourceWarning, match="'lost' was never closed"):
        del pool
    assert pid is None or not psutil.pid_exists(pid)


def test_a_pool_cannot_be_pickled(shared_pool: ProxyPool[Model]) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(shared_pool)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_pool_in_a_forked_child_is_closed(shared_pool: ProxyPool[Model]) -> None:
    pid = os.fork()
    if not pid:
        status = 1
        try:
            shared_pool.score(1)
        except PoolClosedError as exc:
            status = 0 if "another process" in str(exc) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert shared_pool.score(1).tolist() == [2, 2, 2]


def test_the_pools_own_names_are_a_closed_list(shared_pool: ProxyPool[Model]) -> None:
    assert {name for name in vars(ProxyPool) if not name.startswith("_")} == POOL_NAMES
    assert {name for name in vars(shared_pool) if not name.startswith("_")} == set()


# ---- the beginning ---------------------------------------------------------------------------------------------------


def test_constructors_get_their_arguments(make_pool: MakePool) -> None:
    pool = make_pool(Named, init_args=(1, 2), init_kwargs={"a": 3})
    assert pool.args.tolist() == [[1, 2]] * 2
    assert list(pool.kwargs) == [{"a": 3}] * 2
    each = make_pool(Named, worker_count=None, init_args_each=[(1,), {"b": 2}, (3,)], init_args=(9,), init_kwargs={"a": 0})
    assert each.args.tolist() == [[1], [9], [3]]
    assert list(each.kwargs) == [{"a": 0}, {"a": 0, "b": 2}, {"a": 0}]


@pytest.mark.parametrize("worker_ids", [None, (1,)], ids=["all", "one"])
def test_a_constructor_that_raises_is_told_and_nothing_is_left(make_pool: MakePool, worker_ids: Any) -> None:
    with pytest.raises(WorkerInitError, match="no weights") as caught:
        make_pool(FailingInit, worker_count=3, init_args=("raise", worker_ids))
    error = caught.value
    assert worker_ids is None or error.worker_id == 1
    assert "in __init__" in error.remote_traceback
    assert isinstance(error.__cause__, CustomError)


@pytest.mark.processes
@pytest.mark.parametrize("worker_ids", [None, (1,)], ids=["all", "one"])
@pytest.mark.parametrize(("how", "says"), [("os._exit", "exited with code 4"), ("SIGKILL", "SIGKILL")])
def test_a_constructor_that_ends_its_process_is_told_and_nothing_is_left(
    make_pool: MakePool, how: str, says: str, worker_ids: Any
) -> None:
    with pytest.raises(WorkerInitError, match=says) as caught:
        make_pool(FailingInit, worker_count=3, init_args=(how, worker_ids))
    assert caught.value.exitcode in (4, -9)


@pytest.mark.processes
@pytest.mark.parametrize("worker_ids", [None, (1,)], ids=["all", "one"])
def test_a_constructor_that_takes_too_long_is_told_and_nothing_is_left(make_pool: MakePool, worker_ids: Any) -> None:
    with pytest.raises(WorkerInitError, match=r"init_timeout=0\.5"):
        make_pool(FailingInit, worker_count=2, init_args=("hang", worker_ids), init_timeout=0.5)


def test_wrong_arguments_of_a_constructor_are_told(make_pool: MakePool) -> None:
    with pytest.raises(WorkerInitError, match="unexpected keyword argument 'rat'"):
        make_pool(init_kwargs={"rat": 3})


def test_the_pool_is_ready_when_it_is_made(make_pool: MakePool) -> None:
    pool = make_pool()
    assert {worker.state for worker in pool.workers} == {"idle"}
    assert pool.wait_ready(timeout=0.001)


# ---- what a pool tells -----------------------------------------------------------------------------------------------


def test_workers_are_frozen_records(make_pool: MakePool, way: Way) -> None:
    pool = make_pool()
    pool.score.map(range(10))
    pool.score(1)
    workers = pool.workers
    assert type(workers) is tuple
    assert [worker.id for worker in workers] == [0, 1]
    assert [worker.worker_id for worker in workers] == [0, 1]
    assert sum(worker.n_tasks for worker in workers) == 12
    assert [worker.generation for worker in workers] == [0, 0]
    assert [worker.device for worker in workers] == [None, None]
    with pytest.raises(AttributeError):
        workers[0].state = "busy"  # type: ignore[misc]
    if way.is_process:
        assert [worker.pid for worker in workers] == pool.pid().tolist()
        assert all(worker.rss and worker.rss > 10**6 for worker in workers)


@pytest.mark.concurrent
def test_a_worker_that_works_is_busy(make_pool: MakePool, gates: Any) -> None:
    pool, gate, started = make_pool(), gates("gate"), gates("started")
    future = pool[1].report_and_wait.submit(started, gate)
    started.wait()
    assert [worker.state for worker in pool.workers] == ["idle", "busy"]
    gate.open()
    future.result(PATIENCE_SECONDS)
    assert [worker.state for worker in pool.workers] == ["idle", "idle"]


def test_insights_tell_where_the_time_went(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.score.map(range(1000))
    insights = pool.insights()
    assert [worker.id for worker in insights.workers] == [0, 1]
    assert sum(worker.n_tasks for worker in insights.workers) == 1000
    assert all(
        value >= 0 for worker in insights.workers for value in (worker.start_up, worker.init, worker.waiting, worker.exit)
    )
    assert insights.total("working") > 0
    assert 0 < insights.working_ratio <= 1
    assert 0 < len(insights.slowest) <= 5
    assert insights.slowest[0].method == "score"
    assert [item.seconds for item in insights.slowest] == sorted((item.seconds for item in insights.slowest), reverse=True)
    pool.close()
    assert sum(worker.n_tasks for worker in pool.insights().workers) == 1000


# ---- changes ---------------------------------------------------------------------------------------------------------


def test_a_pool_can_grow_and_shrink(make_pool: MakePool) -> None:
    pool = make_pool(worker_count=2)
    pool[0].count()
    pool.resize(4)
    assert len(pool) == 4
    assert pool.who().tolist() == [0, 1, 2, 3]
    assert pool.count().tolist() == [2, 1, 1, 1]
    pool.resize(1)
    assert pool.count().tolist() == [3]
    assert [worker.id for worker in pool.workers] == [0]
    with pytest.raises(IndexError):
        _ = pool[1]
    pool.resize(2)
    assert pool.count().tolist() == [4, 1]


def test_workers_that_go_run_their_instances_end(make_pool: MakePool, tmp_path: Path) -> None:
    path = tmp_path / "ends"
    pool = make_pool(Closing, worker_count=3, init_args=(path,))
    pool.resize(1)
    assert sorted(path.read_text().splitlines()) == ["close 1", "close 2"]


@pytest.mark.parametrize("n_workers", [0, -1, None, 1.5])
def test_a_size_that_makes_no_sense_is_refused(shared_pool: ProxyPool[Model], n_workers: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        shared_pool.resize(n_workers)
    assert len(shared_pool) == 3


def test_growing_needs_arguments_for_the_new_workers(make_pool: MakePool) -> None:
    pool = make_pool(Named, init_args_each=[(1,), (2,)])
    with pytest.raises(ValueError, match="none for worker 2"):
        pool.resize(3)
    assert len(pool) == 2
    assert list(pool.args) == [(1,), (2,)]


@pytest.mark.in_memory
def test_a_pool_of_what_cannot_be_pickled_can_grow_on_threads(make_pool: MakePool) -> None:
    pool = make_pool(Named, init_args=(threading.Lock(),))
    pool.resize(3)
    assert len(pool.args) == 3


def test_workers_are_recycled_after_their_number_of_items(make_pool: MakePool) -> None:
    pool = make_pool(Journaled, max_tasks_per_worker=3)
    results = pool.work.options(chunksize=5).map(range(20))
    assert [item for item, _ in results] == list(range(20))
    served = [generation for _, generation in results]
    assert max(served) >= 2
    pool.wait_ready(PATIENCE_SECONDS)
    assert sum(worker.n_tasks for worker in pool.workers) == 20


def test_broadcasts_that_do_not_count_leave_a_workers_life_as_long_as_it_is(make_pool: MakePool) -> None:
    pool = make_pool(Journaled, worker_count=1, max_tasks_per_worker=2)
    for _ in range(5):
        pool.step.options(counts=False)("set up")
    assert pool.work.map(range(4)) == [(0, 0), (1, 0), (2, 1), (3, 1)]


def test_recycling_runs_the_instances_end_and_tells_nobody_of_a_loss(make_pool: MakePool, tmp_path: Path) -> None:
    path = tmp_path / "ends"
    pool = make_pool(Closing, worker_count=1, init_args=(path,), max_tasks_per_worker=2, max_restarts=(0, 100.0))
    for _ in range(6):
        pool.note("work")
    pool.wait_ready(PATIENCE_SECONDS)
    assert path.read_text().splitlines() == ["work", "work", "close 0"] * 3


@pytest.mark.parametrize(
    ("on_restart", "expected"),
    [("fresh", []), ("replay", ["kept", "kept too"]), ("snapshot", ["kept", "lost", "kept too"])],
)
def test_what_a_recycled_worker_starts_from(make_pool: MakePool, on_restart: str, expected: list[str]) -> None:
    pool = make_pool(Journaled, worker_count=1, max_tasks_per_worker=5, on_restart=on_restart)
    keep = pool.step.options(journal=True)
    keep("kept")
    pool.step("lost")
    keep(name="kept too")
    pool.checkpoint()
    pool.step("later")
    assert pool[0].where() == (0, 0)
    assert pool[0].where() == (0, 1)
    assert pool[0].read() == expected


def test_a_checkpoint_of_what_cannot_be_pickled_is_a_type_error(make_pool: MakePool) -> None:
    pool = make_pool(Unsnappable, on_restart="snapshot")
    with pytest.raises(TypeError, match="lock"):
        pool.checkpoint()


def test_wait_ready_waits_for_replacements(make_pool: MakePool) -> None:
    pool = make_pool(Journaled, worker_count=1, max_tasks_per_worker=1)
    pool[0].read()
    assert pool.wait_ready(PATIENCE_SECONDS)
    poll_until(lambda: pool.wait_ready(1) and pool.workers[0].state == "idle")
    assert pool.workers[0].generation == 1


@pytest.mark.processes
def test_a_worker_that_outgrows_its_memory_is_replaced(make_pool: MakePool) -> None:
    pool = make_pool(Hoarder, worker_count=1, max_rss=200 * 2**20)
    held = pool.hoard.options(chunksize=1).map([30 * 2**20] * 12)
    assert max(held) < 12
    assert sorted(held)[0] == 1
    assert pool.wait_ready(PATIENCE_SECONDS)
    assert pool.workers[0].generation >= 1
    assert sum(worker.n_tasks for worker in pool.workers) == 12


@pytest.mark.in_memory
def test_a_limit_of_memory_needs_processes(make_pool: MakePool) -> None:
    with pytest.raises(NotSupportedError, match="max_rss"):
        make_pool(max_rss=10**9)

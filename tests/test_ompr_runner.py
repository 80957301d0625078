"""`OMPRunner`: the queue, the results, the failures."""

from __future__ import annotations

import itertools
import logging
import pickle
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from objproxy import (
    ArgumentPickleError,
    PoisonTaskError,
    PoolClosedError,
    RemoteTraceback,
    ResultPickleError,
    TaskTimeoutError,
    WorkerDiedError,
)
from objproxy.ompr import OMPRException, OMPRunner
from ompr_targets import Worker
from targets import LIMIT_SECONDS, PATIENCE_SECONDS, Locked, poll_until

TWO = [None] * 2


@pytest.fixture(scope="module")
def shared_runner() -> Iterator[OMPRunner]:
    """Give a runner for all tests that take every result they asked for."""
    with OMPRunner(Worker, {"factor": 3}, devices=TWO, rerun_crashed=False, log_rww_exception=False) as runner:
        yield runner


def numbered(numbers: Any) -> list[dict[str, Any]]:
    return [{"x": x} for x in numbers]


# ---- the queue ---------------------------------------------------------------------------------------------------------


def test_tasks_may_be_a_dict_a_list_or_any_iterable_and_come_back_in_order(shared_runner: OMPRunner) -> None:
    shared_runner.process({"x": 0})
    shared_runner.process(numbered(range(1, 300)))
    shared_runner.process(tuple(numbered(range(300, 310))))
    shared_runner.process({"x": x} for x in range(310, 400))
    assert shared_runner.get_result() == 0
    assert shared_runner.get_all_results() == [3 * x for x in range(1, 400)]
    assert shared_runner.get_all_results() == []
    assert shared_runner.get_result() is None


def test_one_dict_may_be_changed_and_given_again(shared_runner: OMPRunner) -> None:
    task: dict[str, Any] = {}

    def changed() -> Iterator[dict[str, Any]]:
        for x in range(50):
            task["x"] = x
            yield task

    for same in changed():
        shared_runner.process(same)
    shared_runner.process(changed())
    assert [shared_runner.get_result() for _ in range(100)] == 2 * [3 * x for x in range(50)]


def test_an_endless_iterable_is_read_as_its_tasks_are_needed() -> None:
    with OMPRunner(Worker, devices=TWO, max_results_kept=20) as runner:
        runner.process({"x": x} for x in itertools.count())
        assert [runner.get_result() for _ in range(100)] == list(range(0, 200, 2))
        assert runner.get_tasks_stats()["n_tasks_received"] <= 120


def test_process_returns_while_a_task_runs_and_get_result_need_not_wait(shared_runner: OMPRunner, gates: Any) -> None:
    gate, started = gates("gate"), gates("started")
    shared_runner.process({"x": 1, "do": "wait", "gate": gate, "started": started})
    shared_runner.process({"x": 2})
    poll_until(lambda: started.is_open)
    assert shared_runner.get_result(block=False) is None
    gate.open()
    assert shared_runner.get_all_results() == [1, 6]


def test_unordered_results_come_as_they_are_ready(gates: Any) -> None:
    gate, started = gates("gate"), gates("started")
    with OMPRunner(Worker, devices=TWO, ordered_results=False) as runner:
        runner.process({"x": "late", "do": "wait", "gate": gate, "started": started})
        poll_until(lambda: started.is_open)
        runner.process([{"x": 1}, {"x": 2}])
        assert {runner.get_result(), runner.get_result()} == {2, 4}
        gate.open()
        assert runner.get_all_results() == ["late"]


def test_any_thread_may_give_tasks(shared_runner: OMPRunner) -> None:
    threads = [threading.Thread(target=shared_runner.process, args=(numbered(range(100)),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert sorted(shared_runner.get_all_results()) == sorted(4 * [3 * x for x in range(100)])


def test_what_is_no_task_is_refused_and_nothing_is_queued(shared_runner: OMPRunner) -> None:
    before = shared_runner.get_tasks_stats()
    for wrong in (5, "text", [{"x": 1}, 7]):
        with pytest.raises(TypeError, match="a task is a dict"):
            shared_runner.process(wrong)  # type: ignore[arg-type]
    assert shared_runner.get_tasks_stats() == before
    shared_runner.process(iter([{"x": 1}, 7]))  # type: ignore[list-item]
    assert shared_runner.get_result() == 3
    with pytest.raises(TypeError, match="got 7"):
        shared_runner.get_result()


def test_the_queue_can_be_bounded(gates: Any) -> None:
    gate = gates("gate")
    with OMPRunner(Worker, devices=[None], max_tasks_queued=10) as runner:
        runner.process([{"x": x, "do": "wait", "gate": gate} for x in range(10)])
        with pytest.raises(queue.Full, match="maxsize=10"):
            runner.process(numbered(range(11)))
        assert runner.get_tasks_stats()["n_tasks_received"] == 10
        gate.open()
        assert runner.get_all_results() == list(range(10))


def test_results_that_nobody_takes_can_be_bounded() -> None:
    with OMPRunner(Worker, devices=TWO, max_results_kept=8) as runner:
        runner.process(numbered(range(100)))
        poll_until(lambda: runner._stream.n_done == 8)
        assert runner.get_all_results() == list(range(0, 200, 2))


def test_the_stats_count_what_came_and_what_was_returned() -> None:
    with OMPRunner(Worker, devices=TWO) as runner:
        assert runner.get_num_workers() == 2
        assert runner.get_tasks_stats() == {"n_tasks_received": 0, "n_results_returned": 0}
        runner.process(numbered(range(5)))
        runner.get_result()
        assert runner.get_tasks_stats() == {"n_tasks_received": 5, "n_results_returned": 1}
        runner.get_all_results()
        assert "5 tasks received, 5 results returned" in repr(runner)


def test_none_is_a_result(shared_runner: OMPRunner) -> None:
    shared_runner.process([{"x": None, "do": "echo"}, {"x": 1}])
    assert shared_runner.get_all_results() == [None, 3]


# ---- failures ----------------------------------------------------------------------------------------------------------


def test_an_exception_is_a_result_that_carries_the_task_and_the_cause(shared_runner: OMPRunner) -> None:
    shared_runner.process([{"x": 1}, {"x": 2, "do": "fail"}, {"x": 3}])
    one, failed, three = shared_runner.get_all_results()
    assert (one, three) == (3, 9)
    assert isinstance(failed, OMPRException)
    assert failed.task == {"x": 2, "do": "fail"}
    assert failed.attempts == 1
    assert "exception while processing task #" in str(failed)
    assert "ValueError: bad 2" in str(failed)
    assert isinstance(failed.__cause__, ValueError)
    assert isinstance(failed.__cause__.__cause__, RemoteTraceback)
    assert "in fail" in str(failed.__cause__.__cause__)


def test_an_ompr_exception_survives_pickling_with_its_cause() -> None:
    failed = OMPRException("text", task={"x": 1}, attempts=4)
    failed.__cause__ = ValueError("cause")
    again = pickle.loads(pickle.dumps(failed))
    assert (again.args, again.task, again.attempts, str(again.__cause__)) == (("text",), {"x": 1}, 4, "cause")


def test_failed_tasks_can_be_left_out(shared_runner: OMPRunner) -> None:
    shared_runner.process([{"x": 1}, {"x": 2, "do": "fail"}, {"x": 3}])
    assert shared_runner.get_all_results(pop_ex_results=True) == [3, 9]


def test_system_exit_is_the_tasks_error_and_what_cannot_travel_fails_alone(shared_runner: OMPRunner) -> None:
    shared_runner.process([{"x": 2, "do": "leave"}, {"do": "unpicklable"}, {"x": Locked(), "do": "echo"}, {"x": 1}])
    *failed, good = shared_runner.get_all_results()
    assert good == 3
    assert [type(result.__cause__) for result in failed] == [SystemExit, ResultPickleError, ArgumentPickleError]
    assert [result.attempts for result in failed] == [1, 1, 0]


def test_a_returned_exception_is_a_result(shared_runner: OMPRunner) -> None:
    shared_runner.process({"x": ValueError("fine"), "do": "echo"})
    result = shared_runner.get_result()
    assert type(result) is ValueError


def test_a_task_that_always_fails_is_tried_a_bounded_number_of_times(caplog: pytest.LogCaptureFixture) -> None:
    with OMPRunner(Worker, devices=[None], max_reruns=2) as runner:
        runner.process([{"x": 1, "do": "fail"}, {"do": "counts"}])
        failed, counts = runner.get_all_results()
    assert failed.attempts == 3
    assert "(attempts: 3)" in str(failed)
    assert counts == (0, 3)
    assert [record.levelname for record in caplog.records if "bad 1" in record.getMessage()] == ["WARNING"]


@pytest.mark.parametrize("how", ["fail", "die", "die_softly", "hang"])
def test_a_task_that_fails_once_is_tried_again(tmp_path: Any, how: str) -> None:
    with OMPRunner(Worker, devices=TWO, task_timeout=LIMIT_SECONDS) as runner:
        runner.process([{"x": 1}, {"x": 5, "do": "first_try_fails", "path": tmp_path / "tried", "how": how}, {"x": 2}])
        assert runner.get_all_results() == [2, 5, 4]


def test_deaths_are_results_that_say_so() -> None:
    with OMPRunner(Worker, devices=TWO, rerun_crashed=False, log_rww_exception=False) as runner:
        runner.process([{"do": "die"}, {"do": "die_softly"}, {"x": 4}])
        killed, left, good = runner.get_all_results()
    assert good == 8
    assert [result.task for result in (killed, left)] == [{"do": "die"}, {"do": "die_softly"}]
    assert [type(result.__cause__) for result in (killed, left)] == [WorkerDiedError, WorkerDiedError]
    assert "SIGKILL" in str(killed)


def test_time_outs_are_results_that_say_so_whatever_a_task_does() -> None:
    with OMPRunner(Worker, devices=TWO, task_timeout=LIMIT_SECONDS, rerun_crashed=False, log_rww_exception=False) as runner:
        runner.process([{"do": "hang"}, {"do": "hang_in_c"}, {"x": 4}])
        hung, in_c, good = runner.get_all_results()
    assert good == 8
    assert [type(result.__cause__) for result in (hung, in_c)] == [TaskTimeoutError, TaskTimeoutError]
    assert "RWW timeout" in str(hung)
    assert in_c.task == {"do": "hang_in_c"}


def test_a_task_that_always_kills_its_worker_ends_and_hangs_nobody() -> None:
    with OMPRunner(Worker, devices=TWO, max_reruns=1, log_rww_exception=False) as runner:
        runner.process([{"do": "die"}, *numbered(range(20))])
        killed, *good = runner.get_all_results()
    assert good == list(range(0, 40, 2))
    assert isinstance(killed.__cause__, PoisonTaskError)
    assert killed.attempts == 2


def test_failures_can_be_raised_in_the_caller_and_the_results_before_them_are_not_lost() -> None:
    with OMPRunner(Worker, devices=[None], raise_rww_exception=True, rerun_crashed=False) as runner:
        runner.process([{"x": 1}, {"x": 2}, {"x": "two", "do": "fail"}, {"x": 3}])
        assert runner.get_result() == 2
        with pytest.raises(ValueError, match="bad two"):
            runner.get_all_results()
        assert runner.get_tasks_stats()["n_results_returned"] == 2
        assert runner.get_all_results() == [4, 6]


def test_failures_are_logged_only_if_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("ompr-test")
    for wanted, level, expected in ((True, 20, 1), (False, 20, 0), (False, 10, 1), (True, 40, 0)):
        caplog.clear()
        options = {"log_rww_exception": wanted, "loglevel_subproc": level, "logger": logger, "rerun_crashed": False}
        with OMPRunner(Worker, devices=[None], **options) as runner:
            runner.process({"x": 1, "do": "fail"})
            runner.get_result()
        assert len([record for record in caplog.records if record.name == "ompr-test"]) == expected


# ---- the end -----------------------------------------------------------------------------------------------------------


def test_exit_is_final_and_harmless_to_repeat() -> None:
    runner = OMPRunner(Worker, devices=[None])
    runner.process({"x": 1})
    assert runner.get_result() == 2
    runner.exit()
    runner.exit()
    with pytest.raises(PoolClosedError, match="exited"):
        runner.process({"x": 1})
    assert runner.get_result() is None
    assert runner.get_all_results() == []


def test_exit_with_results_outstanding_ends_what_runs_and_warns(gates: Any, caplog: pytest.LogCaptureFixture) -> None:
    gate, started = gates("gate"), gates("started")
    runner = OMPRunner(Worker, devices=[None])
    runner.process([{"x": x, "do": "wait", "gate": gate, "started": started} for x in range(5)])
    poll_until(lambda: started.is_open)
    runner.exit()
    assert "results that were not returned" in caplog.text
    assert runner.get_result() is None
    assert not gate.is_open


def test_who_waits_for_a_result_is_released_by_exit(gates: Any) -> None:
    gate, started, got = gates("gate"), gates("started"), []
    runner = OMPRunner(Worker, devices=[None], log_rww_exception=False)
    runner.process({"x": 1, "do": "wait", "gate": gate, "started": started})
    consumer = threading.Thread(target=lambda: got.append(runner.get_result()))
    consumer.start()
    poll_until(lambda: started.is_open)
    runner.exit()
    consumer.join(PATIENCE_SECONDS)
    assert got == [None]

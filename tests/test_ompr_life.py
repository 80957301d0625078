"""The life of the objects: devices, life times, constructors, restarts in numbers; and the spellings of three generations."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import objproxy
from objproxy import DeviceError, NotSupportedError, PoolBrokenError, WorkerInitError
from objproxy.ompr import OMPRException, OMPRunner, RunningWorker, simple_process
from objproxy.ompr.report import Progress, format_progress
from objproxy.ompr.spellings import accept_older_spellings
from ompr_targets import BadInit, BadSecondInit, Closing, DeadlySecondInit, KeywordOnly, Logging, Plain, Slow, Worker
from targets import LIMIT_SECONDS, poll_until

TWO = [None] * 2


# ---- constructors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [Slow, KeywordOnly])
def test_the_device_is_filled_in(cls: type[RunningWorker], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBJPROXY_FAKE_CUDA", "3")
    for devices, expected in ((None, {None}), (["cpu", 2], {None, 0})):
        with OMPRunner(cls, devices=devices, rww_lifetime=1) as runner:
            runner.process([{} for _ in range(8)])
            assert set(runner.get_all_results()) <= expected


def test_each_gpu_worker_sees_its_own_device_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBJPROXY_FAKE_CUDA", "3")

    class Masked(RunningWorker):
        def process(self, **_kwargs: Any) -> Any:
            import os

            return os.environ["CUDA_VISIBLE_DEVICES"]

    with OMPRunner(Masked, devices=-1) as runner:
        runner.process({})
        assert runner.get_result() == "2"


def test_a_device_that_is_given_wins() -> None:
    with OMPRunner(KeywordOnly, {"devices": "mine"}, devices=None) as runner:
        runner.process({})
        assert runner.get_result() == "mine"


@pytest.mark.parametrize(
    ("devices", "n_workers"),
    [(None, 1), ("cpu:3", 1), ([None, "mycpu", None], 3), ([0.0, [None, None]], 3), (-0.3, 1), (2.0, "twice"), ("all", "once")],
)
def test_devices_mean_what_they_meant(devices: Any, n_workers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    n_cpus = len(objproxy.devices.resolve_devices("all"))
    expected = {"once": n_cpus, "twice": 2 * n_cpus}.get(n_workers, n_workers)
    with OMPRunner(Worker, devices=devices, pool_options={"backend": "thread"}) as runner:
        assert runner.get_num_workers() == expected


def test_a_device_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBJPROXY_FAKE_CUDA", "0")
    for devices in ([], 3, "nonsense"):
        with pytest.raises(DeviceError):
            OMPRunner(Worker, devices=devices)


def test_the_logger_is_filled_in_and_its_records_arrive(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("ompr-life")
    with OMPRunner(Logging, devices=None, logger=logger) as runner:
        runner.process({"text": "hello"})
        assert runner.get_result() == "ompr-life"
    poll_until(lambda: "said hello" in caplog.text)


def test_the_worker_level_holds_in_the_workers(caplog: pytest.LogCaptureFixture) -> None:
    with OMPRunner(Logging, devices=None, loglevel_worker=logging.ERROR) as runner:
        runner.process({"text": "hello"})
        assert runner.get_result() == "objproxy.ompr"
    assert "said hello" not in caplog.text


def test_a_class_that_derives_from_nothing_works() -> None:
    with OMPRunner(Plain, {"start": 5}, devices=None) as runner:
        runner.process([{"x": 1}, {"x": 2}])
        assert runner.get_all_results() == [6, 8]


def test_a_constructor_that_fails_is_an_error_in_the_caller() -> None:
    with pytest.raises(WorkerInitError, match="no model here") as caught:
        OMPRunner(BadInit, devices=TWO)
    assert isinstance(caught.value.__cause__, OSError)


def test_a_replacement_that_cannot_be_made_fails_its_tasks_and_hangs_nobody() -> None:
    with OMPRunner(BadSecondInit, devices=None, rww_lifetime=2, max_reruns=1, log_rww_exception=False) as runner:
        runner.process([{"x": x} for x in range(4)])
        results = runner.get_all_results()
    assert results[:2] == [0, 1]
    assert ["the model is gone" in str(result) for result in results[2:]] == [True, True]


def test_a_replacement_whose_constructor_kills_it_hangs_nobody() -> None:
    options = {"max_restarts": (3, 600.0)}
    runner = OMPRunner(DeadlySecondInit, devices=None, rww_lifetime=2, log_rww_exception=False, pool_options=options)
    with runner:
        runner.process([{"x": x} for x in range(1000)])
        assert [runner.get_result(), runner.get_result()] == [0, 1]
        # Those that were on their way are results that say so; what was still queued is told once and for all.
        failed = iter(runner.get_result, None)
        with pytest.raises(PoolBrokenError, match="exited with code 7"):
            consume(failed)


def consume(failed: Iterator[OMPRException]) -> None:
    """Check every failure until the runner itself fails."""
    for exception in failed:
        assert isinstance(exception.__cause__, PoolBrokenError)


def test_what_is_no_class_of_workers_is_refused() -> None:
    with pytest.raises(TypeError, match="no method 'process'"):
        OMPRunner(dict)
    with pytest.raises(TypeError, match="expected a class"):
        OMPRunner("Worker")


def test_an_object_that_can_be_closed_is_closed(tmp_path: Path) -> None:
    with OMPRunner(Closing, {"path": tmp_path / "closed"}, devices=None) as runner:
        runner.process({})
        runner.get_all_results()
    assert (tmp_path / "closed").exists()


# ---- life times and restarts -----------------------------------------------------------------------------------------------


def test_an_object_is_replaced_after_its_life_time() -> None:
    with OMPRunner(Worker, devices=TWO, rww_lifetime=3) as runner:
        runner.process([{"x": x, "do": "identity"} for x in range(30)])
        results = runner.get_all_results()
    assert [x for x, _, _ in results] == list(range(30))
    assert max(age for _, age, _ in results) == 2
    assert len({pid for _, _, pid in results}) >= 10


def test_hundreds_of_restarts_time_outs_and_kills_in_a_row_lose_nothing() -> None:
    """The form with thousands is ``python -m benchmarks.ompr_stress``."""
    kinds = ["multiply", "multiply", "multiply", "die", "multiply", "fail", "multiply", "die_softly"]
    tasks: list[dict[str, Any]] = [{"x": x, "do": kinds[x % len(kinds)]} for x in range(240)]
    tasks[50]["do"] = tasks[151]["do"] = "hang"
    with OMPRunner(
        Worker, devices=TWO, rww_lifetime=2, task_timeout=LIMIT_SECONDS, max_reruns=1, log_rww_exception=False
    ) as runner:
        runner.process(tasks)
        results = runner.get_all_results()
    assert len(results) == len(tasks)
    for task, result in zip(tasks, results, strict=True):
        if task["do"] == "multiply":
            assert result == 2 * task["x"]
        else:
            assert isinstance(result, OMPRException)
            assert result.task == task
            assert result.attempts == 2


# ---- three generations -------------------------------------------------------------------------------------------------------


def test_a_program_of_the_first_generation_runs() -> None:
    runner = OMPRunner(
        rw_class=Worker,
        rw_init_kwargs={"factor": 5},
        rw_lifetime=10,
        devices=TWO,
        name="my runner",
        ordered_results=True,
        task_timeout=60,
        log_RWW_exception=True,
        raise_RWW_exception=False,
        report_delay="auto",
        logger=None,
        loglevel=20,
    )
    assert "my runner" in repr(runner)
    runner.process([{"x": 1}, {"x": 2}])
    assert runner.get_all_results() == [5, 10]
    runner.exit()


def test_a_program_of_the_second_generation_runs() -> None:
    runner = OMPRunner(
        Worker,
        {"factor": 5},
        None,
        True,
        TWO,
        True,
        None,
        rerun_crashed=True,
        log_rww_exception=True,
        raise_rww_exception=False,
        report_delay="none",
        logger=None,
        loglevel=20,
    )
    runner.process([{"x": 1}, {"x": 2}])
    assert runner.get_all_results() == [5, 10]
    runner.exit()


def test_a_program_of_the_third_generation_runs() -> None:
    runner = OMPRunner(
        rww_class=Worker,
        rww_init_kwargs={"factor": 5},
        rww_lifetime=10,
        rww_init_sync=True,
        devices=TWO,
        task_timeout=30,
        report_interval=5,
        loglevel_worker=30,
        loglevel_subproc=20,
    )
    runner.process([{"x": 1}, {"x": 2}])
    assert runner.get_all_results() == [5, 10]
    runner.exit()


FIVE = [None] * 5

#: Positional arguments behind the class, and the parameters that they are, by their newest names.
POSITIONAL: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((None, None, FIVE), {"devices": FIVE}),
    ((None, None, "all"), {"devices": "all"}),
    ((None, None, None), {"devices": None}),
    ((None, None, 0.5, "a name", True, 3), {"devices": 0.5, "name": "a name", "ordered_results": True, "task_timeout": 3}),
    (
        (None, None, FIVE, "a name", False, None, True, False, "auto", logging.getLogger("a"), 20),
        {"devices": FIVE, "name": "a name", "ordered_results": False, "raise_rww_exception": False, "loglevel_subproc": 20},
    ),
    (
        (None, None, FIVE, True, 3, False, True, "none", logging.getLogger("a"), 20),
        {"devices": FIVE, "ordered_results": True, "task_timeout": 3, "log_rww_exception": False, "raise_rww_exception": True},
    ),
    ((None, None, False, FIVE, True), {"rww_init_sync": False, "devices": FIVE, "ordered_results": True}),
    (
        (None, None, True, FIVE, True, 3, False, True, False, "none", logging.getLogger("a"), 20),
        {"rww_init_sync": True, "devices": FIVE, "rerun_crashed": False, "log_rww_exception": True, "loglevel_subproc": 20},
    ),
    (
        (None, None, np.True_, FIVE, True, 3.5, False, True, False, None, 30, 20),
        {"rww_init_sync": True, "devices": FIVE, "task_timeout": 3.5, "loglevel_worker": 30, "loglevel_subproc": 20},
    ),
]


@pytest.mark.parametrize(("args", "expected"), POSITIONAL)
def test_positional_arguments_are_taken_in_the_order_that_their_types_fit(args: Any, expected: dict[str, Any]) -> None:
    received: dict[str, Any] = {}

    def constructor(self: Any, rww_class: Any, rww_init_kwargs: Any = None, rww_lifetime: Any = None, **others: Any) -> None:
        received.update(others)

    accept_older_spellings(constructor)(None, Worker, *args)
    assert {name: received[name] for name in expected} == expected
    assert len(received) == len(args) - 2


def test_the_fourth_argument_may_be_the_devices_or_a_flag() -> None:
    for args in ((FIVE,), (FIVE, "name"), (False, FIVE)):
        runner = OMPRunner(Worker, None, None, *args)
        assert runner.get_num_workers() == 5
        runner.exit()


@pytest.mark.parametrize(
    "args", [(True, True), (0, FIVE), (FIVE, FIVE), (FIVE, "name", 5), (False, FIVE, True, "soon"), (True,) * 20]
)
def test_positional_arguments_that_fit_no_order_are_refused(args: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match="give them by name"):
        OMPRunner(Worker, None, None, *args)


@pytest.mark.parametrize(
    "name", ["rww_init_sync", "ordered_results", "rerun_crashed", "log_RWW_exception", "raise_rww_exception"]
)
def test_a_switch_that_is_none_is_refused(name: str) -> None:
    for value in (FIVE, "no", None, 2):
        with pytest.raises(TypeError, match="expected True or False"):
            OMPRunner(Worker, devices=TWO, **{name: value})


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((Worker, None, None, TWO), {"devices": TWO}),
        ((), {"rw_class": Worker, "rww_class": Worker}),
        ((Worker,), {"rw_class": Worker}),
        ((Worker,), {"rww_lifetime": 1, "rw_lifetime": 1}),
        ((Worker,), {"report_delay": 1, "report_interval": 1}),
        ((Worker,), {"raise_RWW_exception": True, "raise_rww_exception": True}),
    ],
)
def test_two_spellings_in_one_call_are_refused(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="given twice"):
        OMPRunner(*args, **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"report_interval": -1}, ValueError),
        ({"report_interval": "often"}, ValueError),
        ({"task_timeout": -1}, ValueError),
        ({"rww_lifetime": -3}, ValueError),
        ({"max_reruns": -2}, ValueError),
        ({"max_tasks_queued": 0}, ValueError),
        ({"colour": 1}, TypeError),
        ({"task_timeout": 1, "pool_options": {"backend": "thread"}}, NotSupportedError),
    ],
)
def test_options_that_make_no_sense_are_refused_and_nothing_is_left(kwargs: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        OMPRunner(Worker, devices=None, **kwargs)


def test_zero_means_no_limit() -> None:
    with OMPRunner(Worker, devices=None, rww_lifetime=0, task_timeout=0) as runner:
        runner.process({"x": 1})
        assert runner.get_result() == 2


def test_the_names_are_where_all_generations_had_them() -> None:
    import objproxy.ompr.helpers
    import objproxy.ompr.runner
    import objproxy.ompr.simple

    assert objproxy.OMPRunner is objproxy.ompr.runner.OMPRunner is OMPRunner
    assert objproxy.RunningWorker is objproxy.ompr.runner.RunningWorker is RunningWorker
    assert objproxy.OMPRException is objproxy.ompr.runner.OMPRException is objproxy.ompr.helpers.OMPRException
    assert objproxy.simple_process is objproxy.ompr.simple.simple_process is simple_process


# ---- simple_process --------------------------------------------------------------------------------------------------------


def test_simple_process_takes_any_function() -> None:
    tasks = [{"a": a, "b": 2} for a in range(20)]
    assert simple_process(tasks, lambda a, b: a * b, num_workers=2) == list(range(0, 40, 2))
    assert simple_process(tasks, functools.partial(max, 7), devices=TWO, rerun_crashed=False, log_rww_exception=False)
    offset = 5
    assert simple_process(iter(tasks), lambda a, b: a + b + offset, 1) == [a + 7 for a in range(20)]


def test_simple_process_gives_exceptions_as_results() -> None:
    def divide(a: int, b: int) -> float:
        return a / b

    tasks = [{"a": 1, "b": 1}, {"a": 1, "b": 0}]
    one, failed = simple_process(tasks, divide, num_workers=1, rerun_crashed=False, log_rww_exception=False)
    assert one == 1.0
    assert isinstance(failed.__cause__, ZeroDivisionError)


def test_simple_process_refuses_two_numbers_of_workers() -> None:
    with pytest.raises(TypeError, match="give one of them"):
        simple_process([], print, num_workers=2, devices=TWO)
    with pytest.raises(ValueError, match="num_workers"):
        simple_process([], print, num_workers=0)


# ---- reports -----------------------------------------------------------------------------------------------------------------


def test_a_runner_reports_on_its_progress(caplog: pytest.LogCaptureFixture, gates: Any) -> None:
    caplog.set_level(logging.INFO)
    gate = gates("gate")
    with OMPRunner(Worker, devices=[None], report_interval=0.02) as runner:
        runner.process([*({"x": x} for x in range(3)), *({"x": x, "do": "wait", "gate": gate} for x in range(3))])
        poll_until(lambda: "of 6 tasks" in caplog.text)
        gate.open()
        assert len(runner.get_all_results()) == 6
    assert "tasks/s" in caplog.text
    assert " MB" in caplog.text


@pytest.mark.parametrize(
    ("options", "is_seen"),
    [
        ({"report_delay": 0.02}, True),
        ({"report_delay": 0.02, "logger": logging.getLogger("mine")}, False),
        ({"report_delay": 0.02, "loglevel": logging.WARNING}, False),
        ({"report_interval": 0.02}, False),
    ],
)
def test_reports_that_report_delay_asks_for_need_no_logging(
    capsys: pytest.CaptureFixture[str], gates: Any, options: dict[str, Any], is_seen: bool
) -> None:
    gate = gates("gate")
    with OMPRunner(Worker, devices=[None], **options) as runner:
        runner.process([{"x": 0}, {"x": 1, "do": "wait", "gate": gate}])
        reporter = runner._reporter
        assert reporter is not None
        poll_until(lambda: reporter.n_lines > 0)
        gate.open()
        runner.get_all_results()
    assert ("objproxy.ompr: progress: " in capsys.readouterr().err) is is_seen


@pytest.mark.parametrize(
    ("speed", "left"), [(2.0, "about 45 s left"), (0.5, "about 3.0 min left"), (0.01, "about 2.5 h left"), (0.0, None)]
)
def test_a_report_tells_share_speed_queue_estimate_and_memory(speed: float, left: str | None) -> None:
    text = format_progress(Progress(100, 10, 60, 5_000_000), speed)
    assert text.startswith(f"10.0 % of 100 tasks, {speed:.1f} tasks/s, 60 queued")
    assert text.endswith("workers hold 5 MB")
    assert (left in text) if left else ("left" not in text)

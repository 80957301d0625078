"""What code in a worker knows and tells: who it is, random streams, log records, progress, environment, devices."""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from typing import Any

import numpy as np
import pytest

from objproxy import NotSupportedError, ProxyPool, current_worker, report_progress
from targets import DevicesTaker, DeviceTaker, Journaled, Model, poll_until
from ways import MakePool, Way


def test_a_worker_knows_who_it_is(make_pool: MakePool) -> None:
    pool = make_pool(name="mine")
    expected = [{"worker_id": i, "n_workers": 2, "device": None, "generation": 0, "pool_name": "mine"} for i in range(2)]
    assert pool.facts(stack_results=False) == expected


def test_outside_of_a_worker_there_is_none(shared_pool: ProxyPool[Model]) -> None:
    shared_pool.who()
    with pytest.raises(RuntimeError, match="outside of a worker"):
        current_worker()
    report_progress(1, 2)


def test_a_pool_has_a_name_of_its_own(make_pool: MakePool) -> None:
    names = {make_pool().facts(stack_results=False)[0]["pool_name"] for _ in range(2)}
    assert len(names) == 2


def test_progress_is_reported_to_the_caller(make_pool: MakePool) -> None:
    told: list[tuple[int, int, int | None]] = []
    pool = make_pool(on_progress=lambda *report: told.append(report))
    pool[1].advance(3)
    assert (told[0], told[-1]) == ((1, 1, 3), (1, 3, 3))
    assert told[1:-1] in ([], [(1, 2, 3)])  # the second comes too soon after the first, unless the machine is busy


# ---- random streams --------------------------------------------------------------------------------------------------


def test_without_a_seed_all_streams_are_different(make_pool: MakePool) -> None:
    drawn = [value for pool in (make_pool(), make_pool()) for values in pool.draw.broadcast() for value in values]
    drawn += [value for pool in (make_pool(), make_pool()) for value in pool.draw_item.map(range(5))]
    own = [value for index, value in enumerate(drawn) if index >= 12 or index % 3 == 2]
    assert len(set(own)) == len(own)


@pytest.mark.processes
def test_without_a_seed_global_streams_of_processes_are_different(make_pool: MakePool) -> None:
    drawn = [value for pool in (make_pool(), make_pool()) for values in pool.draw.broadcast() for value in values]
    assert len(set(drawn)) == len(drawn)


def test_a_seed_repeats_the_workers_streams(make_pool: MakePool) -> None:
    one, two, other = make_pool(seed=42), make_pool(seed=42), make_pool(seed=43)
    picked = [[values[2] for values in pool.draw.broadcast()] for pool in (one, two, other)]
    assert picked[0] == picked[1]
    assert picked[0] != picked[2]
    assert len(set(picked[0])) == 2


@pytest.mark.processes
def test_a_seed_repeats_the_global_streams_of_processes(make_pool: MakePool) -> None:
    one, two, other = make_pool(seed=42), make_pool(seed=42), make_pool(seed=43)
    drawn = [pool.draw.broadcast() for pool in (one, two, other)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    assert drawn[0][0] != drawn[0][1]


def test_a_workers_stream_is_a_child_of_the_seed(make_pool: MakePool) -> None:
    expected = [float(np.random.default_rng(child).random()) for child in np.random.SeedSequence(42).spawn(2)]
    assert [values[2] for values in make_pool(seed=42).draw.broadcast()] == expected


@pytest.mark.parametrize("verb", ["map", "imap"])
def test_items_draw_the_same_for_any_number_of_workers_and_any_chunks(make_pool: MakePool, verb: str) -> None:
    drawn = set()
    for worker_count, chunksize in [(1, None), (2, 1), (3, 4), (2, 1000)]:
        pool = make_pool(worker_count=worker_count, seed=7)
        first, second = (tuple(getattr(pool.draw_item.options(chunksize=chunksize), verb)(range(20))) for _ in range(2))
        assert first != second
        assert len({*first, *second}) == 40
        drawn.add((first, second))
    assert len(drawn) == 1


@pytest.mark.processes
def test_the_callers_own_streams_are_left_alone(make_pool: MakePool) -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    make_pool(seed=3).draw()
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[index]


@pytest.mark.in_memory
def test_a_seed_leaves_the_global_streams_of_the_process_alone(make_pool: MakePool) -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    make_pool(seed=3)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[index]


# ---- log records and warnings ----------------------------------------------------------------------------------------


def test_a_log_record_comes_home_once_tagged_with_its_worker(shared_pool: ProxyPool[Model], caplog: Any) -> None:
    shared_pool[1].log("hello")
    records = [record for record in caplog.records if record.name == "targets.model"]
    assert [record.getMessage() for record in records] == ["said hello"]
    assert records[0].worker_id == 1
    assert records[0].levelno == logging.WARNING


def test_every_worker_of_a_broadcast_logs(shared_pool: ProxyPool[Model], caplog: Any) -> None:
    shared_pool.log("all")
    assert sorted(record.worker_id for record in caplog.records if "all" in record.getMessage()) == [0, 1, 2]


def test_the_traceback_of_a_logged_exception_comes_along(shared_pool: ProxyPool[Model], caplog: Any) -> None:
    shared_pool[0].log_exception()
    assert "ValueError: logged, not raised" in caplog.text


def test_levels_that_the_program_has_set_hold_in_the_workers(make_pool: MakePool, caplog: Any) -> None:
    with caplog.at_level(logging.DEBUG, logger="targets.model"):
        make_pool()[0].log("fine", logging.DEBUG)
    assert "said fine" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.ERROR, logger="targets.model"):
        make_pool()[0].log("coarse", logging.WARNING)
    assert "said coarse" not in caplog.text


@pytest.mark.processes
@pytest.mark.filterwarnings("default")
def test_a_warning_comes_home_as_a_log_record(make_pool: MakePool, caplog: Any) -> None:
    make_pool()[1].warn("careful")
    records = [record for record in caplog.records if record.name == "py.warnings"]
    assert len(records) == 1
    assert "UserWarning: careful" in records[0].getMessage()
    assert records[0].worker_id == 1


@pytest.mark.in_memory
def test_a_warning_of_a_thread_is_a_warning(shared_pool: ProxyPool[Model]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        shared_pool[0].warn("careful")
    assert [str(warning.message) for warning in caught] == ["careful"]


# ---- environment -----------------------------------------------------------------------------------------------------


@pytest.mark.processes
def test_the_environment_of_the_program_is_that_of_the_workers(make_pool: MakePool, monkeypatch: Any) -> None:
    monkeypatch.setenv("OBJPROXY_TEST_VARIABLE", "as now")
    assert make_pool().environ("OBJPROXY_TEST_VARIABLE", stack_results=False) == ["as now"] * 2


@pytest.mark.processes
@pytest.mark.parametrize(("given", "expected"), [(3, "3"), ("auto", None), (None, "unset")])
def test_the_thread_budget_is_in_the_environment(make_pool: MakePool, monkeypatch: Any, given: Any, expected: Any) -> None:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    pool = make_pool(worker_count=1, threads_per_worker=given)
    if expected is None:
        from objproxy._cpus import usable_cpu_count

        expected = str(usable_cpu_count())
    assert [pool[0].environ(name) or "unset" for name in names] == [expected] * 3
    assert "OMP_NUM_THREADS" not in os.environ


@pytest.mark.processes
def test_a_variable_that_the_user_has_set_wins(make_pool: MakePool, monkeypatch: Any) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "17")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    pool = make_pool(worker_count=1, threads_per_worker=2)
    assert pool[0].environ("OMP_NUM_THREADS") == "17"
    assert pool[0].environ("MKL_NUM_THREADS") == "2"


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no processor affinity here")
def test_workers_are_pinned_to_processors(make_pool: MakePool) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    first, last = cpus[0], cpus[-1]
    assert make_pool(cpu_ids=[first, [first, last]]).affinity(stack_results=False) == [[first], sorted({first, last})]
    assert make_pool(cpu_ids=[last]).affinity(stack_results=False) == [[last], [last]]
    assert sorted(os.sched_getaffinity(0)) == cpus


@pytest.mark.processes
@pytest.mark.parametrize(
    ("cpu_ids", "kind"), [([10**6], ValueError), (["a"], TypeError), ("0", TypeError), ([0] * 3, ValueError)]
)
def test_processors_that_do_not_exist_are_refused(make_pool: MakePool, cpu_ids: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="cpu_ids"):
        make_pool(cpu_ids=cpu_ids)


# ---- devices ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("OBJPROXY_FAKE_CUDA", "3")


@pytest.mark.not_fork
@pytest.mark.usefixtures("three_gpus")
def test_each_device_has_a_worker(make_pool: MakePool) -> None:
    pool = make_pool(worker_count=None, devices=[0, 2, "cpu"])
    assert [worker.device for worker in pool.workers] == ["cuda:0", "cuda:2", None]
    assert [str(facts["device"]) for facts in pool.facts(stack_results=False)] == ["cuda:0", "cuda:2", "None"]


@pytest.mark.not_fork
@pytest.mark.usefixtures("three_gpus")
def test_more_workers_than_devices_share_them_round_robin(make_pool: MakePool) -> None:
    pool = make_pool(worker_count=4, devices=[])
    assert [worker.device for worker in pool.workers] == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]


@pytest.mark.processes
@pytest.mark.not_fork
@pytest.mark.usefixtures("three_gpus")
def test_the_device_mask_is_set_before_the_class_is_loaded(make_pool: MakePool, tmp_path: Any, monkeypatch: Any) -> None:
    """A module that looks at the mask while it is imported sees its own worker's."""
    (tmp_path / "objproxy_mask_probe.py").write_text(
        "import os\nMASK = os.environ.get('CUDA_VISIBLE_DEVICES')\n\nclass Probe:\n    def mask(self):\n        return MASK\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("objproxy_mask_probe", None)  # that of another way lay elsewhere, and would go by value
    import objproxy_mask_probe

    pool = make_pool(objproxy_mask_probe.Probe, worker_count=None, devices=[2, 0])
    masks = pool.mask(stack_results=False)
    assert len(set(masks)) == 2
    assert None not in masks
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.not_fork
@pytest.mark.usefixtures("three_gpus")
def test_a_constructor_that_asks_for_its_device_gets_it(make_pool: MakePool, way: Way) -> None:
    expected = ["cuda:0", "cuda:0"] if way.is_process else ["cuda:1", "cuda:2"]
    assert list(make_pool(DeviceTaker, worker_count=None, devices=[1, 2]).read_device()) == expected
    devices = make_pool(DevicesTaker, worker_count=None, devices=[1, 2], init_args=(5,)).devices
    assert [value if isinstance(value, str) else value[0] for value in devices] == expected


def test_a_device_that_is_given_wins(make_pool: MakePool) -> None:
    assert make_pool(DeviceTaker, init_args=("mine",)).device.tolist() == ["mine"] * 2
    assert make_pool(DeviceTaker, init_kwargs={"device": "yours"}).device.tolist() == ["yours"] * 2


def test_a_cpu_workers_device_is_none(make_pool: MakePool) -> None:
    assert make_pool(DeviceTaker).device.tolist() == [None, None]


@pytest.mark.usefixtures("three_gpus")
def test_workers_with_a_gpu_are_never_forked_from_the_program() -> None:
    with pytest.raises(NotSupportedError, match=r"start_method='fork'.*CUDA"):
        ProxyPool(Model, devices=[0], start_method="fork")


def test_logs_of_a_replacement_are_tagged_too(make_pool: MakePool) -> None:
    pool = make_pool(Journaled, worker_count=1, max_tasks_per_worker=2)
    assert [generation for _, generation in pool.work.map(range(6))] == [0, 0, 1, 1, 2, 2]
    poll_until(lambda: pool.wait_ready(30))
    assert threading.active_count() >= 1

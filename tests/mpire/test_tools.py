"""Insights, progress bars, and the tools of the submodules."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tqdm

import mpire_targets as targets
import objproxy.mpire.tqdm_utils
from mpire_ways import MakePool
from objproxy.mpire import AsyncResult, WorkerPool, context, cpu_count
from objproxy.mpire.exception import remove_highlighting
from objproxy.mpire.signal import DelayedKeyboardInterrupt, DisableKeyboardInterruptSignal
from objproxy.mpire.utils import (
    TimeIt,
    apply_numpy_chunking,
    chunk_tasks,
    format_seconds,
    get_n_chunks,
    set_cpu_affinity,
)
from optional import needs

# ---- insights ----------------------------------------------------------------------------------------------------------

PARTS = ("start_up", "init", "waiting", "working", "exit")
KEYS = {
    "n_completed_tasks",
    *(f"{part}_time" for part in PARTS),
    *(f"total_{part}_time" for part in PARTS),
    "total_time",
    *(f"{part}_ratio" for part in PARTS),
    *(f"{part}_time_{what}" for part in PARTS for what in ("mean", "std")),
    "top_5_max_task_durations",
    "top_5_max_task_args",
}


def seconds(text: str) -> float:
    hours, minutes, rest = re.fullmatch(r"(\d+):(\d\d):(\d\d\.\d{3})", text).groups()  # type: ignore[union-attr]
    return 3600 * int(hours) + 60 * int(minutes) + float(rest)


@pytest.mark.parametrize("order_tasks", [False, True])
def test_insights_have_29_entries(make_any: MakePool, order_tasks: bool) -> None:
    pool = make_any(enable_insights=True, order_tasks=order_tasks)
    items = [0.0, 0.0, 0.4] + 7 * [0.0]  # far above what a busy machine adds to the others
    pool.map(targets.sleep, items, chunk_size=2, worker_init=lambda: time.sleep(0.03), worker_exit=lambda: time.sleep(0.02))
    insights = pool.get_insights()
    assert insights.keys() == KEYS
    assert len(insights) == 29
    assert sum(insights["n_completed_tasks"]) == 10
    assert insights["top_5_max_task_args"][0] == "Arg 0: 0.4"
    assert seconds(insights["top_5_max_task_durations"][0]) >= 0.4
    assert seconds(insights["total_working_time"]) >= 0.4
    assert all(seconds(text) >= 0.03 for text in insights["init_time"])
    assert all(seconds(text) >= 0.02 for text in insights["exit_time"])
    assert sum(insights[f"{part}_ratio"] for part in PARTS) == pytest.approx(1, abs=1e-4)


def test_the_time_line_is_that_of_tasks(make_any: MakePool, tmp_path: Path) -> None:
    pool = make_any(enable_insights=True)
    pool.map(targets.sleep, [0.0, 0.4, 0.0], chunk_size=1, worker_init=lambda: None, worker_exit=lambda: None)
    insights = pool.insights()
    assert insights is not None
    counts = dict.fromkeys(("worker_init", "task", "worker_exit"), 0)
    for span in insights.timeline:
        if span.kind == "call":
            counts[span.method] += span.n_items
    assert counts == {"worker_init": 2, "task": 3, "worker_exit": 2}
    assert (insights.slowest[0].method, insights.slowest[0].arguments) == ("task", "0.4")
    insights.save_trace(tmp_path / "trace.json")
    assert "worker_exit" in (tmp_path / "trace.json").read_text()


def test_insights_are_printed(make_pool: MakePool, capsys: pytest.CaptureFixture[str]) -> None:
    pool = make_pool(enable_insights=True)
    pool.print_insights()
    assert "No profiling stats available" in capsys.readouterr().out
    pool.map(targets.add, [{"a": 1, "b": 2}, (3, 4)])
    pool.print_insights()
    printed = capsys.readouterr().out
    assert "WorkerPool insights" in printed
    assert "Arg a: 1 | Arg b: 2" in printed
    assert "Efficiency warning" in printed


def test_without_insights_there_are_none(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.map(targets.square, [1])
    assert pool.get_insights() == {}
    assert pool.insights() is None


def test_insights_can_be_read_while_an_imap_runs(make_pool: MakePool) -> None:
    pool = make_pool(enable_insights=True)
    results = pool.imap(targets.square, range(50), chunk_size=1)
    for _ in range(10):
        next(results)
    assert 10 <= sum(pool.get_insights()["n_completed_tasks"]) <= 50
    assert len(list(results)) == 40
    assert sum(pool.get_insights()["n_completed_tasks"]) == 50


# ---- progress bars -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", [None, "std", pytest.param("rich", marks=needs("rich"))])
@pytest.mark.parametrize("order_tasks", [False, True])
def test_maps_have_bars(make_pool: MakePool, style: str | None, order_tasks: bool, capfd: pytest.CaptureFixture[str]) -> None:
    pool = make_pool(order_tasks=order_tasks)
    for run in (pool.map, pool.map_unordered, pool.imap, pool.imap_unordered):
        options = {"desc": "squares"}
        results: Any = run(targets.square, range(20), progress_bar=True, progress_bar_style=style, progress_bar_options=options)
        assert len(list(results)) == 20
        shown = "".join(capfd.readouterr())
        assert re.search(r"squares.*100%.*20/20.*\d(it/s|s/it)", shown, re.DOTALL)


@pytest.mark.parametrize("items", [iter(range(20)), np.ones((20, 2)), []], ids=["unsized", "array", "empty"])
def test_bars_of_other_items(make_pool: MakePool, items: Any, capfd: pytest.CaptureFixture[str]) -> None:
    n_results = len(make_pool().map(targets.kind_of, items, n_splits=20, progress_bar=True))
    shown = capfd.readouterr().err
    assert (f"{n_results}/{n_results}" if n_results and not hasattr(items, "__next__") else f"{n_results}it") in shown


def test_bars_that_are_not_shown(make_pool: MakePool, capfd: pytest.CaptureFixture[str]) -> None:
    make_pool().map(targets.square, range(3), progress_bar=True, progress_bar_style="dashboard")
    make_pool().map(targets.square, range(3), progress_bar=False, progress_bar_style="rich")
    assert capfd.readouterr().err == ""


def test_the_default_style_can_be_set(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objproxy.mpire.tqdm_utils, "PROGRESS_BAR_DEFAULT_STYLE", "zzz")
    with pytest.raises(ValueError, match="Invalid progress bar style"):
        make_pool().map(targets.square, [1])


def test_options_of_bars_are_checked(make_pool: MakePool) -> None:
    pool = make_pool()
    with pytest.raises(tqdm.TqdmKeyError):
        pool.map(targets.square, [1], progress_bar=True, progress_bar_options={"no_such_option": 1})
    with pytest.warns(RuntimeWarning, match="'total'"):
        pool.map(targets.square, [1], progress_bar_options={"total": 5})
    with pytest.warns(RuntimeWarning, match="'leave'"):
        pool.map(targets.square, [1], progress_bar_options={"leave": False})


def test_the_lock_of_tqdm_stays_as_it_was(make_pool: MakePool) -> None:
    lock = tqdm.tqdm.get_lock()
    make_pool().map(targets.square, range(3), progress_bar=True)
    assert tqdm.tqdm.get_lock() is lock


# ---- tools -------------------------------------------------------------------------------------------------------------


def test_chunks() -> None:
    assert [len(chunk) for chunk in chunk_tasks(range(10), chunk_size=2.5)] == [3, 2, 3, 2]
    assert list(chunk_tasks(iter("abc"), chunk_size=2)) == [("a", "b"), ("c",)]
    assert [len(chunk) for chunk in chunk_tasks(range(10), n_splits=3)] == [4, 3, 3]
    assert [chunk.shape for chunk in chunk_tasks(np.ones((5, 2)), n_splits=2)] == [(3, 2), (2, 2)]
    assert list(chunk_tasks(range(9), iterable_len=2, chunk_size=5)) == [(0, 1)]
    assert list(chunk_tasks([], chunk_size=5)) == []
    for wrong in ({}, {"n_splits": 2}):
        with pytest.raises(ValueError, match="n_splits"):
            chunk_tasks(iter([1]), **wrong)  # type: ignore[arg-type]


def test_numbers_of_chunks() -> None:
    assert [
        get_n_chunks(range(10), chunk_size=3),
        get_n_chunks(range(10), n_splits=3),
        get_n_chunks(range(0), chunk_size=1),
    ] == [4, 3, 0]
    assert get_n_chunks(range(1000), n_jobs=2) == 128
    with pytest.raises(ValueError, match="iterable_len"):
        get_n_chunks(iter([1]), chunk_size=1)
    pieces, n_pieces, chunk_size, n_splits = apply_numpy_chunking(np.arange(10), chunk_size=4)
    assert ([len(piece) for piece in pieces], n_pieces, chunk_size, n_splits) == ([4, 4, 2], 3, 1, None)


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (1.2345, "0:00:01.234"), (3661.5, "1:01:01.500"), (59.9999, "0:01:00.000")]
)
def test_times_as_text(value: float | None, text: str) -> None:
    assert format_seconds(value, with_milliseconds=True) == text
    assert format_seconds(value, with_milliseconds=False) == text.split(".")[0]


def test_blocks_are_timed() -> None:
    totals, longest = [0.0, 0.0], [(0.0, ""), (0.0, "")]
    for _ in range(3):
        with TimeIt(totals, 1, longest, lambda: "what"):
            time.sleep(0.002)
    assert totals[0] == 0
    assert totals[1] >= 0.006
    assert [text for _, text in longest] == ["what", "what"]
    assert longest == sorted(longest)


def test_processes_are_pinned() -> None:
    before = os.sched_getaffinity(0)
    try:
        set_cpu_affinity(os.getpid(), [min(before)])
        assert os.sched_getaffinity(0) == {min(before)}
    finally:
        os.sched_setaffinity(0, before)


def test_an_interrupt_can_wait() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt):  # noqa: SIM117, PT012
        with DelayedKeyboardInterrupt():
            signal.raise_signal(signal.SIGINT)
            done.append("all of it")
    assert done == ["all of it"]


def test_an_interrupt_can_be_ignored() -> None:
    with DisableKeyboardInterruptSignal():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_names_that_programs_import() -> None:
    assert isinstance(AsyncResult, type)
    assert cpu_count() >= 1
    assert remove_highlighting("\x1b[31mred\x1b[0m") == "red"
    assert context.MP_CONTEXTS["mp"]["spawn"].get_start_method() == "spawn"
    assert (context.FORK_AVAILABLE, context.RUNNING_WINDOWS, context.DEFAULT_START_METHOD) == (True, False, "fork")
    assert "2 jobs, fork" in repr(WorkerPool(2))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = objproxy.mpire.nothing

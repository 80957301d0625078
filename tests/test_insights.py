"""Where the time of a pool went: sums, ratios, slowest items, the time line and its pictures."""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from objproxy import ProxyPool, WorkerDiedError, WorkerInitError
from objproxy._engine import messages as m
from objproxy.backends.base import WorkerInfo
from objproxy.insights import PARTS, Insights, Span
from objproxy.startup import StartUpBar
from targets import Gate


class Work:
    """Takes the time that it is told to take."""

    def __init__(self, seconds: float = 0.0, gate: str | None = None) -> None:
        time.sleep(seconds)
        if gate is not None:
            Gate(gate).wait()

    def spin(self, seconds: float, tag: str = "") -> float:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass
        return seconds

    def exit(self) -> None:
        os._exit(3)

    def fail(self) -> None:
        raise ValueError("it fails")


@pytest.fixture(scope="module")
def seen() -> Insights:
    """Give the insights of a closed pool that has done a bit of everything."""
    pool = ProxyPool(Work, worker_count=2, init_args=(0.05,), timeline=True)
    with pool:
        pool.spin.map([0.001] * 20, itertools.repeat("short"))
        pool.spin([0.4, 0.01], tag=["long", "not"], map_args=True)
        with pytest.raises(WorkerDiedError):
            pool[1].exit()
        pool.wait_ready()
        pool.spin(0.01)
    return pool.insights()


@pytest.fixture(scope="module")
def matplotlib() -> None:
    """Load what draws, with the files that it keeps open."""
    from matplotlib.figure import Figure

    figure = Figure()
    figure.suptitle("a text needs a font")
    for ending in ("png", "svg"):
        figure.savefig(io.BytesIO(), format=ending)


def spans_of(seen: Insights, kind: str) -> list[Span]:
    return [span for span in seen.timeline if span.kind == kind]


def test_every_part_of_a_workers_time_is_told(seen: Insights) -> None:
    for worker in seen.workers:
        assert worker.init >= 0.05
        assert all(getattr(worker, part) >= 0 for part in PARTS)
    assert seen.total("working") >= 0.02 + 0.4 + 0.01 + 0.02
    assert sum(map(seen.ratio, PARTS)) == pytest.approx(1)
    assert seen.working_ratio == seen.ratio("working")


def test_slowest_items_are_told_with_their_arguments(seen: Insights) -> None:
    slowest = seen.slowest[0]
    assert (slowest.method, slowest.item, slowest.arguments) == ("spin", 0, "0.4, tag='long'")
    assert slowest.seconds >= 0.4
    assert [item.seconds for item in seen.slowest] == sorted((item.seconds for item in seen.slowest), reverse=True)
    assert len(seen.slowest) == 5


def test_the_time_line_has_every_call_once(seen: Insights) -> None:
    calls = [span for span in spans_of(seen, "call") if span.method == "spin"]
    assert sum(span.n_items for span in calls) == 20 + 2 + 2
    assert sum(total.n_items for total in seen.methods if total.method == "spin") == 24
    assert sum(total.seconds for total in seen.methods) == pytest.approx(
        sum(span.seconds for span in spans_of(seen, "call")), rel=0.2
    )


def test_the_time_line_has_the_life_of_every_worker(seen: Insights) -> None:
    assert sorted((span.worker_id, span.generation) for span in spans_of(seen, "init")) == [(0, 0), (1, 0), (1, 1)]
    assert [(span.worker_id, span.method) for span in spans_of(seen, "death")] == [(1, "exit")]
    assert sorted((span.worker_id, span.generation) for span in spans_of(seen, "exit")) == [(0, 0), (1, 1)]
    assert all(span.seconds >= 0.05 for span in spans_of(seen, "init"))


def test_a_worker_does_one_thing_at_a_time(seen: Insights) -> None:
    for worker_id in range(2):
        spans = sorted((span.began, span.began + span.seconds) for span in seen.timeline if span.worker_id == worker_id)
        for (_, ended), (began, _) in itertools.pairwise(spans):
            assert began >= ended - 1e-6


def test_they_are_a_record_of_plain_values(seen: Insights) -> None:
    assert pickle.loads(pickle.dumps(seen)) == seen
    with pytest.raises(AttributeError):
        seen.workers = ()  # type: ignore[misc]


def test_the_report_tells_all_of_it(seen: Insights) -> None:
    report = str(seen)
    assert re.search(r"worker 0( +[\d.]+ s){5} +\d+", report)
    assert "spin(0.4, tag='long'), item 0" in report
    assert all(len(line) <= 128 for line in report.splitlines()[:5])


def test_a_trace_is_in_the_form_that_its_viewers_read(seen: Insights, tmp_path: Path) -> None:
    seen.save_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    complete = [event for event in events if event["ph"] == "X"]
    assert len(complete) == len(seen.timeline)
    assert all({"name", "cat", "pid", "tid", "ts", "dur"} <= event.keys() for event in complete)
    assert all(event["ts"] >= 0 and event["dur"] >= 0 for event in complete)
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert list(names.values()) == ["worker 0", "worker 1"]
    assert {event["tid"] for event in complete} == names.keys()


def test_viewers_show_each_worker_in_a_row_of_its_own(seen: Insights, tmp_path: Path) -> None:
    """Perfetto merges thread 0 with the process's main thread, and counts spans that overlap by a rounding as errors."""
    seen.save_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert not {0, *(event["pid"] for event in events)} & {event["tid"] for event in events if "tid" in event}
    complete = sorted((event["tid"], event["ts"], event["dur"]) for event in events if event["ph"] == "X")
    for (row, began, seconds), (next_row, next_began, _) in itertools.pairwise(complete):
        assert row != next_row or round(1000 * (began + seconds)) <= round(1000 * next_began)


@pytest.mark.slow
@pytest.mark.usefixtures("matplotlib")
def test_an_image_shows_the_workers(seen: Insights, tmp_path: Path) -> None:
    seen.save_image(tmp_path / "line.svg")
    picture = (tmp_path / "line.svg").read_text()
    assert all(f"<!-- {text} -->" in picture for text in ("worker 0", "worker 1", "spin", "init", "death"))
    seen.save_image(tmp_path / "line.png")
    assert (tmp_path / "line.png").read_bytes().startswith(b"\x89PNG")


def test_matplotlib_may_be_missing(seen: Insights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'objproxy\[plot\]'"):
        seen.save_image(tmp_path / "line.png")


def test_without_a_time_line_there_is_none() -> None:
    with ProxyPool(Work, worker_count=1) as pool:
        pool.spin(0.0)
    insights = pool.insights()
    assert insights.timeline == insights.methods == ()
    assert insights.slowest[0].arguments == ""
    assert "spin, item 0" in str(insights)
    with pytest.raises(ValueError, match="timeline=True"):
        insights.save_trace("nowhere")


@pytest.mark.parametrize("backend", ["thread", "serial"])
def test_every_back_end_has_a_time_line(backend: str) -> None:
    with ProxyPool(Work, worker_count=2, backend=backend, timeline=True) as pool:
        pool.spin.map([0.001] * 6, tag=["x"] * 6)
        with pytest.raises(ValueError, match="it fails"):
            pool[0].fail()
    insights = pool.insights()
    assert sum(span.n_items for span in spans_of(insights, "call") if span.method == "spin") == 6
    assert "0.001, tag='x'" in {item.arguments for item in insights.slowest}


def test_arguments_that_cannot_be_shown_do_no_harm() -> None:
    class Shy:
        def __repr__(self) -> str:
            raise LookupError

    with ProxyPool(dict, worker_count=1, backend="serial", timeline=True) as pool:
        pool.get.options(return_exceptions=True)(Shy())
    assert pool.insights().slowest[0].arguments


# ---- the start ---------------------------------------------------------------------------------------------------------

Make = Callable[[str], Gate]


def test_slow_constructors_have_a_bar(gates: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("objproxy.startup._PATIENCE_SECONDS", 0.0)
    gate, told = gates("go"), []

    def note(done: int, total: int) -> None:
        told.append((done, total))
        gate.open()

    with ProxyPool(Work, worker_count=2, init_args=(0.0, str(gate.path)), init_progress_bar=note) as pool:
        pool.spin(0.0)
    assert told == [(0, 2), (1, 2), (2, 2)]


def test_fast_constructors_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("objproxy.startup._PATIENCE_SECONDS", 600.0)
    told: list[Any] = []
    with ProxyPool(Work, worker_count=2, init_progress_bar=lambda *counts: told.append(counts)):
        pass
    assert told == []


def test_a_bar_of_constructors_that_fail_ends(capfd: pytest.CaptureFixture[str]) -> None:
    bar = StartUpBar({"ncols": 80}, "slow", 2)
    bar.started(0, 0, 10.0)
    bar.started(1, 0, 10.5)
    bar.look(10.9)
    assert capfd.readouterr().err == ""
    assert bar.seconds_until_look(10.9) == pytest.approx(0.1)
    bar.happened(m.Ready(0, 0), WorkerInfo(), 10.95)
    bar.look(11.0)
    bar.happened(m.InitFailed(1, 0, WorkerInitError(1, "it raised")), WorkerInfo(), 12.0)
    shown = capfd.readouterr().err
    assert "starting slow" in shown
    assert "1/2" in shown
    assert "failed: WorkerInitError" in shown
    assert bar.seconds_until_look(12.0) is None


def test_options_of_the_start_are_checked() -> None:
    with pytest.raises(TypeError, match="timeline=3"):
        ProxyPool(Work, worker_count=1, timeline=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no style 'x'"):
        ProxyPool(Work, worker_count=1, init_progress_bar="x")

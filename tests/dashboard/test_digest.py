"""What is published of a pool, and what the dashboard keeps of it: rates, estimates, spans, limits."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dashboard_client import digest
from objproxy.dashboard.board import Board, Viewer
from objproxy.dashboard.digest import Digest, Meter, join_spans
from objproxy.insights import Insights, SlowItem, Span, WorkerInsights, WorkerView
from objproxy.observing import FailureView, PoolView
from objproxy.progress import CallCount


def call_span(began: float, seconds: float, method: str = "f", worker_id: int = 0, kind: str = "call") -> Span:
    return Span(worker_id, 0, kind, method, 0, 1, began, seconds)


def view(**changes: Any) -> PoolView:
    insights = Insights(
        (WorkerInsights(0, 4, 0.1, 0.2, 3.0, 2.0, 0.0),),
        (SlowItem(0.5, "f", 3, 0, "password='x'"),),
        (call_span(0.0, 0.5),),
    )
    given: dict[str, Any] = {
        **{"number": 1, "name": "pool", "kind": "Model", "backend": "process", "phase": "open", "why": "", "began": 1.0},
        **{"ended": None, "n_tasks": 4, "n_failed": 1, "n_outstanding": 2, "calls": (), "failures": (), "failing": {"f": 1}},
        **{"workers": (WorkerView(0, 7, "cuda:0", 2, "busy", 4, 1000, "f", 1.0),), "insights": insights, "seconds": 5.0},
    }
    return PoolView(**{**given, **changes})


def test_a_rate_is_that_of_the_last_seconds() -> None:
    meter = Meter(window=10.0)
    assert meter.rate(0.0, 0) == 0.0
    assert meter.rate(10.0, 50) == 5.0
    assert [meter.rate(10.0 + t, 50) for t in range(1, 21)][-1] == 0.0
    assert meter.rate(35.0, 100) == pytest.approx(50 / 14, rel=0.5)


def test_a_call_has_a_rate_and_an_estimate() -> None:
    maker = Digest(shows_arguments=False, shows_tracebacks=True)
    maker.make(view(calls=(CallCount(1, "f", 0, 100, 1.0),)), 0.0)
    (call,) = maker.make(view(calls=(CallCount(1, "f", 20, 100, 1.0),)), 4.0)["calls"]
    assert (call["rate"], call["left"]) == (5.0, 16.0)
    (call,) = maker.make(view(calls=(CallCount(1, "f", 100, 100, 1.0, 9.0, ""),)), 8.0)["calls"]
    assert (call["left"], call["ended"]) == (None, 9.0)
    (call,) = maker.make(view(calls=(CallCount(2, "f", 5, None, 1.0),)), 8.0)["calls"]
    assert (call["total"], call["left"]) == (None, None)


def test_arguments_and_texts_of_errors_are_told_only_where_they_may() -> None:
    failure = FailureView(1, 2.0, "f", 3, 0, "ValueError", "secret text", "secret trace")
    told = Digest(shows_arguments=False, shows_tracebacks=False).make(view(failures=(failure,), why="secret cause"), 0.0)
    assert "secret" not in json.dumps(told)
    assert "password" not in json.dumps(told)
    assert told["failures"][0]["error"] == "ValueError"
    told = Digest(shows_arguments=True, shows_tracebacks=True).make(view(failures=(failure,)), 0.0)
    assert told["failures"][0]["traceback"] == "secret trace"
    assert told["slowest"][0]["arguments"] == "password='x'"


def test_what_a_worker_runs_counts_as_work() -> None:
    (worker,) = Digest(shows_arguments=False, shows_tracebacks=True).make(view(), 0.0)["workers"]
    assert (worker["pid"], worker["device"], worker["generation"], worker["rss"]) == (7, "cuda:0", 2, 1000)
    assert worker["parts"] == {"start_up": 0.1, "init": 0.2, "waiting": 2.0, "working": 3.0, "exit": 0.0}
    (gone,) = Digest(shows_arguments=False, shows_tracebacks=True).make(view(workers=()), 0.0)["workers"]
    assert gone["state"] == "gone"


def test_long_names_are_cut() -> None:
    told = Digest(shows_arguments=False, shows_tracebacks=True).make(view(name="x" * 1000), 0.0)
    assert len(told["name"]) == 120


def test_spans_that_touch_are_joined() -> None:
    joined = join_spans([call_span(0.0, 0.1), call_span(0.101, 0.1), call_span(0.5, 0.1), call_span(0.601, 0.1, "g")])
    assert [(one.span.began, round(one.seconds, 3), one.n_items) for one in joined] == [
        (0.0, 0.201, 2),
        (0.5, 0.1, 1),
        (0.601, 0.1, 1),
    ]


def test_many_spans_become_few_and_keep_their_work() -> None:
    joined = join_spans([call_span(i * 0.01, 0.002) for i in range(1000)])
    assert len(joined) <= 16
    assert sum(one.n_items for one in joined) == 1000
    assert sum(one.busy for one in joined) == pytest.approx(2.0)


def test_other_spans_are_never_joined() -> None:
    spans = [call_span(0.0, 0.1, "", kind="init"), call_span(0.1, 0.1, "", kind="init"), call_span(0.2, 0.1, kind="death")]
    assert len(join_spans(spans)) == 3


def test_a_viewer_is_told_everything_once() -> None:
    board = Board()
    program = board.join({"pid": 1})
    board.take(program, digest(spans=[[0, "call", "f", 0, 1, 1, 1]], failures=[{"number": 1}]))
    viewer = Viewer(board)
    first = viewer.news(0.0)
    assert first["first"]
    (pool,) = first["programs"][0]["pools"]
    assert (len(pool["spans"]), len(pool["failures"]), len(pool["points"])) == (1, 1, 1)
    board.take(program, digest(spans=[[0, "call", "g", 1, 1, 1, 1]]))
    (pool,) = viewer.news(0.0)["programs"][0]["pools"]
    assert [span[2] for span in pool["spans"]] == ["g"]
    (pool,) = viewer.news(0.0)["programs"][0]["pools"]
    assert pool["spans"] == pool["failures"] == []
    (pool,) = Viewer(board).news(0.0)["programs"][0]["pools"]
    assert [span[2] for span in pool["spans"]] == ["f", "g"]


def test_calls_that_have_ended_stay_a_while() -> None:
    board = Board()
    program = board.join({"pid": 1})
    board.take(program, digest(calls=[{"id": 1, "ended": None}]))
    board.take(program, digest(calls=[{"id": 1, "ended": 5.0}, {"id": 2, "ended": None}]))
    board.take(program, digest(calls=[]))
    (pool,) = Viewer(board).news(0.0)["programs"][0]["pools"]
    assert ([call["id"] for call in pool["calls"]], [call["id"] for call in pool["ended_calls"]]) == ([], [1])


def test_what_has_ended_is_forgotten_in_the_end() -> None:
    board = Board()
    for number in range(30):
        program = board.join({"pid": number + 1})
        for pool in range(40):
            board.take(program, digest(id=pool, ended=1.0))
        assert len(program.pools) == 20
        board.leave(program, "ended")
    assert [program.about["pid"] for program in board.programs.values()] == list(range(21, 31))


@pytest.mark.parametrize(
    "wrong",
    [None, [], digest(id="1"), digest(name=1), digest(rate="fast"), digest(spans={}), digest(ended="x"), digest(id=True),
     digest(calls=[1]), digest(calls=[{}]), digest(workers=["w"])],
)  # fmt: skip
def test_what_is_no_pool_is_refused(wrong: Any) -> None:
    board = Board()
    program = board.join({"pid": 1})
    with pytest.raises(ValueError, match=r"pool|call"):
        board.take(program, wrong)
    for about in (None, {}, {"pid": "1"}):
        with pytest.raises(ValueError, match="does not say what it is"):
            board.join(about)

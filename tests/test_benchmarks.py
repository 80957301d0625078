"""The benchmarks run and find right results; how fast anything is, is never asserted."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from optional import need
from programs import is_gone
from targets import poll_until

psutil = need("psutil")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import _lane, _report, _rounds, argument_sizes, small_faces, uneven_items  # noqa: E402  (the folder is no part of the package)
from benchmarks._model import (  # noqa: E402
    OURS,
    Contender,
    Experiment,
    Outcome,
    Outcomes,
    merge_facts,
    multiple_of,
    ratio,
    ratio_to_best,
)

QUESTIONS = {
    "round_trip": 1,
    "tiny_items": 3,
    "uneven_items": 2,
    "start_up": 2,
    "short_pools": 6,
    "large_arguments": 2,
    "large_broadcast": 1,
    "put_handle": 1,
    "argument_sizes": 1,
    "data_types": 2,
    "shared_fill": 1,
    "broadcast_memory": 1,
    "mpire_face": 15,
    "mpire_three": 3,
    "small_faces": 3,
    "ompr_queue": 4,
    "bar_cost": 1,
    "lazy_memory": 1,
    "import_time": 1,
}


def answer(value: int) -> list[float]:
    return [float(value), 2.0 * value]


def answer_with_facts(value: int) -> tuple[list[float], dict[str, str]]:
    return [float(value)], {"kind": "exact"}


def be_wrong(value: int) -> list[float]:
    _lane.check(value == 0, value)
    return [0.0]


def hang(value: int, path: str) -> list[float]:
    pid = os.fork()  # a worker that must be ended too
    if pid:
        Path(path).write_text(str(pid))
    time.sleep(1000)
    return [0.0]


def crash(value: int) -> list[float]:
    raise RuntimeError(f"no luck with {value}")


def import_nothing(value: int) -> list[float]:
    import no_such_library  # noqa: F401

    return [0.0]


def run_lane(function: Any, timeout: float = 60.0, **arguments: str) -> dict[str, Any]:
    return _rounds.run_lane(Contender("any", function, arguments), {"value": 3}, timeout)


@pytest.fixture(autouse=True)
def lanes_find_this_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.mark.slow
@pytest.mark.parametrize("question", QUESTIONS)
def test_every_question_is_answered_for_objproxy(question: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"benchmarks.{question}", "--quick", "--only", OURS, "--output", str(tmp_path)]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert completed.returncode == 0, completed.stderr
    document = json.loads((tmp_path / f"{question}.json").read_text())
    assert document["machine"]["python"]
    assert document["versions"]["numpy"]
    assert len(document["experiments"]) == QUESTIONS[question]
    for experiment in document["experiments"]:
        (contender,) = experiment["contenders"]
        assert contender["status"] == "ok", contender
        assert contender["rounds"][0]
        assert experiment["targets"]
    assert (tmp_path / f"{question}.png").exists() == (importlib.util.find_spec("matplotlib") is not None)


@pytest.mark.slow
def test_one_command_prints_all_targets_with_a_verdict(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--question", "import_time", "--output", str(tmp_path)]
    only = ["--only", OURS, "bare Python"]
    completed = subprocess.run([*command, *only], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert completed.returncode == 0, completed.stderr
    summary = completed.stdout.partition("Quick:")[2]
    assert "under 30 ms over bare Python" in summary
    assert "loads no NumPy" in summary
    assert (tmp_path / "summary.png").exists() == (importlib.util.find_spec("matplotlib") is not None)


def test_a_lane_reports_values() -> None:
    assert run_lane(answer)["values"] == [3.0, 6.0]


def test_a_lane_reports_facts() -> None:
    assert run_lane(answer_with_facts)["facts"] == {"kind": "exact"}


@pytest.mark.parametrize(
    ("function", "status", "message"),
    [
        (be_wrong, "wrong", "wrong results 3"),
        (crash, "failed", "RuntimeError: no luck with 3"),
        (import_nothing, "not importable", "ModuleNotFoundError: No module named 'no_such_library'"),
    ],
)
def test_a_lane_reports_what_went_wrong(function: Any, status: str, message: str) -> None:
    report = run_lane(function)
    assert (report["status"], report["message"]) == (status, message)


def test_a_contender_that_hangs_is_ended_with_its_workers(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    assert run_lane(hang, timeout=3.0, path=str(path))["status"] == "hangs"
    poll_until(lambda: is_gone(int(path.read_text())))


def test_contenders_take_turns_and_a_failing_one_takes_no_further() -> None:
    contenders = (Contender("first", answer), Contender("second", crash), Contender("third", answer))
    experiment = Experiment("name", "title", "s", contenders, (), {"value": 1}, {"value": 2}, rounds=2)
    outcomes, sizes = _rounds.run_experiment(experiment)
    assert sizes == {"value": 1}
    assert outcomes["first"].rounds == outcomes["third"].rounds == ((1.0, 2.0), (1.0, 2.0))
    assert outcomes["second"].status == "failed"


def make_outcomes(**medians: float) -> Outcomes:
    return Outcomes({name: Outcome(name, "ok", rounds=((median,),), is_peer=name != OURS) for name, median in medians.items()})


def test_a_target_is_reached_up_to_its_limit() -> None:
    assert ratio("peer", 0.5).judge(make_outcomes(objproxy=1.0, peer=2.0)).is_reached


def test_a_missed_target_says_by_how_much() -> None:
    verdict = ratio("peer", 0.5).judge(make_outcomes(objproxy=3.0, peer=4.0))
    assert (verdict.is_reached, verdict.value, verdict.text) == (False, 0.75, "missed by 50 %")


def test_the_smallest_values_are_compared_too() -> None:
    outcomes = make_outcomes(objproxy=3.0, peer=4.0)
    outcomes["objproxy"] = Outcome("objproxy", "ok", rounds=((1.0, 3.0), (3.0, 5.0)))
    verdict = ratio("peer", 0.5).judge(outcomes)
    assert (verdict.value, verdict.quietest) == (0.75, 0.25)


def test_a_target_without_its_contender_is_not_judged() -> None:
    verdict = ratio("peer", 0.5).judge(make_outcomes(objproxy=3.0))
    assert (verdict.is_reached, verdict.value, verdict.text) == (False, None, "peer was not measured")


def test_the_best_peer_counts() -> None:
    assert ratio_to_best().judge(make_outcomes(objproxy=3.0, fast=2.0, slow=4.0)).value == 1.5


def make_rounds(name: str, *rounds: tuple[float, dict[str, Any]]) -> Outcomes:
    values = tuple((value,) for value, _ in rounds)
    facts = tuple(facts for _, facts in rounds)
    return Outcomes({name: Outcome(name, "ok", rounds=values, facts=merge_facts(facts), round_facts=facts)})


def test_a_unit_that_the_same_lane_measured_counts_round_by_round() -> None:
    outcomes = make_rounds(OURS, (2.0, {"memcpy": 1.0}), (30.0, {"memcpy": 10.0}), (4.0, {"memcpy": 1.0}))
    verdict = multiple_of("memcpy", 3.0, "at most 3 x memcpy").judge(outcomes)
    assert (verdict.is_reached, verdict.value, verdict.quietest) == (True, 3.0, 2.0)


def test_facts_of_rounds_become_medians_at_any_depth() -> None:
    outcomes = make_rounds(OURS, *((1.0, {"kind": kind, "curve": {"8": n}}) for kind, n in [("a", 1), ("b", 5), ("c", 3)]))
    assert outcomes[OURS].facts == {"kind": "c", "curve": {"8": 3}}
    assert outcomes.curve(OURS, "curve") == {"8": 3}
    assert outcomes.quietest().curve(OURS, "curve") == {"8": 1}


def test_an_argument_is_judged_by_its_worst_size() -> None:
    curves = {OURS: {"1024": 3.0, "2048": 4.0}, "os.pipe + pickle": {"1024": 2.0, "2048": 8.0}}
    outcomes = Outcomes({})
    for name, curve in curves.items():
        outcomes |= make_rounds(name, (1.0, {"seconds": curve}))
    (experiment,) = argument_sizes.EXPERIMENTS
    (target,) = experiment.targets
    assert target.judge(outcomes).value == 1.5
    assert experiment.describe(outcomes).endswith("worst 1.50 at 1 KB")


def test_a_skipped_contender_takes_no_turn() -> None:
    contenders = (Contender("first", answer), Contender("second", answer))
    experiment = Experiment("name", "title", "s", contenders, (), {"value": 1}, {"value": 2}, rounds=1)
    outcomes, _ = _rounds.run_experiment(experiment, skip=["second"])
    assert list(outcomes) == ["first"]


WATCHED = """
import subprocess, sys, time
import psutil
from benchmarks._memory import MemoryWatch

with MemoryWatch() as watch:
    assert watch.begin() > 0
    code = "import sys; data = bytearray(b'x') * 100_000_000; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
        while psutil.Process(child.pid).memory_info().rss < 100_000_000:
            time.sleep(0.01)
        print(watch.end())
"""


def test_memory_of_descendants_is_watched() -> None:
    # In a session of its own, since what others of the session do counts too.
    command = [sys.executable, "-c", WATCHED]
    ended = subprocess.run(command, cwd=ROOT, start_new_session=True, capture_output=True, text=True, check=True, timeout=300)
    assert 90_000_000 < int(ended.stdout) < 200_000_000


def test_a_process_that_ends_while_growth_is_watched_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        ended = psutil.Process(process.pid)
    monkeypatch.setattr(psutil.Process, "children", lambda *_args, **_keywords: [ended])
    watch = small_faces.GrowthWatch()
    watch.look()
    assert [*watch.growth] == [os.getpid()]


def test_a_table_shows_those_that_have_no_values_too() -> None:
    outcomes = make_outcomes(objproxy=1.0, peer=2.0)
    outcomes["other"] = Outcome("other", "hangs", "no answer within 1 s")
    experiment = Experiment("name", "title", "ms", (), (), {}, {})
    table = _report.format_result(_report.Result(experiment, {}, outcomes, ()))
    assert "2000.0" in table
    assert "no answer within 1 s" in table


def test_without_matplotlib_there_is_a_file_of_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    experiment = Experiment("name", "title", "ms", (), (), {}, {})
    result = _report.Result(experiment, {"n_items": 3}, make_outcomes(objproxy=1.0, peer=2.0), ())
    (path,) = _report.write_results("question", [result], tmp_path)
    (document,) = json.loads(path.read_text())["experiments"]
    assert document["sizes"] == {"n_items": 3}
    assert [contender["median"] for contender in document["contenders"]] == [1.0, 2.0]


def test_uneven_items_are_the_same_in_every_run() -> None:
    costs = uneven_items.make_costs(100, 2)
    assert costs == uneven_items.make_costs(100, 2)
    assert sorted(set(costs)) == [2, 200]
    assert costs.count(200) == 5


@pytest.mark.parametrize(("costs", "makespan"), [([1, 1, 1, 1], 2.0), ([1, 2, 3], 4.0), ([1, 1, 10], 11.0)])
def test_in_order_the_free_worker_takes_the_next_item(costs: list[int], makespan: float) -> None:
    assert uneven_items.in_order_makespan(costs, 2) == makespan


@pytest.mark.parametrize(("costs", "makespan"), [([1, 1, 1, 1], 2.0), ([10, 1, 1], 10.0)])
def test_no_makespan_is_shorter_than_the_ideal(costs: list[int], makespan: float) -> None:
    assert uneven_items.ideal_makespan(costs, 2) == makespan

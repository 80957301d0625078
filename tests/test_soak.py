"""The soak finds nothing wrong in a few hundred tasks, and would find it: its books refuse what must not happen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from objproxy import TaskTimeoutError, WorkerDiedError
from optional import need

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

need("psutil")
from benchmarks.soak import _census  # noqa: E402  (the folder is no part of the package)
from benchmarks.soak._counts import RunCounts  # noqa: E402
from benchmarks.soak._ledger import Ledger, Violation  # noqa: E402
from benchmarks.soak._plan import DEADLY, HANGING, Item, Wave, make_plan  # noqa: E402
from benchmarks.soak._subject import BIAS, SoakError, Subject  # noqa: E402


@pytest.mark.parametrize("seed", [2, 6])
def test_a_small_soak_leaves_nothing_behind(seed: int, tmp_path: Path) -> None:
    options = ["--tasks", "200", "--seed", str(seed), "--timeout", "0.5", "--output", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", *options], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "soak.json").read_text())
    totals = report["totals"]
    assert totals["submitted"] == sum(totals.get(name, 0) for name in ("done", "failed", "cancelled")) > 100
    assert report["violations"] == []


def test_a_plan_follows_from_its_seed() -> None:
    assert make_plan(7, 1000, 1.0) == make_plan(7, 1000, 1.0)
    assert make_plan(7, 1000, 1.0) != make_plan(8, 1000, 1.0)
    assert make_plan(7, 1000, 1.0).n_tasks == 1000


def test_every_kind_of_item_is_planned_for() -> None:
    plans = [make_plan(seed, 3000, 1.0) for seed in range(5)]
    kinds = {item.kind for plan in plans for wave in plan.waves for item in wave.items}
    assert kinds > DEADLY | HANGING | {"add", "array", "raise", "exit", "lock", "unsendable"}
    assert all(hasattr(Subject, f"_do_{kind}") for kind in kinds)


WAVE = Wave("map", (), 0)
RETRIED = Wave("map", (), 0, retries=1)


@pytest.mark.parametrize(
    ("wave", "kind", "outcome"),
    [
        (WAVE, "add", (3, 3)),  # from an object without its state
        (WAVE, "add", (4, 4 + BIAS)),  # another task's
        (WAVE, "add", SoakError(3)),
        (WAVE, "raise", (3, 3 + BIAS)),
        (WAVE, "raise", SoakError(4)),
        (WAVE, "kill", TaskTimeoutError(0, "work", 0, 1.0)),
        (WAVE, "add", TaskTimeoutError(0, "work", 0, 1.0)),
        (WAVE, "sleep", TaskTimeoutError(0, "work", 1, 1.0)),  # another item's
        (WAVE, "leave", WorkerDiedError(0, exitcode=5, item=0)),
        (WAVE, "add", WorkerDiedError(0, exitcode=-9, item=0, attempts=2)),
        (RETRIED, "add", WorkerDiedError(0, exitcode=-9, item=0, attempts=1)),  # given up early
    ],
)
def test_a_wrong_outcome_is_noticed(wave: Wave, kind: str, outcome: Any) -> None:
    ledger = Ledger(10)
    ledger.take(4)
    with pytest.raises(Violation):
        ledger.settle(wave, Item(kind), 3, 0, outcome)


def test_a_wrong_array_is_noticed() -> None:
    item = Item("array", 5)
    right = item.make_payload(3) + 4
    ledger = Ledger(10)
    ledger.settle(WAVE, item, 3, 0, (3, right))
    right[2] += 1
    with pytest.raises(Violation, match="array"):
        ledger.settle(WAVE, item, 4, 0, (4, right))


def test_books_that_balance() -> None:
    ledger = Ledger(10)
    ledger.take(5)
    ledger.settle(WAVE, Item("add"), 0, 0, (0, BIAS))
    ledger.settle(WAVE, Item("raise"), 1, 1, noted(SoakError(1)))
    ledger.note("kills")
    ledger.settle(WAVE, Item("add"), 2, 2, WorkerDiedError(0, exitcode=-9, item=2))
    ledger.cancel([3], 1)
    ledger.drop([4])
    assert ledger.balance(counts(1, 1, 0, 1, 0)) == {"submitted": 4, "done": 1, "failed": 2, "cancelled": 1}


def noted(error: SoakError) -> SoakError:
    error.add_note("where it happened")
    return error


def counts(*runs: int) -> np.ndarray:
    return np.array([*runs, *[0] * 5], np.uint8)


@pytest.mark.parametrize(("n_runs", "what"), [(0, "never ran"), (2, "more often")])
def test_a_task_that_ran_too_rarely_or_too_often_is_noticed(n_runs: int, what: str) -> None:
    ledger = Ledger(6)
    ledger.take(1)
    ledger.settle(WAVE, Item("add"), 0, 0, (0, BIAS))
    with pytest.raises(Violation, match=what):
        ledger.balance(counts(n_runs))


def test_a_task_without_an_end_or_with_two_is_noticed() -> None:
    ledger = Ledger(6)
    ledger.take(2)
    ledger.cancel([0], 1)
    with pytest.raises(Violation, match="no outcome"):
        ledger.balance(counts())
    with pytest.raises(Violation, match="twice"):
        ledger.cancel([0], 1)


def test_more_losses_than_kills_are_noticed() -> None:
    ledger = Ledger(6)
    ledger.take(1)
    ledger.settle(WAVE, Item("add"), 0, 0, WorkerDiedError(0, exitcode=-9, item=0))
    with pytest.raises(Violation, match="lost"):
        ledger.balance(counts())


def test_the_census_sees_processes_descriptors_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBJPROXY_SOAK", "")  # restored after the test
    _census.begin()
    before = _census.take_census()
    reader, writer = os.pipe()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdin is not None
        assert _census.take_census().excess_over(before)["processes"] == 1
        assert _census.take_census().excess_over(before)["descriptors"] >= 2
    os.close(reader)
    os.close(writer)
    assert _census.settle(before) == {}


def test_counts_are_shared_by_all_who_open_them(tmp_path: Path) -> None:
    ours = RunCounts(str(tmp_path / "counts"), 10)
    rebuild, arguments = ours.__reduce__()
    theirs = rebuild(*arguments)
    assert (theirs.note(3), ours.note(3)) == (1, 2)
    assert ours.read().tolist() == [0, 0, 0, 2, 0, 0, 0, 0, 0, 0]

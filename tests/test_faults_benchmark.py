"""The table of faults is measured rightly: a death is told, a hang is seen and ended, and nothing of it stays behind."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks._pages import write_part  # noqa: E402  (the folder is no part of the package)
from benchmarks.faults import _table  # noqa: E402
from benchmarks.faults._faults import FAULTS  # noqa: E402
from benchmarks.faults._runner import run_cell  # noqa: E402
from benchmarks.faults._systems import OPENERS, OURS  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found through /proc")


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [("kill", "WorkerDiedError"), ("raise", "ValueError"), ("mid_send", "WorkerDiedError"), ("init_leave", "WorkerInitError")],
)
def test_what_the_caller_learns_is_told(fault: str, outcome: str) -> None:
    cell = run_cell(FAULTS[fault], OURS, 20.0)
    assert (cell["status"], cell["outcome"], cell["exit_hangs"]) == ("told", outcome, False)
    assert 0 <= cell["seconds"] < 20


def test_processes_that_outlive_their_program_are_counted() -> None:
    assert run_cell(FAULTS["parent_busy"], OURS, 20.0)["alive"] == 0
    # Two workers; since Python 3.14 they come from a fork server, which stays too, and so does the resource tracker.
    n_left = 2 if sys.version_info < (3, 14) else 4
    assert run_cell(FAULTS["parent_busy"], "multiprocessing.Pool", 20.0)["alive"] == n_left


def test_a_hang_is_seen_and_ended() -> None:
    """The standard library's pool waits for ever for a task whose worker is dead; what is left of it must go."""
    assert run_cell(FAULTS["kill"], "multiprocessing.Pool", 1.0) == {"status": "hangs"}


def test_a_library_that_is_not_there_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pebble.py").write_text("raise ImportError('no such library')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    assert run_cell(FAULTS["raise"], "pebble", 5.0)["status"] == "not importable"


@pytest.mark.parametrize(
    ("fault", "cell", "text"),
    [
        ("kill", {"status": "hangs"}, "**hangs**"),
        ("kill", {"status": "told", "outcome": "WorkerDiedError", "seconds": 0.0042, "next": "ok"}, "`WorkerDiedError` 0.004"),
        ("kill", {"status": "told", "outcome": "Broken", "seconds": 1.5, "next": "Broken"}, "`Broken` 1.50, pool dead"),
        (
            "limit_sleep",
            {"status": "told", "outcome": "TimeoutError", "seconds": 1.0, "is_freed": False, "exit_hangs": True},
            "`TimeoutError` 1.00, **worker stays busy**, **exit hangs**",
        ),
        (
            "raise",
            {"status": "told", "outcome": "ok", "seconds": 0.25, "n_silent": 2, "n_programs": 5},
            "ok 0.25, **hangs in 2 of 5 runs**",
        ),
        ("parent_idle", {"status": "told", "alive": 2, "of": 3}, "**2** of 3"),
        ("lazy", {"status": "told", "count": 20000}, "20,000"),
        ("ctrl_c", {"status": "told", "seconds": 0.05, "attempts": 2, "alive": 0}, "0.050, **only after the second**"),
        ("lazy", {"status": "not offered", "text": "lists only"}, "(lists only)"),
    ],
)
def test_a_cell_in_words(fault: str, cell: dict[str, Any], text: str) -> None:
    assert _table.describe(FAULTS[fault], cell) == text


@pytest.mark.parametrize("name", ["latency", "table", "soak"])
def test_the_page_has_a_place_for_what_scripts_write(name: str, tmp_path: Path) -> None:
    page = tmp_path / "faults.md"
    page.write_text((ROOT / "docs" / "faults.md").read_text(encoding="utf-8"), encoding="utf-8")
    write_part(page, name, "what was measured")
    assert "what was measured" in page.read_text(encoding="utf-8")


def test_the_table_goes_between_the_marks_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "faults.md"
    page.write_text("before\n<!-- table: begin -->\nold\n<!-- table: end -->\nafter\n")
    write_part(page, "table", _table.format_table({"kill": {OURS: {"status": "hangs"}}}, list(OPENERS)))
    assert "**hangs**" in page.read_text()
    assert "old" not in page.read_text()
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("after\n")
    page.write_text("no marks")
    with pytest.raises(ValueError, match="no lines"):
        write_part(page, "table", "text")

"""The table of faults names every row, and tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
TABLE = TESTS.parent / "docs" / "fault_matrix.md"

#: Letter of a part of the matrix, and its number of rows.
N_ROWS = {"A": 40, "B": 21, "C": 41, "D": 15, "E": 20, "F": 6, "G": 11}

ROW = re.compile(r"^\| ([A-G]\d+) \|.*\|$", re.MULTILINE)
TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")


def _rows() -> dict[str, list[tuple[str, str]]]:
    return {match[1]: TEST.findall(match[0]) for match in ROW.finditer(TABLE.read_text())}


def test_every_row_is_in_the_table_once_and_has_a_test() -> None:
    wanted = [f"{letter}{number}" for letter, n_rows in N_ROWS.items() for number in range(1, n_rows + 1)]
    assert [match[1] for match in ROW.finditer(TABLE.read_text())] == wanted
    assert [row for row, tests in _rows().items() if not tests] == []


@pytest.mark.parametrize("row", _rows())
def test_the_tests_of_a_row_exist(row: str) -> None:
    for file, name in _rows()[row]:
        assert re.search(rf"^def {name}\(", (TESTS / file).read_text(), re.MULTILINE), f"{file}::{name}"


@pytest.mark.parametrize("path", sorted((TESTS / "faults").glob("test_*.py")), ids=lambda path: path.name)
def test_every_test_of_a_fault_says_which_row_it_is_and_is_in_the_table(path: Path) -> None:
    functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    for function in functions:
        name = function.name
        if not name.startswith("test_"):
            continue
        rows = re.match(r"((?:[A-G]\d+(?:, )?)+): ", ast.get_docstring(function) or "")
        assert rows, f"{name} does not begin with its row"
        for row in rows[1].split(", "):
            assert (f"faults/{path.name}", name) in _rows()[row], f"{name} is not in row {row}"

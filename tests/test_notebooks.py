"""On a real kernel: what is defined in a cell works, a cell that is run again counts, bars show, and nothing stays behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from optional import need

nbformat = need("ipykernel", "ipywidgets", "nbclient", "nbformat")

EXAMPLES = Path(__file__).parents[1] / "examples" / "notebooks"

#: In a process of its own, since a client leaves sockets open.
EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], 4)
NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": sys.argv[3]}}).execute()
nbformat.write(notebook, sys.argv[2])
"""

#: Cells that are run one after another, and what each prints.
CELLS = {
    "ProxyPool": [
        (
            """
from objproxy import ProxyPool

class Model:
    def __init__(self, rate):
        self.rate = rate
    def score(self, x):
        return self.rate * x

def scores():
    with ProxyPool(Model, worker_count=2, init_args=(10,)) as pool:
        return pool.score(range(4), map_args=True).tolist()
""",
            "",
        ),
        ("print(scores())", "[0, 10, 20, 30]\n"),
        ("class Model(Model):\n    def score(self, x):\n        return self.rate + x\n", ""),
        ("print(scores())", "[10, 11, 12, 13]\n"),
        (
            """
with ProxyPool(Model, worker_count=2, init_args=(0,)) as pool:
    print(pool.score.options(progress_bar={"desc": "scoring"}).map([1, 2, 3]))
    try:
        pool[0].score(None)
    except TypeError as error:
        print(type(error).__name__)
""",
            "[1, 2, 3]\nTypeError\n",
        ),
    ],
    "mtasklite": [
        (
            """
from objproxy.mtasklite import Pool, delayed_init
from objproxy.mtasklite.processes import pqdm

@delayed_init
class Scaler:
    def __init__(self, factor):
        self.factor = factor
    def __call__(self, x):
        return self.factor * x

def shift(x):
    return x + 1
""",
            "",
        ),
        ("print(list(Pool([Scaler(2), Scaler(2)])([1, 2, 3])), list(Pool(shift, 2)([1, 2, 3])))", "[2, 4, 6] [2, 3, 4]\n"),
        (
            """
@delayed_init
class Scaler:
    def __init__(self, factor):
        self.factor = factor
    def __call__(self, x):
        return -self.factor * x

def shift(x):
    return x - 1
""",
            "",
        ),
        ("print(list(Pool([Scaler(2), Scaler(2)])([1, 2, 3])), list(Pool(shift, 2)([1, 2, 3])))", "[-2, -4, -6] [0, 1, 2]\n"),
        ("print(list(pqdm([1, 2, 3], shift, 2, desc='shifting')))", "[0, 1, 2]\n"),
    ],
    "ompr": [
        (
            """
from objproxy.ompr import OMPRunner, RunningWorker, simple_process

class Adder(RunningWorker):
    def process(self, x):
        return x + 1

def scale(x):
    return 10 * x

def results():
    with OMPRunner(Adder, devices=["cpu"]) as runner:
        runner.process([{"x": 1}, {"x": 2}])
        return runner.get_all_results() + simple_process([{"x": 3}], scale, num_workers=1)
""",
            "",
        ),
        ("print(results())", "[2, 3, 30]\n"),
        (
            """
class Adder(RunningWorker):
    def process(self, x):
        return x - 1

def scale(x):
    return 20 * x
""",
            "",
        ),
        ("print(results())", "[0, 1, 60]\n"),
    ],
    "mpire": [
        (
            """
from objproxy.mpire import WorkerPool

def half(x):
    return x / 2

def halves(**options):
    with WorkerPool(2) as pool:
        return pool.map(half, [1, 2, 3], **options)
""",
            "",
        ),
        ("print(halves())", "[0.5, 1.0, 1.5]\n"),
        ("def half(x):\n    return x // 2\n", ""),
        ("print(halves(progress_bar=True, progress_bar_options={'desc': 'halving'}))", "[0, 1, 1]\n"),
    ],
    "workercontext": [
        (
            """
from objproxy import parallelise
from objproxy.workercontext import MultiWorker, auto_parallelise
from objproxy.workercontext.reductions import flatten_reduction

def double(numbers: list[int]) -> list[int]:
    return [2 * number for number in numbers]

def all_doubles():
    with MultiWorker(double, 2, reduction=flatten_reduction) as run:
        first = run([1, 2, 3])
    return first, parallelise(double, worker_count=2)([1, 2, 3]), auto_parallelise(double)([1, 2, 3])
""",
            "",
        ),
        ("print(*all_doubles())", "[2, 4, 6] [2, 4, 6] [2, 4, 6]\n"),
        ("def double(numbers: list[int]) -> list[int]:\n    return [number + number / 2 for number in numbers]\n", ""),
        ("print(*all_doubles())", "[1.5, 3.0, 4.5] [1.5, 3.0, 4.5] [1.5, 3.0, 4.5]\n"),
    ],
}

#: The bars that cells show.
BARS = {"ProxyPool": "scoring", "mtasklite": "shifting", "mpire": "halving"}


#: How a notebook is told of a widget.
WIDGET = "application/vnd.jupyter.widget-view+json"


def execute(notebook: Any, directory: Path) -> Any:
    """Run a notebook on a kernel of its own; return it with what it gave."""
    given, done = directory / "given.ipynb", directory / "done.ipynb"
    nbformat.write(notebook, given)
    command = [sys.executable, "-c", EXECUTE, given, done, directory]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert completed.returncode == 0, completed.stderr
    return nbformat.read(done, 4)


def printed(cell: Any, stream: str = "stdout") -> str:
    return "".join(output.text for output in cell.get("outputs", ()) if output.get("name") == stream)


def shown(cell: Any) -> list[Any]:
    """Return the values of a cell that a notebook shows."""
    return [output.data["text/plain"] for output in cell.outputs if "data" in output and WIDGET not in output.data]


def bars(cell: Any) -> str:
    """Return the bars of a cell: widgets, where there is ipywidgets, else text."""
    widgets = [output.data["text/plain"] for output in cell.get("outputs", ()) if WIDGET in output.get("data", ())]
    return printed(cell, "stderr") + "".join(widgets)


@pytest.mark.slow
def test_what_is_defined_in_a_cell_works_and_counts_anew_when_the_cell_is_run_again(tmp_path: Path) -> None:
    cells = [(code, expected) for face in CELLS.values() for code, expected in face]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code, _ in cells])
    done = execute(notebook, tmp_path)
    assert [printed(cell) for cell in done.cells] == [expected for _, expected in cells]
    seen = "".join(map(bars, done.cells))
    assert all(bar in seen for bar in BARS.values())
    assert "Traceback" not in seen


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_an_example_notebook_prints_what_it_shows(path: Path, tmp_path: Path) -> None:
    stored = nbformat.read(path, 4)
    nbformat.validate(stored)
    done = execute(nbformat.read(path, 4), tmp_path)
    codes = [(old, new) for old, new in zip(stored.cells, done.cells, strict=True) if old.cell_type == "code"]
    assert [printed(new) for _, new in codes] == [printed(old) for old, _ in codes]
    assert [shown(new) for _, new in codes] == [shown(old) for old, _ in codes]


def test_there_is_a_notebook_for_each_face() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} >= {"proxypool", "ompr", "mpire", "mtasklite", "workercontext"}

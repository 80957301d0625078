"""Pools that would start themselves without end (A): refused at once, with the line to blame; everything below ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from contained import COUNT, Ended, needs_namespaces, run_contained
from objproxy import NestedPoolError, ProxyPool, WorkerInitError
from objproxy._worker import lineage

START_METHODS = ["forkserver", "fork", "spawn"]

pytestmark = needs_namespaces

MODEL = f"""{COUNT}
from objproxy import ProxyPool

class Model:
    def double(self, x):
        return 2 * x

    def process(self, x):
        return 2 * x

    def use(self):
        return pool.double(1).tolist()

def double_all(xs):
    return [2 * x for x in xs]
"""


# ---- at the top level of a module ------------------------------------------------------------------------------------


@pytest.mark.parametrize("portable", ["0", "1"])
@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_pool_that_a_module_makes_works_in_the_program_alone(start_method: str, portable: str, tmp_path: Path) -> None:
    """A12: the workers import the module too; there the pool is not started, and says so when it is used."""
    module = f"{MODEL}\npool = ProxyPool(Model, worker_count=1, start_method={start_method!r})\n"
    main = """
import model
from objproxy import NestedPoolError, ProxyPool
assert model.pool.double.map([1, 2]) == [2, 4]
try:
    model.pool[0].use()
except NestedPoolError as exc:
    print(exc.where, exc.depth, "__main__" in str(exc))
except NameError as exc:
    print(exc)
with ProxyPool(model.Model, worker_count=2) as other:
    assert other.double(2).tolist() == [4, 4]
model.pool.close()
"""
    ended = run_contained(tmp_path, {"model.py": module, "main.py": main}, {"OBJPROXY_PORTABLE": portable})
    assert (ended.returncode, ended.errors) == (0, "")
    if start_method == "fork":  # a forked worker has the program's own module, as far as it was imported then
        assert "'pool' is not defined" in ended.output
    else:
        assert ended.output == f"{tmp_path}/model.py, line 23, 1 True\n"
    assert ended.count <= 4


USES = {
    "ProxyPool": "with ProxyPool(Model, worker_count=1) as pool:\n    pool.double.map([1])",
    "OMPRunner": "from objproxy import OMPRunner\n"
    "runner = OMPRunner(Model, devices=[None], pool_options={'start_method': 'forkserver'})",
    "mpire": "from objproxy.mpire import WorkerPool\nWorkerPool(2, start_method='forkserver').map(Model().double, [1, 2])",
    "mtasklite": "from objproxy.mtasklite import Pool\nlist(Pool([Model().double, Model().double])([1, 2]))",
    "pqdm": "from objproxy.mtasklite.processes import pqdm\npqdm([1, 2], Model().double, n_jobs=2, as_list=True, disable=True)",
    "MultiWorker": "from objproxy.workercontext import MultiWorker\n"
    "with MultiWorker(double_all, 2) as worker:\n    worker([1, 2])",
    "parallelise": "from objproxy import parallelise\nlist(parallelise(double_all, worker_count=2)([1, 2]))",
    "simple_process": "from objproxy import simple_process\nsimple_process([{'x': 1}, {'x': 2}], Model().double, 2)",
}


@pytest.mark.parametrize("face", USES)
def test_a_module_that_uses_a_pool_while_it_is_imported_is_refused_with_the_line(face: str, tmp_path: Path) -> None:
    """A12: whatever makes the pool, the program is told at once, or it works."""
    files = {"model.py": f"{MODEL}\n{USES[face]}\n", "main.py": "import model\n"}
    ended = run_contained(tmp_path, files)
    assert ended.count <= 10
    if ended.returncode:
        assert f"{tmp_path}/model.py, line" in ended.errors
        assert "NestedPoolError" in ended.errors


def test_a_module_that_makes_a_pool_may_be_imported_for_arguments(tmp_path: Path) -> None:
    """A12: of the constructor, of a call, or of what was put."""
    main = """
from objproxy import ProxyPool
from plain import Adder
import model

if __name__ == "__main__":
    item = model.Model()
    with ProxyPool(Adder, worker_count=1) as pool:
        assert pool.name(item).tolist() == ["Model"]
        assert pool.name.map([item]) == ["Model"]
    with ProxyPool(Adder, worker_count=1) as pool:
        assert pool.name(pool.put(item)).tolist() == ["Model"]
    with ProxyPool(Adder, worker_count=1, init_args=(item,)) as pool:
        assert pool.name(item).tolist() == ["Model"]
    model.pool.kill()
"""
    plain = """
class Adder:
    def __init__(self, item=None):
        self.item = item

    def name(self, item):
        return type(item).__name__
"""
    module = f"{MODEL}\npool = ProxyPool(Model, worker_count=1)\n"
    ended = run_contained(tmp_path, {"model.py": module, "plain.py": plain, "main.py": main})
    assert (ended.returncode, ended.errors) == (0, "")
    assert ended.count <= 5


def test_a_method_may_import_a_module_that_makes_a_pool(tmp_path: Path) -> None:
    """A12: it is the method that makes it."""
    main = """
from objproxy import ProxyPool

class Lazy:
    def work(self, x):
        import model
        return model.pool.double(x).tolist()

with ProxyPool(Lazy, worker_count=1) as pool:
    assert pool[0].work(2) == [4]
"""
    module = f"{MODEL}\npool = ProxyPool(Model, worker_count=1)\n"
    ended = run_contained(tmp_path, {"model.py": module, "main.py": main})
    assert ended.returncode == 0, ended.errors
    assert ended.count <= 2


def test_threads_may_be_made_while_a_module_is_imported(tmp_path: Path) -> None:
    """A12: they import nothing again."""
    module = f"{MODEL}\npool = ProxyPool(Model, worker_count=2, backend='thread')\n"
    main = """
import model
from objproxy import ProxyPool
with ProxyPool(model.Model, worker_count=1) as pool:
    assert pool[0].use() == [2, 2] == model.Model().use()
model.pool.close()
"""
    ended = run_contained(tmp_path, {"model.py": module, "main.py": main})
    assert (ended.returncode, ended.errors) == (0, "")
    assert ended.count <= 3


# ---- a class that makes pools of itself ------------------------------------------------------------------------------

SELF_MADE = f"""{COUNT}
import sys
from objproxy import NestedPoolError, ProxyPool, WorkerInitError

class Nested:
    def __init__(self):
        with open(_os.environ["COUNTED"], "a") as file:
            file.write("x")
            if file.tell() > 60:
                _os._exit(99)
        BODY

    def again(self):
        with ProxyPool(Nested, worker_count=1, **OPTIONS) as pool:
            return pool[0].again()
"""


def _refuses(ended: Ended, limit: int) -> bool:
    return ended.returncode == 0 and f"OBJPROXY_MAX_DEPTH={limit}" in ended.output


@pytest.mark.parametrize(
    "options",
    [*({"start_method": method} for method in START_METHODS), {"backend": "thread"}, {"backend": "serial"}],
    ids=lambda options: "".join(options.values()),
)
def test_a_class_that_makes_pools_of_itself_is_told(options: dict[str, str], tmp_path: Path) -> None:
    """A13: in its constructor or in a method; few objects are made before."""
    for body, use in (("self.again()", "pass"), ("pass", "pool[0].again()")):
        main = (
            SELF_MADE.replace("BODY", body)
            + f"""
OPTIONS = {options!r}
try:
    with ProxyPool(Nested, worker_count=2, **OPTIONS) as pool:
        {use}
except (NestedPoolError, WorkerInitError) as exc:
    print(exc)
"""
        )
        (tmp_path / "counted").unlink(missing_ok=True)
        ended = run_contained(tmp_path, {"main.py": main}, {"OBJPROXY_MAX_DEPTH": "3"})
        assert _refuses(ended, 3), ended
        assert ended.count <= 12


def test_the_depth_is_known_to_what_a_worker_starts(tmp_path: Path) -> None:
    """A13: a program, or a process of `multiprocessing`, that makes the pool again."""
    main = f"""{COUNT}
import multiprocessing, subprocess, sys
from objproxy import NestedPoolError, ProxyPool

class Starter:
    def start(self, how):
        if how == "program":
            subprocess.run([sys.executable, "main.py", how], check=True)
        else:
            import main
            process = multiprocessing.get_context("spawn").Process(target=main.work, args=(how,))
            process.start()
            process.join()

def work(how):
    try:
        with ProxyPool(Starter, worker_count=1) as pool:
            pool.start(how)
    except NestedPoolError as exc:
        print("told", exc, flush=True)

if __name__ == "__main__":
    for how in sys.argv[1:] or ["program", "process"]:
        work(how)
"""
    ended = run_contained(tmp_path, {"main.py": main})
    assert ended.returncode == 0, ended.errors
    assert ended.output.count("told") == 2
    assert ended.count <= 20


def test_the_limit_of_the_depth_may_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A13: and must be a number."""
    monkeypatch.setenv(lineage.MAX_DEPTH, "none")
    with pytest.raises(ValueError, match="OBJPROXY_MAX_DEPTH='none'"):
        ProxyPool(dict, worker_count=1)
    monkeypatch.setenv(lineage.DEPTH, "2")
    monkeypatch.setenv(lineage.MAX_DEPTH, "2")
    with pytest.raises(NestedPoolError, match="2 pools above it") as caught:
        ProxyPool(dict, worker_count=1)
    assert caught.value.depth == 2
    assert f"{__file__}, line" in caught.value.where
    monkeypatch.setenv(lineage.DEPTH, "nonsense")
    with ProxyPool(dict, worker_count=1) as pool:
        assert len(pool) == 1


# ---- a helper that becomes the program again -------------------------------------------------------------------------


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_an_interpreter_that_runs_the_program_again_starts_no_other(start_method: str, tmp_path: Path) -> None:
    """A14: it is asked which Python it is, and another one is taken."""
    app = '#!/bin/sh\nexec "$INTERPRETER" "$HERE/main.py"\n'
    main = f"""{COUNT}
import os, sys
os.environ["INTERPRETER"], os.environ["HERE"] = sys.executable, os.getcwd()
sys.executable = os.path.join(os.getcwd(), "python3")
sys.prefix = sys.base_prefix  # the interpreter of a virtual environment would be asked first
from objproxy import ProxyPool
with ProxyPool(dict, worker_count=2, start_method={start_method!r}) as pool:
    print(len(pool))
"""
    ended = run_contained(tmp_path, {"main.py": main, "python3": app})
    assert (ended.returncode, ended.output) == (0, "2\n"), ended.errors
    assert ended.count == 2


def test_what_python_runs_before_a_helper_may_not_make_a_pool(tmp_path: Path) -> None:
    """A14: a ``sitecustomize`` runs in every interpreter, before the code of the helper."""
    site = f"{COUNT}\nfrom objproxy import ProxyPool\nwith ProxyPool(dict, worker_count=1, start_method='spawn'):\n    pass\n"
    main = "from objproxy import ProxyPool\nwith ProxyPool(dict, worker_count=1) as pool:\n    print(len(pool))\n"
    ended = run_contained(
        tmp_path, {"sitecustomize.py": site, "main.py": main}, {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    )
    assert (ended.returncode, ended.output) == (0, "1\n"), ended.errors
    assert ended.count <= 6


def test_the_error_survives_a_pickle() -> None:
    """A13: as each error of the library."""
    import pickle

    error = NestedPoolError("text", where="here", depth=3)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.where, again.depth) == ("text", "here", 3)
    assert isinstance(again, RuntimeError)
    assert not isinstance(again, WorkerInitError)

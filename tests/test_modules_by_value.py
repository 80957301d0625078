"""Classes and functions of modules that no worker can import: loaded from a path, made in memory, found by hooks, run."""

from __future__ import annotations

import importlib
import os
import runpy
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from module_texts import PACKAGE, PLUGIN, Importer, load, make
from objproxy import ArgumentPickleError, ProxyPool
from objproxy._worker import importable
from objproxy.mpire import WorkerPool
from targets import PATIENCE_SECONDS

ROOT = Path(__file__).parents[1]

#: Beginnings of the names of all modules that are loaded here.
NAMES = (
    "path_plugin",
    "some.name",
    "json.of_a_program",
    "json.made",
    "colorsys",
    "twin_plugin",
    "memory_",
    "virtual",
    "plugin_package",
    "on_the_path",
    "namespace",
    "leaving",
    "own_package",
)


@pytest.fixture(autouse=True)
def old_modules() -> Iterator[None]:
    """Forget what a test has loaded and how."""
    hooks, path = sys.meta_path[:], sys.path[:]
    yield
    for name in [name for name in sys.modules if name.startswith(NAMES)]:
        del sys.modules[name]
    sys.meta_path[:], sys.path[:] = hooks, path


def write(folder: Path, text: str = PLUGIN) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plugin_file.py").write_text(text)
    return folder / "plugin_file.py"


def of_a_hook(_folder: Path) -> Any:
    sys.meta_path.append(Importer())
    return importlib.import_module("virtual.part")


def in_place_of_one_on_the_path(folder: Path) -> Any:
    (folder / "twin_plugin.py").write_text("raise ImportError('this is the other one')")
    sys.path.insert(0, str(folder))
    return load("twin_plugin", write(folder / "plugins"))


KINDS: dict[str, Callable[[Path], Any]] = {
    "path": lambda folder: load("path_plugin", write(folder)),
    "not entered": lambda folder: load("path_plugin", write(folder), is_entered=False),
    "dots": lambda folder: load("some.name.with_dots", write(folder)),
    "below an installed package": lambda folder: load("json.of_a_program", write(folder)),
    "in place of one of the standard library": lambda folder: load("colorsys", write(folder)),
    "in place of one on the path": in_place_of_one_on_the_path,
    "memory": lambda _folder: make("memory_plugin"),
    "hook": of_a_hook,
    "run": lambda folder: SimpleNamespace(**runpy.run_path(str(write(folder)))),
}


@pytest.mark.parametrize(
    ("kind", "start_method"), [*((kind, "forkserver") for kind in KINDS), ("memory", "fork"), ("path", "spawn")]
)
def test_classes_of_a_module_that_no_worker_can_import_work_and_are_one_everywhere(
    kind: str, start_method: Any, tmp_path: Path
) -> None:
    module = KINDS[kind](tmp_path)
    with (
        ProxyPool(module.Plugin, worker_count=1, start_method=start_method) as pool,
        ProxyPool(module.Plugin, worker_count=1, start_method=start_method) as other,
    ):
        assert pool.double.map([1, 2]) == [2, 4]
        item = pool[0].wrap(3)
        assert type(item) is module.Item
        assert item.kind is module.Kind.B
        assert pool[0].knows(item)
        assert other[0].knows(item)
        assert pool.knows.map([module.Item(1, module.Kind.B)] * 3) == [True] * 3
        with pytest.raises(module.PluginError) as caught:
            pool[0].fail(4)
        assert type(caught.value.args[0]) is module.Item
        assert [pool[0].count() for _ in range(3)] == [1, 2, 3]


def test_functions_and_classes_of_such_modules_work_in_other_verbs_and_faces(tmp_path: Path) -> None:
    module = load("path_plugin", write(tmp_path))
    with WorkerPool(1) as pool:
        assert pool.map(module.twice, [1, 2]) == [2, 4]
        assert type(pool.map(module.Item, [1])[0]) is module.Item
    with ProxyPool(module.Plugin, worker_count=1) as pool:
        assert list(pool.knows.imap([module.Item(1, module.Kind.B)] * 2)) == [True, True]
        assert pool.knows.submit(module.Item(1, module.Kind.B)).result(PATIENCE_SECONDS)
        assert pool[0].knows(pool.put(module.Item(1, module.Kind.B)))


@pytest.mark.parametrize("start_method", ["forkserver", "fork"])
def test_a_package_with_modules_that_import_one_another_works(start_method: Any, tmp_path: Path) -> None:
    for name, text in PACKAGE.items():
        (tmp_path / name).write_text(text)
    make("memory_module")
    package = load("plugin_package", tmp_path / "__init__.py", submodule_search_locations=[str(tmp_path)])
    with ProxyPool(package.Main, worker_count=1, start_method=start_method) as pool:
        worker: Any = pool[0]
        assert worker.at_the_top(1) == 10
        assert worker.in_a_function(1) == 3
        assert worker.by_its_name(1) == 3  # the module is one object in a worker
        assert worker.upwards() == 5
        assert worker.of_another(4) == 8


class Loader:
    """Loads a plugin itself, in the worker."""

    def __init__(self, name: str, path: Path) -> None:
        self.plugin = load(name, path)

    def make(self) -> Any:
        return self.plugin.Item(1, self.plugin.Kind.B)

    def knows(self, item: Any) -> bool:
        return bool(self.plugin.Plugin().knows(item))


@pytest.mark.parametrize("makes_first", [True, False])
def test_a_plugin_that_the_worker_has_loaded_too_is_one_with_the_programs(makes_first: bool, tmp_path: Path) -> None:
    path = write(tmp_path)
    plugin = load("path_plugin", path)
    with ProxyPool(Loader, worker_count=1, init_args=("path_plugin", path)) as pool:
        if makes_first:
            assert type(pool[0].make()) is plugin.Item
        assert pool[0].knows(plugin.Item(1, plugin.Kind.B))
        assert type(pool[0].make()) is plugin.Item


def test_what_only_a_worker_has_loaded_comes_home_by_value(tmp_path: Path) -> None:
    with ProxyPool(Loader, worker_count=1, init_args=("path_plugin", write(tmp_path))) as pool:
        first, second = pool[0].make(), pool[0].make()
        assert (first.value, first.kind.name) == (1, "B")
        assert type(first) is type(second)
        assert pool[0].knows(first)


@pytest.mark.parametrize("start_method", ["forkserver", "fork"])
def test_a_plugin_that_is_loaded_once_more_has_new_classes(start_method: Any, tmp_path: Path) -> None:
    before = load("path_plugin", write(tmp_path))
    # Of another length: within one second, Python would take the bytecode of the file before for that of this one.
    edited = PLUGIN.replace("2 * x", "3 * x").replace("Kind.B)", "Kind.A)") + "# edited\n"
    with ProxyPool(before.Plugin, worker_count=1, start_method=start_method) as pool:
        after = load("path_plugin", write(tmp_path, edited))
        with ProxyPool(after.Plugin, worker_count=1, start_method=start_method) as other:
            assert (pool[0].double(1), other[0].double(1)) == (2, 3)
            assert pool[0].knows(before.Item(1, before.Kind.B))


def test_what_in_such_a_module_cannot_go_along_is_named(tmp_path: Path) -> None:
    module = make("memory_module", "ROWS = (row for row in ())\n")
    with (
        ProxyPool(Loader, worker_count=1, init_args=("path_plugin", write(tmp_path))) as pool,
        pytest.raises(ArgumentPickleError, match=r"global 'module' -> attribute 'ROWS' \(generator\)"),
    ):
        exec("pool[0].knows(lambda: module.ROWS)", {"pool": pool, "module": module})


# ---- whole programs --------------------------------------------------------------------------------------------------

_SPAWNED = """
    import multiprocessing
    import typing
    from objproxy import ProxyPool

    T = typing.TypeVar("T")
    class Box(typing.Generic[T]): pass
    class Item(Box[int]): pass
    class OfTheScript:
        def make(self): return Item()
        def knows(self, item): return type(item) is Item

    def check(level):
        with ProxyPool(OfTheScript, worker_count=1, start_method=("forkserver", "fork", "forkserver")[level]) as pool:
            item = pool[0].make()
            assert type(item) is Item
            assert pool[0].knows(item) and pool[0].knows(Item())
        if level:
            start_method = ("spawn", "forkserver")[level % 2]
            child = multiprocessing.get_context(start_method).Process(target=check, args=(level - 1,))
            child.start()
            child.join()
            assert child.exitcode == 0

    if __name__ == "__main__":
        check(2)
        print("right")
"""

_OF_A_PACKAGE = """
    from objproxy import ProxyPool
    from . import other
    class OfTheScript:
        def call(self, x):
            from .other import twice
            return other.twice(x) + twice(x)
    if __name__ == "__main__":
        with ProxyPool(OfTheScript, worker_count=1) as pool:
            assert pool[0].call(1) == 4
        print("right")
"""

_TESTED = """
    from objproxy import ProxyPool
    class Item: pass
    class OfATest:
        def make(self):
            '''
            >>> class Inner:
            ...     def make(self): return Item()
            >>> with ProxyPool(Inner, worker_count=1) as pool:
            ...     type(pool[0].make()) is Item
            True
            '''
            return Item()
    def test_it():
        with ProxyPool(OfATest, worker_count=1) as pool:
            assert type(pool[0].make()) is Item
"""


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_classes_of_a_script_work_in_processes_that_multiprocessing_has_spawned(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(textwrap.dedent(_SPAWNED))
    assert run(tmp_path, "program.py") == "right\n"


def test_a_package_that_is_run_works(tmp_path: Path) -> None:
    package = tmp_path / "a_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "other.py").write_text("def twice(x): return 2 * x")
    (package / "__main__.py").write_text(textwrap.dedent(_OF_A_PACKAGE))
    assert run(tmp_path, "-m", "a_package") == "right\n"


def test_tests_that_pytest_imports_without_a_path_and_doctests_work(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "tests"
    folder.mkdir(parents=True)
    (folder / "test_program.py").write_text(textwrap.dedent(_TESTED))
    options = ("-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--doctest-modules", "--rootdir", str(tmp_path))
    assert "2 passed" in run(tmp_path, "-m", "pytest", *options, "deep")


# ---- which modules can be imported -----------------------------------------------------------------------------------


def test_modules_that_workers_can_import_are_told(tmp_path: Path) -> None:
    sys.path.insert(0, str(tmp_path))
    (tmp_path / "on_the_path.py").write_text("")
    (tmp_path / "namespace").mkdir()
    (tmp_path / "namespace" / "part.py").write_text("")
    for name in ("on_the_path", "namespace.part", "os.path", "collections.abc", "zipimport", "numpy.linalg", "_struct"):
        importlib.import_module(name)
        assert importable.can_import(name), name
        assert importable.can_import(name.partition(".")[0]), name
    assert not importable.can_import("__main__")
    assert not importable.can_import("__mp_main__")
    assert not importable.can_import("that_is_not_loaded")


def test_a_module_whose_folder_has_left_the_path_cannot_be_imported_any_more(tmp_path: Path) -> None:
    sys.path.insert(0, str(tmp_path))
    (tmp_path / "leaving.py").write_text(PLUGIN)
    module = importlib.import_module("leaving")
    with ProxyPool(module.Plugin, worker_count=1) as pool:
        assert pool[0].double(1) == 2
    sys.path.remove(str(tmp_path))
    with ProxyPool(module.Plugin, worker_count=1) as pool:
        assert type(pool[0].wrap(1)) is module.Item


def test_a_hook_that_the_installation_or_the_package_brings_is_in_workers_too(tmp_path: Path) -> None:
    class Hook(Importer):
        pass

    sys.meta_path.append(Hook())
    importlib.import_module("virtual.part")
    assert not importable.can_import("virtual.part")
    Hook.__module__ = "virtual.hooks"
    sys.modules["virtual"].__dict__.pop("part")
    again = [importlib.reload(sys.modules[name]) for name in ("virtual", "virtual.part")]
    importable._looked.verdicts.clear()
    assert all(importable.can_import(module.__name__) for module in again)
    Hook.__module__ = "finder_of_an_installation"
    importable._looked.verdicts.clear()
    assert not importable.can_import("virtual")
    (tmp_path / "editable.pth").write_text("import finder_of_an_installation; finder_of_an_installation.install()")
    sys.path.append(str(tmp_path))
    importable._looked.verdicts.clear()
    assert importable.can_import("virtual")


def test_a_submodule_without_a_file_is_made_by_an_installed_package_and_not_by_one_of_the_program(tmp_path: Path) -> None:
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "__init__.py").write_text("")
    sys.path.insert(0, str(tmp_path))
    importlib.import_module("own_package")
    make("own_package.made")
    make("json.made")
    assert importable.can_import("json.made")
    assert not importable.can_import("own_package.made")

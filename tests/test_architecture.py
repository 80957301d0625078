"""Which way imports point, and what the package shows."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import sys
from pathlib import Path

import pytest

import objproxy
from objproxy.proxy import POOL_NAMES, ProxyPool

PACKAGE = Path(objproxy.__file__).parent

#: What a function may import, where the import is optional, costs much, or must wait until the environment is set.
LATE_IMPORTS = {
    "numpy",
    "shutil",
    "pickletools",
    "objproxy.timeline",
    "tempfile",
    "traceback",
    "resource",
    "random",
    "numpy.random",
    "tqdm",
    "tqdm.auto",
    "tqdm.notebook",
    "rich.console",
    "rich.progress",
    "ipywidgets",
    "json",
    "matplotlib.figure",
    "cloudpickle",
    "annotationlib",
    "psutil",
    "pdb",
    "multiprocessing",
    "asyncio",
    "torch",
    "polars",
    "PIL",
    "pynvml",
    "threadpoolctl",
    "objproxy.backends.forked",  # the first pool's root starts before errors are loaded
    "objproxy.dashboard.server",  # the web framework, for the dashboard's own process
}

#: Rooms whose modules may only import the rooms listed.
ALLOWED = {
    "objproxy._worker": ("objproxy._worker", "objproxy.errors", "objproxy.handling", "objproxy.inspecting"),
    "objproxy.errors": (),
    "objproxy.handling": (),
    "objproxy.inspecting": (),
    "objproxy._engine": (
        "objproxy._engine",
        "objproxy._worker",
        "objproxy.errors",
        "objproxy.handling",
        "objproxy.backends.base",
    ),
    "objproxy.backends": (
        "objproxy.backends",
        "objproxy._engine",
        "objproxy._worker",
        "objproxy.errors",
        "objproxy.handling",
    ),
}

#: Rooms that speak another library's language, and the modules whose names they may use.
FACES = ("objproxy.dashboard", "objproxy.mpire", "objproxy.mtasklite", "objproxy.ompr", "objproxy.workercontext")
PUBLIC = (
    "objproxy",
    "objproxy.dashboard",
    "objproxy.devices",
    "objproxy.handling",
    "objproxy.insights",
    "objproxy.inspecting",
    "objproxy.observing",
    "objproxy.processes",
    "objproxy.progress",
    "objproxy.reductions",
)


def _name(path: Path) -> str:
    parts = ("objproxy", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@functools.cache
def _imports(tree: ast.AST, *, late: bool) -> list[tuple[str, ast.stmt]]:
    """Return the modules that are imported at the top (or in functions), type checking aside."""
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    inside = {id(child) for function in functions for child in ast.walk(function)}
    typing = {id(child) for node in ast.walk(tree) if _is_type_checking(node) for child in ast.walk(node)}
    found: list[tuple[str, ast.stmt]] = []
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Import, ast.ImportFrom)) or (id(node) in inside) != late or id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, node) for alias in node.names]
        else:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.append((whole if whole in MODULES else str(node.module), node))
    return found


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


@functools.cache
def _tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text())


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name: str) -> None:
    room = next((room for room in ALLOWED if name == room or name.startswith(f"{room}.")), None)
    if room is None:
        return
    for imported, node in (*_imports(_tree(name), late=False), *_imports(_tree(name), late=True)):
        if imported.startswith("objproxy"):
            allowed = any(imported == good or imported.startswith(f"{good}.") for good in ALLOWED[room])
            allowed = allowed or (imported == "objproxy" and room in FACES)
            assert allowed, f"{name}, line {node.lineno}, imports {imported}"


@pytest.mark.parametrize("face", FACES)
def test_a_face_is_built_on_public_names_alone(face: str) -> None:
    """Each face can be read, changed and dropped without knowing the engine."""
    rooms = [name for name in MODULES if name == face or name.startswith(f"{face}.")]
    assert rooms
    for name in rooms:
        for imported, node in (*_imports(_tree(name), late=False), *_imports(_tree(name), late=True)):
            if not imported.startswith("objproxy") or imported == face or imported.startswith(f"{face}."):
                continue
            assert imported in PUBLIC, f"{name}, line {node.lineno}, imports {imported}"
            assert isinstance(node, ast.ImportFrom)
            public = importlib.import_module(imported).__all__
            assert {alias.name for alias in node.names} <= {*public, "__version__"}, f"{name}, line {node.lineno}"


def test_there_are_no_cycles() -> None:
    graph = {name: {found for found, _ in _imports(_tree(name), late=False) if found in MODULES} for name in MODULES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("name", MODULES)
def test_functions_import_only_what_is_optional_or_costs_much(name: str) -> None:
    late = {imported for imported, _ in _imports(_tree(name), late=True)}
    own = {imported for imported in late if imported.startswith("objproxy._worker") and name.startswith("objproxy._worker")}
    standard = late & {"select"} if name == "objproxy._worker.wire" else set()
    # What a pool is made of is loaded while the root nursery is starting.
    making = late & {"objproxy.making", "objproxy.names"} if name == "objproxy.proxy" else set()
    assert late - LATE_IMPORTS - own - standard - making <= set()


@pytest.mark.parametrize("name", MODULES)
def test_what_a_module_says_it_exports_is_sorted_and_there(name: str) -> None:
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", [])
    assert list(exported) == sorted(exported)
    for attribute in exported:
        assert getattr(module, attribute) is not None


def test_every_public_name_of_the_package_is_documented_and_loaded_when_it_is_used() -> None:
    assert set(objproxy.__all__) == set(objproxy._HOMES)
    assert set(objproxy.__all__) <= set(dir(objproxy))
    for name in objproxy.__all__:
        assert inspect.getdoc(getattr(objproxy, name)), name


def test_public_names_show_the_package_as_their_home() -> None:
    for name in objproxy.__all__:
        value = getattr(objproxy, name)
        if isinstance(value, type) or inspect.isfunction(value):
            assert value.__module__.split(".")[0] == "objproxy", name


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'NoSuchThing'"):
        _ = objproxy.NoSuchThing


def test_the_pools_own_names_are_exactly_those() -> None:
    assert {name for name in dir(ProxyPool) if not name.startswith("_")} == POOL_NAMES
    for name in POOL_NAMES:
        assert inspect.getdoc(getattr(ProxyPool, name)), name


@pytest.mark.parametrize("name", MODULES)
def test_public_functions_and_classes_are_documented(name: str) -> None:
    for node in ast.walk(_tree(name)):
        if isinstance(node, (ast.ClassDef, ast.Module)) or (
            isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
        ):
            if isinstance(node, ast.ClassDef) and node.name.startswith("_"):
                continue
            if isinstance(node, ast.FunctionDef) and (not _is_public_method(node, name) or _is_overload(node)):
                continue
            assert ast.get_docstring(node), f"{name}: {getattr(node, 'name', 'the module')}"


def _is_overload(node: ast.FunctionDef) -> bool:
    return any(isinstance(decorator, ast.Name) and decorator.id == "overload" for decorator in node.decorator_list)


def _is_public_method(node: ast.FunctionDef, name: str) -> bool:
    """Whether a function stands at the top of the module or in a public class, and not in another function."""
    tree = _tree(name)
    tops = [
        *tree.body,
        *(child for top in tree.body if isinstance(top, ast.ClassDef) and top.name[0] != "_" for child in top.body),
    ]
    return any(isinstance(top, ast.FunctionDef) and top.lineno == node.lineno for top in tops)


@pytest.mark.parametrize("name", MODULES)
def test_modules_keep_their_size(name: str) -> None:
    assert len(MODULES[name].read_text().splitlines()) <= 550


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()
    assert sys.version_info >= (3, 11)

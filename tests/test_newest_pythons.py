"""What only the newest Pythons have: annotations computed when they are asked for, sentinels, lazy imports, frozendicts."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from test_script_classes import run_text

since_314 = pytest.mark.skipif(sys.version_info < (3, 14), reason="Python 3.14 computes annotations when they are asked for")
since_315 = pytest.mark.skipif(sys.version_info < (3, 15), reason="needs Python 3.15")

ANNOTATED = """
    import dataclasses, typing

    if typing.TYPE_CHECKING:
        from nowhere import Missing

    class Row(typing.NamedTuple):
        x: int
        y: list[Missing]

    @dataclasses.dataclass
    class Record:
        x: int
        y: list[Missing]
        z: Missing | None = None

    class Model:
        field: Missing
        known: int

        def __init__(self, n: Missing = 1) -> Missing:
            self.n: Missing = n

        def add(self, x: Missing, *, more: int = 0) -> Missing:
            def within(y: Missing) -> Missing:
                return y + self.n
            return within(x) + more

        def swap(self, record: Record) -> Record:
            return Record(record.y, record.x)

        def hints(self) -> dict[str, Missing]:
            return Model.__annotations__, Model.add.__annotations__, Row.__annotations__["x"], Record.__annotations__["x"]
"""


@since_314
def test_a_script_may_annotate_with_names_that_only_type_checkers_import(tmp_path: Path) -> None:
    uses = """
        with make(Model) as pool:
            print(pool[0].add(3, more=1), pool.add([1, 2], map_args=True))
            print(pool[0].swap(Record(1, 2)), pool.swap.map([Record(1, 2)]))
            print(*pool[0].hints(), sep="\\n")
            try:
                pool.add(1, 2, 3)
            except TypeError as error:
                print(error)
    """
    assert run_text(tmp_path, textwrap.dedent(ANNOTATED) + textwrap.dedent(uses), "forkserver") == [
        "5 [2 3]",
        "Record(x=2, y=1, z=None) [Record(x=2, y=1, z=None)]",
        "{'field': 'Missing', 'known': <class 'int'>}",
        "{'x': 'Missing', 'more': <class 'int'>, 'return': 'Missing'}",
        "<class 'int'>",
        "<class 'int'>",
        "add(x: 'Missing', *, more: 'int' = 0) -> 'Missing' was called wrongly: too many positional arguments",
    ]


@since_314
def test_so_may_a_module(tmp_path: Path) -> None:
    """Its classes go by name, and what is asked of their signatures is the same."""
    (tmp_path / "annotated.py").write_text(textwrap.dedent(ANNOTATED))
    uses = """
        import annotated
        from objproxy import mpire, parallelise

        def double(xs: list[Missing]) -> list[Missing]:
            return [2 * x for x in xs]

        def triple(x: Missing) -> Missing:
            return 3 * x

        with make(annotated.Model) as pool:
            print(pool[0].add(3), pool.add([1, 2], map_args=True))
        print(parallelise(double, worker_count=2)([1, 2, 3]))
        with mpire.WorkerPool(1) as workers:
            print(workers.map(triple, [1, 2]))
    """
    assert run_text(tmp_path, uses, "forkserver") == ["4 [2 3]", "[2, 4, 6]", "[3, 6]"]


@since_315
@pytest.mark.parametrize("start_method", ["forkserver", "fork"])
def test_a_sentinel_of_a_script_is_one_object_in_each_process(tmp_path: Path, start_method: str) -> None:
    script = """
        MISSING, SHOWN = sentinel("MISSING"), sentinel("SHOWN", repr="<shown>")

        def of_a_function():
            return sentinel("within")

        WITHIN = of_a_function()

        class Model:
            EMPTY = sentinel("Model.EMPTY")

            def is_missing(self, x=MISSING):
                return x is MISSING

            def same(self, *given):
                return [a is b for a, b in zip(given, (MISSING, SHOWN, WITHIN, Model.EMPTY), strict=True)]

            def give(self):
                return MISSING, SHOWN, WITHIN, self.EMPTY

        ALL = MISSING, SHOWN, WITHIN, Model.EMPTY
        with make(Model) as pool:
            print(pool[0].is_missing(), pool.is_missing.map([MISSING, 1, [MISSING]]))
            print(pool[0].same(*ALL), [a is b for a, b in zip(pool[0].give(), ALL)], *pool[0].give())
    """
    assert run_text(tmp_path, script, start_method) == [
        "True [True, False, False]",
        "[True, True, True, True] [True, True, True, True] MISSING <shown> within Model.EMPTY",
    ]


@since_315
def test_what_a_script_imports_lazily_is_loaded_where_it_is_used(tmp_path: Path) -> None:
    script = """
        lazy import colorsys, not_there
        lazy import xml.dom.minidom
        lazy import xml.dom.pulldom as pulling
        lazy from fractions import Fraction as Part
        lazy from wsgiref import validate
        import sys

        class Model:
            def use(self):
                names = colorsys.__name__, xml.dom.minidom.__name__, pulling.__name__, Part(1, 2), validate.__name__
                try:
                    return *names, not_there.x
                except ImportError as error:
                    return *names, error.name

        with make(Model) as pool:
            print(*pool[0].use())
            print([name for name in ("colorsys", "xml.dom.minidom", "xml.dom.pulldom", "wsgiref") if name in sys.modules])
    """
    assert run_text(tmp_path, script, "forkserver") == [
        "colorsys xml.dom.minidom xml.dom.pulldom 1/2 wsgiref.validate not_there",
        "[]",
    ]


@since_315
def test_a_frozendict_crosses_as_one(tmp_path: Path) -> None:
    script = """
        class Model:
            def give(self, x):
                return x, type(x).__name__

        with make(Model) as pool:
            frozen = frozendict(a=1, b=[2])
            print(pool[0].give(frozen), pool.give.map([frozen, frozen]))
    """
    pair = "(frozendict({'a': 1, 'b': [2]}), 'frozendict')"
    assert run_text(tmp_path, script, "forkserver") == [f"{pair} [{pair}, {pair}]"]

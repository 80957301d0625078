"""Parse Python's own standard library with workers whose parser takes seconds to make, and milliseconds to use.

Each worker holds a parser of Python that the library lark builds from a grammar: tables for thousands of states, made when
the worker starts. The tasks are the source files of some packages of the standard library. They are put in a queue package by
package, while the results of those before are being read. A file with syntax that the grammar does not know is an error among
the results, and costs nothing else.

Run it:  python examples/ompr_parser.py --workers 2 --packages json email logging --output constructs.png
"""

from __future__ import annotations

import argparse
import ast
import sysconfig
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from objproxy.ompr import OMPRException, OMPRunner, RunningWorker

LIBRARY = Path(sysconfig.get_paths()["stdlib"])

#: Constructs: the grammar's names, and those of the module `ast`, with which the counts are compared.
CONSTRUCTS = {
    "functions": ({"funcdef"}, (ast.FunctionDef, ast.AsyncFunctionDef)),
    "classes": ({"classdef"}, (ast.ClassDef,)),
    "for loops": ({"for_stmt"}, (ast.For, ast.AsyncFor)),
    "returns": ({"return_stmt"}, (ast.Return,)),
}


class PythonParser(RunningWorker):
    """Counts the constructs of one source file.

    Parameters
    ----------
    start : str
        What the grammar begins with.
    device : object
        Filled in by the runner; a model would be loaded there.
    """

    def __init__(self, start: str = "file_input", *, device: int | None = None) -> None:
        from lark import Lark
        from lark.indenter import PythonIndenter

        began = time.perf_counter()
        self.parser = Lark.open_from_package(
            "lark", "python.lark", ["grammars"], postlex=PythonIndenter(), parser="lalr", start=start
        )
        self.seconds_to_make = time.perf_counter() - began
        self.device = device

    def process(self, package: str, path: Path) -> tuple[str, Counter[str], float, float]:
        """Return the package, the counts, and the seconds of this file and of making the parser."""
        began = time.perf_counter()
        tree = self.parser.parse(path.read_text(encoding="utf-8") + "\n")
        counts: Counter[str] = Counter()
        for node in tree.iter_subtrees():
            for name, (rules, _) in CONSTRUCTS.items():
                counts[name] += node.data in rules
        return package, counts, time.perf_counter() - began, self.seconds_to_make


def find_tasks(package: str, n_files: int) -> list[dict[str, object]]:
    """Return one task for each of the first files of a package."""
    return [{"package": package, "path": path} for path in sorted((LIBRARY / package).glob("*.py"))[:n_files]]


def parse_all(packages: list[str], n_files: int, devices: object) -> Iterator[object]:
    """Yield results as they come, feeding the tasks of a package while those of the last are being done."""
    with OMPRunner(
        PythonParser, devices=devices, ordered_results=False, rerun_crashed=False, log_rww_exception=False
    ) as runner:
        print(f"{runner.get_num_workers()} workers, each with a parser of its own")
        for package in packages:
            runner.process(find_tasks(package, n_files))
            while (result := runner.get_result(block=False)) is not None:
                yield result
        yield from runner.get_all_results()


def count_with_ast(path: Path) -> Counter[str]:
    """Count the same constructs with Python's own parser."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    return Counter({name: sum(isinstance(node, kinds) for node in nodes) for name, (_, kinds) in CONSTRUCTS.items()})


def draw(table: dict[str, Counter[str]], path: Path) -> None:
    """Draw the constructs of each package."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    left = [0] * len(table)
    for name in CONSTRUCTS:
        counts = [table[package][name] for package in table]
        axes.barh(list(table), counts, left=left, label=name)
        left = [before + count for before, count in zip(left, counts, strict=True)]
    axes.set_xlabel("constructs in the package's source files")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Parse, compare with Python's own parser, print a table, draw a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, help="CPU workers (default: what --devices says)")
    parser.add_argument("--devices", nargs="+", default=["all"], help="one worker for each of these devices")
    parser.add_argument("--packages", nargs="+", default=["json", "email", "asyncio", "http", "logging", "unittest"])
    parser.add_argument("--files", type=int, default=1000, help="most files of a package")
    parser.add_argument("--output", type=Path, help="where to draw a figure")
    options = parser.parse_args()
    devices: object = [None] * options.workers if options.workers else options.devices

    began = time.perf_counter()
    table = {package: Counter[str]() for package in options.packages}
    failed, seconds, seconds_to_make = [], [], 0.0
    for result in parse_all(options.packages, options.files, devices):
        if isinstance(result, OMPRException):
            failed.append(result.task["path"])
            continue
        package, counts, seconds_of_file, seconds_to_make = result
        table[package] += counts
        seconds.append(seconds_of_file)
    elapsed = time.perf_counter() - began

    print(f"{'package':<12}" + "".join(f"{name:>12}" for name in CONSTRUCTS))
    for package, counts in table.items():
        print(f"{package:<12}" + "".join(f"{counts[name]:>12}" for name in CONSTRUCTS))
    for path in failed:
        print(f"not parsed: {path.relative_to(LIBRARY)} (syntax that the grammar does not know)")
    print(f"making a parser {seconds_to_make:.2f} s, a file {1000 * sum(seconds) / len(seconds):.0f} ms in the mean")
    print(f"{len(seconds)} files in {elapsed:.1f} s, {sum(seconds):.1f} s of parsing")

    good = [task["path"] for package in table for task in find_tasks(package, options.files) if task["path"] not in failed]
    expected = sum((count_with_ast(Path(str(path))) for path in good), Counter[str]())
    print(f"Python's own parser counts the same: {sum(table.values(), Counter[str]()) == expected}")
    if options.output:
        draw(table, options.output)


if __name__ == "__main__":
    main()

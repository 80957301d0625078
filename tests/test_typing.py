"""What a type checker sees: the pool knows its class, and one instance has the methods of the class."""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

import pytest

PROGRAM = """
from typing import assert_type

from objproxy import ProxyPool, WorkerDiedError, current_worker


class Model:
    rate: float = 1.0

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def score(self, x: float, *, bias: int = 0) -> float:
        return self.rate * x + bias


pool = ProxyPool(Model, worker_count=2, init_args=(2.0,))
assert_type(pool, ProxyPool[Model])
assert_type(pool[0], Model)
assert_type(pool[0].score(3.0, bias=1), float)
assert_type(pool[0].rate, float)
assert_type([instance.score(1.0) for instance in pool], list[float])
assert_type(len(pool), int)


def make_model() -> Model:
    return Model(3.0)


assert_type(ProxyPool(make_model), ProxyPool[Model])

with ProxyPool(Model, init_args=(1.0,)) as other:
    assert_type(other, ProxyPool[Model])
    results = other.score([1, 2], map_args=True, chunksize=3)
    future = other.score.options(timeout=3.0).submit(1.0)
    assert_type(other.workers[0].id, int)
    other.close(timeout=3)

try:
    print(current_worker().worker_id)
except WorkerDiedError as error:
    assert_type(error.worker_id, int)
"""

MISTAKES = {
    "pool[0].score('text')": "arg-type",
    "pool[0].scoer(1.0)": "attr-defined",
    "pool[0].score(1.0, base=2)": "call-arg",
    "ProxyPool(Model, worker_cuont=2)": "call-arg",
    "ProxyPool(3)": "arg-type",
    "pool.close(1, 2)": "call-arg",
    "x: str = pool[0].score(1.0)": "assignment",
}


@pytest.mark.slow
def test_a_pool_is_known_to_a_strict_type_checker(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(PROGRAM) + "\n".join(MISTAKES) + "\n")
    root = Path(__file__).parents[1]
    config = tmp_path / "mypy.ini"
    config.write_text(f"[mypy]\nstrict = True\nmypy_path = {root}\nfollow_imports = silent\n")
    out, err, _ = api.run(
        [
            "--config-file",
            str(config),
            "--cache-dir",
            str(tmp_path / "cache"),
            "--python-executable",
            sys.executable,
            str(path),
        ]
    )
    assert err == ""
    first = len(textwrap.dedent(PROGRAM).splitlines()) + 1
    found = {int(line): code for line, code in re.findall(r"program\.py:(\d+): error: .*\[([a-z-]+)\]", out)}
    assert found == {first + i: code for i, code in enumerate(MISTAKES.values())}, out

"""Classes and functions of a script, which go by value: what they use goes along, and is one thing in a worker."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from targets import PATIENCE_SECONDS

ROOT = Path(__file__).parents[1]
START_METHODS = ("forkserver", "fork", "spawn")

BEGIN = """
    import contextvars, functools, sqlite3, sys, threading
    from concurrent.futures import ThreadPoolExecutor
    from objproxy import ArgumentPickleError, ProxyPool

    class Caller:
        def call(self, function, *args):
            return function(*args)

    def make(cls=Caller):
        return ProxyPool(cls, worker_count=1, start_method=sys.argv[1])
"""


def run(path: Path, *args: str) -> str:
    """Run a script and return what it has printed."""
    done = subprocess.run(
        [sys.executable, str(path), *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout


def run_text(tmp_path: Path, script: str, *args: str) -> list[str]:
    """Run a script behind `BEGIN`; return the lines that it has printed."""
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(BEGIN) + textwrap.dedent(script))
    return run(path, *args).splitlines()


@pytest.mark.parametrize("start_method", START_METHODS)
def test_whatever_classes_and_modules_have_goes_along(start_method: str) -> None:
    assert run(Path(__file__).parent / "script_of_classes.py", start_method).endswith("classes; failed: []\n")


@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_lock_that_a_class_and_a_function_share_is_one_lock_in_a_worker(tmp_path: Path, start_method: str) -> None:
    """They come in messages of their own. So does a context variable."""
    lines = run_text(
        tmp_path,
        """
        LOCK, VARIABLE = threading.Lock(), contextvars.ContextVar("variable")

        class Holder:
            lock = LOCK
            def call(self, function):
                VARIABLE.set("of the worker")
                with LOCK:
                    return function(), self.lock.locked()

        def look():
            return LOCK.locked(), VARIABLE.get()

        with make(Holder) as pool:
            print(pool[0].call(look), pool[0].call(lambda: LOCK.locked()), LOCK.locked())
        """,
        start_method,
    )
    assert lines == ["((True, 'of the worker'), True) (True, True) False"]


@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_class_is_built_once_in_each_process(tmp_path: Path, start_method: str) -> None:
    """Regression: an instance that arrived set all attributes of its class anew, in the worker and in the program.

    The program's methods then saw the globals that the worker's had, and what the worker had kept in the class was lost.
    """
    lines = run_text(
        tmp_path,
        """
        SCALE = 1

        class Point:
            n_added = 0

            def __init__(self, x):
                self.x = x

            def scaled(self):
                return self.x * SCALE

            @staticmethod
            @functools.cache
            def slow(x):
                return x

            def add(self):
                Point.n_added += 1
                return Point.n_added, Point.slow(self.x), Point.slow.cache_info().hits, type(self) is Point

            def __init_subclass__(cls):
                made.append(cls.__name__)

        made = []

        class Deep(Point):
            pass

        with make() as pool:
            point = pool[0].call(Deep, 3)
            Point.n_added, SCALE = 100, 10
            print(isinstance(point, Deep), point.scaled(), Point(1).scaled(), Point.n_added, made)
            print(*(pool[0].call(Point.add, Point(1)) for _ in range(3)))
        """,
        start_method,
    )
    assert lines == ["True 30 10 100 ['Deep']", "(1, 1, 0, True) (2, 1, 1, True) (3, 1, 2, True)"]


def test_what_cannot_go_along_is_named_with_the_way_to_it(tmp_path: Path) -> None:
    lines = run_text(
        tmp_path,
        """
        CONNECTION = sqlite3.connect(":memory:")
        BY_NAME = {"one": [CONNECTION]}
        EXECUTOR = ThreadPoolExecutor(1)

        def connect():
            return CONNECTION

        class Method:
            def of_a_cycle(self):
                return Method
            def load(self):
                return [CONNECTION for _ in range(2)]

        class Attribute:
            connection = CONNECTION

        class Heir(Method):
            pass

        class Property:
            @property
            def rows(self):
                return BY_NAME

        class Cached:
            @functools.lru_cache
            def load(self):
                return connect()

        class Kept:
            @functools.cached_property
            def executor(self):
                return EXECUTOR

        class Default:
            def __init__(self, connection=CONNECTION):
                pass

        class UsesPool:
            def load(self):
                return pool

        class Proxy:
            @property
            def __class__(self):
                raise RuntimeError("outside of a request")

        PROXY = Proxy()

        class UsesProxy:
            def load(self):
                return PROXY

        for cls in (Method, Attribute, Heir, Property, Cached, Kept, Default, connect, UsesProxy):
            try:
                make(cls)
            except ArgumentPickleError as error:
                print(error.path)
        with make() as pool:
            call, put = pool[0].call, pool.put
            for send, value in ((call, connect), (call, Attribute()), (put, connect), (put, UsesPool)):
                try:
                    send(value)
                except ArgumentPickleError as error:
                    print(error.path)
        """,
        "forkserver",
    )
    assert lines == [
        "class Method -> method 'load' -> global 'CONNECTION' (sqlite3.Connection)",
        "class Attribute -> attribute 'connection' (sqlite3.Connection)",
        "class Heir -> base 'Method' -> method 'load' -> global 'CONNECTION' (sqlite3.Connection)",
        "class Property -> property 'rows' -> global 'BY_NAME'['one'][0] (sqlite3.Connection)",
        "class Cached -> method 'load' -> global 'connect' -> global 'CONNECTION' (sqlite3.Connection)",
        "class Kept -> property 'executor' -> global 'EXECUTOR' (concurrent.futures.thread.ThreadPoolExecutor)",
        "class Default -> method '__init__' -> default (sqlite3.Connection)",
        "factory connect -> global 'CONNECTION' (sqlite3.Connection)",
        "class UsesProxy -> method 'load' -> global 'PROXY' (__main__.Proxy)",
        "argument 0 -> global 'CONNECTION' (sqlite3.Connection)",
        "argument 0 -> class 'Attribute' -> attribute 'connection' (sqlite3.Connection)",
        "argument 0 -> global 'CONNECTION' (sqlite3.Connection)",
        "argument 0 -> method 'load' -> global 'pool' (objproxy.proxy.ProxyPool)",
    ]


def test_a_lock_in_an_argument_is_refused_though_a_class_may_use_it(tmp_path: Path) -> None:
    """A caller would expect that it is shared with the worker."""
    lines = run_text(
        tmp_path,
        """
        LOCK = threading.Lock()

        class Config:
            def __init__(self):
                self.lock = threading.Lock()
            def use(self):
                return LOCK

        with make() as pool:
            for value in (LOCK, Config(), {"a": [Config()]}, functools.partial(print, LOCK), Config().use):
                try:
                    pool[0].call(value)
                except ArgumentPickleError as error:
                    print(error.path)
        """,
        "forkserver",
    )
    assert lines == [
        "argument 0 (_thread.lock)",
        "argument 0 -> .lock (_thread.lock)",
        "argument 0 -> ['a'][0].lock (_thread.lock)",
        "argument 0 -> .args[0] (_thread.lock)",
        "argument 0 -> .__self__.lock (_thread.lock)",
    ]

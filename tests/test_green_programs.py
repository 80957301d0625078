"""Programs that gevent or eventlet have patched: threads are greenlets, and who waits lets others run."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from targets import PATIENCE_SECONDS

ROOT = Path(__file__).parents[1]

PATCHES = {
    "gevent": """
        from gevent import monkey

        monkey.patch_all({options})
        from gevent import Timeout, sleep, spawn

        def join(greenlet):
            return greenlet.get()
    """,
    "eventlet": """
        import eventlet

        eventlet.monkey_patch({options})
        from eventlet import Timeout, sleep, spawn

        def join(greenlet):
            return greenlet.wait()
    """,
}

#: `Ticks` counts how often another greenlet has run.
TOOLS = """
    import concurrent.futures, faulthandler, os, signal, subprocess, sys, threading, time
    import objproxy
    from objproxy import ProxyPool, TaskTimeoutError, WorkerDiedError

    faulthandler.dump_traceback_later(100, exit=True)

    class Worker:
        def double(self, x):
            return 2 * x
        def slow(self, x, seconds=0.2):
            time.sleep(seconds)
            return x
        def pid(self):
            return os.getpid()

    class Ticks:
        def __enter__(self):
            self.n, self.is_over = 0, False
            self.greenlet = spawn(self.run)
        def run(self):
            while not self.is_over:
                self.n += 1
                sleep(0.005)
        def __exit__(self, *_):
            self.is_over = True
            assert self.n > 3, f"nothing else has run, {self.n}"
"""


@functools.cache
def _need_working(library: str) -> None:
    if importlib.util.find_spec(library) is None:  # to import it would change the process of all tests
        pytest.skip(f"this needs {library}: pip install 'objproxy[test,test-more]'")
    patch = textwrap.dedent(PATCHES[library]).format(options="")
    tried = subprocess.run([sys.executable, "-c", patch], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    if tried.returncode:
        pytest.skip(f"{library} does not work here: {tried.stderr.splitlines()[-1]}")


def run(folder: Path, library: str, script: str, *, is_late: bool = False, options: str = "", **environ: str) -> str:
    """Run a program that patches itself, before it imports us or after that (and after its first pool); return its output."""
    _need_working(library)
    patch, tools = textwrap.dedent(PATCHES[library]).format(options=options), textwrap.dedent(TOOLS)
    early = "\nwith ProxyPool(dict, worker_count=1):\n    pass\n"
    path = folder / "program.py"
    path.write_text((tools + early + patch if is_late else patch + tools) + textwrap.dedent(script))
    ended = subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_SECONDS,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", **environ},
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


VERBS = """
    with ProxyPool(Worker, worker_count=2, **options) as pool:
        assert pool.double.map(range(50)) == [2 * i for i in range(50)]
        assert pool.double.submit(4).result(timeout=30) == 8
        with Ticks():
            assert list(pool.slow(1)) == [1, 1]
        with Ticks():
            assert pool.slow.submit(1).result(timeout=30) == 1
        with Ticks():
            assert list(pool.slow.imap(range(4), [0.05] * 4)) == [0, 1, 2, 3]
        with Ticks():
            futures = [pool.slow.submit(i, 0.05) for i in range(4)]
            assert sorted(future.result() for future in concurrent.futures.as_completed(futures)) == [0, 1, 2, 3]
        stream = pool.double.stream()
        stream.put(iter([1, 2]))
        stream.put([3])
        stream.end()
        assert sorted(stream) == [2, 4, 6]

        def use(number):
            for i in range(3):
                assert pool.double.map(range(number, number + 9)) == [2 * i for i in range(number, number + 9)]
                assert pool.double.submit(i).result(30) == 2 * i
                assert list(pool.slow(number, 0.005)) == [number] * 2
            return number

        assert [join(greenlet) for greenlet in [spawn(use, i) for i in range(10)]] == list(range(10))
        last = spawn(pool.slow, 7, 0.3)
        sleep(0.05)
        with Ticks():
            pool.close()
        assert list(join(last)) == [7, 7]
    ProxyPool(Worker, worker_count=1, warn_unclosed=False).slow.submit(1, 20)  # a program may end in the midst
"""


@pytest.mark.parametrize("is_late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_pools_work_and_let_other_greenlets_run(tmp_path: Path, library: str, is_late: bool) -> None:
    run(tmp_path, library, "options = {}\n" + textwrap.dedent(VERBS), is_late=is_late)


@pytest.mark.parametrize(
    ("library", "options"),
    [("gevent", "'backend': 'thread'"), ("eventlet", "'backend': 'thread'"), ("gevent", "'start_method': 'fork'")],
)
def test_threads_and_forks_of_such_programs_work(tmp_path: Path, library: str, options: str) -> None:
    run(tmp_path, library, f"options = {{{options}}}\n" + textwrap.dedent(VERBS))


def test_what_is_there_elsewhere_than_on_linux_lets_other_greenlets_run(tmp_path: Path) -> None:
    run(tmp_path, "gevent", "options = {}\n" + textwrap.dedent(VERBS), OBJPROXY_PORTABLE="1")


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_a_program_that_leaves_threads_as_they_are_lets_greenlets_run(tmp_path: Path, library: str) -> None:
    code = """
    from concurrent.futures import ThreadPoolExecutor

    with ProxyPool(Worker, worker_count=2) as pool, ThreadPoolExecutor(3) as executor:
        with Ticks():
            assert list(pool.slow(1)) == [1, 1]
        with Ticks():
            assert pool.slow.submit(1).result(timeout=30) == 1
        threads = [executor.submit(pool.slow, i, 0.05) for i in range(6)]
        greenlets = [spawn(pool.slow, i, 0.05) for i in range(6)]
        assert [list(join(greenlet)) for greenlet in greenlets] == [[i, i] for i in range(6)]
        assert [list(thread.result()) for thread in threads] == [[i, i] for i in range(6)]
    """
    run(tmp_path, library, code, options="thread=False")


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_an_error_thrown_into_a_greenlet_that_waits_leaves_the_pool_whole(tmp_path: Path, library: str) -> None:
    code = """
    def attempt(wait, error):
        try:
            with Timeout(0.1, error):
                wait()
        except BaseException as exc:
            return type(exc)

    with ProxyPool(Worker, worker_count=2) as pool:
        for wait in (
            lambda: pool.slow(1, 0.5),
            lambda: pool.slow.map([1, 2, 3], [0.5] * 3),
            lambda: list(pool.slow.imap([1, 2, 3], [0.5] * 3)),
            lambda: pool.slow.submit(1, 0.5).result(),
        ):
            assert attempt(wait, None) is Timeout
            assert attempt(wait, LookupError("mine")) is LookupError
            assert list(pool.double(3)) == [6, 6]
        greenlets = [spawn(pool.slow, i, 0.3) for i in range(3)]
        sleep(0.05)
        greenlets.pop(0).kill()  # the one that turns the engine
        assert [list(join(greenlet)) for greenlet in greenlets] == [[1, 1], [2, 2]]
    """
    run(tmp_path, library, code)


def test_a_killed_worker_a_time_out_and_an_interrupt_are_told_in_greenlets(tmp_path: Path) -> None:
    code = """
    def use(i):
        try:
            return pool.slow.map([i], [0.5])[0]
        except WorkerDiedError:
            return "died"

    with ProxyPool(Worker, worker_count=2) as pool:
        greenlets = [spawn(use, i) for i in range(2)]
        sleep(0.2)
        os.kill(pool.workers[0].pid, signal.SIGKILL)
        assert "died" in [join(greenlet) for greenlet in greenlets]
        try:
            pool.slow.options(timeout=0.2).map([1], [60])
        except TaskTimeoutError:
            pass
        greenlet = spawn(pool.slow, 1, 0.5)
        subprocess.Popen(["sh", "-c", "sleep 0.2; kill -INT $PPID"])
        try:
            pool.slow(2, 2.0)
        except KeyboardInterrupt:
            print("interrupted")
        assert list(join(greenlet)) == [1, 1]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    """
    assert run(tmp_path, "gevent", code) == "interrupted\n"


def test_more_greenlets_than_descriptors_may_wait(tmp_path: Path) -> None:
    code = """
    import resource

    with ProxyPool(Worker, worker_count=2) as pool:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        greenlets = [spawn(lambda i=i: pool.slow.map([i], [0.0005])[0]) for i in range(300)]
        assert [join(greenlet) for greenlet in greenlets] == list(range(300))
    """
    run(tmp_path, "gevent", code)


MODULE = """
    from gevent import monkey

    monkey.patch_all()
    import gevent, os, time

    class Background:
        def __init__(self):
            self.n = 0
            gevent.spawn(self.count)
        def count(self):
            while True:
                time.sleep(0.005)
                self.n += 1
        def n_counted(self):
            return self.n
        def slow(self, seconds):
            time.sleep(seconds)
        def pid(self):
            return os.getpid()
"""


@pytest.mark.parametrize("start_method", ["forkserver", "fork"])
def test_a_class_whose_module_patches_its_process_works_in_workers(tmp_path: Path, start_method: str) -> None:
    """Its greenlets run while the worker waits for the next call; the process that starts workers still sees their ends."""
    (tmp_path / "background.py").write_text(textwrap.dedent(MODULE))
    code = f"""
    from background import Background

    with ProxyPool(Background, worker_count=2, start_method={start_method!r}) as pool:
        while min(pool.n_counted()) < 5:
            sleep(0.01)
        try:
            pool.slow.options(timeout=0.2).submit(60).result(60)
        except TaskTimeoutError:
            pass
        try:
            os.kill(pool[0].pid(), signal.SIGKILL)
            pool[0].pid()
        except WorkerDiedError:
            pass
        assert pool.wait_ready(60) and len(set(pool.pid())) == 2
    """
    run(tmp_path, "gevent", code)

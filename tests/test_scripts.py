"""Whole programs: what no test inside of pytest can see, such as ``__main__``, exits and interrupts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from optional import need
from targets import PATIENCE_SECONDS, poll_until

psutil = need("psutil")

ROOT = Path(__file__).parents[1]
START_METHODS = ("forkserver", "fork", "spawn")

MODEL = """
    import os, signal, sys, time
    from objproxy import ProxyPool, PoolClosedError

    class Model:
        def __init__(self, rate=2):
            self.rate = rate
        def score(self, x):
            return self.rate * x
        def pid(self):
            return os.getpid()
        def hang(self, path=None):
            if path:
                open(path, "w").close()
            time.sleep(1000)
"""


def _environ() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}


def run(tmp_path: Path, script: str, *args: str, warnings: str = "default") -> subprocess.CompletedProcess[str]:
    """Run a program, `MODEL` in front, with the start method as its first argument."""
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(MODEL) + textwrap.dedent(script))
    environ = {**_environ(), "PYTHONWARNINGS": warnings}
    return subprocess.run(
        [sys.executable, str(path), *args],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env=environ,
        cwd=tmp_path,
    )


@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_class_of_a_script_without_a_main_guard_works(tmp_path: Path, start_method: str) -> None:
    done = run(
        tmp_path,
        """
        SCALE = 10

        class Scaled(Model):
            def score(self, x):
                return SCALE * super().score(x)

        print("run once")
        with ProxyPool(Scaled, worker_count=2, start_method=sys.argv[1]) as pool:
            print(pool.score(3).tolist(), pool.score([1, 2], map_args=True).tolist(), pool[0].rate)
        """,
        start_method,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("run once\n[60, 60] [20, 40] 2\n", "", 0)


@pytest.mark.parametrize("start_method", START_METHODS)
def test_errors_and_objects_of_a_script_travel_both_ways(tmp_path: Path, start_method: str) -> None:
    done = run(
        tmp_path,
        """
        class Trouble(Exception):
            pass

        class Point:
            def __init__(self, x):
                self.x = x

        class Mover:
            def move(self, point):
                if point.x < 0:
                    raise Trouble("negative")
                return Point(point.x + 1)

        with ProxyPool(Mover, worker_count=1, start_method=sys.argv[1]) as pool:
            point = pool[0].move(Point(1))
            print(point.x, isinstance(point, Point))
            try:
                pool[0].move(Point(-1))
            except Trouble as exc:
                print("caught", exc)
        """,
        start_method,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("2 True\ncaught negative\n", "", 0)


@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_program_from_standard_input_works(start_method: str) -> None:
    script = textwrap.dedent(MODEL) + (
        f"with ProxyPool(Model, worker_count=1, start_method={start_method!r}) as pool:\n    print(pool[0].score(4))\n"
    )
    done = subprocess.run(
        [sys.executable, "-"], input=script, capture_output=True, text=True, timeout=PATIENCE_SECONDS, env=_environ()
    )
    assert (done.stdout, done.stderr, done.returncode) == ("8\n", "", 0)


@pytest.mark.parametrize("where", ["global", "function", "exception", "running"])
@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_pool_that_is_never_closed_does_not_hold_the_interpreter(tmp_path: Path, start_method: str, where: str) -> None:
    done = run(
        tmp_path,
        """
        def make():
            return ProxyPool(Model, worker_count=2, start_method=sys.argv[1])

        if sys.argv[2] == "function":
            def use():
                pool = make()
                print(*pool.pid())
                return pool
            kept = [use()]
        else:
            pool = make()
            print(*pool.pid())
        if sys.argv[2] == "running":
            futures = [pool.hang.submit() for _ in range(4)]
        sys.stdout.flush()
        if sys.argv[2] == "exception":
            raise SystemExit(5)
        """,
        start_method,
        where,
        warnings="ignore",
    )
    assert (done.stderr, done.returncode) == ("", 5 if where == "exception" else 0)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    poll_until(lambda: not any(psutil.pid_exists(pid) for pid in pids))


@pytest.mark.parametrize("backend", ["thread", "serial"])
def test_threads_that_are_never_closed_do_not_hold_the_interpreter(tmp_path: Path, backend: str) -> None:
    done = run(
        tmp_path,
        """
        pool = ProxyPool(Model, worker_count=2, backend=sys.argv[1])
        print(pool.score(1).tolist(), flush=True)
        if sys.argv[1] == "thread":
            future = pool.hang.submit()
        """,
        backend,
        warnings="ignore",
    )
    assert (done.stdout, done.stderr, done.returncode) == ("[2, 2]\n", "", 0)


@pytest.mark.parametrize("start_method", START_METHODS)
def test_an_interrupt_ends_the_program_and_its_workers(tmp_path: Path, start_method: str) -> None:
    path, started = tmp_path / "program.py", tmp_path / "started"
    script = """
    with ProxyPool(Model, worker_count=2, start_method=sys.argv[1]) as pool:
        print(*pool.pid(), flush=True)
        pool[0].hang(sys.argv[2])
    """
    path.write_text(textwrap.dedent(MODEL) + textwrap.dedent(script))
    with subprocess.Popen(
        [sys.executable, str(path), start_method, str(started)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environ(),
    ) as program:
        poll_until(started.exists)
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=PATIENCE_SECONDS)
    assert program.returncode == -signal.SIGINT
    assert err.count("KeyboardInterrupt") == 1, err
    poll_until(lambda: not any(psutil.pid_exists(int(pid)) for pid in out.split()))


@pytest.mark.parametrize("start_method", START_METHODS)
def test_killing_the_program_leaves_no_worker(tmp_path: Path, start_method: str) -> None:
    path, started = tmp_path / "program.py", tmp_path / "started"
    script = """
    pool = ProxyPool(Model, worker_count=2, start_method=sys.argv[1])
    print(*pool.pid(), flush=True)
    pool[0].hang(sys.argv[2])
    """
    path.write_text(textwrap.dedent(MODEL) + textwrap.dedent(script))
    with subprocess.Popen(
        [sys.executable, str(path), start_method, str(started)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=_environ(),
    ) as program:
        poll_until(started.exists)
        program.kill()
        out, _ = program.communicate(timeout=PATIENCE_SECONDS)
    pids = [int(pid) for pid in out.split()]
    assert len(pids) == 2
    poll_until(lambda: not any(psutil.pid_exists(pid) for pid in pids))


def test_an_unhandled_error_shows_the_workers_traceback(tmp_path: Path) -> None:
    done = run(tmp_path, "with ProxyPool(Model, worker_count=1) as pool:\n    pool[0].score(None)\n")
    assert done.returncode == 1
    assert "return self.rate * x" in done.stderr
    assert "TypeError: unsupported operand" in done.stderr
    assert "raised on worker 0 (device cpu) by method 'score'" in done.stderr


def test_the_doctests_of_the_package_hold() -> None:
    import doctest

    import objproxy.proxy

    assert doctest.testmod(objproxy.proxy).failed == 0


@pytest.mark.skipif("COVERAGE_RUN" in os.environ, reason="what measures loads some of it itself")
def test_importing_the_package_loads_nothing_large() -> None:
    large = {"numpy", "cloudpickle", "tqdm", "asyncio", "multiprocessing"}
    code = f"import sys, objproxy; print(*({large} & {{*sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=_environ(), cwd=ROOT, timeout=PATIENCE_SECONDS
    )
    assert (done.stdout, done.stderr) == ("\n", "")


@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_worker_that_sees_no_array_never_loads_numpy(start_method: str) -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests/bare'); from bare_target import Bare; from objproxy import ProxyPool\n"
        f"with ProxyPool(Bare, worker_count=1, start_method={start_method!r}) as pool:\n"
        "    pool[0].double(2), pool.double.map(range(100)), pool.double.submit(1).result()\n"
        "    print(pool[0].loaded('numpy'), pool[0].loaded('tqdm'), 'numpy' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=_environ(), cwd=ROOT, timeout=PATIENCE_SECONDS
    )
    assert (done.stdout, done.stderr) == ("False False False\n", "")


def test_a_forked_worker_runs_no_exit_function_of_the_program(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        import atexit

        atexit.register(print, "the program ends")
        print("buffered")
        with ProxyPool(Model, worker_count=2, start_method="fork") as pool:
            print(pool.score(1).tolist())
        """,
    )
    assert (done.stdout, done.stderr) == ("buffered\n[2, 2]\nthe program ends\n", "")


@pytest.mark.parametrize(
    ("preparation", "devices", "expected"),
    [
        ("", "[None]", "process/fork,"),
        ("threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()", "[None]", "process/forkserver,"),
        ("os.environ['OBJPROXY_FAKE_CUDA'] = '1'", "[0]", "process/forkserver,"),
    ],
    ids=["one thread", "two threads", "a GPU"],
)
def test_fork_if_safe_forks_a_program_with_one_thread_and_no_gpu(
    tmp_path: Path, preparation: str, devices: str, expected: str
) -> None:
    script = f"""
        import threading
        if __name__ == "__main__":
            {preparation}
            with ProxyPool(Model, devices={devices}, start_method="fork-if-safe") as pool:
                print(repr(pool), pool.score(2))
    """
    done = run(tmp_path, script)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert expected in done.stdout
    assert "[4]" in done.stdout


def test_fork_if_safe_means_nothing_where_nothing_is_started(tmp_path: Path) -> None:
    script = """
        with ProxyPool(Model, worker_count=1, backend="serial", start_method="fork-if-safe") as pool:
            print(repr(pool))
    """
    done = run(tmp_path, script)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "serial" in done.stdout


def test_what_was_preloaded_is_not_loaded_by_the_first_pool(tmp_path: Path) -> None:
    script = """
        import multiprocessing, objproxy

        def own_modules():
            return {name for name in sys.modules if name.startswith("objproxy")}

        if __name__ == "__main__":
            before = own_modules()
            objproxy.preload()
            loaded = own_modules()
            with ProxyPool(Model, worker_count=1, start_method=sys.argv[1]) as pool:
                pool.score(2)
                print(len(loaded) > len(before) + 20, sorted(own_modules() - loaded))
    """
    for start_method in START_METHODS:
        done = run(tmp_path, script, start_method)
        assert (done.returncode, done.stderr, done.stdout) == (0, "", "True []\n"), (start_method, done)


def test_workers_of_the_queue_preload_nothing(tmp_path: Path) -> None:
    script = """
        from objproxy.ompr import OMPRunner, RunningWorker

        class Teller(RunningWorker):
            def process(self, name):
                return name in sys.modules

        if __name__ == "__main__":
            with OMPRunner(Teller, devices=[None], pool_options={"start_method": "forkserver"}) as runner:
                runner.process([{"name": "objproxy._engine.streaming"}, {"name": "objproxy.ompr.runner"}])
                print(runner.get_all_results())
    """
    done = run(tmp_path, script)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "[False, True]\n"), done

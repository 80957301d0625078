"""Programs that end without closing their pools, and forked workers of programs that have things of their own to end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from programs import GONE_SECONDS, is_gone, run
from targets import poll_until

START_METHODS = ["forkserver", "fork", "spawn"]

PREAMBLE = """
    from pathlib import Path
    from ending_targets import *

    folder, method = Path(sys.argv[1]), sys.argv[2]

    def make(n_workers=2, **options):
        return ProxyPool(Background, worker_count=n_workers, start_method=method, warn_unclosed=False, **options)
"""

READY = """
    print("ready", flush=True)
"""


@pytest.mark.parametrize("start_method", START_METHODS)
@pytest.mark.parametrize("end", ["", "raise SystemExit(0)", "raise LookupError('mine')"])
def test_a_program_that_ends_lets_its_workers_run_their_exit_functions(tmp_path: Path, start_method: str, end: str) -> None:
    code = """
    pool = make()
    print(pool[0].make_folder())
    pool[1].begin("exit_function", None, folder / "done")
    pool[1].begin("thread", None, folder / "done")
    """
    with run(PREAMBLE + code + READY + f"\n    {end}\n", str(tmp_path), start_method) as program:
        program.wait_ready()
        ended = program.finish()
        assert program.left() == []
    assert not os.path.exists(program.output.strip())
    assert sorted((tmp_path / "done").read_text().split()) == ["exit_function", "thread"]
    assert ended.seconds < GONE_SECONDS
    assert "Exception ignored" not in ended.errors


@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_program_that_ends_interrupts_what_runs_and_drops_what_waits(tmp_path: Path, start_method: str) -> None:
    code = """
    pool = make(1)
    print(pool[0].make_folder())
    meeting = Meeting(folder / "never over")
    running = pool.work.submit(meeting)
    waiting = [pool.begin.submit("file", None, folder / "never written") for _ in range(5)]
    meeting.pid()
    """
    with run(PREAMBLE + code + READY, str(tmp_path), start_method) as program:
        program.wait_ready()
        ended = program.finish()
        assert program.left() == []
    assert not os.path.exists(program.output.strip())
    assert not (tmp_path / "never written").exists()
    assert ended.errors == ""


def test_exit_functions_that_hang_hold_a_program_for_one_short_moment_in_all(tmp_path: Path) -> None:
    code = """
    pools = [make(1) for _ in range(4)]
    print(pools[0][0].make_folder())
    for pool in pools[1:]:
        pool[0].hang_at_exit()
    """
    with run(PREAMBLE + code + READY, str(tmp_path), "forkserver") as program:
        program.wait_ready()
        ended = program.finish()
        assert program.left() == []
    assert ended.seconds < GONE_SECONDS
    assert not os.path.exists(program.output.strip())


def test_a_forked_worker_ends_nothing_of_the_programs(tmp_path: Path) -> None:
    """Its executors, children, temporary folders and exit functions; and the worker's own are ended all the same."""
    code = """
    import _thread

    mine = tempfile.TemporaryDirectory()
    threads, processes = ThreadPoolExecutor(1), ProcessPoolExecutor(1)
    assert [threads.submit(abs, -1).result(), processes.submit(abs, -1).result()] == [1, 1]
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,), daemon=True)
    child.start()
    may_end = threading.Event()
    threading.Thread(target=may_end.wait).start()
    atexit.register(append, folder / "ends", "program")

    def use(name):
        path = folder / name
        ways = ["thread", "executor", "process_executor", "child", "exit_function", "finalizer", "file"]
        with make(1) as pool:
            for how in ways:
                pool[0].begin(how, None, path)
        assert sorted(path.read_text().split()) == sorted(ways), path.read_text()

    def use_in_raw_thread():
        threading.current_thread()
        try:
            use("raw thread")
        finally:
            is_over.set()

    is_over = threading.Event()
    use("main thread")
    thread = threading.Thread(target=use, args=("thread",))
    thread.start()
    thread.join()
    _thread.start_new_thread(use_in_raw_thread, ())
    is_over.wait()

    assert os.path.exists(mine.name)
    assert child.is_alive()
    assert [threads.submit(abs, -2).result(), processes.submit(abs, -2).result()] == [2, 2]
    child.terminate()
    processes.shutdown()
    may_end.set()
    """
    with run(PREAMBLE + code + READY, str(tmp_path), "fork") as program:
        program.wait_ready()
        ended = program.finish()
        assert ended.returncode == 0, ended.errors
        assert program.left() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ends", "main thread", "raw thread", "thread"]
    assert (tmp_path / "ends").read_text() == "program\n"


def test_a_forked_worker_has_a_fork_server_of_its_own(tmp_path: Path) -> None:
    """That of its program is no child of the worker; since Python 3.14 processes come from one if nothing else is said."""
    code = """
    class Starter:
        def start(self):
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as executor:
                return executor.submit(abs, -2).result()

    assert Starter().start() == 2
    with ProxyPool(Starter, worker_count=2, start_method=method) as pool:
        assert list(pool.start()) == [2, 2]
    assert Starter().start() == 2
    """
    with run(PREAMBLE + code + READY, str(tmp_path), "fork") as program:
        program.wait_ready()
        ended = program.finish()
        assert ended.returncode == 0, ended.errors
        assert program.left() == []


@pytest.mark.parametrize("end", ["pool.close()", ""])
def test_what_a_module_makes_when_it_is_imported_lives_as_long_as_the_pool(tmp_path: Path, end: str) -> None:
    """Its nursery imports the module once for all workers: no worker takes it along, and it ends with the last of them."""
    code = """
    sys.path.insert(0, str(Path(TESTS) / "bare"))
    from importing_target import Importer

    pool = ProxyPool(Importer, worker_count=2, max_tasks_per_worker=2, warn_unclosed=False)
    folder, child = pool[0].things()
    assert pool[0].are_there()
    pool.wait_ready()
    assert pool.workers[0].generation == 1
    assert pool[0].are_there() and pool[1].are_there()
    print(folder, child)
    """
    code = PREAMBLE + code.replace("TESTS", repr(str(Path(__file__).parent))) + READY + f"\n    {end}\n"
    with run(code, str(tmp_path), "forkserver") as program:
        program.wait_ready()
        program.finish()
        assert program.left() == []
        folder, child = program.output.split()
        poll_until(lambda: not os.path.exists(folder) and is_gone(int(child)))

"""Programs whose ``sys.executable`` is no interpreter: Python inside another program, or one with a path that is wrong."""

from __future__ import annotations

import multiprocessing.spawn
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contained import needs_namespaces, run_contained
from objproxy import NotSupportedError
from objproxy._worker.launching import Errand, Interpreter, make_command
from objproxy.backends import hosts, rooting

USE = """
from objproxy import NotSupportedError, ProxyPool

class Doubler:
    def double(self, x):
        return 2 * x

def use(start_method=None):
    with ProxyPool(Doubler, worker_count=2, start_method=start_method) as pool:
        print(pool.double.map(range(3)), flush=True)
"""

NO_INTERPRETER = f"""{USE}
import sys
from objproxy.backends import hosts
sys.executable = ""
hosts._candidates = lambda setting: [("sys.executable", "")]
"""


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Path]:
    """Yield a program that notes when it is asked which Python it is, and is this one."""
    path = tmp_path / "wrapper"
    path.write_text(f'#!/bin/sh\necho asked >> {tmp_path}/asked\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    given = multiprocessing.spawn.get_executable()
    hosts._searched.clear()
    yield path
    multiprocessing.spawn.set_executable(given)
    hosts._searched.clear()


def _times_asked(program: Path) -> int:
    asked = program.with_name("asked")
    return len(asked.read_text().splitlines()) if asked.exists() else 0


def _is_this_python(interpreter: Interpreter | None) -> bool:
    return interpreter is not None and hosts._fault(interpreter.argv[0]) is None


# ---- the usual program -----------------------------------------------------------------------------------------------


def test_an_interpreter_costs_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "_search", None)
    assert hosts.find_interpreter().interpreter == hosts._with_options(sys.executable)


def test_without_proc_the_interpreter_of_the_installation_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on other systems than Linux."""

    def fail(*_: Any) -> bool:
        raise FileNotFoundError

    monkeypatch.setattr(os.path, "samefile", fail)
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    assert hosts.is_this_program(sys.executable)
    assert not hosts.is_this_program("/elsewhere/bin/python3")


# ---- where it is looked for ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executable", ["", None, "/bin/true", "/bin/echo", "/no/such/python3", "/"])
def test_another_program_is_not_taken_for_an_interpreter(executable: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr(sys, "_base_executable", executable)
    assert _is_this_python(hosts.find_interpreter().interpreter)


def test_what_multiprocessing_was_told_comes_first(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    multiprocessing.spawn.set_executable(str(program))
    for _ in range(2):
        found = hosts.find_interpreter().interpreter
        assert found is not None
        assert found.argv[0] == str(program)
    assert _times_asked(program) == 1, "each is asked once"

    multiprocessing.spawn.set_executable("/bin/true")
    assert _is_this_python(hosts.find_interpreter().interpreter), "what is told may be wrong"
    assert _times_asked(program) == 1


def test_a_program_with_another_name_is_asked_last(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking a program that embeds Python may open a window."""
    multiprocessing.spawn.set_executable(str(program))  # as where `multiprocessing` is imported by such a program
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(sys, "_base_executable", str(program))
    assert _is_this_python(hosts.find_interpreter().interpreter)
    assert _times_asked(program) == 0

    monkeypatch.setattr(hosts, "_interpreters", lambda prefix: iter(()))
    hosts._searched.clear()
    found = hosts.find_interpreter().interpreter
    assert found is not None
    assert found.argv[0] == str(program)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("exec sleep 1000", "goes on for more than"),
        ("exec yes", "does not run the code"),
        ("echo \"('3.0', '', False)\"", "another Python"),
        ('[ -z "$DISPLAY$WAYLAND_DISPLAY" ] && [ -n "$OBJPROXY_HELPER" ] && echo no window', "does not run the code"),
        ("exit 3", "does not run the code"),
    ],
)
def test_a_program_that_is_asked_ends_in_any_case(
    text: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "_ANSWER_SECONDS", 0.5 if "sleep" in text else 60.0)
    monkeypatch.setenv("DISPLAY", ":0")
    path = tmp_path / "python3"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    began = time.monotonic()
    assert fault in str(hosts._fault(str(path)))
    assert time.monotonic() - began < 50


def test_a_file_that_is_no_program_says_why(tmp_path: Path) -> None:
    path = tmp_path / "python3"
    path.write_text("")
    assert hosts._fault(str(path)) == "no program"
    path.chmod(0o755)
    assert str(hosts._fault(str(path))).startswith("cannot be started")


# ---- pools in such programs ------------------------------------------------------------------------------------------


@needs_namespaces
def test_pools_start_where_the_executable_is_no_interpreter(tmp_path: Path) -> None:
    main = f"import sys\nsys.executable = '/bin/true'\n{USE}\nuse()\nuse('spawn')\n"
    ended = run_contained(tmp_path, {"main.py": main})
    assert (ended.returncode, ended.output, ended.errors) == (0, "[0, 2, 4]\n" * 2, "")


@needs_namespaces
@pytest.mark.parametrize("portable", ["0", "1"])
def test_without_any_interpreter_the_program_is_forked(portable: str, tmp_path: Path) -> None:
    """And holds nothing of it open."""
    main = f"""{NO_INTERPRETER}
import os
read_fd, write_fd = os.pipe()
use()
with ProxyPool(Doubler, worker_count=1) as pool:
    os.close(write_fd)
    assert os.read(read_fd, 1) == b""
use()
try:
    use("spawn")
except NotSupportedError as exc:
    print(exc)
"""
    ended = run_contained(tmp_path, {"main.py": main}, {"OBJPROXY_PORTABLE": portable})
    told = (
        "start_method='spawn' needs an interpreter, and there is none. Tried: '' (sys.executable): not set. Name an "
        "interpreter by multiprocessing.set_executable(). Or leave start_method out: then the workers are forks of this "
        "program\n"
    )
    assert (ended.returncode, ended.output) == (0, "[0, 2, 4]\n" * 2 + told), ended.errors
    assert ("RuntimeWarning" in ended.errors) == (portable == "1"), "where nobody can count threads there may be some"


@needs_namespaces
def test_a_fork_of_a_program_with_threads_is_told(tmp_path: Path) -> None:
    main = f"""{NO_INTERPRETER}
import threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
use()
"""
    ended = run_contained(tmp_path, {"main.py": main})
    assert (ended.returncode, ended.output) == (0, "[0, 2, 4]\n")
    assert "RuntimeWarning: no process of this Python can be started. Tried: '' (sys.executable): not set." in ended.errors


@needs_namespaces
@pytest.mark.parametrize("start_method", ["forkserver", "fork"])
def test_a_pool_of_a_thread_that_blocks_signals_learns_of_deaths(start_method: str, tmp_path: Path) -> None:
    """As the threads of uWSGI do; a new process inherits that."""
    main = f"""
import os, signal, threading
from objproxy import ProxyPool, WorkerDiedError

class Dying:
    def die(self):
        os._exit(3)

def run():
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    with ProxyPool(Dying, worker_count=1, start_method={start_method!r}) as pool:
        try:
            pool.die()
        except WorkerDiedError as exc:
            print(exc.exitcode)

thread = threading.Thread(target=run)
thread.start()
thread.join()
"""
    ended = run_contained(tmp_path, {"main.py": main})
    assert (ended.returncode, ended.output) == (0, "3\n"), ended.errors


def test_devices_are_refused_where_processes_can_only_be_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA context does not survive a fork."""
    from objproxy import making
    from objproxy.backends.process import ProcessBackend

    monkeypatch.setattr(making, "is_root_forked", lambda: True)
    engine = ProcessBackend()
    try:
        with pytest.raises(NotSupportedError, match=r"set_executable"):
            making._choose_start_method(None, engine, [object()])  # type: ignore[list-item]
    finally:
        engine.close()


def test_a_root_that_was_forked_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that was started by a command."""
    process = rooting.ForkedProcess(os.posix_spawn("/bin/sleep", ["sleep", "1000"], {}))
    process.kill()
    assert process.wait() == process.wait() == -9
    process.kill()
    gone = rooting.ForkedProcess(process.pid)
    assert gone.wait() == 0


# ---- what is started -------------------------------------------------------------------------------------------------


def test_a_path_that_fills_no_pipe_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems without files in memory have a pipe for what a frozen application reads."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    application = Interpreter(("/app",), is_frozen=True)
    command, fd = make_command(application, Errand("module", "function", (1,)), ["/a"], ["b"])
    assert command == ["/app", "--multiprocessing-fork", "tracker_fd=None", f"pipe_handle={fd}"]
    assert fd is not None
    os.close(fd)
    with pytest.raises(OSError, match="a new process takes 65536"):
        make_command(application, Errand("module", "function", ()), ["x" * 70000], [])


@needs_namespaces
def test_a_python_without_memory_files_has_pools(tmp_path: Path) -> None:
    """That of cx_Freeze was built on a system that had none."""
    main = f"import os\ndel os.memfd_create, os.pidfd_open\n{USE}\nuse()\nuse('fork')\n"
    ended = run_contained(tmp_path, {"main.py": main})
    assert (ended.returncode, ended.output, ended.errors) == (0, "[0, 2, 4]\n" * 2, "")


def test_a_zip_file_has_pools(tmp_path: Path) -> None:
    """``python app.pyz``, with modules that stand in the archive alone."""
    import subprocess
    import zipapp

    source = tmp_path / "app"
    source.mkdir()
    (source / "inside.py").write_text(USE)
    (source / "__main__.py").write_text("import inside\ninside.use()\ninside.use('spawn')\n")
    zipapp.create_archive(source)
    done = subprocess.run([sys.executable, tmp_path / "app.pyz"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0, 2, 4]\n" * 2, "")

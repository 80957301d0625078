"""Frozen applications, whose "interpreter" is the application: a script stands for one made by PyInstaller."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from contained import COUNT, ROOT, Ended, has_namespaces, needs_namespaces, run_contained
from optional import need

pytestmark = needs_namespaces

#: The application: runs the program, with the arguments that it is given.
APP = '#!/bin/sh\nexec "$INTERPRETER" -W always "$HERE/main.py" "$@"\n'

#: What the start of a frozen application does before the program.
FREEZE = f"""{COUNT}
import os, sys
os.environ.setdefault("INTERPRETER", sys.executable)
os.environ["HERE"] = os.getcwd()
sys.executable = os.path.join(os.getcwd(), "app")
sys.frozen = True
"""

DOUBLER = """
class Doubler:
    def double(self, x):
        return 2 * x
"""

USE = """
if __name__ == "__main__":
    for _ in range(2):
        with ProxyPool(Doubler, worker_count=2, start_method=START_METHOD) as pool:
            print(pool.double.map(range(3)), flush=True)
"""

RIGHT = "[0, 2, 4]\n" * 2


def run_frozen(folder: Path, main: str, start_method: str | None = None, app: str = APP, **files: str) -> Ended:
    """Run a program as a frozen application; `files` are further modules."""
    texts = {f"{name}.py": text for name, text in files.items()}
    start = f"START_METHOD = {start_method!r}\n"
    return run_contained(folder, {"app": app, "main.py": FREEZE + start + main, **texts}, {"INTERPRETER": sys.executable})


@pytest.mark.parametrize("start_method", [None, "spawn"])
def test_an_application_needs_no_line_for_its_pools(start_method: str | None, tmp_path: Path) -> None:
    """It becomes a helper with the import of objproxy; what comes behind does not run there."""
    behind = "\nif len(sys.argv) > 1:\n    raise SystemExit('usage: app')\n"
    ended = run_frozen(tmp_path, f"from objproxy import ProxyPool\n{behind}{DOUBLER}{USE}", start_method)
    assert (ended.returncode, ended.output, ended.errors) == (0, RIGHT, "")
    assert ended.count == (6 if start_method else 2)


def test_freeze_support_makes_helpers(tmp_path: Path) -> None:
    """As the applications of PyInstaller do it; the one of the standard library does it on Windows alone."""
    main = f"""
from multiprocessing.spawn import freeze_support
{DOUBLER}
if __name__ == "__main__":
    freeze_support()
    from objproxy import ProxyPool
{USE}"""
    ended = run_frozen(tmp_path, main, "spawn")
    assert (ended.returncode, ended.output, ended.errors) == (0, RIGHT, "")


def test_modules_that_import_objproxy_are_imported_as_a_whole(tmp_path: Path) -> None:
    """The helper begins in the midst of their import; threads of a worker import them, too."""
    part = f"""
import helping
from objproxy import ProxyPool
{DOUBLER}
class Importer(Doubler):
    def double(self, x):
        import importlib, threading
        thread = threading.Thread(target=importlib.import_module, args=("part",), daemon=True)
        thread.start()
        thread.join(30)
        assert not thread.is_alive()
        return helping.double(x)
"""
    main = f"from part import ProxyPool, Importer as Doubler\n{USE}"
    ended = run_frozen(tmp_path, main, part=part, helping="def double(x):\n    return 2 * x\n")
    assert (ended.returncode, ended.output, ended.errors) == (0, RIGHT, "")


def test_an_application_without_standard_streams_has_pools(tmp_path: Path) -> None:
    main = f"""
from objproxy import ProxyPool
{DOUBLER}
if __name__ == "__main__":
    out = os.dup(1)
    for fd in range(3):
        os.close(fd)
    sys.stdin = sys.stdout = sys.stderr = None
    with ProxyPool(Doubler, worker_count=2) as pool:
        os.write(out, str(pool.double.map(range(3))).encode())
"""
    ended = run_frozen(tmp_path, main)
    assert (ended.returncode, ended.output, ended.errors) == (0, "[0, 2, 4]", "")


@pytest.mark.parametrize("n_threads", [1, 2])
def test_an_application_that_cannot_become_a_helper_is_forked_or_says_what_to_do(n_threads: int, tmp_path: Path) -> None:
    """It takes the command line of a helper for a user's, and ends."""
    main = f"""
if len(sys.argv) > 1:
    raise SystemExit("usage: app")
import threading
threads = [threading.Thread(target=threading.Event().wait, daemon=True) for _ in range({n_threads - 1})]
for thread in threads:
    thread.start()
from objproxy import ProxyPool
{DOUBLER}{USE}"""
    ended = run_frozen(tmp_path, main)
    assert ended.count == 2
    assert ended.errors.startswith("usage: app\n")
    assert "multiprocessing.freeze_support(), before all else" in ended.errors
    assert ended.output == (RIGHT if n_threads == 1 else "")
    assert ("RuntimeWarning" if n_threads == 1 else "NotSupportedError") in ended.errors


def test_an_application_that_goes_on_in_place_of_its_helper_is_ended(tmp_path: Path) -> None:
    """It may be a window that waits for its user."""
    main = f"""
import threading
if len(sys.argv) > 1:
    threading.Event().wait()
from objproxy import ProxyPool
from objproxy.backends import nurseries
nurseries._ROOT_SECONDS = 1.0
{DOUBLER}{USE}"""
    ended = run_frozen(tmp_path, main)
    assert (ended.returncode, ended.output, ended.count) == (0, RIGHT, 2)
    assert "RuntimeWarning" in ended.errors


@pytest.mark.parametrize("start_method", [None, "spawn"])
def test_a_helper_that_runs_the_application_again_starts_no_other(start_method: str | None, tmp_path: Path) -> None:
    """A14: it does not get the arguments by which it would know that it is one."""
    app = APP.replace('"$@"', "")
    ended = run_frozen(tmp_path, f"from objproxy import ProxyPool\n{DOUBLER}{USE}", start_method, app)
    assert "NestedPoolError" in ended.errors
    assert ended.count == 2
    assert ended.output == ("" if start_method else RIGHT)
    assert ("start_method='spawn' needs an interpreter" if start_method else "RuntimeWarning") in ended.errors


def test_an_application_has_a_dashboard(tmp_path: Path) -> None:
    need("uvicorn")
    need("starlette")
    main = """
from objproxy import start_dashboard
if __name__ == "__main__":
    print(start_dashboard([0]).port > 0)
"""
    ended = run_frozen(tmp_path, main)
    assert (ended.returncode, ended.output, ended.count) == (0, "True\n", 2), ended.errors


def test_a_dashboard_that_runs_the_application_again_starts_no_other(tmp_path: Path) -> None:
    """A14: the same for the dashboard's process."""
    need("uvicorn")
    need("starlette")
    main = 'from objproxy import start_dashboard\nif __name__ == "__main__":\n    start_dashboard([0])\n'
    ended = run_frozen(tmp_path, main, app=APP.replace('"$@"', ""))
    assert ended.returncode == 1
    assert "frozen application" in ended.errors
    assert ended.count == 2


@pytest.mark.slow
def test_pyinstaller(tmp_path: Path) -> None:
    """The real thing, where it is installed; building takes half a minute."""
    need("PyInstaller")
    (tmp_path / "app.py").write_text(f"from objproxy import ProxyPool\nSTART_METHOD = None\n{DOUBLER}{USE}")
    command = [sys.executable, "-m", "PyInstaller", "--onedir", "--noconfirm", "--paths", str(ROOT), "app.py"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    assert has_namespaces()
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "timeout", "-k", "1", "60", tmp_path / "dist/app/app"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, RIGHT, "")

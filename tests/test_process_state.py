"""Workers of a pool look like the program at the pool's start, and no process of ours holds what the program has closed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from objproxy import ProxyPool
from objproxy._worker import process_state
from objproxy._worker.process_state import ProcessState
from optional import needs
from printing_module import Printer
from targets import PATIENCE_SECONDS

PROGRAM = Path(__file__).parent / "changed_program.py"

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of this")

STATE = ProcessState(0o022, ((0, None, None), (4, 0, 10), (7, 5, None)), (0, 1), 3, (), ())


def _run(function: str, start_method: str = "forkserver") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), function, start_method],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


# ---- what is taken over ----------------------------------------------------------------------------------------------


@needs_linux
@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_each_pool_is_like_the_program_at_its_start(start_method: str) -> None:
    """Issue 14: umask, limits, affinity, niceness and signals were those of the start of the first pool."""
    _run("change_state", start_method)


@needs_linux
def test_workers_have_no_rights_that_the_program_has_given_up() -> None:
    """Issue 14: a root nursery that was started before setuid would run workers as root."""
    _run("give_up_rights")


def test_only_what_differs_is_sent() -> None:
    now = STATE._replace(umask=0o077, limits=((0, None, None), (4, 0, 9), (7, 5, None)))
    assert now.changes_since(STATE) == {"umask": 0o077, "limits": ((4, 0, 9),)}
    assert STATE.changes_since(STATE) == {}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"niceness": 2}, True),
        ({"niceness": 4}, False),
        ({"limits": ((4, 0, 11),)}, True),
        ({"limits": ((4, 0, None),)}, True),
        ({"limits": ((4, 10, 10), (7, 9, 9))}, False),
        ({"umask": 0}, False),
    ],
    ids=str,
)
def test_what_may_be_refused_needs_a_fresh_root(change: dict[str, Any], expected: bool) -> None:
    assert STATE._replace(**change).may_be_refused(STATE) is expected


def test_the_state_is_read_without_proc_too(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, origin = process_state.read_state(), process_state.read_origin()
    monkeypatch.setattr(process_state, "_read", lambda path: b"")
    found = process_state.read_state()
    named = {limit[0] for limit in found.limits}
    assert found._replace(limits=()) == expected._replace(limits=())
    assert {limit for limit in expected.limits if limit[0] in named} == {*found.limits}
    assert process_state.read_origin().session == origin.session


def test_what_is_refused_stays_as_it_is() -> None:
    before = process_state.read_state()
    process_state.take_over({"cpus": (100_000,), "limits": ((9999, 1, 1),), "umask": before.umask})
    assert process_state.read_state() == before


# ---- standard streams ------------------------------------------------------------------------------------------------


def _see_end(function: str, start_method: str) -> str:
    """Return what a program has written when the end of its streams is seen; it runs until then."""
    with subprocess.Popen(
        [sys.executable, str(PROGRAM), function, start_method],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        output = program.stdout.read()
        assert program.poll() is None, output
        program.stdin.close()
        assert program.wait(PATIENCE_SECONDS) == 0
    return output


@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
def test_workers_write_where_the_program_writes_and_then_nothing_holds_it_open(start_method: str) -> None:
    """Issue 14: the root nursery held the streams of the first pool for as long as the program ran."""
    assert _see_end("change_streams", start_method) == "shown\n"


def test_what_workers_print_on_a_terminal_is_seen_at_once() -> None:
    _run("write_to_terminal")


@needs("starlette", "uvicorn")
def test_a_dashboard_does_not_hold_the_streams_of_its_program() -> None:
    assert _see_end("start_dashboard_first", "") == ""


def test_what_a_module_prints_is_written_once(capfd: pytest.CaptureFixture[str]) -> None:
    """Each worker has inherited the buffer, and wrote it at its end."""
    with ProxyPool(Printer, worker_count=3) as pool:
        assert pool[0].name() == "printing_module"
    assert capfd.readouterr().out == "imported\n"


@pytest.mark.parametrize("_attempt", range(2))
def test_each_test_sees_the_output_of_its_own_pools(capfd: pytest.CaptureFixture[str], _attempt: int) -> None:
    """The second pool has the nursery that was kept."""
    with ProxyPool(Printer, worker_count=1) as pool:
        pool[0].name()
        os.write(1, b"program\n")
    assert capfd.readouterr().out.endswith("program\n")


@needs_linux
@pytest.mark.parametrize("start_method", ["forkserver", "fork"])
def test_a_program_that_sigpipe_ends_outlives_its_helpers(start_method: str) -> None:
    """Issue 14: as command line tools do, it has set SIGPIPE back to what ends a process; a worker's death then ended it."""
    _run("be_a_command_line_tool", start_method)


@needs_linux
def test_what_goes_wrong_in_the_root_is_told() -> None:
    done = _run("fail_in_root")
    assert done.stdout == "works\nlives\n"
    assert "has no attribute '_on_nonsense'" in done.stderr

"""``breakpoint()`` in a worker, at a real terminal (a pseudo-terminal, on whose other side the test types)."""

from __future__ import annotations

import builtins
import os
import pty
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from objproxy import ProxyPool
from objproxy._worker import wire
from objproxy.backends.debugging import DebugDesk
from targets import LIMIT_SECONDS, PATIENCE_SECONDS

ROOT = Path(__file__).resolve().parent.parent

PREAMBLE = """
    import os, threading, time
    from objproxy import ProxyPool, TaskTimeoutError

    class Model:
        def __init__(self):
            self.bias = 10

        def score(self, x):
            y = x + self.bias
            breakpoint()
            return y

        def beside(self):
            errors = []

            def stop():
                try:
                    breakpoint()
                except RuntimeError as exc:
                    errors.append(str(exc))

            thread = threading.Thread(target=stop)
            thread.start()
            thread.join()
            return errors[0]
"""


class Session:
    """A program at a terminal."""

    def __init__(self, code: str) -> None:
        self._ours, theirs = pty.openpty()
        self.seen = ""
        program = textwrap.dedent(PREAMBLE) + textwrap.dedent(code)
        self.process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, start_new_session=True
        )
        os.close(theirs)

    def expect(self, text: str) -> None:
        """Read until `text` has come, and take it and what was before it away."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while text not in self.seen:
            assert time.monotonic() < deadline, f"no {text!r} in {self.seen!r}"
            if select.select([self._ours], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self._ours, 4096).decode()
                except OSError:  # the program has ended
                    assert text in self.seen, f"the program has ended without {text!r}: {self.seen!r}"
        self.seen = self.seen.partition(text)[2]

    def type(self, line: str) -> None:
        os.write(self._ours, f"{line}\n".encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@pytest.fixture
def sessions() -> Iterator[list[Session]]:
    made: list[Session] = []
    yield made
    for session in made:
        session.close()


@pytest.mark.parametrize("method", ["forkserver", "fork", "spawn"])
def test_a_debugger_of_a_worker_reads_and_changes_its_variables(sessions: list[Session], method: str) -> None:
    session = Session(f"""
    with ProxyPool(Model, worker_count=1, start_method={method!r}) as pool:
        print("result", pool.score.submit(5).result())
    """)
    sessions.append(session)
    session.expect("(Pdb, worker 0) ")
    session.type("p y, self.bias")
    session.expect("(15, 10)")
    session.expect("(Pdb, worker 0) ")
    session.type("y = 77")
    session.expect("(Pdb, worker 0) ")
    session.type("c")
    session.expect("result 77")
    assert session.process.wait(PATIENCE_SECONDS) == 0


def test_ctrl_c_at_the_prompt_ends_the_call(sessions: list[Session]) -> None:
    session = Session("""
    with ProxyPool(Model, worker_count=1) as pool:
        try:
            pool[0].score(5)
        except KeyboardInterrupt:
            print("interrupted, and", pool.bias[0])
    """)
    sessions.append(session)
    session.expect("(Pdb, worker 0) ")
    session.process.send_signal(signal.SIGINT)
    session.expect("interrupted, and 10")
    assert session.process.wait(PATIENCE_SECONDS) == 0


def test_deadlines_stand_still_while_somebody_types(sessions: list[Session]) -> None:
    session = Session(f"""
    with ProxyPool(Model, worker_count=1) as pool:
        print("result", pool.score.options(timeout={LIMIT_SECONDS}).submit(5).result())
    """)
    sessions.append(session)
    session.expect("(Pdb, worker 0) ")
    time.sleep(LIMIT_SECONDS + 1.0)  # longer than the limit: somebody thinks
    session.type("c")
    session.expect("result 15")
    assert session.process.wait(PATIENCE_SECONDS) == 0


def test_one_debugger_at_a_time_has_the_terminal(sessions: list[Session]) -> None:
    session = Session("""
    with ProxyPool(Model, worker_count=3) as pool:
        print("result", pool.score([1, 2, 3], map_args=True, chunksize=1).tolist())
    """)
    sessions.append(session)
    for _ in range(3):
        session.expect("(Pdb, worker ")
        first = session.seen[0]
        for name in ("p 'first'", "p 'second'"):
            session.type(name)
            session.expect(f"{name[3:-1]}'")
            session.expect("(Pdb, worker ")
            assert session.seen[0] == first, "another worker's debugger has come in between"
        session.type("c")
    session.expect("result [11, 12, 13]")


def test_who_quits_ends_the_task_and_the_worker_lives(sessions: list[Session]) -> None:
    session = Session("""
    with ProxyPool(Model, worker_count=1) as pool:
        try:
            pool.score.submit(5).result()
        except BaseException as exc:
            print("ended by", type(exc).__name__)
        print("bias", pool.bias)
    """)
    sessions.append(session)
    session.expect("(Pdb, worker 0) ")
    session.type("q")
    session.expect("ended by BdbQuit")
    session.expect("bias [10]")


def test_without_a_terminal_the_debugger_ends_at_once() -> None:
    code = """
    with ProxyPool(Model, worker_count=2) as pool:
        for item in pool.score.options(on_error="return").map([1, 2]):
            print(type(item).__name__)
        print(pool[0].beside())
    """
    program = textwrap.dedent(PREAMBLE) + textwrap.dedent(code)
    ended = subprocess.run(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("BdbQuit") == 2
    assert "works in the thread that runs the method" in ended.stdout


# ---- who has the terminal --------------------------------------------------------------------------------------------


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the lines that somebody types; without any the terminal is closed."""
    lines: list[str] = []

    def read() -> str:
        if not lines:
            raise EOFError
        return lines.pop(0)

    monkeypatch.setattr(builtins, "input", read)
    return lines


def test_the_second_debugger_waits_for_the_end_of_the_first(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    desk, answers = DebugDesk(), []
    typed += ["first", "second"]
    for worker_id in (0, 1):
        desk.serve(worker_id, wire.DEBUG_OUT, f"{worker_id}> ".encode(), answers.append)
        desk.serve(worker_id, wire.DEBUG_IN, b"", answers.append)
    assert (capsys.readouterr().out, answers) == ("0> ", [b"first\n"])
    desk.serve(0, wire.DEBUG_END, b"", answers.append)
    assert (capsys.readouterr().out, answers) == ("1> ", [b"first\n", b"second\n"])
    desk.leave(1)
    assert not desk.is_in_use


def test_a_debugger_whose_worker_dies_while_it_waits_is_forgotten(typed: list[str]) -> None:
    desk, answers = DebugDesk(), []
    typed += ["first"]
    for worker_id in (0, 1):
        desk.serve(worker_id, wire.DEBUG_IN, b"", answers.append)
    desk.leave(1)
    desk.leave(0)
    assert answers == [b"first\n"]
    assert not desk.is_in_use
    desk.serve(2, wire.DEBUG_IN, b"", answers.append)
    assert answers == [b"first\n", b""]


class Stopped:
    """Asks for the terminal and never gives it back."""

    def ask(self) -> int:
        import sys

        sys.breakpointhook.__closure__[0].cell_contents.send(wire.DEBUG_OUT, b"")  # type: ignore[attr-defined]
        return 1


def test_a_task_that_ends_in_the_midst_of_its_session_gives_the_terminal_back() -> None:
    with ProxyPool(Stopped, worker_count=1) as pool:
        assert pool.ask().tolist() == [1]
        assert not pool._core.backend._desk.is_in_use  # type: ignore[attr-defined]

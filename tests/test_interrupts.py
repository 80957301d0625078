"""When an interrupt (Ctrl-C) is passed on, and when it has to wait."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from faulty import Victim
from objproxy import ProxyPool
from objproxy._engine import interrupts
from programs import run


def strike() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def handler() -> Iterator[Callable[..., Any]]:
    """The program's own handler is there again after every call."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    after = signal.signal(signal.SIGINT, before)
    assert after is signal.default_int_handler
    assert interrupts._state == interrupts._FREE
    assert not interrupts._is_noted
    assert interrupts._raised is None


def test_what_is_held_ends_before_the_interrupt_is_passed_on() -> None:
    done = []

    @interrupts.held
    def inner() -> None:
        strike()
        done.append("inner")

    @interrupts.held
    def outer() -> None:
        inner()
        done.append("outer")

    with pytest.raises(KeyboardInterrupt):
        outer()
    assert done == ["inner", "outer"]


def test_an_interrupt_is_passed_on_where_the_engine_waits() -> None:
    done = []

    @interrupts.held
    def function(at_once: bool) -> None:
        if not at_once:
            strike()
            done.append("noted")
        with interrupts.waiting:
            done.append("waits")
            strike()
        done.append("never")

    with pytest.raises(KeyboardInterrupt):
        function(at_once=False)
    with pytest.raises(KeyboardInterrupt):
        function(at_once=True)
    assert done == ["noted", "waits"]


def test_a_handler_that_does_not_raise_ends_nothing() -> None:
    heard: list[str] = []
    done = []

    @interrupts.held
    def function() -> str:
        strike()
        done.append(len(heard))
        with interrupts.waiting:
            done.append(len(heard))
            strike()
        done.append(len(heard))
        interrupts.pass_on()
        return "result"

    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(f"{number} in {type(frame).__name__}"))
    assert function() == "result"
    signal.signal(signal.SIGINT, before)
    assert done == [0, 1, 2]
    assert heard == ["2 in frame"] * 2


def test_code_of_the_users_is_interrupted_and_what_it_catches_is_raised_again() -> None:
    done = []

    @interrupts.as_user_code
    def callback() -> None:
        try:
            strike()
        except KeyboardInterrupt:
            done.append("caught")

    @interrupts.held
    def function() -> None:
        callback()
        done.append("goes on")
        with interrupts.waiting:
            done.append("never")

    with pytest.raises(KeyboardInterrupt):
        function()
    assert done == ["caught", "goes on"]


def test_code_of_the_users_is_not_begun_after_an_interrupt_but_a_callback_is_called() -> None:
    """The code may wait for ever; whoever waits for the callback would."""
    done = []

    @interrupts.held
    def function() -> None:
        strike()
        interrupts.as_user_code(lambda: done.append("called"))()
        for _ in range(2):
            try:
                with interrupts.user_code:
                    done.append("never")
            except KeyboardInterrupt:
                done.append("caught")

    with pytest.raises(KeyboardInterrupt):
        function()
    assert done == ["called", "caught", "caught"]


def test_an_interrupt_that_leaves_the_users_code_is_raised_once() -> None:
    @interrupts.held
    def function() -> None:
        interrupts.as_user_code(strike)()

    with pytest.raises(KeyboardInterrupt):
        function()


def test_what_the_users_code_calls_is_held_too() -> None:
    done = []

    @interrupts.held
    def inner() -> None:
        strike()
        done.append("inner")

    @interrupts.held
    def outer() -> None:
        with interrupts.user_code:
            inner()
            done.append("never")

    with pytest.raises(KeyboardInterrupt):
        outer()
    assert done == ["inner"]


def test_the_second_in_a_row_does_not_wait() -> None:
    done = []

    @interrupts.held
    def function() -> None:
        strike()
        done.append("first")
        strike()
        done.append("second")

    with pytest.raises(KeyboardInterrupt):
        function()
    assert done == ["first"]


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_what_is_no_handler_is_left_alone(handler: signal.Handlers) -> None:
    before = signal.signal(signal.SIGINT, handler)
    seen = interrupts.held(lambda: signal.getsignal(signal.SIGINT))()
    signal.signal(signal.SIGINT, before)
    assert seen is handler


def test_a_handler_that_is_set_meanwhile_stays() -> None:
    def mine(_number: int, _frame: Any) -> None: ...

    interrupts.held(lambda: signal.signal(signal.SIGINT, mine))()
    assert signal.signal(signal.SIGINT, signal.default_int_handler) is mine


def test_other_threads_hold_nothing() -> None:
    seen = []

    @interrupts.held
    def function() -> None:
        with interrupts.waiting, interrupts.user_code:
            seen.append((signal.getsignal(signal.SIGINT), interrupts._state))

    thread = threading.Thread(target=function)
    thread.start()
    thread.join()
    assert seen == [(signal.default_int_handler, interrupts._FREE)]


def test_where_python_lets_no_thread_set_handlers_nothing_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an interpreter that is a part of another program."""
    done = []

    def use() -> None:
        monkeypatch.setattr(interrupts, "_main", threading.get_ident())
        for _ in range(2):
            interrupts.held(lambda: done.append(interrupts._main))()

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert done == [None, None]


def test_in_a_forked_child_nothing_is_held() -> None:
    """Whatever its parent was at."""
    code = """
    import os, signal
    from objproxy._engine import interrupts

    @interrupts.held
    def fork():
        return os.fork()

    child = fork()
    if child == 0:
        print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, interrupts._state, flush=True)
        os._exit(0)
    os.waitpid(child, 0)

    def fork_and_look():
        child = os.fork()
        if child == 0:
            print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, interrupts._state, flush=True)
            os._exit(0)
        os.waitpid(child, 0)

    interrupts.held(fork_and_look)()
    print("ready", flush=True)
    """
    with run(code, "forkserver") as program:
        ended = program.finish()
        assert (ended.returncode, ended.errors) == (0, "")
        assert ended.output == "True 0\nTrue 0\nready\n"


# ---- pools -----------------------------------------------------------------------------------------------------------


def test_a_callback_that_is_interrupted_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    with ProxyPool(Victim, worker_count=2) as pool:
        monkeypatch.setattr(pool._core.driver._pump, "call", lambda: None)  # so that this thread turns the engine
        states = []

        def callback(_future: Future[Any]) -> None:
            states.append(interrupts._state)
            strike()

        future = pool.obey.submit(1)
        future.add_done_callback(callback)
        with pytest.raises(KeyboardInterrupt):
            future.result()
        assert states == [interrupts._USER]
        assert future.result() == 1
        assert pool.obey.map(range(3)) == [0, 1, 2]


class Striker(Victim):
    """Presses Ctrl-C itself."""

    def strike(self, item: int) -> int:
        if item == 1:
            strike()
        return item


def test_an_interrupt_of_a_serial_task_ends_the_call() -> None:
    """Also one that hands errors over as results; behind it the pool works."""
    with ProxyPool(Striker, worker_count=2, backend="serial") as pool:
        for on_error in ("raise", "return"):
            with pytest.raises(KeyboardInterrupt):
                pool.strike.options(on_error=on_error).map(range(10))
        assert pool.strike.map([5, 6]) == [5, 6]


def test_an_interrupt_beside_the_code_of_a_serial_task_is_its_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    with ProxyPool(Striker, worker_count=1, backend="serial") as pool:
        worker: Any = pool._core.backend._workers[0]  # type: ignore[attr-defined]

        def interrupted(*_args: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(worker._served, "serve", interrupted)
            with pytest.raises(KeyboardInterrupt):
                pool[0].obey(1)
        assert pool[0].obey(2) == 2


class Leaver(Victim):
    """Wants to end the program when it is closed."""

    def close(self) -> None:
        raise SystemExit("mine")


@pytest.mark.parametrize("backend", ["serial", "thread"])
def test_an_object_that_exits_when_it_is_closed_is_told_and_harms_nobody(
    backend: str,
) -> None:
    """It is an error of `close()`, as that of a method is one of its call."""
    with pytest.raises(SystemExit, match="mine") as raised, ProxyPool(Leaver, worker_count=2, backend=backend) as pool:
        assert pool.obey.broadcast(1) == [1, 1]
    assert "worker 1 failed too: SystemExit: mine" in raised.value.__notes__


class Napper:
    """Takes its time."""

    def nap(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds


def test_an_error_of_another_signals_handler_that_ends_a_wait_leaves_the_pool_whole() -> None:
    """A time limit by ``signal.alarm``, as test suites have it."""

    def give_up(*_args: Any) -> None:
        raise TimeoutError("the program's own limit")

    before = signal.signal(signal.SIGALRM, give_up)
    try:
        with ProxyPool(Napper, worker_count=1) as pool:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(TimeoutError, match="own limit"):
                pool[0].nap(1.0)
            assert pool[0].nap(0.0) == 0.0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

"""The end of a worker: background work is finished, exit functions run, the object's own end is told of when it fails."""

from __future__ import annotations

import concurrent.futures as cf
import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from ending_targets import Background, BadEnd, BadEnter, BadExit, Both, Ordered, Session, Trader, session
from faulty import Meeting
from objproxy import ProxyPool, TaskTimeoutError, WorkerDiedError, WorkerInitError
from objproxy._engine import endings
from programs import is_gone
from targets import PATIENCE_SECONDS, CustomError, poll_until
from ways import MakePool, Way

WORK = ["thread", "executor", "process_executor", "child"]
AT_EXIT = ["exit_function", "finalizer", "file"]


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "END_SECONDS", 0.5)
    monkeypatch.setattr(endings, "_SECOND_LOOK_SECONDS", 0.1)


def words(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def close_in_thread(pool: ProxyPool[Any], timeout: float | None = None) -> tuple[threading.Thread, list[BaseException]]:
    errors: list[BaseException] = []

    def close() -> None:
        try:
            pool.close(timeout)
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=close)
    thread.start()
    return thread, errors


# ---- background work -------------------------------------------------------------------------------------------------


@pytest.mark.processes
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_close_finishes_what_the_object_does_in_the_background(make_pool: MakePool, gates: Any, tmp_path: Path) -> None:
    pool, path, gate = make_pool(Background, worker_count=1), tmp_path / "done", gates("gate")
    for how in WORK:
        pool[0].begin(how, gate, path)
    for how in AT_EXIT:
        pool[0].begin(how, None, path)
    thread, errors = close_in_thread(pool)
    thread.join(0.2)
    assert thread.is_alive()
    gate.open()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
    assert errors == []
    assert sorted(words(path)) == sorted(WORK + AT_EXIT)


@pytest.mark.processes
def test_a_worker_ends_in_the_order_of_an_interpreter(make_pool: MakePool, tmp_path: Path) -> None:
    path = tmp_path / "order"
    pool = make_pool(Ordered, worker_count=1, init_args=(path,))
    pool[0].order(path)
    pool.close()
    assert words(path) == ["close", "thread", "exit function 2", "exit function 1", "deleted"]


@pytest.mark.processes
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("why", ["recycled", "resized"])
def test_a_worker_that_is_recycled_or_leaves_finishes_its_background_work(
    make_pool: MakePool, tmp_path: Path, why: str
) -> None:
    path = tmp_path / "done"
    pool = make_pool(Background, max_tasks_per_worker=len(WORK) if why == "recycled" else None)
    for how in WORK:
        pool[1].begin(how, None, path)
    if why == "resized":
        pool.resize(1)
    assert pool.wait_ready(PATIENCE_SECONDS)
    assert sorted(words(path)) == sorted(WORK)


@pytest.mark.processes
def test_close_with_a_time_and_an_error_in_the_block_wait_for_no_background_work(
    make_pool: MakePool, gates: Any, tmp_path: Path
) -> None:
    path, gate = tmp_path / "done", gates("never open")
    pool = make_pool(Background, worker_count=1)
    pool[0].begin("thread", gate, path)
    with pytest.raises(TaskTimeoutError, match="waiting for threads"):
        pool.close(timeout=2.0)
    with pytest.raises(KeyError, match="mine"), make_pool(Background, worker_count=1) as pool:  # noqa: PT012
        pid = pool[0].pid()
        pool[0].begin("thread", gate, path)
        raise KeyError("mine")
    assert is_gone(pid)
    assert words(path) == []


@pytest.mark.processes
def test_daemons_are_not_waited_for(make_pool: MakePool, gates: Any, tmp_path: Path) -> None:
    pool = make_pool(Background, worker_count=1)
    pool[0].begin("daemon", gates("never open"), tmp_path / "done")
    pool.close()
    assert words(tmp_path / "done") == []


# ---- what hangs ------------------------------------------------------------------------------------------------------


@pytest.mark.processes
@pytest.mark.usefixtures("short_grace")
def test_background_work_that_takes_long_is_told_of_with_its_stacks(
    make_pool: MakePool, gates: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool, gate = make_pool(Background, worker_count=1), gates("gate")
    pool[0].begin("thread", gate, tmp_path / "done")
    with caplog.at_level(logging.WARNING, "objproxy"):
        thread, errors = close_in_thread(pool)
        poll_until(lambda: "worker 0 was asked to end" in caplog.text)
        assert thread.is_alive()
        gate.open()
        thread.join(PATIENCE_SECONDS)
    assert errors == []
    assert "wait_and_append" in caplog.text
    assert words(tmp_path / "done") == ["thread"]


@pytest.mark.processes
@pytest.mark.usefixtures("short_grace")
@pytest.mark.parametrize("how", ["stopped", "hangs at exit", "stopped in its end"])
def test_an_idle_worker_that_does_not_end_is_told_of_and_killed(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    pool = make_pool(Background) if how != "stopped in its end" else make_pool(BadEnd, init_args=("stop",))
    if how == "stopped":
        os.kill(pool[0].pid(), signal.SIGSTOP)
    elif how == "hangs at exit":
        pool[0].hang_at_exit()
    with caplog.at_level(logging.WARNING, "objproxy"):
        thread, errors = close_in_thread(pool)
        thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
    assert errors == []
    assert "worker 0 was asked to end and is still there" in caplog.text
    assert "it is killed" in caplog.text
    assert ("stopped" if "stopped" in how else "exit functions") in caplog.text or how == "hangs at exit"
    assert "worker 1" not in caplog.text


@pytest.mark.processes
@pytest.mark.usefixtures("short_grace")
def test_work_that_was_submitted_is_waited_for_beside_a_worker_that_hangs(
    make_pool: MakePool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool, meeting = make_pool(Background), Meeting(tmp_path / "meeting")
    pool[0].hang_at_exit()
    future = pool[1].work.submit(meeting)
    meeting.pid()
    with caplog.at_level(logging.WARNING, "objproxy"):
        thread, errors = close_in_thread(pool)
        thread.join(1.0)
        assert thread.is_alive()
        meeting.end()
        thread.join(PATIENCE_SECONDS)
    assert errors == []
    assert future.result(PATIENCE_SECONDS) is meeting or isinstance(future.result(), Meeting)
    assert "worker 0" in caplog.text


# ---- what fails ------------------------------------------------------------------------------------------------------


def test_close_raises_what_an_objects_own_end_raises(make_pool: MakePool) -> None:
    pool = make_pool(BadEnd, worker_count=3, init_args=("raise", (1, 2)))
    with pytest.raises(CustomError, match="not closed by 1") as caught:
        pool.close()
    notes = caught.value.__notes__
    assert notes[0] == "raised on worker 1 (device cpu) by method 'close'"
    assert notes[1].startswith("worker 2 failed too: CustomError: ")
    assert "in close" in str(caught.value.__cause__)
    assert "closed" in repr(pool)
    pool.close()


def test_leaving_the_block_raises_it_too(way: Way) -> None:
    with (
        pytest.raises(CustomError, match="not left") as caught,
        ProxyPool(BadExit, worker_count=1, **way.options) as pool,
    ):
        assert pool[0].work() == 1
    assert "by method '__exit__'" in caught.value.__notes__[0]


def test_an_error_in_the_block_is_not_hidden_by_one_of_the_end(way: Way) -> None:
    with pytest.raises(KeyError, match="mine"), ProxyPool(BadEnd, worker_count=1, init_args=("raise",), **way.options):
        raise KeyError("mine")


def test_kill_tells_of_no_end(make_pool: MakePool) -> None:
    make_pool(BadEnd, init_args=("raise",)).kill()


@pytest.mark.processes
@pytest.mark.parametrize("how", ["os._exit(0)", "exit(3)", "SIGKILL"])
def test_close_tells_of_a_worker_that_dies_in_its_end(make_pool: MakePool, how: str) -> None:
    pool = make_pool(BadEnd, init_args=(how, (0,)))
    with pytest.raises(WorkerDiedError, match="asked to end, and it was running the close") as caught:
        pool.close()
    assert caught.value.worker_id == 0
    assert caught.value.ending


@pytest.mark.processes
def test_close_tells_of_a_worker_that_is_killed_in_its_end_by_its_time(make_pool: MakePool) -> None:
    pool = make_pool(BadEnd, init_args=("hang",))
    with pytest.raises(TaskTimeoutError, match="limit of 3 s on worker 0: it was running the close") as caught:
        pool.close(timeout=3)
    assert "in close" in caught.value.stack


@pytest.mark.parametrize("why", ["recycled", "resized"])
def test_the_failed_end_of_a_worker_that_is_recycled_or_leaves_is_logged(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    ids = (0,) if why == "recycled" else (1,)
    pool = make_pool(BadEnd, init_args=("raise", ids), max_tasks_per_worker=1 if why == "recycled" else None)
    with caplog.at_level(logging.WARNING, "objproxy"):
        if why == "recycled":
            assert pool[0].work() == 1
        else:
            pool.resize(1)
        poll_until(lambda: pool.wait_ready(0.1) and "failed" in caplog.text)
    assert f"the end of worker {ids[0]}, which was recycled or has left the pool" in caplog.text
    assert "CustomError" in caplog.text
    pool.kill()


@pytest.mark.concurrent
def test_one_of_several_who_close_is_told(make_pool: MakePool) -> None:
    pool = make_pool(BadEnd, init_args=("raise",))
    with cf.ThreadPoolExecutor(3) as closers:
        errors = [closing.exception(PATIENCE_SECONDS) for closing in [closers.submit(pool.close) for _ in range(3)]]
    assert sorted(type(error).__name__ for error in errors) == ["CustomError", "NoneType", "NoneType"]


# ---- entering --------------------------------------------------------------------------------------------------------


def test_an_object_whose_exit_is_run_was_entered(make_pool: MakePool, tmp_path: Path) -> None:
    path = tmp_path / "calls"
    pool = make_pool(Session, worker_count=1, init_args=(path,))
    assert pool[0].ask() == ["enter", "ask"]
    pool.close()
    assert words(path) == ["enter", "exit"]


def test_an_object_that_can_be_closed_is_not_entered(make_pool: MakePool, tmp_path: Path) -> None:
    path = tmp_path / "calls"
    with make_pool(Both, worker_count=1, init_args=(path,)) as pool:
        assert pool[0].ask() == ["ask"]
    assert words(path) == ["close"]


@pytest.mark.parametrize("gives", [True, None, "something else"])
def test_the_object_of_a_class_stays_the_instance_whatever_its_enter_returns(
    make_pool: MakePool, tmp_path: Path, gives: Any
) -> None:
    with make_pool(Session, worker_count=1, init_args=(tmp_path / "calls", gives)) as pool:
        assert pool[0].ask() == ["enter", "ask"]


def test_what_a_context_manager_of_a_function_gives_is_the_instance(make_pool: MakePool, tmp_path: Path) -> None:
    path = tmp_path / "calls"
    with make_pool(session, worker_count=1, init_args=(path,)) as pool:
        assert pool[0].index(2) == 1
    assert words(path) == ["enter", "exit"]


@pytest.mark.parametrize("on_restart", ["fresh", "replay", "snapshot"])
def test_each_object_that_is_built_is_entered_and_left(make_pool: MakePool, tmp_path: Path, on_restart: str) -> None:
    path = tmp_path / "calls"
    pool = make_pool(Session, worker_count=1, init_args=(path,), on_restart=on_restart, max_tasks_per_worker=3)
    pool.ask.options(journal=True)()
    pool.checkpoint()
    pool.ask()
    pool.ask()
    assert pool.wait_ready(PATIENCE_SECONDS)
    again = {"fresh": ["enter"], "replay": ["enter", "ask"], "snapshot": ["enter", "ask", "enter"]}[on_restart]
    assert pool[0].ask() == [*again, "ask"]
    pool.close()
    assert words(path) == ["enter", "exit", "enter", "exit"]


def test_an_enter_that_raises_is_a_failed_constructor(make_pool: MakePool, tmp_path: Path) -> None:
    with pytest.raises(WorkerInitError, match="no entrance"):
        make_pool(BadEnter, init_args=(tmp_path / "calls",))
    assert words(tmp_path / "calls") == []


def test_a_method_close_that_wants_arguments_is_not_the_end(make_pool: MakePool) -> None:
    with make_pool(Trader, worker_count=1) as pool:
        assert list(pool.remote.close("long")) == ["closed long"]


# ---- the end without close() -----------------------------------------------------------------------------------------


@pytest.mark.processes
def test_a_pool_that_is_forgotten_or_left_by_an_error_leaves_no_folder(make_pool: MakePool, way: Way) -> None:
    with pytest.raises(KeyError, match="mine"), make_pool(Background, worker_count=1) as pool:  # noqa: PT012
        folders = [pool[0].make_folder()]
        raise KeyError("mine")
    pool = ProxyPool(Background, worker_count=1, warn_unclosed=False, **way.options)
    folders.append(pool[0].make_folder())
    del pool
    assert [folder for folder in folders if os.path.exists(folder)] == []

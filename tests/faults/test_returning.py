"""Faults while a result is sent and taken in (D): its pickle, its frame, its rebuilding, the user's code in the program."""

from __future__ import annotations

import builtins
import contextlib
import itertools
import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faulty import FailsAtDeletion, Meeting, Victim
from objproxy import PoolClosedError, ProxyPool, ResultPickleError, TaskTimeoutError, WorkerDiedError, report_progress
from objproxy._worker import wire
from targets import PATIENCE_SECONDS, poll_until
from ways import MakePool, Way, some

OFTEN = (10_000, 1.0)

#: Of this many rows the result does not fit the journal, and makes one frame of 2 MB.
MANY = 2_000


def _over_items(way: Way, pool: ProxyPool[Any], name: str, *columns: Any) -> dict[str, list[Any]]:
    """Run a method on items by every verb; return what came of every item."""
    method = getattr(pool, name).options(on_error="return", stack_results=False)
    verbs: dict[str, Callable[[], list[Any]]] = {
        "map": lambda: method.map(*columns),
        "map_args": lambda: method.options(map_args=True)(*columns),
        "imap": lambda: list(method.imap(*columns)),
        "one by one": lambda: method.options(chunksize=1).map(*columns),
    }
    return {name: run() for name, run in some(way, verbs)}


@pytest.mark.processes
def test_a_result_that_fails_to_be_pickled_is_its_tasks_error(make_pool: MakePool, way: Way) -> None:
    """D1: and no other's.

    Mutation: `except Exception` around the pickling in `ChunkRunner` and `WorkerLoop` ends the worker at an exit.
    """
    pool = make_pool(Victim, max_restarts=OFTEN)
    refused = dict.fromkeys(("TypeError", "SystemExit", "KeyboardInterrupt"), ResultPickleError)
    for how, kind in {**refused, "os._exit(0)": WorkerDiedError, "SIGSEGV": WorkerDiedError}.items():
        kinds = ["FailsAtUnpickle", "FailsAtPickle", "FailsAtUnpickle", "FailsAtUnpickle"]
        for name, results in _over_items(way, pool, "make", kinds, [how] * 4, [-1] * 4).items():
            assert [isinstance(result, kind) for result in results] == [False, True, False, False], (how, name)
        with pytest.raises(kind):
            pool[0].make("FailsAtPickle", how, -1)
        results = pool.make.options(return_exceptions=True)("FailsAtPickle", how, -1)
        assert [type(result) for result in results] == [kind] * 2
        assert (sum(worker.generation for worker in pool.workers) > 0) == (kind is WorkerDiedError)


#: How much of a frame is sent: a byte, the header, a part, all but a byte.
PARTS = {"large": [1, wire.HEADER.size, 1_000_000, -1], "small": [1, wire.HEADER.size, -1]}


@pytest.mark.race
@pytest.mark.processes
def test_a_worker_may_die_in_the_middle_of_its_answer(make_pool: MakePool, way: Way) -> None:
    """D2: what has come of the frame is thrown away, and the caller is told; nobody waits for the rest.

    Mutation: `Nursery._reap` that tells nobody: no call ever ends.
    """
    pool = make_pool(Victim, max_restarts=OFTEN)
    calls: dict[str, Callable[[], Any]] = {
        "instance": lambda: pool[0].make_rows(MANY),
        "broadcast": lambda: pool.make_rows(MANY),
        "map": lambda: pool.make_rows.map([MANY]),
        "imap": lambda: list(pool.make_rows.imap([MANY])),
        "submit": lambda: pool.make_rows.submit(MANY).result(PATIENCE_SECONDS),
    }
    for n_bytes, (name, call) in itertools.product(PARTS["large"], some(way, calls)):
        pool.pid.options(return_exceptions=True)()  # who has lost its state says so here
        pool.end_in_writing(n_bytes, "os._exit(1)", 1_000_000)
        with pytest.raises(WorkerDiedError) as caught:
            call()
        assert (caught.value.started, caught.value.exitcode) == (True, 1), (n_bytes, name)
    pool.obey.options(return_exceptions=True)("SIGKILL")  # one of the two is still armed
    assert [len(result) for result in pool.make_rows.map([MANY] * 2)] == [MANY + 1] * 2


@pytest.mark.race
@pytest.mark.processes
def test_results_that_were_done_outlive_a_worker_that_dies_while_it_sends_them(
    make_pool: MakePool, way: Way, tmp_path: Path
) -> None:
    """D2: small results of a map are in the journal too, so nothing is lost at all, and nothing runs twice.

    Better than the row. Mutation: `ProcessBackend._autopsy` that does not look into the journal: items run twice.
    """
    pool, path = make_pool(Victim, worker_count=1, max_restarts=OFTEN), tmp_path / "runs"
    n_deaths = 0
    kinds = {"ints": [*range(20)], "floats": [i / 2 for i in range(20)], "nones": [None] * 20, "any": [(i,) for i in range(20)]}
    for _, items in some(way, kinds):
        for n_bytes, chunksize in itertools.product(PARTS["small"], (1, 20)):
            pool.end_in_writing.submit(n_bytes, "os._exit(1)").result(PATIENCE_SECONDS)
            assert pool.note.options(chunksize=chunksize).map([path] * 20, items) == items
            assert path.read_text().splitlines() == [str(item) for item in items]
            path.unlink()
            n_deaths += 1
            assert pool.place.submit().result(PATIENCE_SECONDS) == (0, n_deaths)


@pytest.mark.race
@pytest.mark.processes
def test_a_result_counts_though_its_worker_dies_right_after_it(make_pool: MakePool) -> None:
    """D3: the next use gets a new worker."""
    pool = make_pool(Victim, worker_count=1, max_restarts=OFTEN)
    for generation, n_rows in enumerate([0, 1, MANY]):
        pool.end_in_writing.submit(10**9, "os._exit(1)").result(PATIENCE_SECONDS)
        assert len(pool.make_rows.submit(n_rows).result(PATIENCE_SECONDS)) == n_rows + 1
        assert pool.place.submit().result(PATIENCE_SECONDS) == (0, generation + 1)


@pytest.mark.parametrize("end", ["close", "kill", "timeout"])
def test_a_pool_ends_though_nobody_takes_its_large_results(end: str) -> None:
    """D4: the workers wait with what does not fit the channel; who holds the iterator does not keep the pool from ending."""
    with ProxyPool(Victim, worker_count=2) as pool:
        results = pool.make_rows.options(buffersize=4).imap(itertools.repeat(5 * MANY))
        assert len(next(results)) == 5 * MANY + 1
        {"close": pool.close, "kill": pool.kill, "timeout": lambda: pool.close(timeout=0.01)}[end]()
    n_left = 0
    with contextlib.suppress(PoolClosedError):
        for _ in results:
            n_left += 1
    assert n_left <= 4


@pytest.mark.race
@pytest.mark.processes
def test_a_worker_that_hangs_in_the_middle_of_its_answer_is_ended(make_pool: MakePool, tmp_path: Path) -> None:
    """D5: by the time limit of its call, or by the end of the pool.

    Mutation: a channel that the program reads until a frame is whole never returns.
    """
    pool = make_pool(Victim)
    pool.end_in_writing(1_000_000, Meeting(tmp_path / "never over"), 1_000_000)
    with pytest.raises(TaskTimeoutError):
        pool[0].make_rows.options(timeout=0.3)(MANY)
    assert pool[0].place() == (0, 1)
    future = pool[1].make_rows.submit(MANY)
    poll_until(lambda: (tmp_path / "never over").exists() and future.running())
    pool.close(timeout=0.1)
    assert isinstance(future.exception(PATIENCE_SECONDS), PoolClosedError)


@pytest.mark.processes
def test_a_result_that_cannot_be_rebuilt_here_is_its_tasks_error(make_pool: MakePool, way: Way) -> None:
    """D6: whatever it does while it is rebuilt, an exit included; the pool is usable.

    Mutation: `except Exception` in `replies._unpickle` lets an exit end the program.
    """
    pool = make_pool(Victim)
    good = ("FailsAtUnpickle", "LookupError", -1)  # fails in no process that there is
    for how in ("LookupError", "SystemExit", "KeyboardInterrupt", "ModuleNotFoundError"):
        bad = ("NeedsMissingModule" if how == "ModuleNotFoundError" else "FailsAtUnpickle", how, os.getpid())
        columns = zip(good, bad, good, good, strict=True)
        for name, results in _over_items(way, pool, "make", *map(list, columns)).items():
            assert [isinstance(result, ResultPickleError) for result in results] == [False, True, False, False], (how, name)
            assert how in str(results[1])
        with pytest.raises(ResultPickleError, match=how):
            pool[0].make(*bad)
        with pytest.raises(ResultPickleError, match=how):
            pool.make.submit(*bad).result(PATIENCE_SECONDS)
    assert [worker.generation for worker in pool.workers] == [0, 0]


@pytest.mark.race
@pytest.mark.parametrize("how", ["os._exit(1)", "SIGSEGV"])
def test_a_result_is_kept_though_something_ends_the_worker_when_it_is_deleted_later(how: str) -> None:
    """D7: who asks next gets a new worker, and no error if it does not count on the state."""
    with ProxyPool(Victim, worker_count=1, max_restarts=OFTEN) as pool:
        pool[0].keep(FailsAtDeletion(how))
        pool[0].end_in_writing(10**9, "drop what is kept")
        assert pool.obey.map([1, 2, 3]) == [1, 2, 3]
        assert pool.place.submit().result(PATIENCE_SECONDS) == (0, 1)


@pytest.mark.parametrize("how", ["os._exit(1)", "SIGSEGV"])
def test_an_argument_that_ends_the_worker_when_it_is_deleted_costs_its_task_alone(how: str) -> None:
    """D7: it is deleted before its result is sent, and so is part of its task."""
    with ProxyPool(Victim, worker_count=2, max_restarts=OFTEN) as pool:
        with pytest.raises(WorkerDiedError):
            pool[0].size([FailsAtDeletion(how)])
        results = pool.size.options(on_error="return", chunksize=1).map([[0], [1], [FailsAtDeletion(how)], [3], [4]])
        assert [isinstance(result, int) for result in results][:2] == [True, True]
        assert [isinstance(result, int) for result in results][3:] == [True, True]


class RawSender(Victim):
    """Writes to its channel what is no frame."""

    def send_raw(self, data: bytes) -> None:
        os.write(self._channel(), data)
        signal.pause()

    def _channel(self) -> int:
        links = {int(fd): os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)}
        return max(fd for fd, link in links.items() if link.startswith("socket:"))


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_a_length_that_cannot_be_is_a_protocol_error() -> None:
    """D8: nothing is allocated for it, and the worker, which is alive, is ended."""
    with ProxyPool(RawSender, worker_count=2) as pool:
        with pytest.raises(WorkerDiedError, match="protocol error: a frame of 9223372036854775807 bytes"):
            pool[0].send_raw(wire.HEADER.pack(wire.REPLY, 2**63 - 1))
        assert pool.obey(1).tolist() == [1, 1]


@pytest.mark.parametrize("how", ["LookupError", "SystemExit"])
def test_a_bar_that_fails_ends_its_own_call(how: str) -> None:
    """D9: and no other."""
    kind = getattr(builtins, how)

    def raise_it(*_args: Any) -> None:
        raise kind("mine")

    with ProxyPool(Victim, worker_count=2) as pool:
        with pytest.raises(kind, match="mine"):
            pool.obey.options(progress_bar=raise_it).map(range(100))
        assert pool.obey.map(range(100)) == list(range(100))


def test_a_callback_of_a_future_that_fails_is_told_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """D9: as with any executor."""

    def raise_it(_future: Any) -> None:
        raise LookupError("mine")

    with ProxyPool(Victim, worker_count=2) as pool:
        futures = [pool.obey.submit(i) for i in range(20)]
        for future in futures:
            future.add_done_callback(raise_it)
        assert [future.result(PATIENCE_SECONDS) for future in futures] == list(range(20))
        poll_until(lambda: caplog.text.count("LookupError: mine") == 20)
        assert [worker.generation for worker in pool.workers] == [0, 0]


class Teller(Victim):
    """Tells the program something."""

    def tell(self, item: int) -> int:
        report_progress(1, 2)
        logging.getLogger("faults.told").warning("told")
        return item


class RaisingHandler(logging.Handler):
    """A handler of log records that raises."""

    def emit(self, record: logging.LogRecord) -> None:
        raise LookupError("mine")


def test_a_hook_that_fails_is_told_and_harms_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """D9: of the pool, or of the program's logging; neither the worker that tells nor who waits has made the error."""

    def raise_it(*_args: Any) -> None:
        raise LookupError("mine")

    monkeypatch.setattr(logging.getLogger("faults.told"), "handlers", [RaisingHandler()])
    monkeypatch.setattr(logging.getLogger("faults.told"), "propagate", False)
    with ProxyPool(Teller, worker_count=2, on_progress=raise_it) as pool:
        assert pool.tell.map(range(10)) == list(range(10))
        assert [pool.tell.submit(i).result(PATIENCE_SECONDS) for i in range(10)] == list(range(10))
        assert [worker.generation for worker in pool.workers] == [0, 0]
    told = capsys.readouterr().err.count("LookupError: mine")
    assert 20 < told <= 40, "each record, and what a worker reports, at most ten times a second"


@pytest.mark.race
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_hook_that_exits_in_the_background_leaves_the_pool_usable() -> None:
    """D9: it cannot end the program from there; futures that come later are driven all the same."""

    def leave(*_args: Any) -> None:
        raise SystemExit("mine")

    with ProxyPool(Teller, worker_count=1, max_restarts=OFTEN, on_progress=leave) as pool:
        for _ in range(3):
            told = pool.tell.submit(1)
            poll_until(told.done)  # nobody but the background thread turns the engine
            assert told.exception() is None or isinstance(told.exception(), WorkerDiedError)
            done = pool.obey.submit(2)
            poll_until(done.done)
            assert done.result() == 2


@pytest.mark.race
def test_a_death_under_one_thread_is_not_the_others(tmp_path: Path) -> None:
    """D10: of two threads that use one pool."""
    with ProxyPool(Victim, worker_count=2, max_restarts=OFTEN) as pool:
        outcomes: dict[str, Any] = {}
        meeting = Meeting(tmp_path / "meeting")

        def use(name: str, items: list[Any]) -> None:
            outcomes[name] = pool.obey.options(on_error="return", chunksize=1).map(items)

        well = threading.Thread(target=use, args=("well", [0, meeting, 2, 3]))
        ill = threading.Thread(target=use, args=("ill", [0, "SIGKILL", 2, "SIGSEGV", 4, "os._exit(0)"]))
        well.start()
        meeting.pid()
        ill.start()
        ill.join(PATIENCE_SECONDS)
        meeting.end()
        well.join(PATIENCE_SECONDS)
        assert outcomes["well"] == [0, "met", 2, 3]
        kinds = [type(outcome) for outcome in outcomes["ill"]]
        assert kinds == [int, WorkerDiedError, int, WorkerDiedError, int, WorkerDiedError]

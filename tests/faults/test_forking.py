"""Tasks that fork, frames that no worker sends, and forked children of the program that wait for their parent's pools."""

from __future__ import annotations

import concurrent.futures as cf
import contextlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forking import Forker, Stranger, in_child
from objproxy import PoolClosedError, ProxyPool, SharedArray, WorkerDiedError
from objproxy._worker import wire
from objproxy.mpire import WorkerPool
from objproxy.mtasklite import Pool
from objproxy.ompr import OMPRunner, RunningWorker
from targets import PATIENCE_SECONDS, Gate, Model, poll_until
from ways import MakePool, Way

# ---- tasks that fork -------------------------------------------------------------------------------------------------

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")


@pytest.mark.concurrent
def test_the_child_of_a_task_never_answers_for_it(make_pool: MakePool) -> None:
    """C24: whatever kind of result it has, by every verb; it has ended with 0 before its parent answers.

    Mutation: `forking.protect` that is not called: the child answers too, and its worker is ended.
    """
    pool = make_pool(Forker)
    pids = pool.pid.broadcast()
    for value in (1, 0.5, None, "text", 1 << 80):
        assert pool.number.map([value] * 20) == [value] * 20
        assert pool.number.options(chunksize=10).map([value] * 20) == [value] * 20
        assert pool.number.broadcast(value) == [value] * 2
        assert pool.number.submit(value).result(PATIENCE_SECONDS) == value
    assert list(pool.number.imap([1, None, "a", 0.5, None, None, 7])) == [1, None, "a", 0.5, None, None, 7]
    assert all((array == 0).all() and len(array) == 300_000 for array in pool.large.map([300_000] * 6))
    assert list(pool[0].rows(3)) == [0, 1, 2]
    assert pool.pid.broadcast() == pids


@pytest.mark.concurrent
def test_the_child_of_a_task_runs_no_further_item(make_pool: MakePool, tmp_path: Path) -> None:
    """C24: the other items of its chunk are its parent's."""
    path = str(tmp_path / "lines")
    assert make_pool(Forker).note.options(chunksize=10).map(range(20), [path] * 20) == list(range(20))
    assert sorted(map(int, Path(path).read_text().split())) == list(range(20))


@pytest.mark.concurrent
def test_the_child_of_a_task_ends_as_a_program(make_pool: MakePool) -> None:
    """C24: with 0, with the code of an exit, or with a traceback and 1."""
    pool = make_pool(Forker)
    hows = {None: 0, 0: 0, 7: 7, "words": 1, "raise": 1}
    assert [pool[0].end(how) for how in hows] == list(hows.values())
    assert pool.end.map(list(hows)) == list(hows.values())


@pytest.mark.concurrent
def test_a_constructor_may_fork(make_pool: MakePool) -> None:
    """C24: and the object's other half ends."""
    pool = make_pool(Forker, init_args=(True,))
    assert pool.made.tolist() == [0, 0]


@pytest.mark.concurrent
def test_children_of_multiprocessing_and_subprocess_go_on_working(make_pool: MakePool) -> None:
    """C24: also those that log and report: what they say goes to their standard error."""
    pool = make_pool(Forker)
    assert pool.by_multiprocessing.map([3, 4]) == [(6, 0, b"3\n"), (8, 0, b"4\n")]
    assert pool.by_multiprocessing.broadcast(5) == [(10, 0, b"5\n")] * 2


def test_the_child_of_a_serial_task_is_refused() -> None:
    """C24: both come back to the caller's own code."""
    with ProxyPool(Forker, worker_count=1, backend="serial") as pool:
        pid = os.getpid()
        try:
            results = pool.number.map([1, 2])
        except PoolClosedError:
            os._exit(0 if os.getpid() != pid else 1)
        assert os.getpid() == pid
        assert results == [1, 2]


# ---- frames that nobody asked for -----------------------------------------------------------------------------------


def _reply(seq: int, lane: int, count: int, data: bytes, *, is_last: bool = True) -> bytes:
    head = wire.REPLY_HEAD.pack(seq, is_last, 0)
    return wire.frame(wire.REPLY, head, wire.SEGMENT_HEAD.pack(lane, count, len(data)), data)


def _call_often(call: Callable[[], Any]) -> None:
    for _ in range(100):
        call()


STRANGE = {
    "a number that was not asked for": (_reply(10**6, wire.NONES, 1, b""), "answered message 1000000"),
    "unreadable": (wire.frame(wire.UNREADABLE, wire.UNREADABLE_BODY.pack(10**6)), "answered message 1000000"),
    "too short": (wire.frame(wire.REPLY, b"??"), "could not be understood"),
    "ready again": (wire.frame(wire.READY, b"?"), "a second time"),
    "a record that is no pickle": (wire.frame(wire.LOG, b"?"), "bytes that are no pickle"),
    "a report that is cut": (wire.frame(wire.PROGRESS, pickle.dumps((1, 2))[:-3]), "bytes that are no pickle"),
}


@pytest.mark.processes
@pytest.mark.not_spawn
@pytest.mark.parametrize("name", STRANGE)
def test_a_frame_that_no_worker_sends_is_its_workers_protocol_error(make_pool: MakePool, name: str) -> None:
    """D8, D12: named as such; the other worker and the pool go on."""
    data, says = STRANGE[name]
    pool = make_pool(Stranger)
    with pytest.raises(WorkerDiedError, match="protocol error") as caught:
        _call_often(lambda: pool[0].send(data))
    assert says in str(caught.value)
    assert [worker.generation for worker in pool.workers] == [1, 0]
    assert pool.number.map(range(4)) == list(range(4))


@pytest.mark.processes
@pytest.mark.not_spawn
def test_a_child_that_python_does_not_know_of_is_its_workers_protocol_error(make_pool: MakePool) -> None:
    """D12: forked by the C library, it answers the same call a second time; that was an `IndexError` of the engine's own.

    Mutation: `take_reply` that does not look whether anything was asked.
    """
    pool = make_pool(Stranger)
    with pytest.raises(WorkerDiedError, match="protocol error: it answered message"):
        _call_often(pool[0].fork_unseen)
    assert pool.number.map(range(4)) == list(range(4))


@pytest.mark.processes
@pytest.mark.not_spawn
@pytest.mark.parametrize("byte", [0x7F, 0xFF, 0x02, 0x04, 0x05])
def test_a_journal_that_was_written_over_costs_its_worker_alone(make_pool: MakePool, byte: int) -> None:
    """C25: what a dead worker has left cannot be read: each of its items may have run, and none runs again.

    Mutation: `recover` without its ``except``: the engine breaks.
    """
    pool = make_pool(Stranger)
    results = pool.scribble.options(on_error="return", chunksize=3).map(range(3), [byte] * 3)
    assert [type(result) for result in results] == [WorkerDiedError] * 3
    assert pool.number.map(range(4)) == list(range(4))


# ---- forked children of the program ---------------------------------------------------------------------------------


def _refused(action: Callable[[], Any], name: str = "") -> Callable[[], None]:
    def check() -> None:
        try:
            action()
        except PoolClosedError as exc:
            assert "another process" in str(exc), name  # noqa: PT017
        else:
            raise AssertionError(f"{name} was not refused")

    return check


@pytest.mark.concurrent
def test_a_forked_child_does_not_wait_for_its_parents_pool(make_pool: MakePool, gates: type[Gate]) -> None:
    """E13: futures, iterators, streams and everything else are refused at once, and nothing of the parent's is disturbed.

    Mutation: `forked._tell_all` that tells nobody: the child hangs.
    """
    pool = make_pool(Model)
    gate = gates("go")
    done = pool.echo.submit("before")
    assert done.result(PATIENCE_SECONDS) == "before"
    future, other = pool.wait_at.submit(gate), pool.wait_at.submit(gate)
    poll_until(future.running)
    iterator = pool.echo.imap(range(10))
    unordered = pool.echo.imap_unordered(range(10))
    stream = pool.wait_at.stream()
    stream.put([gate, gate])

    def use() -> None:
        assert done.result() == done.result(0) == "before"
        assert done.exception() is None
        refused: dict[str, Callable[[], Any]] = {
            "result": future.result,
            "exception": future.exception,
            "result in time": lambda: other.result(timeout=PATIENCE_SECONDS),
            "as_completed": lambda: [each.result() for each in cf.as_completed([future, other])],
            "imap": lambda: next(iterator),
            "imap_unordered": lambda: list(unordered),
            "get": stream.get,
            "take": stream.take,
            "stream": lambda: next(stream),
            "put": lambda: stream.put([3]),
            "put an iterator": lambda: stream.put(iter([3])),
            "broadcast": lambda: pool.echo(1),
            "submit": lambda: pool.echo.submit(1),
            "map": lambda: pool.echo.map(range(3)),
            "new imap": lambda: pool.echo.imap(range(3)),
            "new stream": pool.echo.stream,
            "instance": lambda: pool[0].echo(1),
            "attribute": lambda: pool.rate,
            "set": lambda: setattr(pool, "rate", 1),
            "wait_ready": pool.wait_ready,
            "resize": lambda: pool.resize(3),
            "checkpoint": pool.checkpoint,
            "dump_stacks": pool.dump_stacks,
            "put of the pool": lambda: pool.put([1]),
        }
        for name, action in refused.items():
            _refused(action, name)()
        assert cf.wait([future, other, done]).not_done == set()
        assert not future.cancel()
        iterator.close()
        stream.close()
        pool.close()
        pool.kill()

    in_child(use)
    assert len(pool.workers) == 2
    gate.open()
    assert future.result(PATIENCE_SECONDS) == other.result(PATIENCE_SECONDS)
    assert list(iterator) == list(range(10))
    assert sorted(unordered) == list(range(10))
    assert [stream.get(PATIENCE_SECONDS), stream.get(PATIENCE_SECONDS)] == [0, 0]
    stream.close()


@pytest.mark.concurrent
def test_what_was_there_before_the_fork_is_given_in_the_child(make_pool: MakePool) -> None:
    """E13: results of iterators and streams that have arrived, then the refusal."""
    pool = make_pool(Model)
    stream = pool.echo.stream()
    stream.put([1, 2])
    poll_until(lambda: stream.n_done == 2)

    def use() -> None:
        assert [stream.get(), stream.get()] == [1, 2]
        _refused(stream.get)()

    in_child(use)
    assert stream.take() == [1, 2]
    stream.close()


def test_a_child_that_is_forked_by_a_callback_or_an_iterable_is_refused(make_pool: MakePool) -> None:
    """E13: in the midst of the engine, or of a map."""
    pool, said = make_pool(Model), []
    future = pool.echo.submit(1)
    future.add_done_callback(lambda _future: said.append(in_child(_refused(lambda: pool.echo(1))) or "fine"))
    assert future.result(PATIENCE_SECONDS) == 1
    poll_until(lambda: bool(said))

    def items() -> Any:
        for item in range(3):
            said.append(in_child(_refused(lambda: pool.echo.submit(1).result())) or "fine")
            yield item

    assert pool.echo.map(items()) == [0, 1, 2]
    assert said == ["fine"] * 4


@pytest.mark.concurrent
def test_a_forked_child_writes_nothing_into_its_parents_memory(make_pool: MakePool) -> None:
    """E13: a call with a large array is refused before its bytes are where the parent's are; a `SharedArray` is shared."""
    import numpy as np

    pool = make_pool(Model)
    with SharedArray.zeros(10) as shared:
        pool.echo.map([np.ones(300_000)] * 4)
        future = pool.echo.submit(np.ones(300_000))

        def use() -> None:
            shared.array[3] = 5
            for _ in range(10):
                with contextlib.suppress(PoolClosedError):
                    pool.echo(np.zeros(300_000))
                with contextlib.suppress(PoolClosedError):
                    pool.echo.map([np.zeros(300_000)] * 4)

        in_child(use)
        assert shared.array[3] == 5
        assert (future.result(PATIENCE_SECONDS) == 1).all()


class Slow(RunningWorker):
    """Waits at a gate."""

    def process(self, gate: Gate) -> int:  # type: ignore[override]
        gate.wait()
        return 1


def wait_at(gate: Gate) -> int:
    """Wait at a gate."""
    gate.wait()
    return 1


def test_results_of_the_faces_are_refused_in_a_forked_child(gates: type[Gate]) -> None:
    """E13: those of `AsyncResult`, of an `OMPRunner`, and of mtasklite's generators."""
    gate = gates("go")
    with (
        WorkerPool(2) as workers,
        OMPRunner(Slow, devices=[None]) as runner,
        Pool(wait_at, n_jobs=2) as streaming,
    ):
        result = workers.apply_async(wait_at, (gate,))
        runner.process({"gate": gate})
        results = streaming([gate, gate])

        def use() -> None:
            for action in (result.get, result.wait, runner.get_result, runner.get_all_results, lambda: next(results)):
                _refused(action)()

        in_child(use)
        gate.open()
        assert result.get(PATIENCE_SECONDS) == 1
        assert runner.get_all_results() == [1]
        assert list(results) == [1, 1]


def test_a_forked_child_makes_a_pool_of_its_own(way: Way) -> None:
    """E13: while its parent's is in use."""
    with ProxyPool(Model, worker_count=1, **way.options) as pool:
        future = pool.echo.submit(1)

        def use() -> None:
            with ProxyPool(Model, worker_count=1, **way.options) as own:
                assert own.echo.submit(2).result(PATIENCE_SECONDS) == 2
                assert list(own.echo.imap(range(3))) == [0, 1, 2]

        in_child(use)
        assert future.result(PATIENCE_SECONDS) == 1

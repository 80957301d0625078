"""The system has no room for a worker (A): for a moment, or for long."""

from __future__ import annotations

import errno
import os

import pytest

from objproxy import ProxyPool, WorkerInitError
from objproxy._engine import messages as m
from objproxy._engine.shortage import PATIENCE_SECONDS
from programs import run
from state_pool import StatePool, make_batch, make_rules

NO_ROOM = OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.parametrize("start_method", ["forkserver", "fork", "spawn"])
def test_a_passing_lack_of_descriptors_costs_no_worker(start_method: str) -> None:
    """A15: issue 13: the worker was quarantined within milliseconds, for good."""
    code = """
    import resource, threading
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ProxyPool(Victim, worker_count=2, start_method=sys.argv[1], timeline=True) as pool:
        assert pool.obey(1).tolist() == [1, 1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 2, hard))
        os.kill(pool.workers[0].pid, signal.SIGKILL)
        for _ in range(100):  # it is refused meanwhile, many times; nothing of this needs a descriptor
            states = [worker.state for worker in pool.workers]
            repr(pool), pool.insights(), len(pool)
            assert pool[1].obey(2) == 2
            time.sleep(0.01)
        assert states == ["gone", "idle"], states
        assert pool.obey.map([3] * 10) == [3] * 10
        threading.Timer(0.5, resource.setrlimit, (resource.RLIMIT_NOFILE, (soft, hard))).start()
        assert pool.wait_ready(30)
        try:
            pool.obey(4)
        except WorkerDiedError as exc:
            assert exc.is_replaced and not exc.started
        assert pool.obey(4).tolist() == [4, 4]
        print([worker.generation for worker in pool.workers])
    """
    with run(code, start_method) as program:
        ended = program.finish()
    assert (ended.returncode, ended.output, ended.errors) == (0, "[1, 0]\n", "")


def test_a_pool_that_is_made_without_room_says_so_at_once() -> None:
    """A15: nobody waits there for what may never come."""
    pool = StatePool(2, is_open=False)
    pool.feed(m.StartFailed(1, 0, NO_ROOM))
    assert pool.state.phase == "broken"
    assert pool.state.failure is NO_ROOM


def _refuse_for(pool: StatePool, worker_id: int, seconds: float) -> None:
    """Refuse every start of a worker that has died, as long as that."""
    stop = pool.now + seconds
    while pool.now <= stop:
        assert pool.started[-1] == (worker_id, 1)
        del pool.sent[worker_id]
        pool.feed(m.StartFailed(worker_id, 1, NO_ROOM))
        deadline = pool.state.next_deadline()
        assert deadline is not None
        assert deadline <= pool.now + 1
        pool.now = deadline
        pool.feed(m.Ticked())


def test_a_worker_that_is_refused_is_tried_again_and_counts_no_failure() -> None:
    pool = StatePool(2)
    rules = make_rules()
    pool.die(0)
    pool.feed(m.Submitted(make_batch(rules, 0, 1, worker_id=0)))
    _refuse_for(pool, 0, PATIENCE_SECONDS / 2)
    assert not pool.outcomes
    pool.make_ready(0)
    assert pool.state.workers[0].phase == "busy"
    assert pool.state.next_deadline() is None
    assert len(pool.started) < 20


def test_what_waits_for_a_worker_is_told_if_the_lack_lasts() -> None:
    """A15: what waits for the others goes on."""
    pool = StatePool(2)
    mine, shared = make_rules("mine"), make_rules("shared")
    pool.die(0)
    pool.feed(m.Submitted(make_batch(mine, 0, 1, worker_id=0)))
    pool.feed(m.Submitted(make_batch(shared, 0, 1)))
    pool.feed(m.Submitted(make_batch(shared, 1, 1)))
    _refuse_for(pool, 0, PATIENCE_SECONDS + 2)
    assert {rules for rules, _ in pool.outcomes} == {mine}
    error = pool.outcomes[mine, 0].error
    assert isinstance(error, WorkerInitError)
    assert error.__cause__ is NO_ROOM
    assert "Too many open files" in str(error)
    pool.make_ready(0)
    assert pool.state.workers[0].phase == "busy"


def test_what_waits_for_any_worker_is_told_if_none_is_left() -> None:
    pool = StatePool(1)
    rules = make_rules()
    pool.die(0)
    pool.feed(m.Submitted(make_batch(rules, 0, 1)))
    _refuse_for(pool, 0, PATIENCE_SECONDS + 2)
    assert isinstance(pool.outcomes[rules, 0].error, WorkerInitError)
    assert pool.state.phase == "open"


@pytest.mark.parametrize("how", ["close", "kill", "resize"])
def test_a_worker_that_waits_for_room_holds_up_no_end(how: str) -> None:
    pool = StatePool(2)
    pool.die(1)
    del pool.sent[1]
    pool.feed(m.StartFailed(1, 1, NO_ROOM))
    assert pool.state.workers[1].phase == "gone"
    if how == "resize":
        pool.feed(m.Resized(1))
    else:
        pool.feed(m.CloseAsked() if how == "close" else m.KillAsked(RuntimeError()))
    assert 1 not in pool.state.workers
    pool.now += 5
    pool.feed(m.Ticked())
    assert pool.started[-1] == (1, 1)
    if how == "resize":
        pool.feed(m.Resized(2))
        assert pool.started[-1] == (1, 2)


def test_what_is_no_lack_counts_as_a_failure() -> None:
    pool = StatePool(2, max_restarts=(1, 1.0))
    pool.die(1)
    del pool.sent[1]
    pool.feed(m.StartFailed(1, 1, OSError(errno.EPERM, os.strerror(errno.EPERM))))
    assert pool.state.workers[1].phase == "quarantined"


def test_the_memory_of_a_snapshot_may_be_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A15: it ended the pool."""
    with ProxyPool(dict, worker_count=1, on_restart="snapshot") as pool:
        pool.checkpoint()
        cargo, calls = pool._core.recipe.cargo, []

        def refuse_once(worker_id: int, generation: int) -> object:
            calls.append(generation)
            if len(calls) == 1:
                raise MemoryError
            return cargo(worker_id, generation)

        monkeypatch.setattr(pool._core.recipe, "cargo", refuse_once)
        pid = pool.workers[0].pid
        assert pid is not None
        os.kill(pid, 9)
        assert pool.get.map(["x"]) == [None]
        assert calls == [1, 1]

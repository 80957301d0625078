"""The system has no room for a worker (A): for a moment, or for long."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from contained import NAMESPACE, ROOT, has_namespaces
from objproxy import ProxyPool, SharedMemoryFullError, WorkerInitError
from objproxy._engine import messages as m
from objproxy._engine.shortage import PATIENCE_SECONDS
from objproxy._worker import journal
from programs import run
from state_pool import StatePool, make_batch, make_rules
from targets import poll_until

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
    """A15: as a rule, without a process."""
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
    """A15: no caller waits for ever."""
    pool = StatePool(1)
    rules = make_rules()
    pool.die(0)
    pool.feed(m.Submitted(make_batch(rules, 0, 1)))
    _refuse_for(pool, 0, PATIENCE_SECONDS + 2)
    assert isinstance(pool.outcomes[rules, 0].error, WorkerInitError)
    assert pool.state.phase == "open"


@pytest.mark.parametrize("how", ["close", "kill", "resize"])
def test_a_worker_that_waits_for_room_holds_up_no_end(how: str) -> None:
    """A15: it is forgotten."""
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
    """A15: other refusals do not pass by themselves."""
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


def test_workers_are_told_of_though_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """A15: a worker that waits for room wants a thread that turns the engine at its time."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def refuse_start(_worker_id: int, _generation: int) -> None:
        raise NO_ROOM

    with ProxyPool(dict, worker_count=1) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            patch.setattr(pool._core.backend, "start", refuse_start)
            pid = pool.workers[0].pid
            assert pid is not None
            os.kill(pid, 9)
            poll_until(lambda: pool.workers[0].state == "gone")
        assert pool.get.map(["x"]) == [None]


def _can_mount() -> bool:
    mount = [*NAMESPACE, "--mount", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    return has_namespaces() and subprocess.run(mount, capture_output=True, check=False).returncode == 0


FULL = """
import shutil
import numpy as np
from objproxy import ProxyPool, SharedArray, SharedMemoryFullError

class Maker:
    def total(self, array):
        return float(np.sum(array))

    def make(self, n):
        return np.ones(n)

def fill(n_left):
    with open("/dev/shm/filler", "ab") as file:
        free = shutil.disk_usage("/dev/shm").free
        if free > n_left:
            os.posix_fallocate(file.fileno(), file.tell(), free - n_left)

def refuses(function):
    try:
        function()
    except SharedMemoryFullError as exc:
        return exc.needed > exc.free
    return False

made = 0
for n_left in (0, 40_000, 1 << 20, (1 << 20) + 300_000):  # a worker needs a mebibyte for its two tables
    fill(n_left)
    # What is left behind by the pool before may have gone only now.
    made += not refuses(lambda: ProxyPool(Maker, worker_count=2, start_method=sys.argv[1]).close()) and n_left < 1 << 20
    assert os.listdir("/dev/shm") == ["filler"], os.listdir("/dev/shm")
    os.unlink("/dev/shm/filler")
assert not made, made

with ProxyPool(Maker, worker_count=2, start_method=sys.argv[1]) as pool:
    fill(40_000)
    for n_items in (20_000, 300_000):
        array = np.ones(n_items)
        assert refuses(lambda: pool.total(array))
        assert refuses(lambda: pool.make(n_items))
        assert refuses(lambda: pool.make.map([n_items] * 3))
        assert refuses(lambda: pool.put(array))
        assert refuses(lambda: SharedArray(array))
        assert pool.total([1, 2]).tolist() == [3, 3]
    os.kill(pool.workers[0].pid, signal.SIGKILL)  # there is room for its successor: its tables go with it
    assert pool.wait_ready(30)
    os.unlink("/dev/shm/filler")
    assert pool.make.map([300_000])[0].shape == (300_000,)
print(os.listdir("/dev/shm"))
"""


@pytest.mark.skipif(not _can_mount(), reason="file systems cannot be mounted here")
@pytest.mark.parametrize("start_method", ["forkserver", "fork", "spawn"])
def test_a_full_file_system_is_told_portably(start_method: str, tmp_path: Path) -> None:
    """B9: issue 13: making the pool raised the bare OSError; nothing is ever killed for it (SIGBUS)."""
    program = tmp_path / "program.py"
    program.write_text(f"import os, signal, sys\n{FULL}")
    mount = 'mount -t tmpfs -o size=16m tmpfs /dev/shm && exec "$@"'
    done = subprocess.run(
        [*NAMESPACE, "--mount", "sh", "-c", mount, "sh", "timeout", "-k", "1", "100", sys.executable, program, start_method],
        capture_output=True,
        text=True,
        env={**os.environ, "OBJPROXY_PORTABLE": "1", "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_a_journal_for_which_the_disk_has_no_room_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """B9: writing into it would kill the worker."""

    def refuse(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setenv("OBJPROXY_PORTABLE", "1")
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(SharedMemoryFullError, match="journal"):
        journal.create()

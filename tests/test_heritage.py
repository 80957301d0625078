"""Objects of multiprocessing in workers: what its own children have of their parent, workers have too."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import connection, managers, shared_memory
from pathlib import Path
from typing import Any

import pytest

from heritage_targets import Sharer
from objproxy import ArgumentPickleError, ProxyPool


@pytest.fixture(scope="module")
def manager() -> Iterator[managers.SyncManager]:
    with multiprocessing.get_context("spawn").Manager() as manager:
        kept = manager.dict()  # all proxies share one connection, which is closed with the last of them
        assert not kept.keys()
        yield manager


@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
def test_proxies_of_a_manager_work_in_constructors_and_as_arguments(manager: Any, start_method: Any) -> None:
    shared, queue = manager.dict(), manager.Queue()
    options: Any = {"start_method": start_method, "max_tasks_per_worker": 2}  # the later ones are replacements
    with ProxyPool(Sharer, worker_count=1, init_args=(shared,), **options) as pool:
        pool.note.map(range(5))
        pool.add.map([queue] * 3, range(3))
    assert sorted(shared.keys()) == list(range(5))
    assert sorted(queue.get() for _ in range(3)) == [0, 1, 2]


def test_pools_of_workers_hold_the_key_too(manager: Any) -> None:
    shared = manager.dict()
    with ProxyPool(Sharer, worker_count=1, init_args=(shared,)) as pool:
        pool[0].note_in_a_pool_of_its_own("inner")
    assert dict(shared) == {"inner": True}


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_a_key_that_was_set_holds_in_workers_and_is_not_visible(start_method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    process = multiprocessing.current_process()
    monkeypatch.setattr(process, "authkey", b"a-key-of-the-program")
    with (
        connection.Listener(authkey=process.authkey) as listener,
        ProxyPool(Sharer, worker_count=1, start_method=start_method, name="named") as pool,
    ):
        said = pool.say.submit(listener.address, "hello")
        with listener.accept() as conversation:
            assert conversation.recv() == "hello"
        said.result()
        variables, lines = pool[0].visible()
        assert pool[0].process() == ("named-0", False)
    assert not any("a-key-of" in text for text in variables)
    assert not any(b"a-key-of" in line for line in lines)


@pytest.mark.parametrize("start_method", ["forkserver", "fork"])
def test_shared_memory_outlives_the_workers_that_open_it(start_method: Any) -> None:
    memory = shared_memory.SharedMemory(create=True, size=16)
    numbers = shared_memory.ShareableList([1, 2, 3])
    try:
        for count in (1, 3):
            with ProxyPool(Sharer, worker_count=1, start_method=start_method) as pool:
                assert pool[0].increase(memory) == count
                assert pool[0].increase_named(memory.name) == count + 1
                assert pool[0].total(numbers) == 6
        assert memory.buf[0] == 4
        shared_memory.SharedMemory(memory.name).close()
    finally:
        memory.close()
        memory.unlink()
        numbers.shm.close()
        numbers.shm.unlink()


_LATE = """
from heritage_targets import Sharer
from objproxy import ProxyPool
with ProxyPool(Sharer, worker_count=1) as pool:
    from multiprocessing import shared_memory
    pool[0].process()
    memory = shared_memory.SharedMemory(create=True, size=16)
    assert pool[0].increase(memory) == 1
memory.close()
again = shared_memory.SharedMemory(memory.name)
assert again.buf[0] == 1
again.close()
memory.unlink()
"""


def test_shared_memory_that_is_made_after_the_pool_outlives_it_and_nothing_complains() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _LATE], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=120, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_worker_may_start_processes_of_multiprocessing() -> None:
    with ProxyPool(Sharer, worker_count=1) as pool:
        assert pool[0].use_children() == [5, 1, 2]


@pytest.mark.parametrize("kind", ["SimpleQueue", "Lock", "Event"])
def test_what_only_children_of_multiprocessing_may_have_is_refused_with_advice(kind: str) -> None:
    value = getattr(multiprocessing, kind)()
    with pytest.raises(ArgumentPickleError, match=r"through inheritance.*Manager"):
        ProxyPool(Sharer, worker_count=1, init_args=(value,))
    if kind == "SimpleQueue":
        value.close()


def test_a_connection_is_refused_since_only_a_number_would_arrive() -> None:
    one, other = multiprocessing.Pipe()
    with one, other, ProxyPool(Sharer, worker_count=1) as pool:
        with pytest.raises(ArgumentPickleError, match=r"argument 0.*Connection.*in this process alone"):
            pool[0].total(one)
        with pytest.raises(ArgumentPickleError, match=r"Connection.*in this process alone"):
            ProxyPool(lambda: one, worker_count=1)

"""Code of the user that the engine calls (F): it may use its own pool, raise, or take long, and harms nothing."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from changing_targets import Reporter
from faulty import Meeting
from objproxy import PoolClosedError, ProxyPool
from objproxy._engine import outbox
from targets import PATIENCE_SECONDS, poll_until
from ways import MakePool, Way

#: What a hook may want of its own pool, and how often it is called at most.
USES: dict[str, Callable[[ProxyPool[Any]], Any]] = {
    "a future": lambda pool: pool[0].who.submit().result(PATIENCE_SECONDS),
    "a future of any worker": lambda pool: pool.who.submit().result(PATIENCE_SECONDS),
    "a broadcast": lambda pool: pool.who.broadcast(),
    "a map": lambda pool: pool.work.map(range(3)),
    "rounds": lambda pool: pool.work.options(map_args=True, synchronize=True)(range(5)),
    "a lazy map": lambda pool: list(pool.work.imap(range(3))),
    "a stream": lambda pool: stream(pool),
    "asyncio": lambda pool: asyncio.run(asyncio.wait_for(pool.who.aio(), PATIENCE_SECONDS)),
    "asyncio in another thread": lambda pool: in_a_thread(USES["asyncio"], pool),
    "an attribute": lambda pool: pool.n_calls,
    "the setting of an attribute": lambda pool: setattr(pool, "extra", 1),
    "one instance": lambda pool: pool[1].who(),
    "another size": lambda pool: pool.resize(3 if len(pool) == 2 else 2),
    "a checkpoint": lambda pool: pool.checkpoint(),
    "workers": lambda pool: (pool.workers, pool.insights(), len(pool), list(pool), pool.dump_stacks(0.1)),
    "readiness": lambda pool: pool.wait_ready(PATIENCE_SECONDS),
    "another thread": lambda pool: in_a_thread(lambda: pool.who.broadcast()),
    "another thread's future": lambda pool: in_a_thread(lambda: pool.who.submit().result(PATIENCE_SECONDS)),
}


def stream(pool: ProxyPool[Any]) -> list[Any]:
    with pool.work.stream() as tasks:
        tasks.put([1, 2])
        return [tasks.get(PATIENCE_SECONDS) for _ in range(2)]


def in_a_thread(call: Callable[..., Any], *args: Any) -> Any:
    with cf.ThreadPoolExecutor(1) as executor:
        return executor.submit(call, *args).result(PATIENCE_SECONDS)


class Hook:
    """Uses a pool a few times, and notes what comes of it."""

    def __init__(self, use: Callable[[ProxyPool[Any]], Any]) -> None:
        self.use = use
        self.pool: ProxyPool[Any] | None = None
        self.n_calls = 0
        self.errors: list[BaseException] = []

    def __call__(self, *_args: Any) -> None:
        self.n_calls += 1
        if self.pool is None or self.n_calls > 3:
            return
        try:
            self.use(self.pool)
        except Exception as exc:
            self.errors.append(exc)


class Handler(logging.Handler):
    """Calls a hook with each record."""

    def __init__(self, hook: Callable[..., Any]) -> None:
        super().__init__()
        self.hook = hook

    def emit(self, record: logging.LogRecord) -> None:
        self.hook(record)


@contextmanager
def logging_to(hook: Callable[..., Any], name: str = "objproxy.tests.reporter") -> Iterator[None]:
    logger, handler = logging.getLogger(name), Handler(hook)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


CALLS: dict[str, Callable[[ProxyPool[Any]], Any]] = {
    "a map": lambda pool: pool.work.options(chunksize=1).map(range(6)),
    "a broadcast": lambda pool: pool.work(1),
    "one instance": lambda pool: pool[0].work(1),
    "a future": lambda pool: pool.work.submit(1).result(PATIENCE_SECONDS),
    "futures that only the pump drives": lambda pool: cf.wait([pool.work.submit(n) for n in range(4)], PATIENCE_SECONDS),
    "a lazy map": lambda pool: list(pool.work.imap(range(6))),
    "asyncio": lambda pool: asyncio.run(pool.work.aio(1)),
}


@pytest.mark.concurrent
@pytest.mark.not_spawn
@pytest.mark.parametrize("use", list(USES))
def test_a_progress_hook_may_use_its_own_pool(make_pool: MakePool, way: Way, use: str) -> None:
    """G7: no call waits for ever."""
    calls = CALLS if way.name == "thread" else {"a future": CALLS["a future"], "a map": CALLS["a map"]}
    for name, call in calls.items():
        hook = Hook(USES[use])
        with make_pool(Reporter, on_progress=hook) as pool:
            hook.pool = pool
            call(pool)
            assert pool.who.broadcast()[:2] == [0, 1]
        assert hook.n_calls > 0, name
        assert hook.errors == [], name


@pytest.mark.parametrize("use", ["a future", "a broadcast", "a map", "asyncio", "an attribute", "another size"])
def test_a_progress_hook_of_a_pool_in_the_callers_memory_may_use_it(use: str) -> None:
    """G7: no call waits for ever."""
    hook = Hook(USES[use])
    with ProxyPool(Reporter, worker_count=2, backend="serial", on_progress=hook) as pool:
        hook.pool = pool
        assert pool.work.map(range(4)) == [0, 1, 2, 3]
    assert hook.n_calls > 0
    assert hook.errors == []


@pytest.mark.parametrize("use", list(USES))
def test_a_log_handler_may_use_its_own_pool(use: str) -> None:
    """G7: no call waits for ever."""
    hook = Hook(USES[use])
    with ProxyPool(Reporter, worker_count=2) as pool, logging_to(hook):
        hook.pool = pool
        assert pool.tell.broadcast("here") == ["here", "here"]
        assert hook.n_calls >= 2
    assert hook.errors == []


@pytest.mark.concurrent
@pytest.mark.not_spawn
@pytest.mark.parametrize("use", [use for use in USES if use != "asyncio"])  # it may be called within the loop of its thread
def test_a_callback_of_a_future_may_use_its_own_pool(make_pool: MakePool, use: str) -> None:
    """G7: no call waits for ever."""
    hook = Hook(USES[use])
    pool = hook.pool = make_pool(Reporter)
    futures = [pool.who.submit() for _ in range(3)]
    for future in futures:
        future.add_done_callback(hook)
    assert {future.result(PATIENCE_SECONDS) for future in futures} <= {0, 1}
    poll_until(lambda: hook.n_calls == 3)
    assert pool.who.broadcast()[:2] == [0, 1]
    assert hook.errors == []


@pytest.mark.concurrent
@pytest.mark.parametrize("end", ["close", "kill"])
@pytest.mark.not_spawn
@pytest.mark.parametrize("call", list(CALLS))
def test_a_progress_hook_may_end_its_own_pool(make_pool: MakePool, end: str, call: str) -> None:
    """G7: no call waits for ever."""
    hook = Hook(lambda pool: getattr(pool, end)())
    pool = hook.pool = make_pool(Reporter, on_progress=hook)
    with suppress(PoolClosedError):
        CALLS[call](pool)
    poll_until(lambda: pool._core.driver.state.phase == "closed")
    assert hook.errors == []


@pytest.mark.parametrize("verb", ["map", "imap", "broadcast"])
def test_a_function_that_is_told_how_far_a_call_is_may_use_its_pool(verb: str) -> None:
    """G7: no call waits for ever."""
    seen: list[Any] = []
    with ProxyPool(Reporter, worker_count=2) as pool:
        method: Any = pool.work.options(progress_bar=lambda *_: seen.append(pool.who.submit().result(PATIENCE_SECONDS)))
        list(getattr(method, verb)(1 if verb == "broadcast" else range(3)))
    assert set(seen) <= {0, 1}
    assert seen


def test_an_answer_to_an_error_of_a_stream_may_use_its_pool() -> None:
    """G7: no call waits for ever."""
    pool = ProxyPool(Reporter, worker_count=2)
    with pool, pool.fail.stream(on_error=lambda *_: pool.who.submit().result(PATIENCE_SECONDS)) as tasks:
        tasks.put([1, 2])
        assert {tasks.get(PATIENCE_SECONDS) for _ in range(2)} <= {0, 1}


@pytest.mark.concurrent
def test_reports_are_told_in_order_before_their_call_returns(make_pool: MakePool) -> None:
    """G7: no call waits for ever."""
    seen: list[tuple[int, int]] = []
    pool = make_pool(Reporter, on_progress=lambda worker_id, done, _total: seen.append((worker_id, done)))
    for item in range(1, 30):
        assert pool.work(item).tolist() == [item, item]
        assert {(0, item), (1, item)} <= set(seen)
    for worker_id in range(2):
        assert [done for number, done in seen if number == worker_id] == list(range(1, 30))
    assert pool.work.submit(99).result(PATIENCE_SECONDS) == 99
    assert seen[-1][1] == 99


@pytest.mark.concurrent
def test_reports_of_threads_are_told_before_their_calls_return(make_pool: MakePool) -> None:
    """G7: whichever thread turns the engine."""
    seen: set[int] = set()
    missing: list[int] = []
    pool = make_pool(Reporter, on_progress=lambda _worker, done, _total: seen.add(done))

    def use(first: int) -> None:
        for item in range(first, first + 50):
            pool.work.submit(item).result(PATIENCE_SECONDS) if item % 2 else pool[item % 4 // 2].work(item)
            missing.extend({item} - seen)

    threads = [threading.Thread(target=use, args=(first,)) for first in (100, 200, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert missing == []


def test_hooks_are_called_one_at_a_time() -> None:
    """G7: also where workers are threads, which report by themselves."""
    n_now, most = 0, 0
    lock = threading.Lock()

    def hook(*_report: Any) -> None:
        nonlocal n_now, most
        with lock:
            n_now += 1
            most = max(most, n_now)
        pool.who()
        with lock:
            n_now -= 1

    with ProxyPool(Reporter, worker_count=3, backend="thread", on_progress=hook) as pool:
        pool.work.options(chunksize=1).map(range(30))
    assert most == 1


def test_a_slow_hook_does_not_keep_other_callers_from_their_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """G8: a hook is not the engine."""
    monkeypatch.setattr(outbox, "_SHORT_PATIENCE_SECONDS", 0.01)
    is_slow, may_go = threading.Event(), threading.Event()

    def hook(*_report: Any) -> None:
        is_slow.set()
        may_go.wait(PATIENCE_SECONDS)

    with ProxyPool(Reporter, worker_count=2, on_progress=hook) as pool:
        thread = threading.Thread(target=pool[0].work, args=(1,))
        thread.start()
        assert is_slow.wait(PATIENCE_SECONDS)
        assert pool[1].work(2) == 2
        assert pool[1].who.submit().result(PATIENCE_SECONDS) == 1
        assert thread.is_alive()
        may_go.set()
        thread.join(PATIENCE_SECONDS)


@pytest.mark.concurrent
def test_a_hook_that_raises_is_told_and_the_next_is_called(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """G9: the rest is told."""
    told: list[BaseException] = []
    monkeypatch.setattr("sys.excepthook", lambda _kind, error, _traceback: told.append(error))
    pool = make_pool(Reporter, on_progress=lambda _worker, done, _total: 1 // (done - 1))
    for item in (1, 2, 1):
        assert pool.work(item).tolist() == [item, item]
    assert [type(error) for error in told] == [ZeroDivisionError] * 4


def test_an_interrupt_in_a_hook_ends_the_call_and_the_rest_is_told_later(tmp_path: Path) -> None:
    """G9: the rest is told."""
    seen: list[int] = []

    def hook(_worker_id: int, done: int, _total: int | None) -> None:
        seen.append(done)
        if done == 1:
            raise KeyboardInterrupt

    with ProxyPool(Reporter, worker_count=1, on_progress=hook) as pool:
        with pytest.raises(KeyboardInterrupt):
            pool.meet(Meeting(tmp_path / "never over"))
        assert pool.wait_ready(PATIENCE_SECONDS)
        assert pool.work(2).tolist() == [2]
    assert seen == [1, 2]


def test_a_warning_of_silence_may_use_its_own_pool(tmp_path: Path) -> None:
    """G7: no call waits for ever."""
    meeting = Meeting(tmp_path / "meeting")
    hook = Hook(lambda pool: (pool[1].who.submit().result(PATIENCE_SECONDS), meeting.end()))
    with ProxyPool(Reporter, worker_count=2, stall_warning=0.1) as pool, logging_to(hook, "objproxy"):
        hook.pool = pool
        assert pool[0].meet(meeting) == 0
    assert hook.n_calls == 1
    assert hook.errors == []


def test_a_long_queue_of_hooks_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """G8: a hook is not the engine."""
    monkeypatch.setattr(outbox, "_MANY", 3)
    box, seen = outbox.Outbox(), []
    put = box.later(seen.append)
    is_running, may_go = threading.Event(), threading.Event()
    box.later(lambda: (is_running.set(), may_go.wait(PATIENCE_SECONDS)))()
    runner = threading.Thread(target=box.run)
    runner.start()
    is_running.wait(PATIENCE_SECONDS)
    put(0)
    assert not box.is_due()
    box.run()
    assert seen == []
    for number in range(1, 4):
        put(number)
    assert box.is_due()
    threading.Timer(0.1, may_go.set).start()
    box.run()
    assert seen == [0, 1, 2, 3]
    runner.join(PATIENCE_SECONDS)

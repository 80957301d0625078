"""The processes that start workers, looked at one by one."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faulty import Victim
from objproxy import ProxyPool, WorkerDiedError
from objproxy._worker import control_channel
from objproxy._worker import nursery as nursery_module
from objproxy._worker.control_channel import receive_message, send_message
from objproxy._worker.descriptors import StreamSocket, make_socket_pair
from objproxy._worker.nursery import Nursery, Root
from objproxy.backends import nurseries, process
from objproxy.backends.nurseries import PoolNursery
from optional import need
from targets import PATIENCE_SECONDS, poll_until

psutil = need("psutil")


@pytest.fixture
def channel() -> Iterator[tuple[StreamSocket, StreamSocket]]:
    ours, theirs = make_socket_pair()
    with ours, theirs:
        yield ours, theirs


def make(kind: type[Nursery], control: StreamSocket) -> Any:
    """Return a nursery that serves nobody, in this process."""
    nursery = kind(control, os.getpid())
    for fd in (nursery._wake_read, nursery._wake_write, nursery._owner_watch):
        if fd is not None:
            os.close(fd)
    return nursery


# ---- messages --------------------------------------------------------------------------------------------------------


def test_a_message_that_is_longer_than_the_channel_arrives_whole(channel: tuple[StreamSocket, StreamSocket]) -> None:
    ours, theirs = channel
    ours.settimeout(PATIENCE_SECONDS)  # as that of the root: a part that has been sent is then told
    message, received = "x" * 3_000_000, []
    reader = threading.Thread(target=lambda: received.append(receive_message(theirs)))
    reader.start()
    send_message(ours, message)
    reader.join(PATIENCE_SECONDS)
    assert received == [(message, [])]


@pytest.mark.parametrize("data", [b"", b"\5", b"\5\0\0\0", b"\5\0\0\0xxx"])
def test_a_message_that_ends_in_its_midst_is_the_end_of_the_channel(
    channel: tuple[StreamSocket, StreamSocket], data: bytes
) -> None:
    ours, theirs = channel
    ours.sendall(data)
    ours.close()
    assert receive_message(theirs) is None


# ---- a nursery -------------------------------------------------------------------------------------------------------


def test_a_child_that_failed_before_it_became_a_worker_ends_nobody(channel: tuple[StreamSocket, StreamSocket]) -> None:
    nursery = make(Nursery, channel[0])
    nursery._pid, nursery._children = -1, {os.getpid(): (0, 0)}
    nursery.end_all()


def test_descriptors_for_which_there_is_no_room_are_told(
    channel: tuple[StreamSocket, StreamSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system delivers the message without some of them."""
    receive = control_channel.receive_with_fds

    def lose_some(*args: Any) -> Any:
        data, fds, _is_cut = receive(*args)
        os.close(fds[0])
        return data, fds[1:], True

    nursery = make(Nursery, channel[0])
    with open(os.devnull) as file:
        send_message(channel[1], ("start", 3, 1), (file.fileno(), file.fileno()))
    monkeypatch.setattr(control_channel, "receive_with_fds", lose_some)
    assert nursery._handle_request()
    monkeypatch.undo()
    assert receive_message(channel[1]) == (("refused", 3, 1, errno.EMFILE), [])


@pytest.mark.parametrize("number", [errno.ETOOMANYREFS, errno.EPIPE])
def test_a_message_for_which_there_is_no_room_is_no_lost_nursery(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the worker would be waited for, for ever."""

    def refuse(*_args: Any) -> int:
        raise OSError(number, os.strerror(number))

    ours, theirs = make_socket_pair()
    monkeypatch.setattr(control_channel, "send_with_fds", refuse)
    with theirs:
        nursery = PoolNursery(ours, None)
        nursery.signal_worker(0, 0, signal.SIGINT)
        with pytest.raises(OSError, match=os.strerror(number) if number == errno.ETOOMANYREFS else "is gone"):
            nursery.start_worker(0, 0, ())
        nursery.abandon()


def test_a_worker_for_which_no_message_can_be_sent_comes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the first try stays."""
    start, calls = PoolNursery.start_worker, []

    def refuse_once(nursery: PoolNursery, worker_id: int, generation: int, fds: tuple[int, ...]) -> None:
        calls.append(generation)
        if len(calls) == 3:
            raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))
        start(nursery, worker_id, generation, fds)

    monkeypatch.setattr(PoolNursery, "start_worker", refuse_once)
    with ProxyPool(Victim, worker_count=2) as pool:
        pid = pool.workers[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerDiedError):
            pool[0].obey(1)
        assert pool[0].obey(1) == 1
    assert calls == [0, 0, 1, 1]


def test_a_fork_that_is_refused_is_told(channel: tuple[StreamSocket, StreamSocket], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "no room")

    nursery = make(Nursery, channel[0])
    monkeypatch.setattr(os, "fork", refuse)
    nursery._on_start(3, 1, 99)
    assert receive_message(channel[1]) == (("refused", 3, 1, 11), [])


def test_a_signal_for_a_worker_that_has_ended_reaches_nobody(channel: tuple[StreamSocket, StreamSocket]) -> None:
    nursery = make(Nursery, channel[0])
    for number in (signal.SIGKILL, signal.SIGINT):
        nursery._on_signal(0, 0, number)


def test_a_nursery_that_fails_takes_its_workers_along_and_the_pool_goes_on() -> None:
    """What it says stands on the error stream of the program."""
    with ProxyPool(Victim, worker_count=2) as pool:
        pids = pool.pid.broadcast()
        backend: Any = pool._core.backend
        send_message(backend._nursery._control, ("nonsense",))
        poll_until(lambda: not any(map(psutil.pid_exists, pids)))
        with pytest.raises(WorkerDiedError):
            pool.obey(1)
        assert pool.obey(1).tolist() == [1, 1]


# ---- the root --------------------------------------------------------------------------------------------------------


def test_a_root_that_can_fork_no_nursery_says_so_and_tries_again(
    channel: tuple[StreamSocket, StreamSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, "no room")

    root, (ours, theirs) = make(Root, channel[0]), make_socket_pair()
    with ours, theirs, monkeypatch.context() as patch:
        patch.setattr(os, "fork", refuse)
        assert 0 < root._prepare() < 1000
        root._on_nursery(None, ours.fileno())
        assert receive_message(theirs) == (("lacking", 0, 0, errno.EAGAIN), [])


def test_a_pool_for_whose_nursery_there_is_no_room_says_so(
    channel: tuple[StreamSocket, StreamSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = (StreamSocket(os.dup(end.fileno())) for end in channel)
    send_message(theirs, ("lacking", 0, 0, errno.EAGAIN))
    theirs.close()
    monkeypatch.setattr(process, "open_nursery", lambda _settings: PoolNursery(ours, None))
    channel[1].close()
    with pytest.raises(BlockingIOError, match="no room for worker 0"):
        ProxyPool(Victim, worker_count=2, backend="process", start_method="forkserver")


def test_a_root_that_has_no_spare_drops_none_and_kills_no_strangers(channel: tuple[StreamSocket, StreamSocket]) -> None:
    root = make(Root, channel[0])
    root._is_complete = True
    root._use_quiet_time()
    root._drop_spare()
    root._on_kill(os.getpid())
    root.end_all()


def test_a_spare_that_somebody_killed_is_replaced() -> None:
    process = nurseries._root._process
    assert process is not None
    spares = {child.pid for child in psutil.Process(process.pid).children()}
    for pid in spares:
        with contextlib.suppress(ProcessLookupError):  # a nursery that was about to end
            os.kill(pid, signal.SIGKILL)
    poll_until(lambda: not any(map(psutil.pid_exists, spares)))
    with ProxyPool(Victim, worker_count=1) as pool:
        assert pool.obey(1).tolist() == [1]


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_nursery_that_has_no_handle_of_its_program_serves_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks now and then whether the program is there."""
    monkeypatch.setenv("OBJPROXY_PORTABLE", "1")
    with ProxyPool(Victim, worker_count=1, start_method="fork") as pool:
        assert pool.obey(1).tolist() == [1]


# ---- a nursery that is kept --------------------------------------------------------------------------------------------


@pytest.fixture
def slow_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Give a module that takes time to load, and notes each process in which it is loaded."""
    path = tmp_path / "slow_to_load.py"
    path.write_text(
        "import os, time\n"
        "time.sleep(0.02)\n"
        f"with open({str(tmp_path / 'loads')!r}, 'a') as loads:\n    print(os.getpid(), file=loads)\n"
        "class Answer:\n    def __init__(self, *args): pass\n    def value(self): return 1\n"
        "class Other(Answer): pass\n"
        "def function(): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("slow_to_load")
    del sys.modules["slow_to_load"]


def _loads_elsewhere(module: Any) -> int:
    """Return how many other processes have loaded it."""
    pids = (Path(module.__file__).parent / "loads").read_text().split()
    return len([pid for pid in pids if int(pid) != os.getpid()])


def _value(cls: Any, **options: Any) -> Any:
    with ProxyPool(cls, worker_count=2, backend="process", start_method="forkserver", **options) as pool:
        return pool.value.broadcast()


def test_many_short_pools_of_one_class_load_its_module_once(slow_module: Any) -> None:
    for _ in range(5):
        assert _value(slow_module.Answer) == [1, 1]
    assert _loads_elsewhere(slow_module) == 1


def test_what_only_the_arguments_need_is_loaded_once_for_all_workers(slow_module: Any) -> None:
    with ProxyPool(list, init_args=([slow_module.function],), worker_count=2, backend="process", start_method="forkserver"):
        pass
    assert _loads_elsewhere(slow_module) == 1


def test_a_kept_nursery_serves_no_pool_with_other_settings(slow_module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _value(slow_module.Answer) == _value(slow_module.Other) == [1, 1]
    monkeypatch.setenv("ANOTHER_VARIABLE", "1")
    assert _value(slow_module.Other) == [1, 1]
    assert _loads_elsewhere(slow_module) == 3


def test_a_module_that_was_edited_is_loaded_anew(slow_module: Any) -> None:
    assert _value(slow_module.Answer) == [1, 1]
    path = Path(slow_module.__file__)
    path.write_text(path.read_text().replace("return 1", "return 2"))
    os.utime(path, ns=(1, 1))  # whatever the clock of the file system can tell apart
    assert _value(slow_module.Answer) == [2, 2]


def test_a_killed_nursery_is_not_kept(slow_module: Any) -> None:
    pool = ProxyPool(slow_module.Answer, worker_count=1, backend="process", start_method="forkserver")
    backend: Any = pool._core.backend
    backend._nursery.kill()
    pool.kill()
    assert _value(slow_module.Answer) == [1, 1]


def test_a_nursery_that_is_about_to_be_killed_is_not_kept(slow_module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The root may be slow, and the nursery may say that it rests before it is killed."""
    pool = ProxyPool(slow_module.Answer, worker_count=1, backend="process", start_method="forkserver")
    backend: Any = pool._core.backend
    monkeypatch.setattr(nurseries._root, "kill_nursery", lambda pid: None)
    monkeypatch.setattr(nurseries._root, "_kept_key", None)
    backend._nursery.kill()
    pool.kill()
    assert nurseries._root._kept_key is None


def test_a_kept_nursery_ends_when_its_time_is_over(channel: tuple[StreamSocket, StreamSocket]) -> None:
    root, (ours, theirs) = make(Root, channel[0]), make_socket_pair()
    root._is_complete = True
    with ours, theirs:
        root._on_keep(5, ours.fileno())
        ours.close()
        assert 0 < root._prepare() <= nursery_module._KEEP_SECONDS * 1000
        root._use_quiet_time()
        assert root._spare is not None
        root._kept_until = 0.0
        root._use_quiet_time()
        assert theirs.recv(1) == b""

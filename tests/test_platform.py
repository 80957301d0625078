"""What only some systems have, and what is done where they do not have it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from objproxy._worker import boot as booting
from objproxy._worker import platform
from objproxy._worker.seeding import seed_worker
from targets import poll_until

#: No process has it: Linux gives at most 2**22.
NOBODY = 2**22 + 1


def test_whether_there_is_one_thread_is_asked_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = {"/proc/self/task": ["7"]}
    monkeypatch.setattr(os, "listdir", tasks.__getitem__)
    assert platform.has_one_thread()
    tasks["/proc/self/task"].append("8")
    assert not platform.has_one_thread()


def test_where_nobody_tells_there_may_be_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: str) -> NoReturn:
        raise FileNotFoundError

    monkeypatch.setattr(os, "listdir", fail)
    assert not platform.has_one_thread()
    monkeypatch.setenv("OBJPROXY_PORTABLE", "1")
    assert not platform.has_one_thread()


def test_a_process_that_belongs_to_somebody_else_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_pid: int, _number: int) -> NoReturn:
        raise PermissionError

    assert platform.is_process_alive(os.getpid())
    assert not platform.is_process_alive(NOBODY)
    monkeypatch.setattr(os, "kill", refuse)
    assert platform.is_process_alive(1)


def test_what_cannot_be_read_of_a_process_is_not_known() -> None:
    assert platform.resident_bytes(NOBODY) is None
    assert platform.process_state(NOBODY) is None
    assert platform.process_state(os.getpid()) == "running"


def test_a_thread_that_has_just_ended_may_have_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "listdir", lambda _folder: ["has ended"])
    assert platform.hears(os.getpid(), signal.SIGUSR1)


def test_who_hears_a_signal() -> None:
    assert platform.hears(NOBODY, signal.SIGUSR1), "nobody can tell"
    assert platform.hears(os.getpid(), signal.SIGUSR1)
    code = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            assert not platform.hears(process.pid, signal.SIGUSR1)
            assert platform.hears(process.pid, signal.SIGUSR2)
            process.send_signal(signal.SIGSTOP)
            poll_until(lambda: not platform.hears(process.pid, signal.SIGUSR2))
        finally:
            process.kill()  # a stopped one would be waited for for ever


def test_free_memory_is_that_of_the_control_group_if_that_is_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "_control_group", lambda: str(tmp_path))
    everything = platform.available_bytes()
    assert everything is not None
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 200\n")
    assert platform.available_bytes() == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert platform.available_bytes() != 500


def test_free_memory_that_the_system_does_not_tell_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any) -> NoReturn:
        raise OSError("no /proc")

    monkeypatch.setattr(platform, "open", refuse, raising=False)
    assert platform.available_bytes() is None
    assert platform.count_memory_kills() is None


# ---- how a worker looks ----------------------------------------------------------------------------------------------


def make_boot(**changes: Any) -> Any:
    return types.SimpleNamespace(
        **{"environ": {}, "cpu_ids": None, "heritage": None, "pool_name": "P", "worker_id": 0, "seed_words": None, **changes}
    )


def test_variables_of_a_worker_are_set_and_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBJPROXY_TEST_OLD", "old")
    monkeypatch.setenv("OBJPROXY_TEST_NEW", "")
    booting.apply_environment(make_boot(environ={"OBJPROXY_TEST_OLD": None, "OBJPROXY_TEST_NEW": "new"}))
    assert "OBJPROXY_TEST_OLD" not in os.environ
    assert os.environ["OBJPROXY_TEST_NEW"] == "new"


def test_a_generator_that_is_not_loaded_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist()
    for name in ("random", "numpy.random"):
        monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
    seed_worker(make_boot().seed_words)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


def test_pytorch_is_seeded_and_limited_if_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Played by a stand-in."""
    calls: list[tuple[str, int]] = []
    torch: Any = types.ModuleType("torch")
    torch.manual_seed = lambda seed: calls.append(("seed", seed))
    torch.set_num_threads = lambda n_threads: calls.append(("threads", n_threads))
    for name in ("random", "numpy.random"):
        monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    seed_worker(make_boot().seed_words)
    booting.limit_threads(3)
    booting.limit_threads(None)
    assert [name for name, _ in calls] == ["seed", "threads"]
    assert calls[1] == ("threads", 3)


def test_what_a_process_does_is_that_of_all_its_threads() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    try:
        poll_until(lambda: platform.process_activity(child.pid) == "sleeping")
        child.send_signal(signal.SIGSTOP)
        poll_until(lambda: platform.process_activity(child.pid) == "stopped")
    finally:
        child.kill()
        child.wait()
    assert platform.process_activity(child.pid) is None
    assert platform.process_activity(os.getpid()) == "running"

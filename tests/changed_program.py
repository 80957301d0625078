"""A program that changes while it has pools: limits, streams, rights. Run by ``test_process_state.py``."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import pty
import resource
import select
import signal
import sys
from typing import Any

from objproxy import ProxyPool, WorkerDiedError, start_dashboard
from objproxy._worker.control_channel import send_message
from objproxy.backends import nurseries

_PR_SET_NO_NEW_PRIVS = 38


class Mirror:
    """Tells what its process is like."""

    def look(self) -> dict[str, Any]:
        return look()

    def say(self, text: str) -> None:
        sys.stdout.write(f"{text}\n")

    def end(self) -> None:
        os._exit(3)

    def has_no_new_rights(self) -> bool:
        return has_no_new_rights()


def look() -> dict[str, Any]:
    umask = os.umask(0)
    os.umask(umask)
    return {
        "umask": umask,
        "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE),
        "cpus": os.sched_getaffinity(0),
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "hang-up": signal.getsignal(signal.SIGHUP) is signal.SIG_IGN,
        "alarm": signal.getsignal(signal.SIGALRM) is signal.SIG_IGN,
        "blocked": signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, ()),
    }


def has_no_new_rights() -> bool:
    with open("/proc/self/status") as status:
        return "NoNewPrivs:\t1\n" in status.read()


def _change() -> None:
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (400, 500))
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    os.nice(2)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGCHLD, signal.SIGINT})


def change_state(start_method: str) -> None:
    """Each pool is like the program at its start, also where a worker is replaced later."""
    make = functools.partial(ProxyPool, Mirror, worker_count=1, start_method=start_method)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    before = look()
    with make() as first:
        assert first[0].look() == before
        _change()
        after = look()
        with make() as second:
            assert second[0].look() == after
            os.umask(0o022)
            with contextlib.suppress(WorkerDiedError):
                second[0].end()
            assert second[0].look() == after
        with contextlib.suppress(WorkerDiedError):
            first[0].end()
        assert first[0].look() == before
    with make() as third:
        assert third[0].look() == {**after, "umask": 0o022}


def change_streams(start_method: str) -> None:
    """Write "shown" and "seen" where the program began, whose caller then sees the end of it."""
    make = functools.partial(ProxyPool, Mirror, worker_count=1, start_method=start_method)
    streams = os.dup(1), os.dup(2)
    null = os.open(os.devnull, os.O_RDWR)
    _point_streams_at(null, null)
    with make() as pool:
        pool[0].say("hidden")
    _point_streams_at(*streams)
    with make() as pool:
        pool[0].say("shown")
    os.close(streams[0])
    os.close(streams[1])
    _point_streams_at(null, null)
    with make() as pool:
        pool[0].say("hidden")
        sys.stdin.read()  # until the caller has seen the end


def write_to_terminal(start_method: str) -> None:
    """What a worker prints on a terminal is seen line by line, also where the program began without one."""
    with ProxyPool(Mirror, worker_count=1, start_method=start_method):
        pass
    terminal, end = pty.openpty()
    os.dup2(end, 1)
    with ProxyPool(Mirror, worker_count=1, start_method=start_method) as pool:
        pool[0].say("at once")
        assert select.select([terminal], [], [], 60)[0]
        assert os.read(terminal, 100) == b"at once\r\n"


def be_a_command_line_tool(start_method: str) -> None:
    """A program that SIGPIPE ends, as tools are that write to ``head``, does not end with a worker, a nursery or the root."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for _ in range(3):
        with ProxyPool(Mirror, worker_count=1, start_method=start_method) as pool:
            pid = pool.workers[0].pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(WorkerDiedError):
                pool[0].say("x" * 1_000_000)
        with ProxyPool(Mirror, worker_count=1, start_method=start_method) as pool:
            os.kill(_parent(pool), signal.SIGKILL)
            for _ in range(3):
                with contextlib.suppress(WorkerDiedError):
                    pool[0].look()
        if (root := nurseries._root._process) is not None:
            os.kill(root.pid, signal.SIGKILL)
            os.waitid(os.P_PID, root.pid, os.WEXITED | os.WNOWAIT)


def _parent(pool: ProxyPool) -> int:
    """Return the process of the nursery of a pool with one worker."""
    with open(f"/proc/{pool.workers[0].pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[1])


def start_dashboard_first(_start_method: str) -> None:
    """See that the dashboard does not hold the streams."""
    start_dashboard(range(23400, 23500))
    null = os.open(os.devnull, os.O_RDWR)
    _point_streams_at(null, null)
    sys.stdin.read()


def _point_streams_at(out: int, errors: int) -> None:
    sys.stdout.flush()
    os.dup2(out, 1)
    os.dup2(errors, 2)


def give_up_rights(start_method: str) -> None:
    """Workers of later pools have no rights that the program has given up; those of pools that are there go on."""
    make = functools.partial(ProxyPool, Mirror, worker_count=1, start_method=start_method)
    with make() as first:
        if has_no_new_rights():
            return  # from the start, so that nothing can be tested
        assert not first[0].has_no_new_rights()
        ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        with make() as second:
            assert second[0].has_no_new_rights()
            with contextlib.suppress(WorkerDiedError):
                first[0].end()
            assert not first[0].has_no_new_rights()
    (retired,) = nurseries._root._retired
    retired[1].wait()
    with make() as third:
        assert third[0].has_no_new_rights()
    assert not nurseries._root._retired


def fail_in_root(start_method: str) -> None:
    """What goes wrong in the root is told on the error stream."""
    root = nurseries._root
    with ProxyPool(Mirror, worker_count=1, start_method=start_method) as first:
        assert root._control is not None
        send_message(root._control, ("nonsense",))
        assert select.select([root._control], [], [], 60)[0]
        with ProxyPool(Mirror, worker_count=1, start_method=start_method) as second:
            second[0].say("works")
            sys.stdout.flush()
        first[0].say("lives")


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])

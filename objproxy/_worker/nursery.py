"""A nursery: a small process that starts workers, tells of their ends and never leaves one behind.

There are two kinds. The *root* is started once for a program, by exec, so it is clean and has one thread; it only makes
nurseries, and always has one ready. The *nursery of a pool* is forked from the root (or from the program itself with
``start_method="fork"``), loads what the pool's class needs, and forks the pool's workers in a millisecond or two each.

::

    program ── exec ──> root ── fork ──> nursery of pool A ── fork ──> worker 0, worker 1, ...
                             ├─ fork ──> nursery of pool B ── fork (and exec with "spawn") ──> worker 0, ...
                             └─ fork ──> spare, for the next pool: a fresh one, or that of a pool that was closed

The nursery of a pool takes over the state of the program as it is when the pool is made (`process_state`). It and its workers
have the program's standard streams for as long as the pool lives. The root, and what waits for the next pool, have /dev/null.

The nursery of a pool that was closed is kept for a few seconds, as the spare, if its class took time to load. So a program that
makes many short pools of one class loads it once. It serves a pool with the same settings only (``nurseries.open_nursery``).

Why a process between the program and its workers:

- it has one thread, so forking it is safe whatever threads or CUDA contexts the program has;
- it is the parent that reaps, so it knows the exit code and can signal a worker without ever meeting a reused pid;
- it ends when the program ends, in whatever way, and takes the process groups of its workers along; and if it is killed
  itself, the kernel kills the workers (parent-death signal).
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import fcntl
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from objproxy._worker import hubs, lineage, native_threads, natives, platform, process_state
from objproxy._worker.control_channel import receive_message, send_message
from objproxy._worker.descriptors import (
    StreamSocket,
    fill_standard_streams,
    make_pipe,
    make_socket_pair,
    move_above_standard,
)
from objproxy._worker.launching import Errand, Interpreter, make_command
from objproxy._worker.segments import remove_files

#: The root takes its time for what is not urgent when nobody has asked for a pool for so long.
_QUIET_SECONDS = 0.1

#: A nursery whose class took so long to load is kept for the next pool of the same class, for so many seconds.
_WORTH_KEEPING_SECONDS = 0.005
_KEEP_SECONDS = 5.0

#: Ask whether the owner is alive this often, where no descriptor can tell.
_OWNER_CHECK_SECONDS = 1.0


class Nursery:
    """Serves one control channel until it ends.

    Parameters
    ----------
    control : socket
        Where requests come from and notices of ends go to.
    owner_pid : int
        The program; when it is gone, so is everything here.
    """

    def __init__(self, control: StreamSocket, owner_pid: int) -> None:
        self._control = control
        self._pid = os.getpid()
        self._owner_pid = owner_pid
        self._owner_watch = platform.watch_process(owner_pid)
        self._children: dict[int, tuple[int, int] | None] = {}  # pid -> (worker_id, generation); None: a nursery
        self._pids: dict[tuple[int, int], int] = {}
        self._wake_read, self._wake_write = make_pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._poll = natives.poll()
        self._must_exec = False
        self._interpreter: Interpreter | None = None
        self._given_fds: list[int] = []  # with the request that is being served
        self._load_seconds: float | None = None  # None: nothing was loaded, or it failed
        self._times: dict[str, int] = {}  # of the files that were loaded

    def serve(self) -> None:
        """Serve until the owner or the control channel is gone."""
        self._install_signals()
        for fd in (self._control.fileno(), self._wake_read, self._owner_watch):
            if fd is not None:
                self._poll.register(fd, hubs.READABLE)
        while not self._is_done():
            ready = {fd for fd, _ in self._poll.poll(self._prepare())}
            if self._owner_watch in ready or not (ready or platform.is_process_alive(self._owner_pid)):
                break
            if self._wake_read in ready:
                natives.read(self._wake_read, 4096)
                self._reap()
            if self._control.fileno() in ready and not self._handle_request():
                break
            if not ready:
                self._use_quiet_time()

    def _is_done(self) -> bool:
        """Return whether it ends by itself."""
        return False

    def _prepare(self) -> float | None:
        """Do what is to be done before the next request; return how long to wait for it, in milliseconds."""
        return None if self._owner_watch is not None else _OWNER_CHECK_SECONDS * 1000

    def _use_quiet_time(self) -> None:
        """Do what can wait until nobody waits for it."""

    def _install_signals(self) -> None:
        process_state.unblock_own_signals()
        for number in (signal.SIGINT, platform.STACK_SIGNAL):  # a worker that is not up yet shall live
            natives.set_handler(number, signal.SIG_IGN)
        natives.set_handler(signal.SIGTERM, signal.SIG_DFL)
        natives.set_handler(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

    def _handle_request(self) -> bool:
        received = receive_message(self._control)
        if received is None:
            return False
        (verb, *args), fds = received
        self._given_fds = fds
        handler: Callable[..., None] = getattr(self, f"_on_{verb}")
        handler(*args, *fds)
        for fd in fds:
            natives.close(fd)  # the child that was forked has its own
        self._given_fds = []
        return True

    def _on_adopt(self, control_fd: int) -> None:
        """Leave the root and serve the program on `control_fd` from now on."""
        self._poll.unregister(self._control)
        self._control.close()
        self._control = StreamSocket(fcntl.fcntl(control_fd, fcntl.F_DUPFD_CLOEXEC, 3))
        self._poll.register(self._control, hubs.READABLE)

    def _on_configure(self, settings: dict[str, Any], streams: tuple[int, ...], *fds: int) -> None:
        """Take the program's state over and load what the pool's class needs; one that was kept has done so.

        `fds` are the program's standard streams with the numbers `streams`.
        """
        self._tell(("born", 0, 0, os.getpid()))
        process_state.take_streams(streams, fds)
        if self._load_seconds is not None:
            self._must_exec = self._times != _file_times(self._times)  # they were edited: workers load them anew
            return
        process_state.take_over(settings["changes"])
        self._interpreter = settings["executable"]
        _change_environment(settings["environ"])
        sys.path[:] = settings["path"]
        sys.argv[:] = settings["argv"]
        with contextlib.suppress(OSError):  # it was removed meanwhile: the program itself could not go there either
            os.chdir(settings["cwd"])
        native_threads.prepare_limits()
        if settings["preload"] is not None:
            self._load(settings["preload"], settings["modules"])
        # A forked copy of a process with threads, or greenlets, may hang on a lock that one of them held; a fresh interpreter
        # cannot, and has these threads.
        self._must_exec = settings["start_method"] == "spawn" or len(sys._current_frames()) > 1 or hubs.has_work()
        if settings["preload"] is not None and not self._must_exec:
            self._must_exec = native_threads.must_not_be_forked()
            native_threads.release_openmp()
        gc.freeze()  # as in run_root

    def _load(self, preload: bytes, modules: list[str]) -> None:
        """Import what the pool's class needs, once for all of its workers; errors are met again, and told, by the workers."""
        began, before = time.monotonic(), set(sys.modules)
        if _load(preload, modules):
            self._load_seconds = time.monotonic() - began
            self._times = _file_times(_own_files(sys.modules.keys() - before))
        process_state.flush_streams()  # what modules have printed

    def _on_rest(self) -> None:
        """End every worker that is left; say whether this nursery is worth keeping for another pool."""
        self._end_workers()
        self._children.clear()
        self._pids.clear()
        process_state.drop_streams()
        is_worth = self._load_seconds is not None and self._load_seconds >= _WORTH_KEEPING_SECONDS
        # Where nothing can be started, workers could not load edited files anew.
        self._tell(("resting", 0, 0, is_worth and not self._must_exec and self._interpreter is not None))

    def _on_start(self, worker_id: int, generation: int, *fds: int) -> None:
        """Fork a worker, which serves the channel and has the memory that these descriptors stand for."""
        if not fds:
            self._tell(("refused", worker_id, generation, errno.EMFILE))
            return
        parent = os.getpid()
        try:
            pid = hubs.fork()
        except OSError as exc:  # too many processes, or too little memory
            self._tell(("refused", worker_id, generation, exc.errno))
            return
        if not pid:
            self._become_worker(parent, fds)

        with contextlib.suppress(OSError):  # it is there already, or has exec'ed or ended
            os.setpgid(pid, pid)  # both sides do it, so that it holds whoever runs first
        self._children[pid] = (worker_id, generation)
        self._pids[worker_id, generation] = pid
        self._tell(("started", worker_id, generation, pid))

    def _on_signal(self, worker_id: int, generation: int, number: int) -> None:
        """Signal a worker, its whole group if it is to be killed.

        Its pid cannot have been reused, since it is reaped here and nowhere else.
        """
        pid = self._pids.get((worker_id, generation))
        if pid is not None and number == signal.SIGKILL:
            _signal_group(pid, number)
        elif pid is not None:
            os.kill(pid, number)

    def _become_worker(self, parent: int, fds: tuple[int, ...]) -> None:
        os.setpgid(0, 0)
        platform.die_with_parent(parent)
        fill_standard_streams()  # code of the user, which this process has loaded, may have closed them
        self._forget_own_descriptors()
        if self._must_exec and self._interpreter is not None:  # pragma: no cover  (no report has what is done before exec)
            _exec_worker(self._interpreter, fds)

        from objproxy._worker.leaving import forget_parents_end
        from objproxy._worker.loop import run_worker

        forget_parents_end()
        run_worker(*fds)

    def _forget_own_descriptors(self) -> None:
        signal.set_wakeup_fd(-1)
        natives.set_handler(signal.SIGCHLD, signal.SIG_DFL)
        self._control.close()
        for fd in (self._wake_read, self._wake_write, self._owner_watch):
            if fd is not None:
                natives.close(fd)

    def _reap(self) -> None:
        """Tell of every child that has ended; what it left in its process group goes first, while the group's id is ours."""
        while (ended := platform.reap_child(self._end_group)) is not None:
            pid, exitcode, peak_rss = ended
            worker = self._children.pop(pid, None)
            if worker is not None:
                self._pids.pop(worker, None)
                self._tell(("exited", *worker, (exitcode, peak_rss)))

    def _end_group(self, pid: int) -> None:
        if self._children.get(pid) is not None:
            _signal_group(pid, signal.SIGKILL)

    def _tell(self, message: Any) -> None:
        with contextlib.suppress(OSError):  # the owner is gone or going; the loop will see it
            send_message(self._control, message)

    def end_all(self) -> None:
        """End everything that was started here, and wait until it is gone."""
        if os.getpid() != self._pid:
            return  # a child that failed before it became a worker; its siblings are not its own
        self._end_workers()

    def _end_workers(self) -> None:
        for pid, worker in self._children.items():
            if worker is not None:
                _signal_group(pid, signal.SIGKILL)
        for pid in self._children:
            # A nursery of a pool sees the end of its own channel, or of the owner, as this one did.
            natives.waitpid(pid, 0)

    def tell_failure(self) -> None:
        """Tell of the exception that is being handled where the error stream is not the program's."""

    def end_imports(self) -> None:
        """End what the modules of the user's class have made when they were imported here, once for all workers."""
        from objproxy._worker.leaving import end_imports

        end_imports()


class Root(Nursery):
    """Makes the nurseries of pools; one is always ready, so that a pool does not wait for a fork.

    Parameters
    ----------
    control, owner_pid
        As for `Nursery`.
    """

    def __init__(self, control: StreamSocket, owner_pid: int) -> None:
        super().__init__(control, owner_pid)
        self._spare: StreamSocket | None = None  # the channel of the nursery that is ready
        self._spare_key: Any = None  # of the only pools that a spare can serve which has been a pool's before
        self._kept_until = 0.0
        self._is_complete = False
        self._is_retired = False
        self._segments_prefix = ""

    def _is_done(self) -> bool:
        return self._is_retired and not self._children

    def _prepare(self) -> float | None:
        if self._is_retired:
            return super()._prepare()
        if self._spare is None:
            try:
                self._fork_spare()
            except OSError:  # too many processes, or too little memory: there may be room later
                return _QUIET_SECONDS * 1000
        if self._spare_key is not None:
            return max(0.0, self._kept_until - time.monotonic()) * 1000
        return super()._prepare() if self._is_complete else _QUIET_SECONDS * 1000

    def _fork_spare(self) -> None:
        ours, theirs = make_socket_pair()
        try:
            parent, pid = os.getpid(), hubs.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if not pid:
            platform.die_with_parent(parent)
            self._forget_own_descriptors()
            ours.close()
            for fd in self._given_fds:  # they are for a nursery of another pool, or for this one, which will be sent its own
                natives.close(fd)
            run_nursery(theirs.detach(), self._owner_pid)

        theirs.close()
        self._children[pid] = None
        self._spare = ours

    def _use_quiet_time(self) -> None:
        """Load what only a class that goes by value needs, and let every nursery from now on inherit it."""
        if self._spare_key is not None:
            if time.monotonic() >= self._kept_until:
                self._drop_spare()
        elif not self._is_complete:
            self._is_complete = True
            with contextlib.suppress(ImportError):
                import objproxy._worker.code_pickler  # noqa: F401
            import resource  # noqa: F401  (limits that the program changes are set with it)

            gc.freeze()  # as in run_root
            self._drop_spare()

    def _on_nursery(self, key: Any, control_fd: int) -> None:
        """Give a nursery to a pool: the one that is kept under `key`, else a fresh one; if there is no room for one, say so."""
        try:
            self._hand_over_spare(key, control_fd)
        except OSError as exc:
            with contextlib.suppress(OSError), StreamSocket(os.dup(control_fd)) as control:
                send_message(control, ("lacking", 0, 0, exc.errno))

    def _hand_over_spare(self, key: Any, control_fd: int) -> None:
        if self._spare_key not in (None, key):
            self._drop_spare()
        if self._spare is None:
            self._fork_spare()
        while self._spare is not None:
            try:
                send_message(self._spare, ("adopt",), (control_fd,))
                self._drop_spare()
            except OSError:  # somebody has killed it
                self._drop_spare()
                self._fork_spare()

    def _drop_spare(self) -> None:
        if self._spare is not None:
            self._spare.close()
            self._spare = self._spare_key = None

    def _on_keep(self, key: Any, control_fd: int) -> None:
        """Take over a nursery whose pool was closed, for the next pool with the same key."""
        self._drop_spare()
        self._spare, self._spare_key = StreamSocket(move_above_standard(os.dup(control_fd))), key
        self._kept_until = time.monotonic() + _KEEP_SECONDS

    def _on_kill(self, pid: int) -> None:
        """Kill a nursery, which hangs in the user's code; its workers go with it."""
        if pid in self._children:
            _signal_group(pid, signal.SIGKILL)

    def _on_retire(self) -> None:
        """Make no more nurseries, since another root does; end with the last of those that serve pools."""
        self._is_retired = True
        self._drop_spare()
        self._segments_prefix = ""

    def _on_entrust(self, prefix: str) -> None:
        """Remember what has to be removed when the program has ended."""
        self._segments_prefix = prefix

    def tell_failure(self) -> None:
        """Tell the program, which looks for it when it cannot reach this process any more."""
        import traceback  # slow to load, and needed only here

        with contextlib.suppress(OSError):
            self._control.shutdown(_socket.SHUT_RD)  # first: a request that is sent later shall fail
        self._tell(("failed", traceback.format_exc()))
        self._segments_prefix = ""  # the program is alive and uses its files
        self._control.close()  # with requests that were not read; this process waits for the nurseries that it has made

    def end_imports(self) -> None:
        """Do nothing: it imports nothing of the user's."""

    def end_all(self) -> None:
        """End everything that was started here, and wait until it is gone."""
        self._drop_spare()
        super().end_all()
        if self._segments_prefix:
            remove_files(self._segments_prefix)


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        # The worker has not made its group yet, or only its zombie is left.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    except PermissionError:  # pragma: no cover  (only there)
        pass  # macOS says so when only zombies are left in the group


def _change_environment(wanted: dict[str, str]) -> None:
    """Make the environment be `wanted`; most of it is as it was when the root was started, and need not be touched."""
    for name in os.environ.keys() - wanted.keys():
        del os.environ[name]
    for name, value in wanted.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _load(preload: bytes, modules: list[str]) -> bool:
    """Import what a class needs; return whether that succeeded."""
    from objproxy._worker.boot import load_factory

    try:
        load_factory(preload, keep=True)
        for name in modules:
            __import__(name)
    except BaseException:
        return False
    return True


def _own_files(modules: Iterable[str]) -> list[str]:
    """Return the files of modules that are no part of the installation: those that a user may be editing."""
    installed = (sys.prefix, sys.base_prefix)
    files = [getattr(sys.modules[name], "__file__", None) for name in modules]
    return [file for file in files if isinstance(file, str) and not file.startswith(installed)]


def _file_times(files: Iterable[str]) -> dict[str, int]:
    times = {}
    for file in files:
        try:
            times[file] = os.stat(file).st_mtime_ns
        except OSError:
            times[file] = -1
    return times


def _exec_worker(interpreter: Interpreter, fds: tuple[int, ...]) -> None:  # pragma: no cover  (as above)
    command, fd = make_command(interpreter, Errand("objproxy._worker.loop", "run_worker", fds))
    for inherited in fds if fd is None else (*fds, fd):
        os.set_inheritable(inherited, True)
    os.execve(command[0], command, {**os.environ, lineage.HELPER: str(os.getpid())})


def run_nursery(control_fd: int, owner_pid: int, kind: type[Nursery] = Nursery) -> None:
    """Be a nursery on `control_fd`, a connected stream socket. Never returns."""
    # The thread that made the pool may block signals, as those of uWSGI do; then the end of a worker would never be told.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    fill_standard_streams()
    lineage.enter_helper()
    status = 1
    try:
        with StreamSocket(control_fd) as control:
            nursery = kind(control, owner_pid)
            try:
                nursery.serve()
            except BaseException:
                nursery.tell_failure()
                raise
            finally:  # also after a defect: what was started here does not stay
                nursery.end_all()
                nursery.end_imports()
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def run_root(control_fd: int, owner_pid: int, tells: bool = False) -> None:
    """Be the root nursery of a program, and tell it so if it waits for that. Never returns."""
    gc.disable()  # what is loaded here stays
    import objproxy._worker.logs
    import objproxy._worker.loop  # noqa: F401

    # The collector of a forked worker would otherwise touch, and so copy, every page that it shares with this process.
    gc.freeze()
    gc.enable()
    fill_standard_streams()
    process_state.drop_streams()  # whatever has gone wrong so far is told there
    if tells:
        with StreamSocket(os.dup(control_fd)) as control, contextlib.suppress(OSError):  # the program is gone
            send_message(control, ("root", os.getpid()))
    run_nursery(control_fd, owner_pid, Root)

"""The program's side of nurseries: start the root once, and one nursery for each pool."""

from __future__ import annotations

import _socket
import contextlib
import errno
import os
import pickle
import signal
import subprocess
import sys
from typing import Any

from objproxy._worker import hubs, natives, process_state
from objproxy._worker.control_channel import receive_message, send_message
from objproxy._worker.descriptors import StreamSocket, make_socket_pair
from objproxy._worker.launching import Interpreter
from objproxy._worker.nursery import run_nursery
from objproxy._worker.platform import has_one_thread
from objproxy.backends.hosts import Found, find_interpreter
from objproxy.backends.rooting import ForkedProcess, exec_root, explain_refusal, fork_helper

#: The root has nothing to load but the standard library and cloudpickle; only a broken installation needs longer.
_ROOT_SECONDS = 60.0

#: A nursery ends in milliseconds; this is for one that the kernel cannot end.
_END_SECONDS = 5.0

#: The system has no room for a message, or for the descriptors in it.
_NO_ROOM = {errno.ETOOMANYREFS, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

START_METHODS = ("forkserver", "fork", "spawn")

#: Means "fork" in a program with one thread and no greenlets, whose locks nobody else can hold then; else the default.
FORK_IF_SAFE = "fork-if-safe"


class NurseryLostError(OSError):
    """A nursery ended by itself."""


class PoolNursery:
    """The nursery of one pool, as the program sees it.

    Parameters
    ----------
    control : socket
        The program's end of its channel.
    pid : int or None
        Its process, where it is a child of this one (``start_method="fork"``).
    key : object
        Equal for all pools that it could serve, one after the other; None if it serves one only.
    """

    def __init__(self, control: StreamSocket, pid: int | None, key: Any = None) -> None:
        self._control = control
        self._key = key
        # The leader kills a worker whose channel has ended while another thread, which closes the pool, ends its neighbours.
        self._send_lock = natives.Lock()
        self._pid = pid
        self._root_pid: int | None = None  # its process, where it is a child of the root; it tells when it is born
        self._is_doomed = False

    def fileno(self) -> int:
        """Return the descriptor on which its notices arrive."""
        return self._control.fileno()

    def configure(self, settings: dict[str, Any], streams: tuple[int, ...]) -> None:
        """Hand over the program's state, its streams for output and the class to load, without waiting for an answer."""
        send_message(self._control, ("configure", settings, streams), streams)

    def receive(self) -> Any:
        """Return the next message.

        Raises
        ------
        NurseryLostError
            It is gone.
        """
        received = receive_message(self._control)
        if received is None:
            raise NurseryLostError("the process that starts the workers is gone")
        return received[0]

    def start_worker(self, worker_id: int, generation: int, fds: tuple[int, ...]) -> None:
        """Ask for a worker with these descriptors; its start and its end will be messages."""
        self._send(("start", worker_id, generation), fds)

    def signal_worker(self, worker_id: int, generation: int, number: int) -> None:
        """Send a signal to a worker and what it started; nothing happens if it has ended."""
        with contextlib.suppress(OSError):  # it is gone, and the worker with it
            self._send(("signal", worker_id, generation, number))

    def _send(self, message: Any, fds: tuple[int, ...] = ()) -> None:
        try:
            with self._send_lock:
                send_message(self._control, message, fds)
        except OSError as exc:
            if exc.errno in _NO_ROOM:
                raise  # it is there, and knows nothing of the message
            raise NurseryLostError("the process that starts the workers is gone") from exc

    def kill(self) -> None:
        """Kill it while it hangs in code of the user; every worker goes with it.

        It may take in a message or two before it is gone, so from now on it is not fit for another pool.
        """
        self._is_doomed = True
        if self._pid is not None:
            os.kill(self._pid, signal.SIGKILL)  # a child of this process that was not waited for: the pid is its own
        elif self._root_pid is not None:
            _root.kill_nursery(self._root_pid)

    def is_born(self, pid: int) -> None:
        """Note its process; one that was to be killed before that was known is killed now."""
        self._root_pid = pid
        if self._is_doomed:
            self.kill()

    def close(self) -> None:
        """End it, and every worker that is left, and wait until it is gone, or kept for the next pool of its kind."""
        if self._key is not None and not self._is_doomed and self._rests():
            _root.keep(self._control, self._key)
            self._control.close()
            return
        with contextlib.suppress(OSError):
            self._control.settimeout(_END_SECONDS)
            self._control.shutdown(_socket.SHUT_WR)
            while self._control.recv(4096):  # the end of the channel comes when the process has ended
                pass
        self._control.close()
        if self._pid is not None:
            with contextlib.suppress(ChildProcessError):
                natives.waitpid(self._pid, 0)

    def _rests(self) -> bool:
        """Whether it has no worker any more and is fit for another pool."""
        with contextlib.suppress(OSError):
            self._control.settimeout(_END_SECONDS)
            send_message(self._control, ("rest",))
            while (received := receive_message(self._control)) is not None:
                verb, _worker_id, _generation, is_fit = received[0]
                if verb == "resting":
                    self._control.settimeout(None)
                    return bool(is_fit)
        return False

    def abandon(self) -> None:
        """Let go in a forked child; the nursery goes on for the parent."""
        self._control.close()


def settle_start_method(wanted: str | None, *, may_fork: bool = True) -> str | None:
    """Return `wanted`, or what "fork-if-safe" comes to in this program at this moment."""
    if wanted != FORK_IF_SAFE:
        return wanted
    return "fork" if may_fork and has_one_thread() and not hubs.has_work() else None


def open_nursery(settings: dict[str, Any]) -> PoolNursery:
    """Start the nursery of a pool, without waiting for it.

    Parameters
    ----------
    settings : dict
        ``start_method``, ``environ``, ``path``, ``argv``, ``cwd``, ``executable``, ``preload`` (pickled class or None),
        ``modules`` and ``state`` (a `ProcessState`).
    """
    changes: dict[str, Any] = {}
    streams: tuple[int, ...] = ()
    if settings["start_method"] == "fork":
        nursery = _make_nursery("fork", None)
    else:
        number = _root.suit(settings["state"])
        # Two pools with the same settings load the same, so that one nursery can serve them, one after the other.
        key = None if settings["preload"] is None else (number, hash(pickle.dumps(settings, 5)))
        nursery = _make_nursery(settings["start_method"], key)
        changes = _root.changes_to(settings["state"])
        streams = process_state.open_streams()
    try:
        nursery.configure({**settings, "state": None, "changes": changes}, streams)
    except BaseException:
        nursery.close()
        raise
    return nursery


def _make_nursery(start_method: str, key: Any) -> PoolNursery:
    ours, theirs = make_socket_pair()
    try:
        pid = _fork_nursery(ours, theirs) if start_method == "fork" else None
        if pid is None and not _root.ask_for_kept(theirs, key):
            _root.ask_for_nursery(theirs)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return PoolNursery(ours, pid, key)


def _fork_nursery(ours: StreamSocket, theirs: StreamSocket) -> int:
    owner = os.getpid()
    return fork_helper(ours, lambda: run_nursery(theirs.detach(), owner))


class _Root:
    """The root nursery of this program, started when it is first needed; it ends with the program."""

    def __init__(self) -> None:
        # Guards the process and its channel: pools may be made in several threads.
        self._lock = natives.Lock()
        self._control: StreamSocket | None = None
        self._process: subprocess.Popen[bytes] | ForkedProcess | None = None
        self._awaited: Interpreter | None = None  # a frozen application that has not yet said that it is the root
        self.tried: tuple[str, ...] = ()  # what could not be started
        self._refusal: str | None = None  # why that application is not started any more
        self._entrusted = ""
        self._kept_key: Any = None  # of the nursery that the root keeps
        self._n_starts = 0
        self._began: tuple[process_state.ProcessState, process_state.Origin] | None = None  # the program at its start
        # Roots of a program that has changed since; each ends with its last nursery.
        self._retired: list[tuple[StreamSocket, subprocess.Popen[bytes] | ForkedProcess]] = []

    def suit(self, state: process_state.ProcessState) -> int:
        """See that the root's nurseries can become what the program is, with `state`; return the number of the root."""
        origin = process_state.read_origin()
        with self._lock:
            self._reap_retired()
            if self._began is not None and (origin != self._began[1] or state.may_be_refused(self._began[0])):
                self._retire()
            if self._began is None:
                self._start_again()
            return self._n_starts

    def changes_to(self, state: process_state.ProcessState) -> dict[str, Any]:
        """Return what a nursery has to change to take `state` over."""
        began = self._began
        return state._asdict() if began is None else state.changes_since(began[0])

    def ask_for_nursery(self, theirs: StreamSocket) -> None:
        """Have a nursery forked that serves `theirs`."""
        with self._lock:
            try:
                self._send(theirs)
            except OSError:  # somebody ended it; it had nothing of ours
                self._stop()
                self._send(theirs)

    def keep(self, control: StreamSocket, key: Any) -> None:
        """Keep a nursery that has no pool any more, for a while; it ends when its channel is closed."""
        with self._lock, contextlib.suppress(OSError):
            if self._control is not None and key[0] == self._n_starts:
                send_message(self._control, ("keep", key), (control.fileno(),))
                self._kept_key = key

    def ask_for_kept(self, theirs: StreamSocket, key: Any) -> bool:
        """Have `theirs` served by the nursery that was kept under this key, if that was the last; return whether it was."""
        with self._lock, contextlib.suppress(OSError):
            if key is not None and key == self._kept_key and self._control is not None:
                self._kept_key = None
                self._send(theirs, key)  # if it is gone meanwhile, a fresh one serves
                return True
        return False

    def warm_up(self) -> None:
        """Start the root, if it does not run, without waiting for it: the program has other things to do meanwhile."""
        with self._lock:
            if self._control is None:
                self._start()

    def _send(self, theirs: StreamSocket, key: Any = None) -> None:
        if self._control is None:
            self._start()
        self._await()
        assert self._control is not None
        send_message(self._control, ("nursery", key), (theirs.fileno(),))

    def entrust(self, prefix: str) -> None:
        """Have the files whose names begin so removed when this program has ended."""
        with self._lock:
            self._entrusted = prefix
            if self._control is None:
                self._start()
            else:
                send_message(self._control, ("entrust", prefix))

    def find_interpreter(self) -> Interpreter | None:
        """Return what starts a worker that shall be no fork; None if there is nothing. The root runs then."""
        with self._lock:
            if self._control is None:
                self._start()
            self._await()
            return None if isinstance(self._process, ForkedProcess) else find_interpreter().interpreter

    def _start(self) -> None:
        interpreter, self.tried = find_interpreter() if self._refusal is None else Found(None, (self._refusal,))
        with contextlib.ExitStack() as undone:
            ours, theirs = map(undone.enter_context, make_socket_pair())
            if interpreter is None:
                from objproxy.backends.forked import fork_root

                self._process = fork_root(ours, theirs, self.tried)
            else:
                self._process = exec_root(interpreter, theirs)
            theirs.close()
            undone.pop_all()
        ours.settimeout(_ROOT_SECONDS)
        self._control = ours
        self._awaited = interpreter if interpreter is not None and interpreter.is_frozen else None
        self._n_starts += 1
        self._began = process_state.read_state(), process_state.read_origin()  # while it starts
        if self._entrusted:
            send_message(ours, ("entrust", self._entrusted))

    def _await(self) -> None:
        """Wait until the frozen application that was started says that it is the root; else fork this program."""
        application = self._awaited
        if application is None:
            return
        assert self._control is not None
        with contextlib.suppress(OSError):  # not in time
            if receive_message(self._control) is not None:
                self._awaited = None
                return
        self._refusal = explain_refusal(application)
        self._stop()
        self._start()

    def kill_nursery(self, pid: int) -> None:
        """Have a nursery killed, by the root that has made it."""
        with self._lock:
            for control in (self._control, *[control for control, _ in self._retired]):
                with contextlib.suppress(OSError):
                    if control is not None:
                        send_message(control, ("kill", pid))

    def _retire(self) -> None:
        """Have the root end with its last nursery; the next one is started by the program as it is now."""
        assert self._control is not None
        assert self._process is not None
        with contextlib.suppress(OSError):  # it is gone
            send_message(self._control, ("retire",))
        self._retired.append((self._control, self._process))
        self._control = self._process = self._began = self._kept_key = None

    def _reap_retired(self) -> None:
        for control, process in self._retired[:]:
            if process.poll() is not None:
                control.close()
                self._retired.remove((control, process))

    def _start_again(self) -> None:
        try:
            self._start()
        except OSError as exc:
            if self._retired:
                exc.add_note(
                    "The program has other rights, or another root directory, than when its first pool was made. So a new "
                    "interpreter is started for its workers. start_method='fork' needs none."
                )
            raise

    def _stop(self) -> None:
        if self._control is not None and self._process is not None:
            if self._awaited is not None:  # the application may have started others
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            elif _show_failure(self._control):
                self._retired.append((self._control, self._process))  # it waits for the nurseries that it has made
                self._control = self._process = None
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._control = self._process = self._awaited = self._began = self._kept_key = None

    def abandon(self) -> None:
        """Forget the root in a forked child: it belongs to the parent."""
        if self._control is not None:
            self._control.close()
        for control, _ in self._retired:
            control.close()
        for process in (self._process, *[process for _, process in self._retired]):
            if process is not None:
                process.returncode = 0  # not ours to wait for; without this its finaliser would complain
        self._control = self._process = self._awaited = self._began = None
        self._retired = []
        self._entrusted = ""
        self._kept_key = None
        self._lock = natives.Lock()


def find_executable(start_method: str) -> Interpreter | None:
    """Return what starts a worker that shall be no fork of its nursery; None if there is nothing.

    Raises
    ------
    NotSupportedError
        There is nothing, and the start method needs it.
    """
    if start_method == "fork":
        return find_interpreter().interpreter
    interpreter = _root.find_interpreter()
    if interpreter is None and start_method == "spawn":
        from objproxy.backends.forked import refuse_spawn

        raise refuse_spawn(_root.tried)
    return interpreter


def is_root_forked() -> bool:
    """Return whether processes can only be forks of this program, which is not for one with a CUDA context."""
    return _root.find_interpreter() is None


def _show_failure(control: StreamSocket) -> bool:
    """Write to the error stream what a root that has failed has told; return whether it has."""
    with contextlib.suppress(OSError):
        control.settimeout(0)
        received = receive_message(control)
        if received is not None:
            with contextlib.suppress(AttributeError, ValueError, OSError):  # there is no error stream, or it is closed
                sys.stderr.write(f"The process that makes nurseries has failed; another one is started.\n{received[0][1]}")
            return True
    return False


def warm_up() -> None:
    """See that the root is there, or on its way, when it is needed."""
    _root.warm_up()


def entrust(prefix: str) -> None:
    """See that files whose names begin so are removed when this program has ended, however it ends."""
    _root.entrust(prefix)


_root = _Root()
os.register_at_fork(after_in_child=_root.abandon)

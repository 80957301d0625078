"""The end of a worker process, in the order in which CPython ends an interpreter.

`Py_FinalizeEx` joins the threads that are no daemons, behind the hooks of `threading` by which ``concurrent.futures`` ends its
executors; it runs the functions of `atexit`; it flushes the standard streams; then it deletes what is left, and files write
what they hold. A worker does the same by hand: below it are frames of its parent process, which must not be left.

While it ends it tells the parent its step (`wire.FINISHING` and the following), so that the parent can tell work that has to be
waited for from a process that hangs. A step that has nothing to do is not told: most workers end without a word.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, NoReturn

from objproxy._worker import forking, wire

#: Where ``concurrent.futures`` and its descendants (loky) keep the threads that their hooks of `threading` end.
_REGISTRIES = ("_threads_queues", "_threads_wakeups")

#: A nursery is killed after this where the end of what was imported hangs.
_IMPORTS_SECONDS = 1


class Steps:
    """Tells the parent the step that begins.

    Parameters
    ----------
    channel : WorkerChannel
        To the parent.
    """

    def __init__(self, channel: wire.WorkerChannel) -> None:
        self._channel = channel
        self._last = wire.LEAVING  # the parent takes a worker that tells nothing to be in its last step

    def tell(self, step: int) -> None:
        """Tell one step."""
        if step != self._last:
            self._last = step
            with contextlib.suppress(wire.ChannelClosedError):  # the parent is gone
                self._channel.send(wire.ENDING, bytes([step]))


def leave(status: int, steps: Steps, delete_object: Callable[[], None]) -> NoReturn:
    """End this process as an interpreter ends.

    Parameters
    ----------
    status : int
        Its exit code.
    steps : Steps
        Tells the parent how far it is.
    delete_object : callable
        Deletes the user's object.
    """
    if forking.is_child:  # the user's own end has forked
        forking.end_child()
    todo = (lambda: _join_threads(steps), lambda: _run_exit_functions(steps), _flush, delete_object, _flush)
    try:
        for step in todo:
            _guard(step)
    finally:
        os._exit(status)


def _guard(step: Callable[[], None]) -> None:
    """Run one step; an error is written to stderr, as CPython does, and the next step follows."""
    try:
        step()
    except BaseException:
        with contextlib.suppress(BaseException):  # stderr may be closed
            sys.excepthook(*sys.exc_info())


def _join_threads(steps: Steps) -> None:
    """Run the hooks of `threading`, then wait for all threads that are not daemons."""
    if threading.active_count() > 1:
        steps.tell(wire.JOINING)
    shutdown: Callable[[], None] | None = getattr(threading, "_shutdown", None)
    if shutdown is not None and type(threading.main_thread()) is not threading._DummyThread:
        shutdown()
        return
    # A thread of compiled code has forked this process, and `threading` asserts that the main thread is one of its own.
    for hook in reversed(getattr(threading, "_threading_atexits", ())):
        hook()
    while threads := [thread for thread in _others() if not thread.daemon]:
        threads[0].join()


def _others() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread is not threading.current_thread()]


def _run_exit_functions(steps: Steps) -> None:
    """Run the functions of `atexit`; that of ``multiprocessing`` joins its children, which is work to be waited for."""
    steps.tell(wire.JOINING if _has_children() else wire.LEAVING)
    atexit._run_exitfuncs()
    steps.tell(wire.LEAVING)


def _has_children() -> bool:
    """Return whether ``multiprocessing`` will wait for a child of this process."""
    process = sys.modules.get("multiprocessing.process")
    return process is not None and any(not child.daemon for child in process.active_children())


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):  # there is none, it is closed, or nobody reads it any more
            stream.flush()


def forget_parents_end(*, is_program: bool = False) -> None:
    """Take over nothing of what the parent process has to do when it ends; to be called in a child that was forked.

    Without this a worker would end the parent's executors, signal its children and remove its temporary folders.

    Parameters
    ----------
    is_program : bool
        Whether the parent is the program, whose exit functions are its own. Those of a nursery were registered by the modules
        of the user's class, which it has imported in the place of the workers.
    """
    for hook in getattr(threading, "_threading_atexits", ()):
        for name in _REGISTRIES:
            registry = getattr(hook, "__globals__", {}).get(name)
            if isinstance(registry, weakref.WeakKeyDictionary):
                registry.clear()
    for finalizer in list(getattr(weakref.finalize, "_registry", ())):
        finalizer.atexit = False
    process, util = sys.modules.get("multiprocessing.process"), sys.modules.get("multiprocessing.util")
    if process is not None:
        _clear(process, "_children")
    if util is not None:
        _clear(util, "_finalizer_registry")
    _forget_fork_server()
    if is_program:
        _put_exit_functions_back(util)


def _forget_fork_server() -> None:
    """Forget the parent's fork server of ``multiprocessing``: this process starts one of its own when it needs one.

    It would look for the parent's among its own children, find none, and fail. Since Python 3.14 it is what processes come from
    if nothing else is asked for.
    """
    module = sys.modules.get("multiprocessing.forkserver")
    server: Any = getattr(module, "_forkserver", None)
    if server is None or getattr(server, "_forkserver_pid", None) is None:
        return
    with contextlib.suppress(OSError, TypeError):
        os.close(server._forkserver_alive_fd)  # the server lives as long as anybody has it open
    preload = {name: value for name, value in vars(server).items() if name.startswith("_preload")}
    vars(server).update({**vars(type(server)()), **preload})


def end_imports() -> None:
    """End what modules have made when a nursery imported them: temporary folders, child processes of ``multiprocessing``.

    Workers have inherited them and leave them alone, for the others. The functions of `atexit` are run by each worker, in whose
    place the module was imported here.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_IMPORTS_SECONDS)  # nothing that hangs may keep a nursery
    _guard(weakref.finalize._exitfunc)  # type: ignore[attr-defined]
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        _guard(util._exit_function)


def _clear(module: Any, name: str) -> None:
    getattr(module, name, set()).clear()


def _put_exit_functions_back(util: Any) -> None:
    """Leave of all exit functions those of the standard library, with nothing of the program's to end."""
    atexit._clear()
    logging = sys.modules.get("logging")
    if logging is not None:
        _clear(logging, "_handlerList")
        atexit.register(logging.shutdown)
    if util is not None and hasattr(util, "_exit_function"):
        atexit.register(util._exit_function)
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]  # the next finalizer registers it again

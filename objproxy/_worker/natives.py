"""The functions of the system itself, where a program has put others in their place.

``gevent.monkey.patch_all()`` and ``eventlet.monkey_patch()`` replace functions of `select`, `_thread`, `os` and `subprocess` by
ones that switch to another greenlet. A lock of the engine must not do so while it is held, and `select.epoll` is gone then.
What is taken here stays what it is when the program is patched later. Where it was patched before, the module is loaded once
more, for us alone; a module that is written in C then brings its own functions again.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found, unused-ignore]
import _thread
import functools
import importlib.util
import os
import posix
import select as _select
import subprocess
from collections.abc import Callable
from types import BuiltinFunctionType, ModuleType, SimpleNamespace
from typing import Any

#: Libraries whose functions switch between greenlets.
_GREEN = ("gevent", "eventlet")


def _load_again(module: ModuleType) -> Any:
    spec = importlib.util.find_spec(module.__name__)
    assert spec is not None
    assert spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy


def _unpatched(module: ModuleType, *names: str) -> Any:
    """Return a module whose functions of these names are its own."""
    is_its_own = all(type(getattr(module, name, None)) is BuiltinFunctionType for name in names)
    return module if is_its_own else _load_again(module)


_own_select = _unpatched(_select, "select", "poll")
_own_thread = _unpatched(_thread, "allocate_lock", "get_ident")

select: Any = _own_select.select
poll: Any = _own_select.poll
epoll: Any = getattr(_own_select, "epoll", None)  # only Linux has it

Lock: Callable[[], _thread.LockType] = _own_thread.allocate_lock
RLock: Any = _own_thread.RLock
get_thread_ident: Callable[[], int] = _own_thread.get_ident

close = posix.close  # that of gevent closes later
read = posix.read
write = posix.write
waitpid = posix.waitpid


def has_green_threads() -> bool:
    """Return whether the threads that are started from now on are greenlets of the thread that starts them."""
    return type(_thread.start_new_thread) is not BuiltinFunctionType


def set_handler(number: int, handler: Callable[[int, Any], Any] | int) -> None:
    """Set the handler of a signal, as `signal.signal` does; that of gevent keeps what is given for SIGCHLD to itself."""
    _signal.signal(number, int(handler) if isinstance(handler, int) else handler)


def fork() -> int:
    """Fork this process, as `os.fork` does; that of gevent would also watch for the child's end, and reap it."""
    return os.fork() if _home(os.fork) not in _GREEN else posix.fork()


def _home(function: Any) -> str:
    return str(getattr(function, "__module__", "")).partition(".")[0]


@functools.cache
def popen_class() -> type[subprocess.Popen[bytes]]:
    """Return the `subprocess.Popen` of the standard library."""
    if subprocess.Popen.__module__ == "subprocess":
        return subprocess.Popen
    module = _load_again(subprocess)
    own = {name: function for name, function in vars(posix).items() if type(function) is BuiltinFunctionType}
    module.os = SimpleNamespace(**{**vars(os), **own})
    return module.Popen  # type: ignore[no-any-return]

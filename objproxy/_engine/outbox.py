"""Hooks of the user that are due: reports of progress, log records, warnings.

A hook may do anything: call its own pool, raise, take long. So it is called outside of every lock, and by a thread that does
not lead (`driver.py`), at the latest before the call returns whose report it is. Hooks are called one at a time, in the order
in which they were put. A hook that uses the pool is in the midst of this: what its calls report is told when it has returned.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from objproxy._engine.interrupts import as_user_code
from objproxy._worker import natives
from objproxy._worker.waits import Flag, get_ident

#: A caller waits so long for hooks that another thread is calling; then it goes on, since such a hook may be waiting for it.
#: That is likely where the call began while the hook ran.
_PATIENCE_SECONDS = 2.0
_SHORT_PATIENCE_SECONDS = 0.1

#: How often it looks whether that thread has gone because a hook has interrupted it.
_LOOK_SECONDS = 0.05

#: With more hooks than these in the queue, who turns the engine waits for them.
_MANY = 1000


class Outbox:
    """The queue of hooks of one pool.

    Attributes
    ----------
    calls : deque
        Hooks with their arguments that were not called yet. Any thread appends; who holds `_running` takes out.
    runner : int or None
        The thread that calls them at the moment.
    """

    def __init__(self) -> None:
        self.calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self.runner: int | None = None
        self._running = natives.Lock()

    def forget_parent(self) -> None:
        """Drop everything in a forked child: the hooks are the parent's, and so is the thread that was calling one."""
        self.calls.clear()
        if self.runner != get_ident():
            self.runner, self._running = None, natives.Lock()

    def later(self, hook: Callable[..., object]) -> Callable[..., None]:
        """Return a function that puts a call of `hook` into the queue."""
        return lambda *args: self.calls.append((hook, args))

    def is_due(self) -> bool:
        """Whether a thread that turns the engine should see to the hooks now."""
        return bool(self.calls) and (self.runner is None or len(self.calls) > _MANY)

    def run(self) -> None:
        """Call what is in the queue, unless a thread does so already; wait for that only if the queue is long."""
        self._run()
        if len(self.calls) > _MANY:
            self.finish()

    def _run(self) -> None:
        # Who finds `_running` taken leaves its call to the holder, which therefore looks again after letting go.
        while self.calls and self._running.acquire(blocking=False):
            self.runner = get_ident()
            try:
                while self.calls:
                    hook, args = self.calls.popleft()
                    as_user_code(hook)(*args)
            finally:
                self.runner = None
                self._running.release()

    def finish(self, *, is_patient: bool = True) -> None:
        """Return when everything has been called that is in the queue now; a hook itself does not wait for it."""
        if self.runner == get_ident():
            return
        mark = Flag()
        self.calls.append((mark.set, ()))
        deadline = time.monotonic() + (_PATIENCE_SECONDS if is_patient else _SHORT_PATIENCE_SECONDS)
        self._run()
        while not mark.wait(_LOOK_SECONDS) and time.monotonic() < deadline:
            self._run()

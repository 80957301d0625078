"""What a worker says when it is in trouble, and how it is interrupted.

Every worker has a pipe to the parent for evidence. Into it goes the trace of a crash (SIGSEGV and its like), and, when the
parent sends `platform.STACK_SIGNAL`, the stacks of all threads. Both are written by the C handlers of `faulthandler`, which
need neither the interpreter lock nor the interpreter, so they work in the midst of compiled code too. Behind the stacks comes
one byte, the number of the signal, which the interpreter's own C handler writes into its "wake-up descriptor"; that is how the
parent knows that they are complete. The pipe never blocks the worker: what finds no room is lost.

An interrupt (SIGINT, sent by the parent and by nobody else, since each worker has a process group of its own) raises
`KeyboardInterrupt` in the task, which can clean up; the worker leaves as soon as the task has ended, in whatever way.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
from types import FrameType

from objproxy._worker import hubs, natives, platform


class Interrupt:
    """Whether the parent has given this worker up.

    Attributes
    ----------
    has_come : bool
        Nothing that this worker does is wanted any more.
    """

    def __init__(self) -> None:
        self.has_come = False

    def handle(self, _number: int, _frame: FrameType | None) -> None:
        """Raise in the task, or wherever the worker is; once, for the second would hit the cleaning up."""
        if not self.has_come:
            self.has_come = True
            hubs.throw(
                KeyboardInterrupt(
                    "the pool has given this call up: it was cancelled, ran past its time limit, or its pool ended"
                )
            )


def detach(evidence_fd: int) -> None:
    """Let go of the pipe in a forked child: a crash of it is told on its standard error."""
    signal.set_wakeup_fd(-1)
    faulthandler.unregister(platform.STACK_SIGNAL)
    faulthandler.disable()
    with contextlib.suppress(Exception):  # it may have no standard error
        faulthandler.enable()
    natives.close(evidence_fd)


def install(evidence_fd: int) -> Interrupt:
    """Send what a crash leaves, and on demand the stacks of all threads, to `evidence_fd`; listen to interrupts."""
    os.set_inheritable(evidence_fd, False)
    os.set_blocking(evidence_fd, False)
    faulthandler.enable(file=evidence_fd)
    # The handler below has nothing to do; that there is one makes the interpreter write the byte behind the stacks.
    natives.set_handler(platform.STACK_SIGNAL, lambda *_: None)
    signal.siginterrupt(platform.STACK_SIGNAL, False)
    signal.set_wakeup_fd(evidence_fd, warn_on_full_buffer=False)
    faulthandler.register(platform.STACK_SIGNAL, file=evidence_fd, all_threads=True, chain=True)
    interrupt = Interrupt()
    natives.set_handler(signal.SIGINT, interrupt.handle)
    return interrupt

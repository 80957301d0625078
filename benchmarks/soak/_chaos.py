"""What befalls a pool from outside: workers are killed, their number is changed, and somebody watches that things move."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import psutil

from benchmarks.soak._ledger import Ledger
from objproxy import ObjProxyError, ProxyPool


class Repeater:
    """A thread that does something again and again, after random times of a given mean.

    Parameters
    ----------
    act : callable
        What is done.
    seconds : float
        Mean time between two acts; 0: it is never done.
    rng : random.Random
        Draws the times.
    """

    def __init__(self, act: Callable[[], None], seconds: float, rng: random.Random) -> None:
        self._act = act
        self._seconds = seconds
        self._rng = rng
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="soak-chaos")
        self.error: BaseException | None = None

    def _run(self) -> None:
        try:
            while not self._is_over.wait(self._rng.expovariate(1 / self._seconds)):
                self._act()
        except BaseException as error:  # told to whoever leaves the with block
            self.error = error

    def __enter__(self) -> Repeater:
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, exc_type: type[BaseException] | None, _exc: object, _traceback: TracebackType | None) -> None:
        self._is_over.set()
        if self._seconds:
            self._thread.join()
        if self.error is not None and exc_type is None:
            raise self.error


def kill_one(pool: ProxyPool[Any], ledger: Ledger, rng: random.Random) -> None:
    """Kill a worker, whatever it does at this moment."""
    workers = [worker for worker in pool.workers if worker.pid is not None]
    if not workers:
        return
    worker = rng.choice(workers)
    with contextlib.suppress(OSError, psutil.Error):  # it has ended by itself
        descriptor = os.pidfd_open(worker.pid)
        try:
            # The number may have been given to another process by now: kill only what is our own descendant.
            if os.getpid() in [parent.pid for parent in psutil.Process(worker.pid).parents()]:
                ledger.note("kills")
                ledger.note(f"kills of {worker.state} workers")
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


def resize(pool: ProxyPool[Any], ledger: Ledger, rng: random.Random, most: int) -> None:
    """Change the number of workers."""
    with contextlib.suppress(ObjProxyError):  # the round is over
        pool.resize(rng.randint(2, most))
        ledger.note("resizes")


def look(pool: ProxyPool[Any], ledger: Ledger) -> None:
    """Ask all workers where they stand, whatever they do."""
    with contextlib.suppress(ObjProxyError):  # the round is over
        pool.dump_stacks(0.2)
        ledger.note("looks at all stacks")


@contextlib.contextmanager
def watched(ledger: Ledger, seconds: float, on_stall: Callable[[], None]) -> Iterator[None]:
    """Watch that tasks end; when none has for `seconds`, show all threads' stacks, call `on_stall`, and end the program."""
    is_over = threading.Event()

    def watch() -> None:
        n_ended, since = -1, time.monotonic()
        while not is_over.wait(0.5):
            if ledger.n_ended != n_ended:
                n_ended, since = ledger.n_ended, time.monotonic()
            elif time.monotonic() - since > seconds:
                print(f"STALL: no task has ended for {seconds:g} s", file=sys.stderr)
                faulthandler.dump_traceback(sys.stderr)
                on_stall()
                sys.stdout.flush()
                os._exit(1)

    thread = threading.Thread(target=watch, name="soak-watch")
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()

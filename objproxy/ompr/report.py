"""Reports on the progress of a runner, through ``logging``."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple


class Progress(NamedTuple):
    """Where a runner stands: tasks received, done and queued, and bytes of memory of its workers (None: not known)."""

    n_received: int
    n_done: int
    n_queued: int
    nbytes: int | None


class Reporter:
    """Logs a line every few seconds while there is something to tell; it is a thread, which `close` ends.

    Parameters
    ----------
    look : callable
        Returns the `Progress`.
    interval : float
        Seconds between two lines.
    log : callable
        ``log(level, text)``.

    Attributes
    ----------
    n_lines : int
        Lines up to now.
    """

    def __init__(self, look: Callable[[], Progress], interval: float, log: Callable[[int, str], None]) -> None:
        self._look = look
        self._interval = interval
        self._log = log
        self.n_lines = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._report, name="objproxy-ompr-report", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the reports."""
        self._is_over.set()
        self._thread.join()

    def _report(self) -> None:
        before, then = self._look(), time.perf_counter()
        while not self._is_over.wait(self._interval):
            progress, now = self._look(), time.perf_counter()
            if progress != before:
                speed = (progress.n_done - before.n_done) / (now - then)
                self._log(logging.INFO, f"progress: {format_progress(progress, speed)}")
                self.n_lines += 1
            before, then = progress, now


def is_shown(logger: logging.Logger, level: int) -> bool:
    """Whether a message of this level reaches any handler that the program has set up."""
    return logger.isEnabledFor(level) and logger.hasHandlers()


def show(text: str) -> None:
    """Write a line to the standard error, where there is one."""
    with contextlib.suppress(AttributeError, OSError, ValueError):  # none, or it is closed
        sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} objproxy.ompr: {text}\n")
        sys.stderr.flush()


def format_progress(progress: Progress, speed: float) -> str:
    """Return one line: share that is done, tasks a second, tasks that wait, time that is left, memory of the workers.

    Parameters
    ----------
    progress : Progress
        Where the runner stands.
    speed : float
        Tasks a second lately.
    """
    n_left = progress.n_received - progress.n_done
    share = 100 * progress.n_done / max(progress.n_received, 1)
    parts = [f"{share:.1f} % of {progress.n_received} tasks", f"{speed:.1f} tasks/s", f"{progress.n_queued} queued"]
    if n_left and speed > 0:
        parts.append(f"about {_format_seconds(n_left / speed)} left")
    if progress.nbytes is not None:
        parts.append(f"workers hold {progress.nbytes / 1e6:.0f} MB")
    return ", ".join(parts)


def _format_seconds(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"

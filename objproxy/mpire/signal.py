"""Blocks of code that Ctrl-C does not interrupt."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["DelayedKeyboardInterrupt", "DisableKeyboardInterruptSignal", "ignore_keyboard_interrupt"]

_Handler = Callable[[int, FrameType | None], Any] | int | None


class DelayedKeyboardInterrupt:
    """A block whose interrupt comes when it ends. Outside of the main thread, which alone is interrupted, it does nothing."""

    def __init__(self) -> None:
        self._received: tuple[int, FrameType | None] | None = None
        self._before: _Handler = None

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._received = None
            self._before = signal.signal(signal.SIGINT, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = number, frame

    def __exit__(self, *_exc_info: object) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        signal.signal(signal.SIGINT, self._before)
        if self._received is not None and callable(self._before):
            self._before(*self._received)


class DisableKeyboardInterruptSignal:
    """A block that is never interrupted; interrupts that come meanwhile are lost."""

    def __init__(self) -> None:
        self._before: _Handler = None

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGINT)
            ignore_keyboard_interrupt()

    def __exit__(self, *_exc_info: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._before)


def ignore_keyboard_interrupt() -> None:
    """Ignore Ctrl-C from now on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

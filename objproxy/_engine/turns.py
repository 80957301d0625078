"""Pieces of results, which arrive as the workers end them, and are given in the order of their items if that is asked for."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """What has arrived.

    Parameters
    ----------
    is_ordered : bool
        A piece waits until all before it have come, or for nothing.

    Attributes
    ----------
    ready : deque
        The pieces whose turn has come; whoever gives one takes it out.
    n_waiting : int
        Items of those that have to wait.
    """

    def __init__(self, is_ordered: bool) -> None:
        self._is_ordered = is_ordered
        self.ready: deque[T] = deque()
        self.n_waiting = 0
        self._early: dict[int, tuple[int, T]] = {}
        self._next_start = 0

    def add(self, start: int, count: int, piece: T) -> None:
        """Take in a piece of `count` items, of which the first is number `start`."""
        if not self._is_ordered:
            self.ready.append(piece)
            return
        self._early[start] = count, piece
        self.n_waiting += count
        while self._next_start in self._early:
            count, piece = self._early.pop(self._next_start)
            self.n_waiting -= count
            self._next_start += count
            self.ready.append(piece)

    def forget_waiting(self) -> None:
        """Drop what has to wait for something that will never come."""
        self._early.clear()
        self.n_waiting = 0

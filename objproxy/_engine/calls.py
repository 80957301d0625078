"""A call as its caller sees it: the rules, and the place where outcomes arrive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from objproxy._engine.chunks import ChunkSizer
from objproxy._engine.messages import PLAIN, Policy, Rules
from objproxy._worker.waits import Sleeper


class Arrival(NamedTuple):
    """Outcomes of the items from `start` on."""

    start: int
    outcomes: Sequence[Any]
    has_failures: bool
    worker_id: int | None


class Call(Rules):
    """One call of a user.

    Attributes
    ----------
    inbox : list of Arrival
        What has arrived and was not taken; filled under the driver's lock.
    future : Future or None
        For a call that nobody waits for in person.
    waiter : lock or None
        Released by the driver when something arrives while the caller sleeps.
    sizer : ChunkSizer or None
        Learns from every answer how long items take.
    on_done : callable or None
        Called with the number of each worker that has carried out its item, before anything else can happen to that worker.
    """

    __slots__ = ("future", "inbox", "on_done", "sizer", "waiter")

    def __init__(
        self,
        method: str,
        policy: Policy = PLAIN,
        *,
        call_number: int = 0,
        needs_state: bool = False,
        is_task: bool = True,
        sizer: ChunkSizer | None = None,
    ) -> None:
        Rules.__init__(self, method, policy, call_number=call_number, needs_state=needs_state, is_task=is_task)
        self.sizer = sizer
        self.inbox: list[Arrival] = []
        self.future: Any = None  # a CallFuture; naming it here would make a cycle of imports
        self.on_done: Callable[[int], None] | None = None
        self.waiter: Sleeper | None = None

    def take(self) -> list[Arrival]:
        """Take everything out of the inbox.

        The driver appends under its lock, which is not held here, and may have got hold of the list already: so it stays the
        same list, and only what was seen is taken out of it.
        """
        arrived = self.inbox[:]
        del self.inbox[: len(arrived)]
        return arrived

    def learn(self, count: int, seconds: float) -> None:
        """Note how long a batch took."""
        super().learn(count, seconds)
        if self.sizer is not None:
            self.sizer.observe(count, seconds)

"""Objects of pools whose hooks use them, and of pools whose size changes while they are used."""

from __future__ import annotations

import logging
from typing import Any

from faulty import Meeting
from objproxy import current_worker, report_progress


class Reporter:
    """Reports progress and logs in each of its calls."""

    def __init__(self) -> None:
        self.n_calls = 0

    def work(self, item: int) -> int:
        """Report that one step of `item` is done, and return it."""
        self.n_calls += 1
        report_progress(item, item)
        return item

    def tell(self, text: str) -> str:
        """Log a text."""
        logging.getLogger("objproxy.tests.reporter").warning(text)
        return text

    def fail(self, item: int) -> None:
        """Raise LookupError."""
        raise LookupError(item)

    def who(self) -> int:
        """Return the number of the worker, without a report."""
        return current_worker().worker_id

    def meet(self, meeting: Meeting) -> int:
        """Report, and come to a meeting."""
        report_progress(1, 1)
        meeting.come()
        return current_worker().worker_id


class Member:
    """Knows which worker it is, and what it was told."""

    def __init__(self) -> None:
        self.number = current_worker().worker_id
        self.told: list[int] = []

    def who(self, _item: Any = None) -> int:
        """Return the number of the worker."""
        return self.number

    def meet(self, meeting: Meeting | None) -> int:
        """Come to a meeting, if there is one."""
        if meeting is not None:
            meeting.come()
        return self.number

    def tell(self, value: int, meeting: Meeting | None = None) -> int:
        """Keep a value."""
        if meeting is not None and not self.number:
            meeting.come()
        self.told.append(value)
        return value

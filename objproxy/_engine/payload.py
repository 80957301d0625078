"""Arguments on their way: what a call hands to the back end, and how it is cut."""

from __future__ import annotations

from typing import Any

from objproxy._worker.wire import Operation


class Payload:
    """One operation, in its own form and in the form in which it travels.

    Cutting copies nothing: a part looks at the columns of the whole until its own are asked for, when it is sent. So a
    chunk that is cut a thousand times is still copied once.

    Parameters
    ----------
    operation : Operation
        For a "map" its arguments are columns, one sequence of values for each parameter.
    data : object
        What `Backend.encode` made of it; None if that is still to be done.
    """

    __slots__ = ("_operation", "_start", "_stop", "data")

    def __init__(self, operation: Operation, data: Any = None) -> None:
        self._operation = operation
        self._start = 0
        self._stop: int | None = None  # None: the columns are its own
        self.data = data

    @property
    def operation(self) -> Operation:
        """The operation itself."""
        if self._stop is not None:
            columns = tuple(column[self._start : self._stop] for column in self._operation.args)
            self._operation = self._operation._replace(args=columns)
            self._start, self._stop = 0, None
        return self._operation

    def slice(self, start: int, stop: int) -> Payload:
        """Return the arguments of the items ``start <= i < stop``."""
        part = Payload(self._operation)
        part._start = self._start + start
        part._stop = self._start + stop
        return part

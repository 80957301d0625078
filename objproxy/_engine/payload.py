"""Arguments on their way: what a call hands to the back end, and how it is cut."""

from __future__ import annotations

from typing import Any

from objproxy._worker.wire import Operation


class Payload:
    """One operation, in its own form and in the form in which it travels.

    Parameters
    ----------
    operation : Operation
        For a "map" its arguments are columns, one sequence of values for each parameter.
    data : object
        What `Backend.encode` made of it; None if that is still to be done.
    """

    __slots__ = ("data", "operation")

    def __init__(self, operation: Operation, data: Any = None) -> None:
        self.operation = operation
        self.data = data

    def slice(self, start: int, stop: int) -> Payload:
        """Return the arguments of the items ``start <= i < stop``."""
        operation = self.operation
        columns = tuple(column[start:stop] for column in operation.args)
        return Payload(operation._replace(args=columns))

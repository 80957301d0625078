"""The result of a task that failed."""

from __future__ import annotations

from typing import Any


class OMPRException(Exception):
    """Stands among the results for a task that failed.

    What went wrong is its ``__cause__``: the exception that ``process()`` raised (with the remote traceback as its own cause),
    a `TaskTimeoutError`, a `WorkerDiedError`, ...

    Attributes
    ----------
    task : dict or None
        The task.
    attempts : int
        How often it was tried; 0 if it could not be sent.
    """

    def __init__(self, *args: Any, task: Any = None, attempts: int = 1) -> None:
        super().__init__(*args)
        self.task = task
        self.attempts = attempts

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickling an exception forgets its cause; here the cause is what one wants to know.
        return _rebuild, (type(self), self.args, self.__dict__, self.__cause__)


def _rebuild(
    cls: type[OMPRException], args: tuple[Any, ...], facts: dict[str, Any], cause: BaseException | None
) -> OMPRException:
    exception = cls(*args)
    exception.__dict__.update(facts)
    exception.__cause__ = cause
    return exception

"""`simple_process`: one function over a list of tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from objproxy.ompr.runner import OMPRunner
from objproxy.ompr.worker import RunningWorker


class FunctionWorker(RunningWorker):
    """A worker without state.

    Parameters
    ----------
    function : callable
        Called with the items of each task.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.process = function  # type: ignore[method-assign]  # the function itself, with nothing in between

    def process(self, **kwargs: Any) -> Any:
        """Stand in until an object has its function."""
        raise NotImplementedError


def simple_process(
    tasks: Iterable[Mapping[str, Any]], function: Callable[..., Any], num_workers: int | None = None, **kwargs: Any
) -> list[Any]:
    """Call a function for each task, in several processes, and return the results in the order of the tasks.

    Parameters
    ----------
    tasks : iterable of dict
        Keyword arguments of each call.
    function : callable
        Any function, importable or not.
    num_workers : int or None
        CPU workers; or give ``devices``. Default: one for each CPU that this process may use.
    **kwargs
        Options of `OMPRunner`. With ``ordered_results=False`` the results come as they are ready.

    Returns
    -------
    list
        What the function returned; an `OMPRException` for a task that failed.

    Raises
    ------
    TypeError
        Both `num_workers` and ``devices`` are given.

    Examples
    --------
    >>> from objproxy.ompr import simple_process
    >>> simple_process([{"a": 1, "b": 2}, {"a": 3, "b": 4}], lambda a, b: a * b, num_workers=2)
    [2, 12]
    """
    if num_workers is not None:
        if "devices" in kwargs:
            raise TypeError(f"num_workers={num_workers!r} and devices={kwargs['devices']!r} were given; give one of them")
        if isinstance(num_workers, bool) or not isinstance(num_workers, int) or num_workers < 1:
            raise ValueError(f"num_workers={num_workers!r}: expected a number of workers, at least 1")
        kwargs["devices"] = [None] * num_workers
    with OMPRunner(FunctionWorker, {"function": function}, **kwargs) as runner:
        runner.process(tasks)
        return runner.get_all_results()

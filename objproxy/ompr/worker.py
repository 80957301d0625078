"""What lives in the workers: the user's `RunningWorker`, and the host that gives it its tasks."""

from __future__ import annotations

import contextlib
import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from objproxy import current_worker
from objproxy.inspecting import signature_of


class RunningWorker(ABC):
    """Base of the classes whose objects process tasks.

    The constructor runs in the worker, with ``rww_init_kwargs``; a parameter ``device``, ``devices`` or ``logger`` that is not
    among them is filled in. A subclass need not call ``super().__init__()``. `process` is called with the items of a task as
    keyword arguments, and what it returns is the task's result.

    Attributes
    ----------
    n_task_ok, n_task_crashed : int
        Tasks of this object that ended with a result, and with an exception.
    """

    # On the class, so that they are there even if a subclass does not call this constructor.
    n_task_ok: int = 0
    n_task_crashed: int = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # any arguments: what they mean is the subclass's business
        super().__init__()

    @abstractmethod
    def process(self, *args: Any, **kwargs: Any) -> Any:
        """Process one task.

        Parameters
        ----------
        **kwargs
            The items of the task.

        Returns
        -------
        object
            The task's result.
        """


class Host:
    """The object of each worker of an `OMPRunner`: it holds the user's object and hands it the tasks.

    Parameters
    ----------
    rww_class : type
        The user's class.
    init_kwargs : mapping
        Arguments of its constructor.
    logger_name : str
        Name of the logger for a constructor that asks for one.
    log_level : int or None
        Level of that logger.
    device : str or None
        Filled in by the pool: None for the CPU, else "cuda:N".
    """

    def __init__(
        self,
        rww_class: Callable[..., Any],
        init_kwargs: Mapping[str, Any],
        logger_name: str,
        log_level: int | None,
        device: str | None,
    ) -> None:
        logger = logging.getLogger(logger_name)
        if log_level is not None:
            logger.setLevel(log_level)
        self._init_error: Exception | None = None
        self._rww: Any = None
        try:
            self._rww = rww_class(**_fill_in(rww_class, init_kwargs, device, logger))
        except Exception as exc:
            # The first objects are made while the caller waits in the constructor of the runner, which raises this. A
            # replacement that cannot be made fails the tasks that it is given: that is told to somebody, and has an end.
            if current_worker().generation == 0:
                raise
            self._init_error = exc
        self._counts = isinstance(self._rww, RunningWorker)

    def run(self, task: Mapping[str, Any]) -> Any:
        """Process one task."""
        if self._init_error is not None:
            raise self._init_error
        rww = self._rww
        try:
            result = rww.process(**task)
        except BaseException:
            if self._counts:
                rww.n_task_crashed += 1
            raise
        if self._counts:
            rww.n_task_ok += 1
        return result

    def close(self) -> None:
        """End the user's object as it wishes: its own ``close()``, if it has one."""
        close = getattr(self._rww, "close", None)
        if callable(close):
            close()


def _fill_in(
    rww_class: Callable[..., Any], init_kwargs: Mapping[str, Any], device: str | None, logger: logging.Logger
) -> dict[str, Any]:
    """Return the constructor's arguments, with the device and the logger where it asks for them and they were not given."""
    filled = dict(init_kwargs)
    parameters: Mapping[str, inspect.Parameter] = {}
    with contextlib.suppress(TypeError, ValueError):  # a class of compiled code may have no signature
        parameters = signature_of(rww_class).parameters
    by_name = {name for name, parameter in parameters.items() if parameter.kind in _BY_NAME}
    for name in ("device", "devices"):
        if name in by_name:
            filled.setdefault(name, None if device is None else int(device.rpartition(":")[2]))
            break
    if "logger" in by_name:
        filled.setdefault("logger", logger)
    return filled


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)

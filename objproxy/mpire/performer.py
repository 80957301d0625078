"""What lives in each worker of a `WorkerPool`: the worker's state, and the functions that it runs."""

from __future__ import annotations

import functools
import heapq
import reprlib
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from objproxy import current_worker
from objproxy.handling import add_note, is_a, pass_interrupt_on, short_name
from objproxy.inspecting import signature_of

#: Slow tasks that a worker tells of.
N_SLOWEST = 5

#: Items that are one argument, without a closer look.
_SINGLE = frozenset({int, float, str, bytes, bool, type(None), complex, bytearray})

#: Arguments are shown at most at such a length.
_text = reprlib.Repr()
_text.maxstring = _text.maxother = 200
_text.maxlist = _text.maxtuple = _text.maxdict = _text.maxset = 10


class Setup(NamedTuple):
    """What a worker starts with.

    Attributes
    ----------
    shared_objects : object
        Given to every function if it is not None.
    pass_worker_id, use_worker_state : bool
        What else every function gets.
    worker_init, worker_exit : callable or None
        Run once in each worker.
    init_limit : float or None
        Seconds for `worker_init`, where the worker is a thread.
    """

    shared_objects: Any
    pass_worker_id: bool
    use_worker_state: bool
    worker_init: Callable[..., Any] | None
    worker_exit: Callable[..., Any] | None
    init_limit: float | None


class Task(NamedTuple):
    """The function of a map.

    Attributes
    ----------
    function : callable
        Is called for each item.
    worker_exit : callable or None
        To be run at the end of a worker's lifespan.
    lifespan : int or None
        Tasks of a worker before it is replaced.
    limit : float or None
        Seconds for a task, where the worker is a thread.
    is_timed : bool
        Whether slow tasks are noted.
    """

    function: Callable[..., Any]
    worker_exit: Callable[..., Any] | None = None
    lifespan: int | None = None
    limit: float | None = None
    is_timed: bool = False

    def __repr__(self) -> str:
        return "<task>"  # without a comma: `insights.in_users_words` cuts it off


class Noted(NamedTuple):
    """The result of a task, with more that the worker has to tell.

    Attributes
    ----------
    result : object
        What the function returned.
    exits : tuple
        The result of ``worker_exit``, if this was the worker's last task.
    slow : tuple
        (seconds, arguments) if the task is among the slowest of the worker so far.
    """

    result: Any
    exits: tuple[Any, ...]
    slow: tuple[tuple[float, str], ...]


class UnknownTaskError(LookupError):
    """A worker was asked for a function by a number that it does not know; it is another worker than the one that does."""


class Performer:
    """Runs the functions of one worker.

    Parameters
    ----------
    setup : Setup
        What it starts with.
    """

    def __init__(self, setup: Setup) -> None:
        worker = current_worker()
        self._setup = setup
        self._worker_id = worker.worker_id
        self._is_replacement = worker.generation > 0
        self._leading: tuple[Any, ...] = (
            *((worker.worker_id,) if setup.pass_worker_id else ()),
            *((setup.shared_objects,) if setup.shared_objects is not None else ()),
            *(({},) if setup.use_worker_state else ()),
        )
        self._task: Task | None = None
        self._function: Callable[..., Any] = _no_function
        self._known: dict[int, Task] = {}
        self._n_done = 0
        self._has_exited = False
        self._slowest: list[float] = []

    def begin(self) -> None:
        """Run ``worker_init``."""
        if self._setup.worker_init is not None:
            began = time.perf_counter()
            self._setup.worker_init(*self._leading)
            self._check_time("worker_init", self._setup.init_limit, time.perf_counter() - began)

    def finish(self, worker_exit: Callable[..., Any] | None, limit: float | None, *, has_lifespan: bool) -> tuple[Any, ...]:
        """Run ``worker_exit``; return its result in a tuple, an empty one if this worker stands in for one and did nothing."""
        if self._has_exited or (has_lifespan and self._is_replacement and not self._n_done):
            return ()
        run = worker_exit or self._setup.worker_exit
        if run is None:
            return ()
        began = time.perf_counter()
        result = run(*self._leading)
        self._check_time("worker_exit", limit, time.perf_counter() - began)
        return (result,)

    def _check_time(self, what: str, limit: float | None, seconds: float) -> None:
        """Raise TimeoutError if something took too long: a thread cannot be stopped, but it can be told from a good one."""
        if limit is not None and seconds > limit:
            raise TimeoutError(f"Worker-{self._worker_id} {what} timed out (timeout={limit})")

    def run(self, task: Task, item: Any) -> Any:
        """Run the function for one item of a map."""
        self._n_done += 1
        if task is not self._task:
            self._bind(task)
        try:
            return self._function(item) if type(item) in _SINGLE else call_with_item(self._function, item)
        except BaseException as exc:
            self._explain(exc, item)
            raise

    def run_noted(self, task: Task, item: Any) -> Any:
        """Run the function for one item, and tell more if there is more to tell."""
        began = time.perf_counter()
        result = self.run(task, item)
        return self._note(task, result, time.perf_counter() - began, item)

    def run_chunk(self, task: Task, items: Sequence[Any]) -> list[Any]:
        """Run the function for several items."""
        return [self.run_noted(task, item) for item in items]

    def call_known(self, number: int, *args: Any) -> Any:
        """Call a function that this worker was sent before, under this number; a message of plain values is the fastest."""
        task = self._known.get(number)
        if task is None:
            raise UnknownTaskError(number)
        return self.call(task, args, {})

    def call(self, task: Task, args: tuple[Any, ...], kwargs: dict[str, Any], number: int | None = None) -> Any:
        """Call a function with its arguments as they are given; keep it under a number."""
        if number is not None:
            self._known[number] = task
        began = time.perf_counter()
        self._n_done += 1
        try:
            result = task.function(*self._leading, *args, **kwargs)
        except BaseException as exc:
            self._explain(exc, kwargs or args)
            raise
        return self._note(task, result, time.perf_counter() - began, (*args, *kwargs.values()))

    def _bind(self, task: Task) -> None:
        self._function = functools.partial(task.function, *self._leading) if self._leading else task.function
        self._task = task

    def _note(self, task: Task, result: Any, seconds: float, item: Any) -> Any:
        self._check_time("task", task.limit, seconds)
        exits: tuple[Any, ...] = ()
        if task.worker_exit is not None and self._is_at_its_end(task):
            self._has_exited = True
            exits = (task.worker_exit(*self._leading),)
        slow = ((seconds, describe_arguments(item)),) if task.is_timed and self._is_slow(seconds) else ()
        return Noted(result, exits, slow) if exits or slow else result

    def _is_at_its_end(self, task: Task) -> bool:
        """Whether this was the last task; a map may have a shorter lifespan than those before."""
        return task.lifespan is not None and self._n_done >= task.lifespan and not self._has_exited

    def _is_slow(self, seconds: float) -> bool:
        """Note a duration; whether it is among the longest so far."""
        if len(self._slowest) < N_SLOWEST:
            heapq.heappush(self._slowest, seconds)
            return True
        return heapq.heappushpop(self._slowest, seconds) != seconds

    def _explain(self, error: BaseException, item: Any) -> None:
        """Add to an error where it happened, and with which arguments."""
        text = describe_arguments(item, "\n")
        note = f"Exception occurred in Worker-{self._worker_id} with the following arguments:\n{text}"
        if is_a(error, TypeError) and not _accepts(self._function, item):
            note += (
                f"\nThe item is a {type(item).__name__}, so its parts were the arguments; for one argument that is such an "
                "object give (item,), or see make_single_arguments"
            )
        add_note(error, note)


def call_with_item(function: Callable[..., Any], item: Any) -> Any:
    """Call a function with the arguments that an item of a map stands for.

    A dict holds keyword arguments; the parts of any other iterable are positional arguments, but text, bytes and arrays are one
    argument, as is everything that is no iterable.
    """
    if isinstance(item, dict):
        return function(**item)
    return function(*item) if _is_unpacked(item) else function(item)


def _is_unpacked(item: Any) -> bool:
    numpy = sys.modules.get("numpy")
    single = (str, bytes) if numpy is None else (str, bytes, numpy.ndarray)
    return isinstance(item, Iterable) and not isinstance(item, single)


def _accepts(function: Callable[..., Any], item: Any) -> bool:
    """Whether a function takes the parts of an item as arguments, as far as that can be told."""
    if isinstance(item, dict) or not _is_unpacked(item) or iter(item) is item:
        return True
    try:
        signature_of(function).bind(*item)
    except TypeError:
        return False
    except BaseException as exc:  # it does not tell
        pass_interrupt_on(exc)
        return True
    return True


def describe_arguments(item: Any, separator: str = " | ") -> str:
    """Return the arguments that an item stands for as text: ``Arg 0: 3 | Arg name: 'x'``."""
    try:
        if isinstance(item, dict):
            pairs = list(item.items())
        elif type(item) not in _SINGLE and _is_unpacked(item) and iter(item) is not item:
            pairs = list(enumerate(item))
        else:
            pairs = [(0, item)]
        return separator.join(f"Arg {name}: {_text.repr(value)}" for name, value in pairs)
    except BaseException as exc:  # whatever code of the user's raises here, it must not take the place of the task's error
        pass_interrupt_on(exc)
        return f"Arg 0: (cannot be shown: {short_name(exc)})"


def _no_function(*_args: Any) -> Any:
    raise RuntimeError("no task has been given yet")

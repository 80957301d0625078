"""Options of a call, checked when they are given."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Callable, Iterable
from typing import Any

from objproxy._checks import check_count, check_flag, check_seconds, check_whole
from objproxy._engine.messages import Policy
from objproxy.backends.base import Capabilities
from objproxy.errors import NotSupportedError, WorkerDiedError
from objproxy.progress import check_progress_bar

#: Keywords of a plain call of a pool's method; with ``options(...)`` every argument is the method's own.
CALL_KEYWORDS = ("chunksize", "map_args", "stack_results", "synchronize", "synchronize_workers")


class Label(str):
    """A name that is not that of a method of the pool's class."""

    __slots__ = ()


def _name(label: Any) -> Label:
    """Return the name that is given, or that of the function that is."""
    if isinstance(label, str):
        return Label(label)
    if not callable(label):
        raise TypeError(f"label={label!r}: expected a name, or a function that has one")
    while isinstance(label, functools.partial):
        label = label.func
    return Label(getattr(label, "__qualname__", type(label).__qualname__))


@dataclasses.dataclass(frozen=True)
class CallOptions:
    """What ``pool.method.options(...)`` accepts.

    Attributes
    ----------
    map_args : bool
        The arguments are iterables; one call for each item.
    synchronize : bool
        With `map_args`: rounds of one item a worker; no round starts before the last ended.
    chunksize : int or None
        Items in one message; None adapts to the measured time.
    stack_results : bool or callable
        True: numbers, and arrays of one shape and dtype, become one array with the call on axis 0; tuples and lists of one
        length become its rows; anything else becomes an array of objects. False: a plain list. A callable gets that list.
    timeout : float or None
        Seconds for one item; past them its worker is replaced. The clock starts when the item's arguments are unpickled and
        what they need is imported; that may take 60 seconds, or ten times the limit if that is more.
    retries : int
        How often an item may be tried again; 0 runs every item at most once.
    retry_on : exception type or tuple of them
        Which errors are worth another try; default: the death of the worker.
    on_error : str
        "raise" the first error, "return" errors among the results, or "skip" failed items.
    return_exceptions : bool
        The same as ``on_error="return"``.
    buffersize : int, callable or None
        For lazy verbs: most items that are pulled and not yet yielded. A callable is asked whenever items are to be pulled,
        with the mean seconds that workers took for an item (None before the first), and gives an int of at least 1.
    progress_bar : bool, str, dict or callable
        A bar; its style ("std", "rich", "notebook"); options for tqdm, and "style"; or a function of (done, total).
    journal : bool
        A broadcast that is carried out again on a replaced worker, with ``on_restart="replay"``.
    priority : int
        Larger goes first.
    counts : bool
        Whether a broadcast counts for ``max_tasks_per_worker``; one that only sets the objects up need not.
    max_tasks_per_worker : int or None
        In place of the pool's: a worker that has run so many items, of this call and of those before, is replaced. One that has
        run more when the call begins runs one item of it.
    concurrency : int or None
        Of coroutine methods, the most tasks that run at the same time in one worker, up to 4096: while one awaits something,
        the others go on. None: one task after another. A plain method holds the others up while it runs. Calls without this
        option, or with a smaller number, wait until they may run. Items travel one by one, so `chunksize` is without effect.
        With it, `timeout` and ``cancel()`` cancel the coroutine of one task (``asyncio.CancelledError`` is raised where it
        awaits) and its worker goes on, unless code that does not await holds up the worker. The death of a worker costs all
        tasks that it runs. Of an asynchronous generator, the tasks that may run while an item of it is awaited.
    label : str, callable or None
        The name of the call in errors, notes, time lines and dashboards, or the function that has it: for a method that only
        carries out what users of yours know by another name.
    advice : str or None
        What the errors recommend whose worker is lost, in place of options of this library, for users of yours who do not give
        them.
    """

    map_args: bool = False
    synchronize: bool = False
    chunksize: int | None = None
    stack_results: bool | Callable[[list[Any]], Any] = True
    timeout: float | None = None
    retries: int = 0
    retry_on: Any = (WorkerDiedError,)
    on_error: str = "raise"
    return_exceptions: bool = False
    buffersize: int | Callable[[float | None], int] | None = None
    progress_bar: Any = False
    journal: bool = False
    priority: int = 0
    counts: bool = True
    max_tasks_per_worker: int | None = None
    concurrency: int | None = None
    label: Any = None
    advice: str | None = None

    def __post_init__(self) -> None:
        for name in ("map_args", "synchronize", "return_exceptions", "journal", "counts"):
            check_flag(name, getattr(self, name))
        check_count("chunksize", self.chunksize)
        check_count("max_tasks_per_worker", self.max_tasks_per_worker)
        check_count("concurrency", self.concurrency)
        if not callable(self.buffersize):
            check_count("buffersize", self.buffersize)
        check_seconds("timeout", self.timeout)
        check_whole("priority", self.priority, "an int; larger goes first")
        if not isinstance(self.stack_results, bool) and not callable(self.stack_results):
            raise TypeError(f"stack_results={self.stack_results!r}: expected True, False, or a function of the list of results")
        check_progress_bar(self.progress_bar)
        if self.label is not None:
            object.__setattr__(self, "label", _name(self.label))
        if not isinstance(self.advice, (str, type(None))):
            raise TypeError(f"advice={self.advice!r}: expected a text")
        self._check_retries()
        self._check_on_error()

    def _check_retries(self) -> None:
        check_whole("retries", self.retries, "how often an item may be tried again, 0 or more")
        if self.retries < 0:
            raise ValueError(f"retries={self.retries!r}: expected how often an item may be tried again, 0 or more")
        kinds = self.retry_on if isinstance(self.retry_on, tuple) else (self.retry_on,)
        for kind in kinds:
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise TypeError(f"retry_on={self.retry_on!r}: expected an exception type or a tuple of them")
        object.__setattr__(self, "retry_on", kinds)

    def _check_on_error(self) -> None:
        if self.on_error not in ("raise", "return", "skip"):
            raise ValueError(f"on_error={self.on_error!r}: expected 'raise', 'return' or 'skip'")
        if self.return_exceptions:
            if self.on_error == "skip":
                raise ValueError("return_exceptions=True and on_error='skip' contradict each other; give one of them")
            object.__setattr__(self, "on_error", "return")

    def check_for(self, backend: str, capabilities: Capabilities) -> None:
        """Refuse what the back end of a pool cannot do.

        Raises
        ------
        NotSupportedError
            A time limit on a back end that cannot end a running call, or concurrent tasks on one that cannot run them.
        """
        if self.concurrency is not None and not getattr(capabilities, "can_run_concurrently", False):
            raise NotSupportedError(
                f"concurrency={self.concurrency} needs workers that run several tasks at once; backend={backend!r} has none. "
                "Use backend='process'."
            )
        if self.timeout is not None and not capabilities.can_kill:
            raise NotSupportedError(
                f"timeout={self.timeout} needs workers that can be ended from outside; backend={backend!r} has none. "
                "Use backend='process'."
            )

    @functools.cached_property
    def policy(self) -> Policy:
        """The part that the engine needs."""
        return Policy(
            self.timeout,
            self.retries,
            self.retry_on,
            self.priority,
            self.max_tasks_per_worker,
            self.label or "",
            self.advice or "",
            self.concurrency or 0,
        )


DEFAULTS = CallOptions()

_FIELDS = tuple(field.name for field in dataclasses.fields(CallOptions))

#: Every name of an option.
OPTION_NAMES = frozenset((*_FIELDS, *CALL_KEYWORDS))


def find_options(names: Iterable[str]) -> dict[str, str]:
    """Return which of some keywords are options, or look like one that was misspelt, with the option's name."""
    found = {}
    for name in names:
        close = [name] if name in OPTION_NAMES else difflib.get_close_matches(name, OPTION_NAMES, n=1, cutoff=0.75)
        if close:
            found[name] = close[0]
    return found


def advise(method: str, found: dict[str, str]) -> str:
    """Return what an error says of options that were given as arguments of a method."""
    said = [repr(name) if name == option else f"{name!r} (did you mean {option!r}?)" for name, option in found.items()]
    verb = "is an option of this library and belongs" if len(said) == 1 else "are options of this library and belong"
    how = ", ".join(f"{option}=..." for option in dict.fromkeys(found.values()))
    return f"{' and '.join(said)} {verb} into options(...): {method}.options({how})"


def make_options(base: CallOptions, changes: dict[str, Any]) -> CallOptions:
    """Return `base` with `changes`, whose names may be those of the five libraries' users.

    Raises
    ------
    TypeError
        An option that does not exist; the message names the closest.
    """
    if "synchronize_workers" in changes:
        changes = {**changes, "synchronize": bool(changes["synchronize_workers"])}
        del changes["synchronize_workers"]
    for name in changes:
        if name not in _FIELDS:
            raise TypeError(f"there is no option {name!r}{suggest(name, _FIELDS)}; the options are {', '.join(_FIELDS)}")
    return dataclasses.replace(base, **changes)


def suggest(name: str, known: Any) -> str:
    """Return "; did you mean ...?" if something close is known."""
    close = difflib.get_close_matches(name, list(known), n=3)
    return f"; did you mean {' or '.join(repr(other) for other in close)}?" if close else ""

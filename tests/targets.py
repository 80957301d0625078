"""Classes whose objects live in the workers of the tests."""

from __future__ import annotations

import functools
import logging
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from objproxy import current_worker, report_progress
from values import VALUES

#: Reaching this is a failure; it is long because the machine may be busy.
PATIENCE_SECONDS = 60.0

#: A limit for items of which some never end; the others keep it on a machine that is busy too.
LIMIT_SECONDS = 3.0


def poll_until(is_true: Callable[[], object], timeout: float = PATIENCE_SECONDS) -> None:
    """Wait until ``is_true()``, or raise `TimeoutError`."""
    deadline = time.monotonic() + timeout
    while not is_true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"still not true after {timeout} s: {is_true}")
        time.sleep(0.001)


class Gate:
    """A gate that processes and threads can wait at: the name of a file that is there once the gate is open."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def is_open(self) -> bool:
        return self.path.exists()

    def open(self) -> None:
        self.path.touch()

    def wait(self) -> None:
        poll_until(self.path.exists)


class CustomError(Exception):
    """An error with more than its arguments."""

    def __init__(self, text: str, code: int = 7) -> None:
        super().__init__(text, code)
        self.code = code


class TwoPartError(Exception):
    """Pickles, and raises when it is unpickled: its constructor wants more than its arguments."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")
        self.second = second


class UnrebuildableError(TwoPartError):
    """Has something that stays in its process."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first, second)
        self.lock = threading.Lock()


class BadArgument:
    """Pickles, and raises when it is unpickled."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise LookupError("this cannot be rebuilt")

    def __getstate__(self) -> dict[str, Any]:
        return {"x": 1}


class Locked:
    """Holds what cannot be pickled, two steps down."""

    def __init__(self) -> None:
        self.parts = [1, {"lock": threading.Lock()}]


class Slotted:
    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = 5

    def grow(self, by: int) -> int:
        self.size += by
        return self.size


def make_text() -> str:
    """Make an object of a class that only the workers know."""
    return "-"


class Model:
    """Does a bit of everything.

    Parameters
    ----------
    rate : float
        A data attribute.
    """

    scale = 3
    offsets = (1, 2)

    class Part:
        """A class inside a class."""

        def __init__(self, size: int = 1) -> None:
            self.size = size

    def __init__(self, rate: float = 1.5, *, tag: str = "m") -> None:
        self.rate = rate
        self.tag = tag
        self.calls = 0
        self.history: list[Any] = []
        self.shout = self._make_shout()
        self._secret = 13

    def _make_shout(self) -> Callable[[str], str]:
        return lambda text: text.upper()

    def who(self) -> int:
        """Return the worker's number."""
        return current_worker().worker_id

    def count(self) -> int:
        """Count the calls of this method."""
        self.calls += 1
        return self.calls

    def score(self, x: float, factor: float = 2, *, bias: float = 0) -> float:
        """Score one sample.

        Parameters
        ----------
        x : float
            The sample.
        """
        return x * factor + bias

    def echo(self, value: Any) -> Any:
        """Return what is given."""
        return value

    def pair(self, first: Any, second: Any) -> tuple[Any, Any]:
        return first, second

    def gather_arguments(self, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, kwargs

    def nothing(self) -> None:
        """Return None."""

    def remember(self, value: Any) -> None:
        self.history.append(value)

    def read_history(self) -> list[Any]:
        return self.history

    def make(self, kind: str, index: int = 0) -> Any:
        """Return a value of a kind that `VALUES` knows."""
        return VALUES[kind](current_worker().worker_id + index)

    def place(self, item: int) -> tuple[int, int]:
        """Return the item and the worker that ran it."""
        return item, current_worker().worker_id

    def split(self, samples: list[Any], chunksize: int = 10, *, map_args: bool = False) -> tuple[Any, ...]:
        """Have parameters that the pool's call has too."""
        return samples, chunksize, map_args

    def rows(self, n_rows: int, fail_at: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield rows, as a generator."""
        try:
            for row in range(n_rows):
                if row == fail_at:
                    raise ValueError(f"row {row}")
                self.calls = row + 1
                yield current_worker().worker_id, row
        finally:
            self.history.append("ended")

    def raise_on(self, worker_ids: tuple[int, ...]) -> int:
        """Raise on some of the workers."""
        worker_id = current_worker().worker_id
        if worker_id in worker_ids:
            raise ValueError(f"bad luck on {worker_id}")
        return worker_id

    def raise_at(self, item: int, *bad: int) -> int:
        """Raise for some items."""
        if item in bad:
            raise ValueError(f"bad item {item}")
        return item

    def raise_custom(self) -> NoReturn:
        error = CustomError("custom", code=42)
        error.add_note("a note of the method")
        raise error

    def raise_chained(self) -> NoReturn:
        try:
            {}["missing"]
        except KeyError as exc:
            raise CustomError("outer") from exc

    def raise_this(self, error: Any) -> NoReturn:
        raise error

    def raise_two_parts(self) -> NoReturn:
        raise TwoPartError("one", "two")

    def raise_unrebuildable(self) -> NoReturn:
        raise UnrebuildableError("one", "two")

    def exit_with(self, code: int) -> NoReturn:
        sys.exit(code)

    def interrupt(self) -> NoReturn:
        raise KeyboardInterrupt("from a method")

    def stop_iteration(self, item: int) -> int:
        if item == 2:
            raise StopIteration(item)
        return item

    def return_error(self, text: str) -> Exception:
        return ValueError(text)

    def return_unpicklable(self, item: int = 0) -> Any:
        return threading.Lock() if item % 2 == 0 else item

    def return_bad_result(self) -> BadArgument:
        return BadArgument()

    def log(self, text: str, level: int = logging.WARNING) -> None:
        logging.getLogger("targets.model").log(level, "said %s", text)

    def log_exception(self) -> None:
        try:
            raise ValueError("logged, not raised")
        except ValueError:
            logging.getLogger("targets.model").exception("it went wrong")

    def warn(self, text: str) -> None:
        warnings.warn(text, UserWarning, stacklevel=1)

    def advance(self, n_steps: int) -> int:
        for step in range(n_steps):
            report_progress(step + 1, n_steps)
        return n_steps

    def draw(self, _item: int = 0) -> tuple[float, float, float]:
        """Draw from each of the three random streams."""
        return random.random(), float(np.random.random()), float(current_worker().rng.random())

    def draw_item(self, _item: int) -> float:
        return float(current_worker().rng.random())

    def facts(self) -> dict[str, Any]:
        worker = current_worker()
        return {
            "worker_id": worker.worker_id,
            "n_workers": worker.n_workers,
            "device": worker.device,
            "generation": worker.generation,
            "pool_name": worker.pool_name,
        }

    def pid(self) -> int:
        return os.getpid()

    def environ(self, name: str) -> str | None:
        return os.environ.get(name)

    def affinity(self) -> list[int]:
        return sorted(os.sched_getaffinity(0))

    def loaded(self, name: str) -> bool:
        """Whether a module is loaded here."""
        return name in sys.modules

    # ---- gates -------------------------------------------------------------------------------------------------------

    def wait_at(self, gate: Gate, item: int = 0) -> int:
        gate.wait()
        return item

    def report_and_wait(self, started: Gate, gate: Gate, item: int = 0) -> int:
        """Say that the call has started, and wait to be let on."""
        started.open()
        gate.wait()
        return item

    def meet(self, mine: Gate, others: Gate) -> int:
        """Wait until another call has started too."""
        mine.open()
        others.wait()
        return current_worker().worker_id

    def append_line(self, path: Path, line: Any) -> Any:
        """Write a line, in one go, and return it."""
        with open(path, "a") as file:
            file.write(f"{line}\n")
        return line

    def fail_first(self, path: Path, item: int, n_failures: int) -> int:
        """Raise on the first tries of an item."""
        self.append_line(path, item)
        if path.read_text().split().count(str(item)) <= n_failures:
            raise OSError(f"item {item} is not ready")
        return item

    # ---- deaths ------------------------------------------------------------------------------------------------------

    def die(self, how: str = "SIGKILL") -> NoReturn:
        if how == "os._exit":
            os._exit(3)
        os.kill(os.getpid(), getattr(signal, how))
        time.sleep(PATIENCE_SECONDS)
        raise AssertionError("still alive")

    def die_at(self, item: int, *bad: int) -> int:
        if item in bad:
            self.die()
        return item

    def die_first(self, path: Path, item: int, n_deaths: int) -> int:
        """Die on the first tries of an item."""
        self.append_line(path, item)
        if path.read_text().split().count(str(item)) <= n_deaths:
            self.die()
        return item


class Tally:
    """Attributes to which operators are applied; those of each worker are its own."""

    limit = 9

    def __init__(self) -> None:
        self.n: Any = current_worker().worker_id
        self.big = 2**40
        self.ratio = 0.5
        self.is_on = True
        self.text = "a"
        self.items = [1]
        self.kept = self.items
        self.pair = (1, 2)
        self.weights = np.full(2, self.n + 1.0)
        self.matrix = np.eye(2)
        self._level = 1

    @property
    def level(self) -> int:
        return self._level

    @level.setter
    def level(self, value: int) -> None:
        self._level = value

    def types(self) -> list[str]:
        return [type(value).__name__ for value in (self.n, self.items, self.pair)]

    def keeps_its_list(self) -> bool:
        return self.kept is self.items


class WithProperties:
    """Attributes that are more than data."""

    frozen = 5

    def __init__(self) -> None:
        self._level = current_worker().worker_id

    @property
    def level(self) -> int:
        return self._level

    @level.setter
    def level(self, value: int) -> None:
        if value < 0:
            raise ValueError("level must not be negative")
        self._level = value

    @property
    def fixed(self) -> int:
        return 11

    @property
    def broken(self) -> int:
        raise RuntimeError("this property is broken")

    @property
    def lost(self) -> int:
        return self.no_such_thing  # type: ignore[attr-defined, no-any-return]

    @functools.cached_property
    def cached(self) -> list[int]:
        return [self._level]

    @staticmethod
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @classmethod
    def class_name(cls, suffix: str) -> str:
        return cls.__name__ + suffix


def _with_session(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a method its first argument, as many frameworks do."""

    @functools.wraps(function)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(self, "session", *args, **kwargs)

    return wrapper


class _Twice:
    """A callable object, which does not become a bound method."""

    def __call__(self, x: int) -> int:
        return 2 * x


class Meta(type):
    """A metaclass with names of its own, which its classes' objects do not have."""

    def register(cls) -> str:
        return "the metaclass's"


class Oddities(metaclass=Meta):
    """What makes it hard to tell methods from data."""

    twice = _Twice()

    def __init__(self) -> None:
        self.register = 5

    @_with_session
    def query(self, session: str, text: str) -> str:
        """Ask."""
        return f"{session}: {text}"

    def __getitem__(self, key: Any) -> Any:
        return key


class Callable_:
    """Objects that are called themselves."""

    def __call__(self, x: int, *, plus: int = 0) -> int:
        return x + plus + current_worker().worker_id


class HasPoolNames:
    """Has names that the pool has too."""

    def __init__(self) -> None:
        self.remote = "a data attribute"

    def workers(self) -> str:
        return "the class's"

    def insights(self, depth: int) -> int:
        return depth


class Closing:
    """Writes down how it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, text: str) -> None:
        with open(self.path, "a") as file:
            file.write(f"{text}\n")

    def close(self) -> None:
        self.note(f"close {current_worker().worker_id}")


class Exiting(Closing):
    """Is a context manager without a close()."""

    close = None  # type: ignore[assignment]

    def __enter__(self) -> Exiting:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.note(f"exit {current_worker().worker_id}")


class FailingInit:
    """Cannot be made on some workers."""

    def __init__(self, how: str, worker_ids: tuple[int, ...] | None = None) -> None:
        if worker_ids is not None and current_worker().worker_id not in worker_ids:
            return
        if how == "raise":
            raise CustomError("no weights")
        if how == "os._exit":
            os._exit(4)
        if how == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        while True:
            time.sleep(PATIENCE_SECONDS)

    def hello(self) -> str:
        return "hello"


class Journaled:
    """State that may be brought back."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def step(self, name: str) -> None:
        self.steps.append(name)

    def read(self) -> list[str]:
        return self.steps

    def where(self) -> tuple[int, int]:
        worker = current_worker()
        return worker.worker_id, worker.generation

    def work(self, item: int) -> tuple[int, int]:
        return item, current_worker().generation

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(PATIENCE_SECONDS)


class Unsnappable:
    def __init__(self) -> None:
        self.lock = threading.Lock()


class DeviceTaker:
    def __init__(self, device: Any = "not given") -> None:
        self.device = device

    def read_device(self) -> Any:
        return self.device


class DevicesTaker:
    def __init__(self, size: int, *, devices: Any) -> None:
        self.size = size
        self.devices = devices


class Named:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args
        self.kwargs = kwargs


def make_model(rate: float = 9.0) -> Model:
    """Make a model, as a factory in place of a class."""
    return Model(rate + current_worker().worker_id)


class Hoarder:
    """An object that keeps every block of memory it was asked to take."""

    def __init__(self) -> None:
        self.blocks: list[bytearray] = []

    def hoard(self, nbytes: int) -> int:
        block = bytearray(nbytes)
        block[::4096] = b"x" * len(block[::4096])  # touch every page
        self.blocks.append(block)
        return len(self.blocks)

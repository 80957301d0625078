"""What a round does, made from its seed alone, so that it can be made again."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.soak._subject import Unreadable

#: Kinds of items (`benchmarks.soak._subject`) and how often each is drawn, where any may be.
_WEIGHTS = {
    "add": 600,
    "nap": 60,
    "array": 80,
    "raise": 20,
    "exit": 4,
    "lock": 6,
    "unsendable": 6,
    "unreadable": 4,
    "fatal": 2,
    "kill": 5,
    "abort": 2,
    "leave": 4,
    "once": 6,
}

#: Kinds that never end, drawn besides where a time limit is set.
_HANGING = {"sleep": 4, "swallow": 2, "spin": 2, "stop": 2}

#: Kinds that a way of use cannot have: errors that do not say which item they are of, and exits, which end an event loop.
_LEFT_OUT = {"imap_unordered": ("lock", "unsendable"), "coroutines": ("exit",), "aimap": ("exit",)}

#: Kinds that end their worker's process.
DEADLY = frozenset({"kill", "abort", "leave", "once", "fatal"})

HANGING = frozenset(_HANGING)

#: Ways of use (`benchmarks.soak._waves`) and how often each is drawn.
_WAYS = {
    "map": 6,
    "imap": 4,
    "imap_unordered": 3,
    "imap_dropped": 2,
    "map_raising": 1,
    "futures": 5,
    "coroutines": 2,
    "aimap": 2,
    "broadcasts": 3,
    "instances": 2,
    "shared": 2,
    "streams": 1,
    "journal": 1,
}

#: Ways in which each task is waited for alone.
_SLOW = frozenset({"broadcasts", "instances", "streams", "journal"})

#: Ways whose items may be tried again after a death.
_RETRYING = frozenset(
    {
        "map",
        "map_raising",
        "imap",
        "imap_unordered",
        "imap_dropped",
        "futures",
        "coroutines",
        "aimap",
        "instances",
        "broadcasts",
    }
)

#: Most workers of a pool.
MAX_WORKERS = 8

_MAX_ELEMENTS = 500_000


@dataclass(frozen=True)
class Item:
    """One task of a map.

    Parameters
    ----------
    kind : str
        What it does.
    n_elements : int
        Elements of its array, for ``kind="array"``.
    """

    kind: str
    n_elements: int = 0

    def make_payload(self, number: int) -> Any:
        """Return the argument that the task needs."""
        if self.kind == "array":
            return np.arange(number, number + self.n_elements, dtype=np.int64)
        if self.kind == "unsendable":
            return threading.Lock()  # does not pickle
        if self.kind in ("unreadable", "fatal"):
            return Unreadable(number, is_fatal=self.kind == "fatal")
        return None


@dataclass(frozen=True)
class Wave:
    """Some tasks that are handed to the pool in one way.

    Parameters
    ----------
    way : str
        How.
    items : tuple of Item
        Which.
    seed : int
        For what else has to be drawn.
    timeout : float or None
        Seconds for an item.
    retries : int
        How often an item is tried again after a death.
    """

    way: str
    items: tuple[Item, ...]
    seed: int
    timeout: float | None = None
    retries: int = 0


@dataclass(frozen=True)
class RoundPlan:
    """A pool and everything that is done with it.

    Parameters
    ----------
    seed : int
        From which all of it follows.
    n_workers, start_method, max_tasks_per_worker, on_restart
        Options of the pool.
    n_lanes : int
        Threads that use the pool at one time.
    waves : tuple of Wave
        What they do.
    kill_seconds : float
        Mean time between two kills of a worker.
    resize_seconds : float
        Mean time between two changes of size; 0 for none.
    look_seconds : float
        Mean time between two looks at where all workers stand; 0 for none.
    ending : str
        "close", "kill" or "exception": how the pool ends, with tasks still on their way.
    """

    seed: int
    n_workers: int
    start_method: str
    max_tasks_per_worker: int | None
    on_restart: str
    n_lanes: int
    waves: tuple[Wave, ...]
    kill_seconds: float
    resize_seconds: float
    look_seconds: float
    ending: str

    @property
    def n_tasks(self) -> int:
        """Number of tasks, each instance of a broadcast counted."""
        return sum(len(wave.items) for wave in self.waves)


def make_plan(seed: int, n_tasks: int, timeout: float) -> RoundPlan:
    """Draw a round.

    Parameters
    ----------
    seed : int
        Two plans of one seed are equal.
    n_tasks : int
        Number of tasks, nearly.
    timeout : float
        Seconds for an item, in waves that have a limit.
    """
    rng = random.Random(seed)
    start_method = rng.choices(["forkserver", "fork", "spawn"], [8, 3, 1])[0]
    is_slow = start_method == "spawn"  # each death costs a fresh interpreter
    return RoundPlan(
        seed=seed,
        n_workers=rng.randint(2, MAX_WORKERS),
        start_method=start_method,
        max_tasks_per_worker=rng.choice([None, rng.randint(30, 300)]),
        on_restart=rng.choice(["replay", "snapshot"]),
        n_lanes=rng.randint(1, 3),
        waves=tuple(_make_waves(rng, n_tasks, timeout)),
        kill_seconds=rng.uniform(0.2, 0.6) * (5 if is_slow else 1),
        resize_seconds=rng.choice([0.0, rng.uniform(0.3, 1.5)]),
        look_seconds=rng.choice([0.0, 1.0]),
        ending=rng.choice(["close", "close", "kill", "exception"]),
    )


def _make_waves(rng: random.Random, n_tasks: int, timeout: float) -> Iterator[Wave]:
    n_left = n_tasks
    while n_left > 0:
        way = rng.choices(list(_WAYS), list(_WAYS.values()))[0]
        count = min(n_left, rng.randint(20, 400) if way not in _SLOW else rng.randint(8, 60))
        has_limit = way in ("map", "imap", "futures", "coroutines", "aimap") and rng.random() < 0.35
        items = tuple(_make_item(rng, way, has_limit=has_limit) for _ in range(count))
        retries = rng.choice([0, 0, 1, 2]) if way in _RETRYING else 0
        yield Wave(way, items, rng.getrandbits(32), timeout if has_limit else None, retries)
        n_left -= count


def _make_item(rng: random.Random, way: str, *, has_limit: bool) -> Item:
    weights = {**_WEIGHTS, **(_HANGING if has_limit else {})}
    for left_out in _LEFT_OUT.get(way, ()):
        del weights[left_out]
    kind = rng.choices(list(weights), list(weights.values()))[0]
    # Sizes on both sides of the one from which arrays travel through shared memory, none at all among them.
    n_elements = int(_MAX_ELEMENTS ** rng.uniform(0, 1)) - 1 if kind == "array" else 0
    return Item(kind, n_elements)

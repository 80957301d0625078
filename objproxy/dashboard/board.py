"""What the dashboard knows of the programs, and what is new of it for each viewer. Pure: no sockets, no clock, no thread."""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from typing import Any

#: What is kept of programs and pools that have ended, and of each pool.
_MAX_ENDED_PROGRAMS = 10
_MAX_ENDED_POOLS = 20
_MAX_POOLS = 200
_MAX_SPANS = 20_000
_MAX_FAILURES = 100
_MAX_CALLS = 8
_MAX_POINTS = 480  # two minutes of looks

#: Lists of which only what is new is sent, and how much is kept of each.
_GROWING = {"spans": _MAX_SPANS, "failures": _MAX_FAILURES, "points": _MAX_POINTS}


class _Log:
    """A list that grows at its end and is cut at its front; whoever reads it remembers how much it has seen."""

    def __init__(self, limit: int) -> None:
        self.entries: deque[Any] = deque(maxlen=limit)
        self.n_added = 0

    def extend(self, entries: list[Any]) -> None:
        self.entries.extend(entries)
        self.n_added += len(entries)

    def since(self, n_seen: int) -> list[Any]:
        n_new = min(self.n_added - n_seen, len(self.entries))
        return list(itertools.islice(self.entries, len(self.entries) - n_new, None))


@dataclasses.dataclass
class _Pool:
    latest: dict[str, Any]
    logs: dict[str, _Log] = dataclasses.field(default_factory=lambda: {name: _Log(limit) for name, limit in _GROWING.items()})
    ended_calls: deque[dict[str, Any]] = dataclasses.field(default_factory=lambda: deque(maxlen=_MAX_CALLS))

    @property
    def has_ended(self) -> bool:
        return self.latest.get("ended") is not None

    def take(self, digest: dict[str, Any]) -> None:
        """Take a look at the pool in; `digest` is as `Digest.make` makes it."""
        for name in ("spans", "failures"):
            self.logs[name].extend(digest.pop(name))
        self.logs["points"].extend([[digest["now"], digest["rate"]]])
        calls = digest["calls"]
        self.ended_calls.extend(call for call in calls if call["ended"] is not None)
        digest["calls"] = [call for call in calls if call["ended"] is None]
        self.latest = digest

    def news(self, seen: dict[str, int]) -> dict[str, Any]:
        """Return the pool as it is, and what is new in its logs since `seen`, which is moved on."""
        new = {name: log.since(seen.get(name, 0)) for name, log in self.logs.items()}
        seen.update({name: log.n_added for name, log in self.logs.items()})
        return {**self.latest, **new, "ended_calls": list(self.ended_calls)}


@dataclasses.dataclass
class Program:
    """A program that publishes, or has published.

    Attributes
    ----------
    number : int
        Counts the programs of this dashboard.
    about : dict
        What it tells of itself.
    state : str
        "connected", "ended" if it has said so, or "lost".
    """

    number: int
    about: dict[str, Any]
    state: str = "connected"
    pools: dict[int, _Pool] = dataclasses.field(default_factory=dict)

    def take(self, digest: Any) -> None:
        """Take in a look at one of its pools.

        Raises
        ------
        ValueError
            It is not what a program sends.
        """
        check_digest(digest)
        pool = self.pools.get(digest["id"])
        if pool is None:
            if len(self.pools) >= _MAX_POOLS:
                return
            pool = self.pools[digest["id"]] = _Pool(digest)
        pool.take(digest)
        ended = [number for number, other in self.pools.items() if other.has_ended]
        for number in ended[:-_MAX_ENDED_POOLS]:
            del self.pools[number]


class Board:
    """All that is known.

    Attributes
    ----------
    version : int
        Changes with everything that is taken in.
    """

    def __init__(self) -> None:
        self.version = 0
        self.programs: dict[int, Program] = {}
        self._numbers = itertools.count(1)

    def join(self, about: Any) -> Program:
        """Take a program in.

        Raises
        ------
        ValueError
            It does not tell what it is.
        """
        if not isinstance(about, dict) or not _is_int(about.get("pid")):
            raise ValueError("a program that does not say what it is")
        program = Program(next(self._numbers), about)
        self.programs[program.number] = program
        self.version += 1
        return program

    def take(self, program: Program, digest: Any) -> None:
        """Take in a look at a pool; ValueError if it is not what a program sends."""
        program.take(digest)
        self.version += 1

    def leave(self, program: Program, state: str) -> None:
        """Note that a program is gone: "ended" as it has said, or "lost"."""
        program.state = state
        ended = [number for number, other in self.programs.items() if other.state != "connected"]
        for number in ended[:-_MAX_ENDED_PROGRAMS]:
            del self.programs[number]
        self.version += 1


class Viewer:
    """One page that looks at a board.

    Parameters
    ----------
    board : Board
        What it looks at.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._seen: dict[tuple[int, int], dict[str, int]] = {}
        self._is_first = True

    def news(self, now: float) -> dict[str, Any]:
        """Return all programs and pools as they are, and what is new in their logs; `now` in seconds since the epoch."""
        programs = [self._program(program) for program in self._board.programs.values()]
        is_first, self._is_first = self._is_first, False
        return {"first": is_first, "now": now, "programs": programs}

    def _program(self, program: Program) -> dict[str, Any]:
        pools = [
            pool.news(self._seen.setdefault((program.number, number), {})) for number, pool in sorted(program.pools.items())
        ]
        return {"number": program.number, "about": program.about, "state": program.state, "pools": pools}


def check_digest(digest: Any) -> None:
    """Raise ValueError unless a digest has what this module and the page count on; the page shows everything else as text."""
    if not isinstance(digest, dict):
        raise ValueError("a pool that is no object")
    for name, kinds in _FIELDS.items():
        if not isinstance(digest.get(name), kinds) or isinstance(digest[name], bool):
            raise ValueError(f"a pool whose {name!r} is {type(digest.get(name)).__name__}")
    for name in ("workers", "calls", "failures", "slowest", "methods"):
        if not all(isinstance(entry, dict) for entry in digest[name]):
            raise ValueError(f"a pool whose {name!r} are no objects")
    if not all("ended" in call for call in digest["calls"]):
        raise ValueError("a call that does not say whether it has ended")


_NUMBER = (int, float)
_FIELDS: dict[str, Any] = {
    "id": int,
    "name": str,
    "kind": str,
    "backend": str,
    "phase": str,
    "why": str,
    "began": _NUMBER,
    "ended": (*_NUMBER, type(None)),
    "now": _NUMBER,
    "rate": _NUMBER,
    "n_tasks": int,
    "n_failed": int,
    "n_outstanding": int,
    "n_workers": int,
    "workers": list,
    "calls": list,
    "failing": dict,
    "failures": list,
    "slowest": list,
    "methods": list,
    "spans": list,
}


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

"""What an experiment is: contenders, sizes, targets, and what came out."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: The name of what all others are compared with.
OURS = "objproxy"

#: Units: how a measured value is shown.
UNITS = {"us": 1e6, "ms": 1e3, "s": 1.0, "MB": 1e-6}


@dataclass(frozen=True)
class Contender:
    """One system in an experiment.

    Parameters
    ----------
    name : str
        As in the tables.
    function : callable
        Called in an interpreter of its own with the sizes and `arguments`; it sets up, warms up, measures, checks the
        results, and returns a list of values, or the list and a dict of facts. Values are in seconds or bytes.
    arguments : dict
        Further arguments, int or str.
    is_peer : bool
        False for ours and for what is no pool but a yardstick.
    """

    name: str
    function: Callable[..., Any]
    arguments: Mapping[str, int | str] = field(default_factory=dict)
    is_peer: bool = True


@dataclass(frozen=True)
class Outcome:
    """All values of one contender over the rounds.

    Parameters
    ----------
    name : str
        The contender.
    status : str
        "ok", "not importable" (mostly: not installed), "hangs", "wrong" or "failed".
    message : str
        What went wrong.
    rounds : tuple of tuple of float
        Values of each round, in seconds or bytes.
    facts : dict
        What else the rounds told: medians of numbers, and what the last round told of anything else.
    is_peer : bool
        As in `Contender`.
    round_facts : tuple of dict
        What else each round told.
    """

    name: str
    status: str
    message: str = ""
    rounds: tuple[tuple[float, ...], ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    is_peer: bool = True
    round_facts: tuple[Mapping[str, Any], ...] = ()

    @property
    def values(self) -> list[float]:
        """The values of all rounds, sorted."""
        return sorted(value for values in self.rounds for value in values)

    @property
    def median(self) -> float:
        """The median of all values."""
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """What a quarter, and three quarters, of the values lie below."""
        values = self.values
        if len(values) < 2:
            return values[0], values[0]
        lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
        return lower, upper

    def multiples(self, fact: str) -> list[float]:
        """Return the median of each round as a multiple of a number that the same lane measured."""
        pairs = zip(self.rounds, self.round_facts, strict=True)
        return sorted(statistics.median(values) / facts[fact] for values, facts in pairs)


def merge_facts(rounds: Sequence[Mapping[str, Any]], choose: Callable[[list[Any]], Any] = statistics.median) -> dict[str, Any]:
    """Return one dict for those of all rounds: `choose` of numbers, at any depth, and the last of anything else."""
    merged = {}
    for key, last in rounds[-1].items():
        values = [facts[key] for facts in rounds if key in facts]
        if isinstance(last, Mapping):
            merged[key] = merge_facts(values, choose)
        elif isinstance(last, (int, float)) and not isinstance(last, bool):
            merged[key] = choose(values)
        else:
            merged[key] = last
    return merged


class Outcomes(dict[str, Outcome]):
    """The outcomes of an experiment by the contenders' names.

    Parameters
    ----------
    outcomes : dict
        By name.
    is_quietest : bool
        Whether a contender's figure is its smallest value (the quietest moment of a shared machine), not its median.
    """

    def __init__(self, outcomes: Mapping[str, Outcome], *, is_quietest: bool = False) -> None:
        super().__init__(outcomes)
        self._is_quietest = is_quietest

    def quietest(self) -> Outcomes:
        """Return the same with smallest values as figures."""
        return Outcomes(self, is_quietest=True)

    def figure(self, name: str) -> float:
        """Return what stands for all values of a contender.

        Raises
        ------
        LookupError
            It has no values.
        """
        outcome = self._measured(name)
        return outcome.values[0] if self._is_quietest else outcome.median

    def multiple(self, name: str, fact: str) -> float:
        """Return a contender's figure as a multiple of a number that its own lanes measured: both had the same conditions.

        Raises
        ------
        LookupError
            It has no values.
        """
        multiples = self._measured(name).multiples(fact)
        return multiples[0] if self._is_quietest else statistics.median(multiples)

    def curve(self, name: str, fact: str) -> dict[str, float]:
        """Return a fact that is a dict of numbers: for each key the median, or the smallest, of all rounds.

        Raises
        ------
        LookupError
            It has no values.
        """
        rounds = [facts[fact] for facts in self._measured(name).round_facts]
        return merge_facts(rounds, min if self._is_quietest else statistics.median)

    def _measured(self, name: str) -> Outcome:
        if name not in self or self[name].status != "ok":
            raise LookupError(f"{name} was not measured")
        return self[name]

    def best_peer(self) -> str:
        """Return the name of the peer with the smallest figure."""
        peers = [name for name, outcome in self.items() if outcome.is_peer and outcome.status == "ok"]
        if not peers:
            raise LookupError("no peer was measured")
        return min(peers, key=self.figure)


@dataclass(frozen=True)
class Target:
    """What must be reached.

    Parameters
    ----------
    text : str
        In the words of the summary.
    limit : float
        The largest value that is good enough.
    measure : callable
        Outcomes -> value; raises `LookupError` if a contender is missing.
    unit : str
        Shown behind values; empty for ratios.
    """

    text: str
    limit: float
    measure: Callable[[Outcomes], float]
    unit: str = ""

    def judge(self, outcomes: Outcomes) -> Verdict:
        """Return whether the target was reached."""
        try:
            value = self.measure(outcomes)
        except LookupError as error:
            return Verdict(self, None, None, str(error))
        text = "reached" if value <= self.limit else f"missed by {_excess(value, self)}"
        return Verdict(self, value, self.measure(outcomes.quietest()), text)


@dataclass(frozen=True)
class Verdict:
    """What came of a target.

    Parameters
    ----------
    target : Target
        What must be reached.
    value : float or None
        From the medians; this counts. None: not measured.
    quietest : float or None
        From the smallest values.
    text : str
        The verdict in words.
    """

    target: Target
    value: float | None
    quietest: float | None
    text: str

    @property
    def is_reached(self) -> bool:
        """Whether the value was measured and is good enough."""
        return self.value is not None and self.value <= self.target.limit


def _excess(value: float, target: Target) -> str:
    if target.limit <= 0:
        return f"{value - target.limit:.3g} {target.unit}"
    percent = 100 * (value / target.limit - 1)
    return f"{percent:.1f} %" if percent < 10 else f"{percent:.0f} %"


@dataclass(frozen=True)
class Experiment:
    """One table: contenders that do the same work.

    Parameters
    ----------
    name : str
        Short, for files and plots.
    title : str
        What is measured.
    unit : str
        "us", "ms", "s" or "MB".
    contenders : tuple of Contender
        Ours first.
    targets : tuple of Target
        What must be reached.
    sizes, quick_sizes : dict
        Arguments of all contenders, in full and in a quick run.
    rounds : int
        How often the contenders take turns.
    discard_rounds : int
        Rounds before these whose values are dropped.
    timeout : float
        Seconds for one contender in one round; past it, it hangs.
    calibrate : callable or None
        Called once before the first round; gives more arguments for all contenders.
    curve : str
        Name of a fact, a dict of seconds by size in bytes, that is drawn as a curve instead of bars; empty: bars.
    describe : callable or None
        Outcomes -> one more line below the table; raises `LookupError` if a contender is missing.
    """

    name: str
    title: str
    unit: str
    contenders: tuple[Contender, ...]
    targets: tuple[Target, ...]
    sizes: Mapping[str, int]
    quick_sizes: Mapping[str, int]
    rounds: int = 5
    discard_rounds: int = 0
    timeout: float = 60.0
    calibrate: Callable[[], dict[str, int]] | None = None
    curve: str = ""
    describe: Callable[[Outcomes], str] | None = None


def ratio(to: str, limit: float, text: str | None = None) -> Target:
    """Return the target that ours takes at most `limit` times as much as the contender `to`."""
    return Target(
        text or f"at most {limit:g} x {to}",
        limit,
        lambda outcomes: outcomes.figure(OURS) / outcomes.figure(to),
        unit="x",
    )


def ratio_to_best(limit: float = 1.0, text: str = "ahead of every peer") -> Target:
    """Return the target that ours takes at most `limit` times as much as the best peer."""
    return Target(text, limit, lambda outcomes: outcomes.figure(OURS) / outcomes.figure(outcomes.best_peer()), unit="x")


def multiple_of(fact: str, limit: float, text: str) -> Target:
    """Return the target that ours takes at most `limit` times a number that its own lanes measured beside it."""
    return Target(text, limit, lambda outcomes: outcomes.multiple(OURS, fact), unit="x")


def contenders_of(names: Iterable[str], function: Callable[..., Any]) -> tuple[Contender, ...]:
    """Return contenders that differ in the argument ``library`` only."""
    return tuple(Contender(name, function, {"library": name}, is_peer=name != OURS) for name in names)

"""What happens to simulated workers, and how often."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Fate:
    """How long things take, in virtual seconds, and how often they go wrong.

    Attributes
    ----------
    item_seconds, unpickle_seconds, constructor_seconds, exit_seconds : float
        Means; each is drawn from an exponential distribution.
    kill_seconds : float
        Until a killed worker is gone.
    raises : float
        Share of the items that end with ``ValueError``.
    dies : float
        Share of the items that kill their worker while they run.
    dies_before : float
        Share of the batches that never begin, because their worker dies when it has received them.
    dies_between : float
        Share of the items after which the worker dies, before the next one begins and before the answer is sent.
    dies_idle : float
        Share of the batches after whose answer the worker dies, having nothing to do.
    stalls : float
        Share of the items that never end.
    loses_journal : float
        Share of the deaths that take the results with them that were not sent.
    constructor_raises, constructor_dies, constructor_stalls : float
        Shares of the constructors that do so, those of the first generation left out if `spares_first`.
    spares_first : bool
        Whether every worker comes up once.
    answers_in_parts : float
        Share of the batches that are answered in two parts.
    answers_late : float
        Share of the killed workers from which an answer still arrives.
    keeps_silent : float
        Share of the workers that do not say where they stand before they are asked again.
    ignores_interrupts : float
        Share of the interrupted workers that go on until they are killed.
    works_at_end : float
        Share of the workers that have background work to finish when they are asked to end.
    hangs_at_end, fails_at_end : float
        Shares of those that never end by themselves, and of those whose own end raises.
    end_seconds : float
        Mean time of the background work.
    """

    item_seconds: float = 0.01
    unpickle_seconds: float = 0.0
    constructor_seconds: float = 0.05
    exit_seconds: float = 0.01
    kill_seconds: float = 0.002
    raises: float = 0.0
    dies: float = 0.0
    dies_before: float = 0.0
    dies_between: float = 0.0
    dies_idle: float = 0.0
    stalls: float = 0.0
    loses_journal: float = 0.0
    constructor_raises: float = 0.0
    constructor_dies: float = 0.0
    constructor_stalls: float = 0.0
    spares_first: bool = True
    answers_in_parts: float = 0.0
    answers_late: float = 0.0
    keeps_silent: float = 0.0
    ignores_interrupts: float = 0.0
    works_at_end: float = 0.0
    hangs_at_end: float = 0.0
    fails_at_end: float = 0.0
    end_seconds: float = 10.0

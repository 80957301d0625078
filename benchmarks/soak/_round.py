"""One round: a pool, the threads that use it, what befalls it, its end, and the reckoning."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.soak import _census, _chaos
from benchmarks.soak._counts import RunCounts
from benchmarks.soak._ledger import Ledger, Violation, demand
from benchmarks.soak._plan import MAX_WORKERS, Item, RoundPlan, Wave
from benchmarks.soak._subject import BIAS, Subject
from benchmarks.soak._waves import Site, run_wave
from objproxy import PoolClosedError, ProxyPool

#: Tasks that are on their way when the pool is ended.
_N_LAST = 40

#: Without an outcome for so long, a round hangs; far more than a replaced worker or a time limit needs.
_STALL_SECONDS = 60.0


@dataclass
class RoundReport:
    """What came out of a round.

    Attributes
    ----------
    plan : RoundPlan
        What was done.
    seconds : float
        How long it took.
    totals : dict
        Tasks submitted, done, failed and cancelled.
    tally : dict
        What else was counted.
    excess : dict
        What was left behind.
    memory : int
        Bytes that the program holds after it.
    violations : list of str
        Promises that were broken.
    """

    plan: RoundPlan
    seconds: float = 0.0
    totals: Counter[str] = field(default_factory=Counter)
    tally: Counter[str] = field(default_factory=Counter)
    excess: dict[str, int] = field(default_factory=dict)
    memory: int = 0
    violations: list[str] = field(default_factory=list)


def run_round(plan: RoundPlan, before: _census.Census, on_stall: Callable[[], None]) -> RoundReport:
    """Do what a plan says.

    Parameters
    ----------
    plan : RoundPlan
        The plan.
    before : Census
        What there was when nothing had been done.
    on_stall : callable
        Called when the round hangs, before the program is ended.
    """
    report = RoundReport(plan)
    began = time.perf_counter()
    # Broadcasts take a number for each worker that there may be, also for those that there are not.
    n_numbers = MAX_WORKERS * plan.n_tasks + _N_LAST
    ledger = Ledger(n_numbers)
    with tempfile.TemporaryDirectory(prefix="objproxy-soak-") as folder:
        counts = RunCounts(str(Path(folder, "counts")), n_numbers)
        try:
            with _chaos.watched(ledger, _STALL_SECONDS, on_stall):
                _use_pool(plan, ledger, counts)
            report.totals = ledger.balance(counts.read())
        except Violation as violation:
            report.violations.append(str(violation))
    report.tally = ledger.tally
    del ledger, counts
    report.seconds = time.perf_counter() - began
    report.excess = _census.settle(before)
    if report.excess:
        report.violations.append(f"left behind: {report.excess}")
    report.plan = dataclasses.replace(plan, waves=())  # what was done is long; its seed tells it
    del plan
    report.memory = _census.own_memory()
    return report


def _use_pool(plan: RoundPlan, ledger: Ledger, counts: RunCounts) -> None:
    rng = random.Random(plan.seed)
    pool = ProxyPool(
        Subject,
        worker_count=plan.n_workers,
        init_args=(counts,),
        start_method=plan.start_method,
        max_tasks_per_worker=plan.max_tasks_per_worker,
        max_restarts=(1_000_000, 1.0),  # here workers die all the time
        on_restart=plan.on_restart,
    )
    _give_state(pool, plan)
    # A worker that joins later repeats the journal, but there is no snapshot of it.
    most = MAX_WORKERS if plan.on_restart == "replay" else plan.n_workers
    resize_seconds = plan.resize_seconds if most > 2 else 0.0
    is_resized = resize_seconds > 0
    site = Site(pool, ledger, is_resized=is_resized, has_journal=plan.on_restart == "replay" and not is_resized)
    killer_rng, resizer_rng, looker_rng = (random.Random(rng.random()) for _ in range(3))
    with _chaos.Repeater(partial(_chaos.kill_one, pool, ledger, killer_rng), plan.kill_seconds, killer_rng):
        with (
            _chaos.Repeater(partial(_chaos.resize, pool, ledger, resizer_rng, most), resize_seconds, resizer_rng),
            _chaos.Repeater(partial(_chaos.look, pool, ledger), plan.look_seconds, looker_rng),
        ):
            _run_lanes(site, plan)
        _end_pool(site, plan)


def _give_state(pool: ProxyPool[Any], plan: RoundPlan) -> None:
    """Give every object a state that its successors must have as well."""
    if plan.on_restart == "replay":
        pool.set_bias.options(journal=True)(BIAS)
    else:
        pool.set_bias(BIAS)
        pool.checkpoint()


def _run_lanes(site: Site, plan: RoundPlan) -> None:
    """Carry the waves out, in several threads."""
    waves: queue.SimpleQueue[Wave] = queue.SimpleQueue()
    for wave in plan.waves:
        waves.put(wave)
    errors: list[BaseException] = []

    def run() -> None:
        wave = None
        with contextlib.suppress(queue.Empty):
            while not errors:
                wave = waves.get_nowait()
                try:
                    run_wave(site, wave)
                except BaseException as error:
                    error.add_note(
                        f"in a {wave.way} of {len(wave.items)} items, timeout={wave.timeout}, retries={wave.retries}"
                    )
                    errors.append(error)

    lanes = [threading.Thread(target=run, name=f"soak-lane-{i}") for i in range(plan.n_lanes)]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    if errors:
        site.pool.kill()
        raise _as_violation(errors[0])


def _as_violation(error: BaseException) -> Violation:
    """Return an error that came out of a wave as what it is here: nothing was to come out."""
    notes = "; ".join(getattr(error, "__notes__", ()))
    violation = Violation(f"{error if isinstance(error, Violation) else repr(error)} ({notes})")
    violation.__cause__ = error
    return violation


class _EndError(Exception):
    """Leaves a with block."""


def _end_pool(site: Site, plan: RoundPlan) -> None:
    """End the pool with tasks on their way; each of them ends too."""
    wave = Wave("last futures", (Item("nap"),) * _N_LAST, 0)
    numbers = site.ledger.take(_N_LAST)
    futures = [site.pool.work.submit(number, "nap") for number in numbers]
    if plan.ending == "close":
        site.pool.close()
    elif plan.ending == "kill":
        site.pool.kill()
    else:
        with contextlib.suppress(_EndError), site.pool:
            raise _EndError
    for number, future in zip(numbers, futures, strict=True):
        demand(future.done(), "a pool has ended, and a future of it has not")
        try:
            outcome = future.result(0)
        except (PoolClosedError, CancelledError):
            demand(plan.ending != "close", "a pool that was closed did not finish what had been submitted")
            site.ledger.cancel([number], 1)
        except Exception as error:
            site.ledger.settle(wave, wave.items[0], number, 0, error)
        else:
            site.ledger.settle(wave, wave.items[0], number, 0, outcome)

"""The ways in which the soak uses a pool: each hands some tasks in and settles every one of them in the ledger."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.soak._ledger import Ledger, demand
from benchmarks.soak._plan import DEADLY, MAX_WORKERS, Item, Wave
from benchmarks.soak._subject import BIAS, SoakError
from objproxy import ArgumentPickleError, PoolBrokenError, ProxyPool, SharedArray, WorkerDiedError

#: Futures that are on their way at one time.
_WINDOW = 48


@dataclass(frozen=True)
class Site:
    """What a wave works with.

    Parameters
    ----------
    pool : ProxyPool
        The pool, which others use, kill and resize at the same time.
    ledger : Ledger
        The books.
    is_resized : bool
        Whether somebody changes the number of workers.
    has_journal : bool
        Whether journalled broadcasts are part of what a worker comes back with.
    marks : dict
        The last mark that each worker is known to have set; under `journal_lock`.
    """

    pool: ProxyPool[Any]
    ledger: Ledger
    is_resized: bool
    has_journal: bool
    marks: dict[int, int] = field(default_factory=dict)
    journal_lock: threading.Lock = field(default_factory=threading.Lock)


def run_wave(site: Site, wave: Wave) -> None:
    """Hand the tasks of a wave in and settle them.

    Raises
    ------
    Violation
        A promise was broken.
    """
    _WAYS[wave.way](site, wave, random.Random(wave.seed))


def _method(site: Site, wave: Wave, rng: random.Random, **options: Any) -> Any:
    """Return the method with what the wave asks for."""
    if wave.timeout is None and wave.way not in ("futures", "coroutines", "aimap"):
        options["chunksize"] = rng.choice([None, None, 1, 7])
    options = {"on_error": "return", "priority": rng.choice([0, 0, 1, -1]), **options}
    return site.pool.work.options(timeout=wave.timeout, retries=wave.retries, **options)


def _arguments(wave: Wave, numbers: range) -> tuple[range, list[str], Iterator[Any]]:
    """Return the iterables of a map; arrays are made as they are pulled."""
    payloads = (item.make_payload(number) for number, item in zip(numbers, wave.items, strict=True))
    return numbers, [item.kind for item in wave.items], payloads


def _map(site: Site, wave: Wave, rng: random.Random) -> None:
    numbers = site.ledger.take(len(wave.items))
    outcomes = _method(site, wave, rng).map(*_arguments(wave, numbers))
    demand(len(outcomes) == len(numbers), f"a map of {len(numbers)} items has {len(outcomes)} outcomes")
    for index, outcome in enumerate(outcomes):
        site.ledger.settle(wave, wave.items[index], numbers[index], index, outcome)


def _map_raising(site: Site, wave: Wave, rng: random.Random) -> None:
    """Let a map end with its first error; what the others did is not told."""
    numbers = site.ledger.take(len(wave.items))
    try:
        outcomes = _method(site, wave, rng, on_error="raise").map(*_arguments(wave, numbers))
    except BaseException as error:
        index = _index_of(error, numbers)
        if index is not None:
            site.ledger.settle(wave, wave.items[index], numbers[index], index, error)
        site.ledger.cancel((number for i, number in enumerate(numbers) if i != index), 1 + wave.retries)
    else:
        for index, outcome in enumerate(outcomes):
            site.ledger.settle(wave, wave.items[index], numbers[index], index, outcome)


def _index_of(error: BaseException, numbers: range) -> int | None:
    """Return which item of a call failed, where its error says it."""
    if isinstance(error, SoakError):
        return error.number - numbers.start
    if isinstance(error, SystemExit):
        return int(error.code or 0) - numbers.start
    return getattr(error, "item", None)


class _Source:
    """The items of a lazy map; counts what is pulled, and knows how much may be."""

    def __init__(self, wave: Wave, numbers: range, buffersize: int | None) -> None:
        self.n_pulled = 0
        self.n_yielded = 0
        self._wave = wave
        self._numbers = numbers
        self._buffersize = buffersize

    def __iter__(self) -> Iterator[int]:
        for number in self._numbers:
            self.n_pulled += 1
            ahead = self.n_pulled - self.n_yielded
            limit = self._buffersize
            demand(limit is None or ahead <= limit, f"{ahead} items were pulled and not yielded, with buffersize={limit}")
            yield number


def _open_lazily(site: Site, wave: Wave, rng: random.Random) -> tuple[range, _Source, Any]:
    numbers = site.ledger.take(len(wave.items))
    buffersize = rng.choice([None, 1, 5, 50])
    source = _Source(wave, numbers, buffersize)
    verb = "imap_unordered" if wave.way == "imap_unordered" else "imap"
    _, kinds, payloads = _arguments(wave, numbers)
    # The source is pulled first, so it counts every item whose payload is made.
    return numbers, source, getattr(_method(site, wave, rng, buffersize=buffersize), verb)(source, kinds, payloads)


def _imap(site: Site, wave: Wave, rng: random.Random) -> None:
    numbers, source, results = _open_lazily(site, wave, rng)
    for index, outcome in enumerate(results):
        source.n_yielded += 1
        site.ledger.settle(wave, wave.items[index], numbers[index], index, outcome)
        if rng.random() < 0.02:
            time.sleep(rng.uniform(0, 0.05))  # a slow consumer
    demand(source.n_yielded == len(numbers), f"an imap of {len(numbers)} items has {source.n_yielded} outcomes")


def _imap_unordered(site: Site, wave: Wave, rng: random.Random) -> None:
    numbers, source, results = _open_lazily(site, wave, rng)
    for outcome in results:
        source.n_yielded += 1
        index = _index_of(outcome, numbers) if isinstance(outcome, BaseException) else outcome[0] - numbers.start
        demand(index is not None and 0 <= index < len(numbers), f"an outcome of no item: {outcome!r:.200}")
        assert index is not None
        site.ledger.settle(wave, wave.items[index], numbers[index], index, outcome)
    demand(source.n_yielded == len(numbers), f"an imap of {len(numbers)} items has {source.n_yielded} outcomes")


def _imap_dropped(site: Site, wave: Wave, rng: random.Random) -> None:
    """Leave a lazy map before its end, by closing it or by forgetting it."""
    numbers, source, results = _open_lazily(site, wave, rng)
    for index, outcome in enumerate(itertools.islice(results, rng.randrange(len(numbers)))):
        source.n_yielded += 1
        site.ledger.settle(wave, wave.items[index], numbers[index], index, outcome)
    if rng.random() < 0.5:
        results.close()
    del results
    site.ledger.cancel(numbers[source.n_yielded : source.n_pulled], 1 + wave.retries)
    site.ledger.drop(numbers[source.n_pulled :])


def _futures(site: Site, wave: Wave, rng: random.Random) -> None:
    """Submit one by one, cancel a few, and collect in the order of completion or of submission."""
    method = _method(site, wave, rng)
    numbers = site.ledger.take(len(wave.items))
    for start in range(0, len(numbers), _WINDOW):
        window = range(start, min(start + _WINDOW, len(numbers)))
        futures = {}
        for index in window:
            item, number = wave.items[index], numbers[index]
            try:
                futures[method.submit(number, item.kind, item.make_payload(number))] = index
            except Exception as error:  # arguments that cannot be sent
                site.ledger.settle(wave, item, number, None, error)
        _settle_futures(site, wave, rng, numbers, futures)


def _settle_futures(site: Site, wave: Wave, rng: random.Random, numbers: range, futures: dict[Any, int]) -> None:
    for future, index in list(futures.items()):
        if rng.random() < 0.04:
            time.sleep(rng.choice([0, 0.001, 0.01]))  # some have begun by then, some are done
            if future.cancel():
                demand(future.cancelled() and future.done(), f"a cancelled future is not: {future}")
                site.ledger.cancel([numbers[index]], 1 + wave.retries)
                del futures[future]
    for future in as_completed(list(futures)) if rng.random() < 0.5 else list(futures):
        index = futures[future]
        error = future.exception()
        outcome = future.result() if error is None else error
        site.ledger.settle(wave, wave.items[index], numbers[index], 0, outcome)


def _coroutines(site: Site, wave: Wave, rng: random.Random) -> None:
    """Await many calls at one time, and cancel a few."""
    method = _method(site, wave, rng)
    numbers = site.ledger.take(len(wave.items))

    async def run(window: range) -> list[Any]:
        calls = [(numbers[i], wave.items[i]) for i in window]
        tasks = [asyncio.ensure_future(method.aio(number, item.kind, item.make_payload(number))) for number, item in calls]
        await asyncio.sleep(rng.choice([0, 0.01]))
        for task in tasks:
            if rng.random() < 0.04:
                task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    for start in range(0, len(numbers), _WINDOW):
        window = range(start, min(start + _WINDOW, len(numbers)))
        for index, outcome in zip(window, asyncio.run(run(window)), strict=True):
            if isinstance(outcome, asyncio.CancelledError):
                site.ledger.cancel([numbers[index]], 1 + wave.retries)
            else:
                place = None if isinstance(outcome, ArgumentPickleError) else 0
                site.ledger.settle(wave, wave.items[index], numbers[index], place, outcome)


def _aimap(site: Site, wave: Wave, rng: random.Random) -> None:
    numbers = site.ledger.take(len(wave.items))

    async def run() -> int:
        index = 0
        async for outcome in _method(site, wave, rng, buffersize=rng.choice([None, 1, 20])).aimap(*_arguments(wave, numbers)):
            site.ledger.settle(wave, wave.items[index], numbers[index], 0, outcome)
            index += 1
        return index

    n_outcomes = asyncio.run(run())
    demand(n_outcomes == len(numbers), f"an aimap of {len(numbers)} items has {n_outcomes} outcomes")


def _broadcasts(site: Site, wave: Wave, rng: random.Random) -> None:
    """Call every instance; each answers for itself, though one of them fails or dies."""
    everywhere = site.pool.everywhere.options(return_exceptions=True, stack_results=False, retries=wave.retries)
    n_left = len(wave.items)
    while n_left > 0:
        numbers = site.ledger.take(MAX_WORKERS)  # one for each worker that there may be
        failing = rng.choice([-1, -1, 0, 1])
        outcomes = everywhere(numbers.start, failing)
        if not site.is_resized:
            demand(len(outcomes) == len(site.pool), f"a broadcast to {len(site.pool)} workers has {len(outcomes)} outcomes")
        for worker_id, outcome in enumerate(outcomes):
            _settle_instance(site, wave, numbers[worker_id], worker_id, outcome, must_fail=worker_id == failing)
        site.ledger.drop(numbers[len(outcomes) :])
        n_left -= len(outcomes)


def _settle_instance(site: Site, wave: Wave, number: int, worker_id: int, outcome: Any, *, must_fail: bool) -> None:
    ledger, plain = site.ledger, Wave(wave.way, (), 0, retries=wave.retries)
    if isinstance(outcome, PoolBrokenError) and site.is_resized:
        ledger.cancel([number], 0)  # its worker has left the pool
    elif isinstance(outcome, WorkerDiedError):
        demand(outcome.worker_id == worker_id, f"worker {worker_id} was told of the death of worker {outcome.worker_id}")
        ledger.settle(plain, Item("add"), number, outcome.item if outcome.started else None, outcome)
    elif must_fail:
        demand(isinstance(outcome, SoakError), f"worker {worker_id} had to fail and gave {outcome!r:.200}")
        ledger.settle(plain, Item("raise"), number, None, outcome)
    else:
        demand(outcome == (worker_id, BIAS), f"worker {worker_id} gave {outcome!r:.200}, not {(worker_id, BIAS)}")
        ledger.settle(plain, Item("add"), number, None, (number, number + BIAS))


def _instances(site: Site, wave: Wave, rng: random.Random) -> None:
    """Talk to one instance at a time."""
    numbers = site.ledger.take(len(wave.items))
    for number, item in zip(numbers, wave.items, strict=True):
        try:
            method = site.pool[rng.randrange(len(site.pool))].work.options(on_error="return", retries=wave.retries)
        except IndexError:
            demand(site.is_resized, "an instance of a pool is missing")
            site.ledger.drop([number])
            continue
        try:
            outcome = method(number, item.kind, item.make_payload(number))
        except Exception as error:  # arguments that cannot be sent
            outcome = error
        if isinstance(outcome, PoolBrokenError) and site.is_resized:
            site.ledger.cancel([number], 0)
        else:
            site.ledger.settle(wave, item, number, None if item.kind == "unsendable" else 0, outcome)


def _shared(site: Site, wave: Wave, rng: random.Random) -> None:
    """Let the workers write one array and read another that was put once."""
    items = [item for item in wave.items if item.kind not in DEADLY]
    numbers = site.ledger.take(len(items))
    middle = len(items) // 2
    plain = Wave(wave.way, (), 0)
    with SharedArray.zeros((middle, rng.choice([1, 100, 10_000])), np.int64) as table:
        fill = site.pool.fill.options(on_error="return")
        for row, outcome in enumerate(fill.map(numbers[:middle], itertools.repeat(table), range(middle))):
            number = numbers[row]
            if isinstance(outcome, BaseException):
                site.ledger.settle(plain, Item("add"), number, row, outcome)
                continue
            demand(outcome == (number, row), f"fill of row {row} gave {outcome!r:.200}")
            demand(bool((table.array[row] == number).all()), f"row {row} of a shared array was not written")
            site.ledger.settle(plain, Item("add"), number, row, (number, number + BIAS))
    values = np.arange(rng.choice([10, 100_000]), dtype=np.float64)
    total = float(values.sum())
    with site.pool.put(values) as handle:
        work = site.pool.work.options(on_error="return")
        for index, outcome in enumerate(work.map(numbers[middle:], itertools.repeat("total"), itertools.repeat(handle))):
            number = numbers[middle + index]
            if not isinstance(outcome, BaseException):
                demand(outcome == (number, total), f"the sum of what was put is {outcome!r:.200}, not {total}")
                outcome = (number, number + BIAS)
            site.ledger.settle(plain, Item("add"), number, index, outcome)


def _streams(site: Site, wave: Wave, rng: random.Random) -> None:
    """Pull from generators that live in workers, to their end or not."""
    for _ in wave.items[::4]:
        (number,) = site.ledger.take(1)
        expected = [number + i + BIAS for i in range(10)]
        try:
            stream = site.pool[rng.randrange(len(site.pool))].rows(number, 10)
            got = list(itertools.islice(stream, rng.choice([3, 20])))
        except (IndexError, PoolBrokenError) as error:
            demand(site.is_resized, f"a generator ended with {error!r:.200}")
            site.ledger.cancel([number], 1)
        except Exception as error:  # with its worker, which was killed, resized away or worn out
            site.ledger.note(f"generator: {type(error).__name__}")
            site.ledger.cancel([number], 1)
        else:
            demand(got == expected[: len(got)] and len(got) in (3, 10), f"a generator gave {got}, not {expected}")
            site.ledger.settle(Wave(wave.way, (), 0), Item("add"), number, None, (number, number + BIAS))


def _journal(site: Site, wave: Wave, rng: random.Random) -> None:
    """Change the state of all instances by journalled broadcasts; none that carried one out may forget it by dying."""
    if not site.has_journal:
        return
    with site.journal_lock:
        for _ in range(len(wave.items) // 4):
            mark = rng.getrandbits(30)
            setting = site.pool.set_mark.options(journal=True, return_exceptions=True, stack_results=False)
            for worker_id, outcome in enumerate(setting(mark)):
                if outcome == worker_id:
                    site.marks[worker_id] = mark
                else:
                    demand(isinstance(outcome, WorkerDiedError), f"worker {worker_id} gave {outcome!r:.200}, not its number")
                    site.ledger.note("marks lost to a kill")
            reading = site.pool.get_mark.options(return_exceptions=True, stack_results=False)
            for worker_id, outcome in enumerate(reading()):
                wanted = (worker_id, site.marks.get(worker_id, 0))
                is_death = isinstance(outcome, WorkerDiedError)
                demand(is_death or outcome == wanted, f"the journal of worker {worker_id} gave {outcome!r:.200}, not {wanted}")


_WAYS: dict[str, Callable[[Site, Wave, random.Random], None]] = {
    "map": _map,
    "map_raising": _map_raising,
    "imap": _imap,
    "imap_unordered": _imap_unordered,
    "imap_dropped": _imap_dropped,
    "futures": _futures,
    "coroutines": _coroutines,
    "aimap": _aimap,
    "broadcasts": _broadcasts,
    "instances": _instances,
    "shared": _shared,
    "streams": _streams,
    "journal": _journal,
}

"""Measure the three kinds of work that MPIRE was published with.

Command: ``python -m benchmarks.mpire_three``

The article is S. Jansen, "MPIRE for Python: MultiProcessing Is Really Easy!" (Towards Data Science, 2021). The work here
is of the same kind, not the same code, and takes a second or three in one process. *Numerical computation*: many small
filters over one large image, which every worker needs. *Stateful computation*: documents are counted by objects that
live in the workers, which are asked in the end. *Expensive initialisation*: something takes long to load and then
answers many times, in several maps one after the other; no worker may inherit it loaded, as with the article's model.

As in the article, each program does everything several times (``first_s`` is the first, with all imports and caches
cold). Making the pool and ending it is timed too, but not the start of Ray's and Dask's clusters, which are meant to stay
(``start_up_s`` tells it). Where the article's own programs use a library below its worth (`multiprocessing.Pool` loads
the model for every item there), `benchmarks._mpire_lanes` does what the library's documents recommend.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks import _mpire_work as work
from benchmarks._command import run_script
from benchmarks._lane import check
from benchmarks._model import Experiment, contenders_of, ratio_to_best
from benchmarks._mpire_lanes import CLUSTERS, LIBRARIES, Lane, open_lane

_Answer = tuple[list[float], dict[str, float]]


def time_numerical(library: str, n_workers: int, n_trials: int, size: int, n_filters: int) -> _Answer:
    """Return seconds to filter one image in many ways."""
    image, filters = work.make_image(size), work.make_filters(n_filters)
    return _time(
        library,
        n_workers,
        n_trials,
        lambda lane: lane.filter_images(image, filters),
        lambda results: work.are_filtered(results, filters),
    )


def time_stateful(library: str, n_workers: int, n_trials: int, n_documents: int, n_words: int) -> _Answer:
    """Return seconds to count the prefixes of many documents' words."""
    documents = work.make_documents(n_documents, n_words)
    return _time(
        library,
        n_workers,
        n_trials,
        lambda lane: lane.count_prefixes(documents),
        lambda parts: work.have_counted(parts, documents),
    )


def time_initialisation(
    library: str, n_workers: int, n_trials: int, n_entries: int, size: int, n_runs: int, n_items: int
) -> _Answer:
    """Return seconds to load models, and to let them answer in several runs."""
    expected = work.Model(n_entries, size).evaluate(0)

    def are_right(runs: list[Any]) -> bool:
        return len(runs) == n_runs and all(len(run) == n_items and work.are_evaluated(run, expected) for run in runs)

    return _time(library, n_workers, n_trials, lambda lane: lane.evaluate_models((n_entries, size), n_runs, n_items), are_right)


def _time(
    library: str,
    n_workers: int,
    n_trials: int,
    action: Callable[[Lane], Iterable[Any]],
    are_right: Callable[[list[Any]], bool],
) -> _Answer:
    seconds = []
    started = time.perf_counter()
    with open_lane(library, n_workers) as lane:
        start_up = time.perf_counter() - started
        for _ in range(n_trials):
            began = time.perf_counter()
            results = list(action(lane))
            seconds.append(time.perf_counter() - began)
            check(are_right(results), library)
            del results  # else the next trial would meet less memory
    return seconds, {"first_s": seconds[0], **({"start_up_s": start_up} if library in CLUSTERS else {})}


EXPERIMENTS = (
    Experiment(
        "numerical",
        "MPIRE's first: numerical computation",
        "s",
        contenders_of(LIBRARIES, time_numerical),
        (ratio_to_best(),),
        sizes={"n_workers": 2, "n_trials": 3, "size": 2000, "n_filters": 16},
        quick_sizes={"n_workers": 2, "n_trials": 1, "size": 200, "n_filters": 4},
        rounds=3,
        timeout=120.0,
    ),
    Experiment(
        "stateful",
        "MPIRE's second: stateful computation",
        "s",
        contenders_of(LIBRARIES, time_stateful),
        (ratio_to_best(),),
        sizes={"n_workers": 2, "n_trials": 3, "n_documents": 200, "n_words": 1000},
        quick_sizes={"n_workers": 2, "n_trials": 1, "n_documents": 10, "n_words": 1000},
        rounds=3,
        timeout=120.0,
    ),
    Experiment(
        "initialisation",
        "MPIRE's third: expensive initialisation",
        "s",
        contenders_of(LIBRARIES, time_initialisation),
        (ratio_to_best(),),
        sizes={"n_workers": 2, "n_trials": 3, "n_entries": 5_000_000, "size": 500_000, "n_runs": 20, "n_items": 10},
        quick_sizes={"n_workers": 2, "n_trials": 1, "n_entries": 1000, "size": 1000, "n_runs": 2, "n_items": 4},
        rounds=3,
        timeout=120.0,
    ),
)

if __name__ == "__main__":
    run_script("mpire_three", __doc__, EXPERIMENTS)

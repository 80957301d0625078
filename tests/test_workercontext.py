"""Programs that were written for workercontext run with the import changed."""

from __future__ import annotations

import gc
import os
import signal
import statistics
import subprocess
import sys
import threading
import typing
from typing import Any

import numpy as np
import pytest

from objproxy import ProxyPool, WorkerDiedError
from objproxy import reductions as native
from objproxy.workercontext import (
    MultiWorker,
    MultiWorkerAsync,
    auto_parallelise,
    parallelise,
    parallelise_async,
    reductions,
)
from objproxy.workercontext.multiworker import _RUNNING
from objproxy.workercontext.reductions import ReductionComposition, flatten_reduction, sum_reduction
from targets import Gate, poll_until


def double(numbers):
    return [2 * number for number in numbers]


def scale(numbers: typing.List[int], factor: int) -> typing.List[int]:  # noqa: UP006 - what programs have
    return [factor * number for number in numbers]


def scale_later_argument(factor: int, numbers: list[int]) -> list[int]:
    return [factor * number for number in numbers]


def letters(words: list[str]) -> set[str]:
    return set("".join(words))


def lengths(words: list[str]) -> dict[str, int]:
    return {word: len(word) for word in words}


def joined(words: typing.List[str]) -> str:  # noqa: UP006
    return "".join(words)


def total(numbers: list[int]) -> int:
    return sum(numbers)


def batch_length(numbers):
    return len(numbers)


def fail_on_zero(numbers):
    if 0 in numbers:
        raise KeyError("zero")
    return numbers


def die_on_zero(numbers):
    if 0 in numbers:
        os.kill(os.getpid(), signal.SIGKILL)
    return numbers


def write(paths):
    for path in paths:
        Gate(path).open()


def test_without_a_reduction_the_result_is_the_list_of_batch_results_in_order() -> None:
    with MultiWorker(double, 2) as run:
        assert run([1, 2, 3]) == [[2, 4], [6]]
        assert run([5]) == [[10]]


def test_a_reduction_makes_one_value() -> None:
    with MultiWorker(double, 2, reduction=flatten_reduction) as run:
        assert run([1, 2, 3]) == [2, 4, 6]
    with MultiWorker(total, 2, None, False, sum_reduction) as run:
        assert run(list(range(101))) == 5050


@pytest.mark.parametrize(("n_items", "n_processes", "n_batches"), [(7, 4, 4), (10, 4, 4), (2, 4, 2), (8, 2, 2)])
def test_there_are_at_most_as_many_batches_as_processes(n_items: int, n_processes: int, n_batches: int) -> None:
    """It made 7 batches of 1 of 7 items on 4 processes."""
    with MultiWorker(batch_length, n_processes) as run:
        sizes = run(list(range(n_items)))
    assert len(sizes) == n_batches
    assert max(sizes) - min(sizes) <= 1


def test_empty_input_gives_the_empty_result() -> None:
    """It was a ZeroDivisionError."""
    with MultiWorker(double, 2) as run:
        assert run([]) == []
    with MultiWorker(double, 2, reduction=flatten_reduction) as run:
        assert run([]) == []
    with MultiWorker(total, 2, reduction=sum_reduction) as run:
        assert run([]) == 0


@pytest.mark.parametrize("numbers", [(1, 2, 3), range(1, 4), np.array([1, 2, 3])], ids=lambda value: type(value).__name__)
def test_any_sequence_is_batched(numbers: Any) -> None:
    with MultiWorker(double, 2, reduction=flatten_reduction) as run:
        assert run(numbers) == [2, 4, 6]


def test_what_cannot_be_batched_is_refused_as_a_value_error() -> None:
    with MultiWorker(double, 2) as run, pytest.raises(ValueError, match="a set cannot be cut into batches"):
        run({1, 2})


def test_the_batched_argument_is_given_by_name_or_found() -> None:
    with MultiWorker(scale, 2, reduction=flatten_reduction) as run:
        assert run([1, 2, 3], 10) == run([1, 2, 3], factor=10) == run(factor=10, numbers=[1, 2, 3]) == [10, 20, 30]
    finder = MultiWorker(scale_later_argument, 2, reduction=flatten_reduction)
    assert finder.batched_arg == "numbers"
    with finder as run:
        assert run(10, [1, 2, 3]) == [10, 20, 30]
    with MultiWorker(lambda a, b: [a, b], 2, batched_arg="b") as run:
        assert run([1, 2], [3, 4]) == [[[1, 2], [3]], [[1, 2], [4]]]


def test_an_unknown_batched_argument_is_refused_in_words() -> None:
    """It was a KeyError in the call."""
    with pytest.raises(ValueError, match=r"batched_arg='words': double\(numbers\) has no such parameter"):
        MultiWorker(double, 2, batched_arg="words")


def test_a_function_without_arguments_is_refused_in_words() -> None:
    """It was an IndexError."""
    with MultiWorker(lambda: 1, 2) as run, pytest.raises(ValueError, match="nothing to batch"):
        run()


def test_typed_arguments_without_a_list_are_refused_in_words() -> None:
    def add(first: int, second: int) -> int:
        return first + second

    with MultiWorker(add, 2) as run, pytest.raises(ValueError, match="batched_arg="):
        run(1, 2)


def test_lambdas_closures_and_methods_work() -> None:
    """They could not be pickled."""
    factor = 3

    class Scaler:
        def scale(self, numbers):
            return [factor * number for number in numbers]

    for function in (lambda numbers: [factor * number for number in numbers], Scaler().scale):
        with MultiWorker(function, 2, reduction=flatten_reduction) as run:
            assert run([1, 2, 3]) == [3, 6, 9]


def test_a_dead_worker_ends_the_wait() -> None:
    """It hung."""
    with MultiWorker(die_on_zero, 2, reduction=flatten_reduction) as run:
        with pytest.raises(WorkerDiedError):
            run([1, 0])
        assert run([1, 2]) == [1, 2]


def test_an_error_is_raised_as_itself() -> None:
    with MultiWorker(fail_on_zero, 2) as run, pytest.raises(KeyError, match="zero"):
        run([1, 0])


def test_pool_and_batchify_are_there() -> None:
    worker = MultiWorker(double, 3)
    assert isinstance(worker.pool, ProxyPool)
    assert len(worker.pool) == worker.n_processes == 3
    assert worker.batchify([1, 2, 3], 2) == [[1, 2], [3]]
    with worker as run:
        assert run([1]) == [[2]]


def test_the_number_of_processes_must_be_given() -> None:
    with pytest.raises(TypeError, match="n_processes=None: expected the number"):
        MultiWorker(double, None)  # type: ignore[arg-type]


def test_averages_are_weighted_and_histograms_added() -> None:
    with MultiWorker(statistics.fmean, 4, reduction=reductions.average_reduction) as mean:
        assert mean([1, 1, 1, 1, 9]) == pytest.approx(13 / 5)
    with MultiWorker(native.histogram_reduction, 2, reduction=reductions.histogram_reduction) as histogram:
        assert histogram(list("abca")) == {"a": 2, "b": 1, "c": 1}


def test_the_reductions_are_the_native_ones() -> None:
    assert set(reductions.__all__) == set(native.__all__) - {"combine_batches"}
    assert all(getattr(reductions, name) is getattr(native, name) for name in reductions.__all__)


def test_the_reductions_take_the_originals_keywords() -> None:
    keywords = {
        "average_reduction": "lst",
        "dict_merge_reduction": "lst",
        "flatten_reduction": "lst",
        "set_union_reduction": "lst",
    }
    results = {"flatten_reduction": [[1], [2]], "set_union_reduction": [{1}, {2}], "dict_merge_reduction": [{1: 2}]}
    for name in set(reductions.__all__) - {"ReductionComposition"}:
        reduction, given = getattr(reductions, name), results.get(name, ["a", "b"] if "string" in name else [1, 2])
        assert reduction(**{keywords.get(name, "arr"): given}) == reduction(results=given) == reduction(given)
        with pytest.raises(TypeError):
            reduction(nonsense=given)


def test_combine_gets_the_sizes() -> None:
    with MultiWorker(total, 2, combine=lambda results, sizes: (results, sizes)) as run:
        assert run([1, 2, 3]) == ([3, 3], [2, 1])


# ---- asynchronous ----------------------------------------------------------------------------------------------------


def test_async_collects_the_results_of_every_call_at_the_end() -> None:
    """The second call in one block lost the first one's results."""
    results: list[Any] = []
    with MultiWorkerAsync(double, 2, return_container=results) as run:
        assert run([1, 2, 3]) is None
        assert run([4]) is None
        assert results == []
    assert results == [[2, 4], [6], [8]]


def test_async_without_a_call_is_fine() -> None:
    """It was an AttributeError."""
    with MultiWorkerAsync(double, 2, return_container=[]):
        pass


def test_async_reduces() -> None:
    results: list[Any] = []
    with MultiWorkerAsync(double, 2, return_container=results, reduction=flatten_reduction) as run:
        run([1, 2, 3])
        run([])
    assert results == [[2, 4, 6], []]


def test_async_raises_errors_at_the_end() -> None:
    results: list[Any] = []
    with pytest.raises(KeyError, match="zero"), MultiWorkerAsync(fail_on_zero, 2, return_container=results) as run:  # noqa: PT012
        run([1])
        run([0])
    assert results == [[1]]


def test_async_left_by_an_exception_ends_what_runs() -> None:
    with pytest.raises(LookupError), MultiWorkerAsync(lambda xs: threading.Event().wait(), 2) as run:  # noqa: PT012
        run([1])
        raise LookupError("leave")


def test_parallelise_async_returns_at_once_and_works_on(gates: Any, tmp_path: Any) -> None:
    gate, done = gates("gate"), Gate(tmp_path / "done")
    run = parallelise_async(lambda paths: (gate.wait(), write(paths)), 1)
    assert run([str(done.path)]) is None
    assert not done.is_open
    gate.open()
    run.wait()
    assert done.is_open
    run.close()


def test_what_was_started_is_finished_even_if_nobody_holds_the_function(tmp_path: Any) -> None:
    parallelise_async(write, 2)([str(tmp_path / "a"), str(tmp_path / "b")])
    gc.collect()
    poll_until(lambda: len(list(tmp_path.iterdir())) == 2)
    poll_until(lambda: not _RUNNING)


def test_waiting_for_an_async_function_raises_its_error() -> None:
    run = parallelise_async(fail_on_zero, 2)
    run([0])
    with pytest.raises(KeyError):
        run.wait()
    run.close()


# ---- without a context -----------------------------------------------------------------------------------------------


def test_parallelise_gives_a_function_that_cleans_up_after_itself() -> None:
    run = parallelise(scale, 2, reduction=flatten_reduction)
    assert run([1, 2, 3], 2) == run([1, 2, 3], 2) == [2, 4, 6]
    del run  # every test sees that nothing is left behind


def test_a_program_that_leaves_it_open_ends_without_a_word(tmp_path: Any) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "from objproxy.workercontext import parallelise\n"
        "run = parallelise(lambda xs: [x + 1 for x in xs], 2)\n"
        "assert run([1, 2]) == [[2], [3]]\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("function", "items", "expected"),
    [
        (scale_later_argument, [1, 2, 3], [2, 4, 6]),
        (letters, ["ab", "bc"], {"a", "b", "c"}),
        (lengths, ["ab", "c"], {"ab": 2, "c": 1}),
        (joined, ["ab", "c"], "abc"),
    ],
)
def test_auto_parallelise_chooses_by_type_hints(function: Any, items: list[Any], expected: Any) -> None:
    """Hints in this file are strings, which it did not understand, nor ``list[int]``."""
    run = auto_parallelise(function)
    assert (run(2, items) if function is scale_later_argument else run(items)) == expected
    run.close()


def test_auto_parallelise_lists_what_it_knows_no_reduction_for() -> None:
    run = auto_parallelise(total)
    assert sum(run([1, 2, 3])) == 6
    run.close()


def test_auto_parallelise_needs_type_hints() -> None:
    with pytest.raises(ValueError, match="chooses by type hints"):
        auto_parallelise(double)

    def half_typed(numbers: list[int]):
        return numbers

    with pytest.raises(ValueError, match="no type hint of what it returns"):
        auto_parallelise(half_typed)


def test_nothing_is_printed_unless_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    with MultiWorker(double, 2, reduction=ReductionComposition([flatten_reduction, sum])) as run:
        assert run([1, 2, 3]) == 12
    auto_parallelise(letters).close()
    assert capsys.readouterr() == ("", "")
    with MultiWorker(double, 2, verbose=True) as run:
        run([1, 2, 3])
    assert "2 workers share parameter 'numbers'" in capsys.readouterr().out

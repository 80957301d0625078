"""`pqdm`: a pool with a bar, for programs of mtasklite and of the package pqdm."""

from __future__ import annotations

import gc
import importlib.metadata
import io
import itertools
import weakref
from typing import Any

import pytest
from tqdm import tqdm

import objproxy.mtasklite
from objproxy.mtasklite import Pool, processes, threads
from objproxy.mtasklite.utils import current_function_name, divide_kwargs, is_exception, is_sized_iterator


def square(number):
    return number * number


def power(base, exponent=2):
    return base**exponent


def fail_on_odd(number):
    if number % 2:
        raise KeyError(number)
    return number


class Bar(tqdm):
    """Writes where it can be read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, file=io.StringIO(), mininterval=0, miniters=1, **kwargs)

    @property
    def text(self) -> str:
        return self.fp.getvalue()  # type: ignore[no-any-return]


@pytest.mark.parametrize("module", [processes, threads])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_results_come_with_a_bar(module: Any, n_jobs: int) -> None:
    with module.pqdm(range(5), square, n_jobs, tqdm_class=Bar, desc="squares") as results:
        assert len(results) == 5
        assert list(results) == [0, 1, 4, 9, 16]
    assert "squares: 100%" in results.tqdm_obj.text
    assert "5/5" in results.tqdm_obj.text


def test_the_default_bar_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(threads.pqdm(range(3), square, 2, desc="shown", ascii=True)) == [0, 1, 4]
    assert "shown: 100%|" in capsys.readouterr().err


def test_options_of_the_bar_and_of_the_pool_may_be_mixed() -> None:
    results = processes.pqdm(
        iter(range(4)), [square] * 2, tqdm_class=Bar, total=4, chunk_size=3, is_unordered=True, unit="squares"
    )
    assert sorted(results) == [0, 1, 4, 9]
    assert results.pool_obj.parent_obj.chunk_size == 3
    assert "squares/s" in results.tqdm_obj.text


def test_next_and_length_work() -> None:
    """It had neither."""
    results = threads.pqdm([1, 2], square, 2, disable=True)
    assert len(results) == 2
    assert next(results) == 1
    assert list(results) == [4]


def test_errors_are_results_by_default() -> None:
    assert [is_exception(result) for result in threads.pqdm(range(4), fail_on_odd, 2, disable=True)] == [
        False,
        True,
        False,
        True,
    ]


@pytest.mark.parametrize("spelling", ["exception_behavior", "exception_behaviour"])
def test_both_spellings_are_understood(spelling: str) -> None:
    """One of them, which the documents named, was a TypeError."""
    with pytest.raises(KeyError):
        list(threads.pqdm(range(4), fail_on_odd, 2, disable=True, **{spelling: "immediate"}))
    with pytest.raises(Exception, match="KeyError") as caught:
        list(threads.pqdm(range(4), fail_on_odd, 2, disable=True, **{spelling: "deferred"}))
    assert len(caught.value.args) == 2


def test_an_option_that_nobody_knows_leaves_no_worker_behind() -> None:
    """The workers were leaked."""
    with pytest.raises(Exception, match="unknown_option"):
        processes.pqdm(range(3), square, 2, unknown_option=1)
    gc.collect()


def test_the_end_of_the_results_ends_the_workers() -> None:
    results = processes.pqdm(range(3), square, 2, disable=True)
    pool = results.pool_obj.parent_obj
    assert list(results) == [0, 1, 4]
    assert not pool.exited
    with pytest.raises(objproxy.PoolClosedError):
        pool([1])


def test_leaving_the_block_ends_the_workers() -> None:
    with processes.pqdm(itertools.count(), square, 2, disable=True) as results:
        assert not results.pool_obj.parent_obj.exited
        assert next(results) == 0
    assert results.pool_obj.parent_obj.exited


def test_breaking_off_without_a_block_leaves_nothing_behind() -> None:
    gc.disable()
    try:
        results = processes.pqdm(itertools.count(), square, 2, disable=True)
        is_alive = weakref.ref(results.pool_obj.parent_obj)
        for result in results:
            if result > 50:
                break
        del results
        assert is_alive() is None
    finally:
        gc.enable()


def test_a_constructor_that_fails_is_told_as_itself() -> None:
    @objproxy.mtasklite.delayed_init
    class Broken:
        def __init__(self):
            raise LookupError("no such weights")

    with pytest.raises(LookupError, match="no such weights"):
        processes.pqdm(range(3), Broken(), 2, disable=True)


def test_the_package_pqdm_is_understood() -> None:
    assert threads.pqdm([1, 2, 3], square, n_jobs=2, argument_type="direct", as_list=True, disable=True) == [1, 4, 9]
    assert processes.pqdm([(2, 3), (3,)], power, n_jobs=2, argument_type="args", as_list=True, disable=True) == [8, 9]
    items = [{"base": 2, "exponent": 4}, {"base": 5}]
    assert threads.pqdm(items, power, n_jobs=2, argument_type="kwargs", as_list=True, disable=True) == [16, 25]
    assert threads.pqdm(items, power, 1, argument_type="kwargs", bounded=False, as_list=True, disable=True) == [16, 25]


def test_the_names_of_the_package_pqdm_are_understood() -> None:
    assert threads.pqdm(array=[1, 2], function=square, n_jobs=2, as_list=True, disable=True) == [1, 4]
    assert threads.pqdm([1, 2], function=square, n_jobs=1, as_list=True, disable=True) == [1, 4]
    for given in ({"function": square}, {"array": [1]}, {"array": [1], "input_iterable": [1], "function": square}):
        with pytest.raises(TypeError, match="which are the same"):
            threads.pqdm(n_jobs=1, **given)


def test_the_version_is_that_of_the_package() -> None:
    from objproxy.mtasklite import version

    assert objproxy.mtasklite.__version__ == objproxy.__version__ == importlib.metadata.version("objproxy")
    assert version.__version__ == objproxy.__version__


def test_the_helpers_are_there() -> None:
    assert current_function_name() == "test_the_helpers_are_there"
    assert is_sized_iterator([])
    assert not is_sized_iterator(iter([]))
    assert divide_kwargs({"n_jobs": 1, "desc": "x"}, Pool) == ({"n_jobs": 1}, {"desc": "x"})
    assert objproxy.mtasklite.__all__ == sorted(objproxy.mtasklite.__all__)
    assert "progress bar" in (processes.pqdm.__doc__ or "")

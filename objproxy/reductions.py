"""Reductions: functions that turn the list of a call's results into one value.

Each takes a list and returns a value, so that each can stand in ``stack_results=``::

    pool.count_words(texts, map_args=True, stack_results=dict_merge_reduction)

They are plain Python and work with whatever has the operator in question: numbers, fractions, arrays, sets. The order
is that of the results, nothing given is changed, and no results give the operation's neutral element if it has one.

For results that each stand for a batch of items, `combine_batches` applies a reduction so that the value is that of all items.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

__all__ = [
    "ReductionComposition",
    "average_reduction",
    "bitwise_and_reduction",
    "bitwise_or_reduction",
    "combine_batches",
    "dict_merge_reduction",
    "flatten_reduction",
    "histogram_reduction",
    "max_reduction",
    "min_reduction",
    "product_reduction",
    "set_union_reduction",
    "string_concatenation_reduction",
    "sum_reduction",
]

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
Reduction = TypeVar("Reduction", bound=Callable[..., Any])


class ReductionComposition:
    """A pipeline of reductions: each works on what the one before it returned.

    Parameters
    ----------
    reductions : iterable of callable
        Applied from left to right; an empty one returns the results as they are.

    Raises
    ------
    TypeError
        If one of them cannot be called.

    Examples
    --------
    >>> distinct = ReductionComposition([flatten_reduction, set, len])
    >>> distinct([[1, 2], [2, 3]])
    3
    """

    # Any: each stage has its own types, and what one returns is what the next one takes.
    def __init__(self, reductions: Iterable[Callable[[Any], Any]] = ()) -> None:
        self.reductions = tuple(reductions)
        for reduction in self.reductions:
            if not callable(reduction):
                raise TypeError(f"ReductionComposition takes callables; {reduction!r} is not one")

    def __call__(self, results: Any) -> Any:
        """Return what the last reduction returns."""
        return functools.reduce(lambda value, reduction: reduction(value), self.reductions, results)

    def __repr__(self) -> str:
        """Name the stages."""
        stages = ", ".join(getattr(reduction, "__name__", repr(reduction)) for reduction in self.reductions)
        return f"ReductionComposition([{stages}])"


def _also_named(name: str) -> Callable[[Reduction], Reduction]:
    """Let a reduction be called with `name` in place of ``results``, as workercontext's users do."""

    def decorate(reduction: Reduction) -> Reduction:
        @functools.wraps(reduction)
        def accept(*args: Any, **kwargs: Any) -> Any:
            if not args and kwargs.keys() == {name}:
                return reduction(kwargs[name])
            return reduction(*args, **kwargs)

        return cast(Reduction, accept)

    return decorate


@_also_named("lst")
def flatten_reduction(results: Iterable[Iterable[Item]]) -> list[Item]:
    """Join lists into one list, one level deep.

    Parameters
    ----------
    results : iterable of iterables

    Returns
    -------
    list
        Their items in order; ``[]`` for no results.
    """
    flat: list[Item] = []
    for result in results:
        flat += result  # of a list this copies its pointers at once; a chain would take them one by one
    return flat


@_also_named("lst")
def set_union_reduction(results: Iterable[Iterable[Key]]) -> set[Key]:
    """Unite sets.

    Parameters
    ----------
    results : iterable of sets, or of other iterables of hashable items

    Returns
    -------
    set
        A new one; ``set()`` for no results.
    """
    return set(itertools.chain.from_iterable(results))


@_also_named("lst")
def dict_merge_reduction(results: Iterable[Mapping[Key, Value]]) -> dict[Key, Value]:
    """Merge mappings; of values with the same key the last one stays.

    Parameters
    ----------
    results : iterable of mappings

    Returns
    -------
    dict
        A new one; ``{}`` for no results.
    """
    merged: dict[Key, Value] = {}
    for mapping in results:
        merged.update(mapping)

    return merged


# Any, here and below: whatever has the operator (numbers, fractions, arrays, sets), and what that operator returns.
@_also_named("arr")
def sum_reduction(results: Iterable[Any]) -> Any:
    """Add the results up.

    Parameters
    ----------
    results : iterable of numbers, arrays, or whatever can be added to 0

    Returns
    -------
    number or array
        0 for no results.
    """
    return sum(results)


@_also_named("lst")
def average_reduction(results: Iterable[Any]) -> Any:
    """Return the arithmetic mean.

    Parameters
    ----------
    results : iterable of numbers or arrays

    Returns
    -------
    number or array

    Raises
    ------
    ValueError
        If there are no results.
    """
    values = _at_least_one(results, "average")
    return sum(values) / len(values)


@_also_named("arr")
def histogram_reduction(results: Iterable[Key]) -> dict[Key, int]:
    """Count how often each value occurs.

    Parameters
    ----------
    results : iterable of hashable values

    Returns
    -------
    dict
        Value to count, in order of first occurrence; ``{}`` for no results.
    """
    return dict(Counter(results))


@_also_named("arr")
def product_reduction(results: Iterable[Any]) -> Any:
    """Multiply the results.

    Parameters
    ----------
    results : iterable of numbers or arrays

    Returns
    -------
    number or array
        1 for no results.
    """
    return math.prod(results)


@_also_named("arr")
def string_concatenation_reduction(results: Iterable[str]) -> str:
    """Join strings, with nothing between them.

    Parameters
    ----------
    results : iterable of str

    Returns
    -------
    str
        ``""`` for no results.
    """
    return "".join(results)


@_also_named("arr")
def bitwise_and_reduction(results: Iterable[Any]) -> Any:
    """Combine the results with ``&``.

    Parameters
    ----------
    results : iterable of int, bool, sets or arrays

    Returns
    -------
    int, bool, set or array

    Raises
    ------
    ValueError
        If there are no results.
    """
    return functools.reduce(operator.and_, _at_least_one(results, "bitwise and"))


@_also_named("arr")
def bitwise_or_reduction(results: Iterable[Any]) -> Any:
    """Combine the results with ``|``.

    Parameters
    ----------
    results : iterable of int, bool, sets or arrays

    Returns
    -------
    int, bool, set or array

    Raises
    ------
    ValueError
        If there are no results.
    """
    return functools.reduce(operator.or_, _at_least_one(results, "bitwise or"))


@_also_named("arr")
def min_reduction(results: Iterable[Any]) -> Any:
    """Return the smallest result, the first of several.

    Parameters
    ----------
    results : iterable of values that can be compared

    Returns
    -------
    value

    Raises
    ------
    ValueError
        If there are no results.
    """
    return min(_at_least_one(results, "minimum"))


@_also_named("arr")
def max_reduction(results: Iterable[Any]) -> Any:
    """Return the largest result, the first of several.

    Parameters
    ----------
    results : iterable of values that can be compared

    Returns
    -------
    value

    Raises
    ------
    ValueError
        If there are no results.
    """
    return max(_at_least_one(results, "maximum"))


def _at_least_one(results: Iterable[Item], operation: str) -> list[Item]:
    """Return the results as a list, or say that this operation has no value for none."""
    values = list(results)
    if not values:
        raise ValueError(f"there is no {operation} of no results; the call was made for no items")

    return values


def combine_batches(reduction: Callable[[list[Any]], Any], results: Sequence[Any], sizes: Sequence[int]) -> Any:
    """Reduce the results of batches to the value that the reduction has for all items at once.

    Parameters
    ----------
    reduction : callable
        One of this module, or your own.
    results : sequence, length n_batches
        What was computed of each batch.
    sizes : sequence of int, length n_batches
        Items in each batch.

    Returns
    -------
    value
        ``reduction(results)``, but for two reductions. Averages of batches are weighted with the sizes. Histograms of batches,
        which are mappings from value to count, are added up. A `ReductionComposition` treats its first stage like this.

    Raises
    ------
    TypeError
        A histogram is asked for of results that can neither be added up nor counted.

    Examples
    --------
    >>> combine_batches(average_reduction, [2, 5], [3, 1])
    2.75
    >>> combine_batches(histogram_reduction, [{"a": 2}, {"a": 1, "b": 1}], [2, 2])
    {'a': 3, 'b': 1}
    """
    if isinstance(reduction, ReductionComposition) and reduction.reductions:
        first, *rest = reduction.reductions
        return ReductionComposition(rest)(combine_batches(first, results, sizes))
    combine = _COMBINERS.get(reduction) if isinstance(reduction, Hashable) else None
    return reduction(list(results)) if combine is None else combine(list(results), sizes)


def _weigh(averages: list[Any], sizes: Sequence[int]) -> Any:
    n_items = sum(sizes)
    if not n_items:
        return average_reduction(averages)
    return sum(average * size for average, size in zip(averages, sizes, strict=True)) / n_items


def _add_counts(histograms: list[Any], _sizes: Sequence[int]) -> dict[Any, int]:
    if not all(isinstance(histogram, Mapping) for histogram in histograms):
        try:
            return histogram_reduction(histograms)
        except TypeError as exc:
            raise TypeError(
                "histogram_reduction of batches expects from each batch its histogram (a mapping from value to count) or one "
                "hashable value; for lists of values use ReductionComposition([flatten_reduction, histogram_reduction])"
            ) from exc
    total: Counter[Any] = Counter()
    for histogram in histograms:
        total.update(histogram)
    return total if histograms and all(isinstance(histogram, Counter) for histogram in histograms) else dict(total)


#: Reductions for which the reduction of reductions is not the reduction of all items.
_COMBINERS: dict[Callable[[list[Any]], Any], Callable[[list[Any], Sequence[int]], Any]] = {
    average_reduction: _weigh,
    histogram_reduction: _add_counts,
}

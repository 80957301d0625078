"""What goes by value arrives with all that it says about itself."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable

import numpy as np
import pytest

from objproxy._worker import wire


def make_divider(dividend: int) -> Callable[[int], list[float]]:
    def divide(divisor: int) -> list[float]:
        return [dividend / each for each in (divisor,)]

    return divide


def test_a_function_that_goes_by_value_keeps_the_lines_of_its_tracebacks() -> None:
    """Regression: cloudpickle 3.1.3 leaves the file's name out, also that of functions within."""
    arrived = pickle.loads(wire.dumps(make_divider(1)))
    assert arrived.__code__ is not make_divider(1).__code__
    assert arrived(2) == [0.5]
    error = error_of(arrived)
    assert "return [dividend / each for each in (divisor,)]" in "".join(traceback.format_exception(error))
    assert {frame.filename for frame in traceback.extract_tb(error.__traceback__)} == {__file__}


@pytest.mark.parametrize(
    "array",
    [
        np.frombuffer(b"abc", "u1"),
        np.arange(5),
        np.arange(6.0).reshape(2, 3)[:, ::2],
        np.zeros((0, 2), "i2"),
        np.arange(3, dtype=">f8"),
    ],
    ids=["bytes", "ints", "strided", "empty", "big-endian"],
)
def test_a_memory_view_arrives_as_one(array: np.ndarray) -> None:
    view = memoryview(array)
    arrived = pickle.loads(wire.dumps([view]))[0]
    assert type(arrived) is memoryview
    assert (arrived.format, arrived.shape, arrived.readonly) == (view.format, view.shape, view.readonly)
    np.testing.assert_array_equal(np.asarray(arrived), array)


def error_of(function: Callable[[int], object]) -> Exception:
    try:
        function(0)
    except ZeroDivisionError as exc:
        return exc
    raise AssertionError("it has divided by zero")

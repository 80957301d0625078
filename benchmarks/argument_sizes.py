"""Measure what an argument costs by its size, from 1 KB to 4 MB, beside a bare pipe.

Command: ``python -m benchmarks.argument_sizes``

One caller sends a NumPy array of bytes to one worker, whose method returns None, and waits for the answer. The
yardstick is an `os.pipe` with a pickle in it (protocol 5, everything in the stream) to a forked child, which unpickles
it and answers with one byte: the least that two processes can do without shared memory. objproxy is also shown with
everything kept in the pickle: where that curve meets the other is the size from which shared memory pays
(`objproxy._worker.parcel.INLINE_MAX`). The sizes take turns, several times, so that a disturbance spoils no size alone.
"""

from __future__ import annotations

import os
import pickle
import statistics
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from benchmarks import _work
from benchmarks._command import run_script
from benchmarks._lane import check
from benchmarks._model import OURS, Contender, Experiment, Outcomes, Target
from benchmarks._pipe import forked

#: ``call(array)`` sends the array to the worker and waits until it has it.
_Call = Callable[[Any], None]

_PIPE = "os.pipe + pickle"
_INLINE = "objproxy, all in the pickle"

#: How often all sizes have their turn.
_N_PASSES = 8

#: Bytes that are sent with one size in one pass; the number of calls follows.
_NBYTES_PER_PASS = 1 << 24

_MAX_CALLS = 200


def time_sizes(library: str, smallest: int, largest: int, n_passes: int = _N_PASSES) -> tuple[list[float], dict[str, Any]]:
    """Return the mean over all sizes of the seconds of a call, and the seconds by size: medians of all calls."""
    import numpy as np

    sizes = [smallest << shift for shift in range((largest // smallest).bit_length())]
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    with _OPENERS[library]() as call:
        for number in range(n_passes + 1):
            for size in sizes:
                times = _time_calls(call, np.ones(size, "u1"), min(max(_NBYTES_PER_PASS // size, 4), _MAX_CALLS))
                seconds[size] += times if number else []  # the first pass is a warm-up
    curve = {str(size): statistics.median(times) for size, times in seconds.items()}
    return [statistics.fmean(curve.values())], {"seconds": curve}


def _time_calls(call: _Call, array: Any, n_calls: int) -> list[float]:
    for _ in range(n_calls // 4):
        call(array)
    times = []
    for _ in range(n_calls):
        began = time.perf_counter()
        call(array)
        times.append(time.perf_counter() - began)
    return times


@contextmanager
def _open_objproxy() -> Iterator[_Call]:
    from objproxy import ProxyPool

    with ProxyPool(_work.Worker, worker_count=1) as pool:
        yield lambda array: pool[0].ignore(array)


@contextmanager
def _open_inline() -> Iterator[_Call]:
    from objproxy._worker import parcel

    parcel.INLINE_MAX = 1 << 62
    with _open_objproxy() as call:
        yield call


@contextmanager
def _open_pipe() -> Iterator[_Call]:
    with forked(_serve) as (there_write, back_read):

        def call(array: Any) -> None:
            data = pickle.dumps(array, 5)
            _write_all(there_write, struct.pack("<Q", len(data)), data)
            check(os.read(back_read, 1) == b".")

        yield call


def _write_all(descriptor: int, head: bytes, data: bytes) -> None:
    n_written = os.writev(descriptor, [head, data]) - len(head)
    with memoryview(data) as view:
        while n_written < len(data):
            n_written += os.write(descriptor, view[n_written:])


def _serve(there_read: int, back_write: int) -> None:
    """Unpickle what comes, and say so; the buffer is used again, as a careful program would."""
    worker = _work.Worker()
    buffer = bytearray(1 << 16)
    try:
        while head := os.read(there_read, 8):
            (length,) = struct.unpack("<Q", head)
            if len(buffer) < length:
                buffer = bytearray(length)
            message = memoryview(buffer)[:length]
            n_read = 0
            while n_read < length:
                n_read += os.readv(there_read, [message[n_read:]])
            worker.ignore(pickle.loads(message))
            message.release()
            os.write(back_write, b".")
    finally:
        os._exit(0)


_OPENERS: dict[str, Callable[[], AbstractContextManager[_Call]]] = {
    OURS: _open_objproxy,
    _INLINE: _open_inline,
    _PIPE: _open_pipe,
}


def _worst_ratio(outcomes: Outcomes) -> float:
    """Return the largest ratio to the pipe over all sizes."""
    return max(ratios_to_pipe(outcomes).values())


def ratios_to_pipe(outcomes: Outcomes) -> dict[int, float]:
    """Return by size how many times as long as the pipe ours takes."""
    ours, pipe = (outcomes.curve(name, "seconds") for name in (OURS, _PIPE))
    return {int(size): ours[size] / pipe[size] for size in ours}


def _describe(outcomes: Outcomes) -> str:
    ratios = ratios_to_pipe(outcomes)
    worst = max(ratios, key=ratios.__getitem__)
    listed = ", ".join(f"{size >> 10} KB {ratio:.2f}" for size, ratio in ratios.items())
    return f"{OURS} / pipe: {listed}; worst {ratios[worst]:.2f} at {worst >> 10} KB"


EXPERIMENTS = (
    Experiment(
        "argument_sizes",
        "An argument of 1 KB to 4 MB, one worker (mean over the sizes)",
        "us",
        tuple(Contender(name, time_sizes, {"library": name}, is_peer=False) for name in _OPENERS),
        (Target("never slower than a pipe (worst size)", 1.0, _worst_ratio, "x"),),
        sizes={"smallest": 1 << 10, "largest": 1 << 22},
        quick_sizes={"smallest": 1 << 12, "largest": 1 << 18, "n_passes": 1},
        rounds=5,
        curve="seconds",
        describe=_describe,
    ),
)

if __name__ == "__main__":
    run_script("argument_sizes", __doc__, EXPERIMENTS)

"""Pools to look at in the dashboard: one that computes, one that fails now and then and loses workers, one that is done early.

    python examples/watch_pools.py
    python examples/watch_pools.py --seconds 600

Open the address that it prints. It needs ``pip install ".[dashboard]"``.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import threading
import time

import objproxy
from objproxy import ProxyPool


class Lattice:
    """Stands for a simulation: a constructor that takes its time, and two methods."""

    def __init__(self) -> None:
        time.sleep(0.4)

    def sweep(self, temperature: float) -> float:
        """Take long."""
        time.sleep(random.uniform(0.1, 0.5))
        return temperature

    def measure(self, temperature: float) -> float:
        """Take less long."""
        time.sleep(random.uniform(0.02, 0.1))
        return temperature


class Parser:
    """Stands for a parser of files, some of which it cannot read."""

    def __init__(self) -> None:
        time.sleep(0.2)

    def parse(self, number: int) -> int:
        """Fail with one file in nine, and crash with one in seventy."""
        time.sleep(random.uniform(0.02, 0.15))
        if number % 70 == 40:
            os._exit(3)
        if number % 9 == 4:
            raise ValueError(f"module_{number}.py, line {number % 40}: expected ')', got 'else'")
        return number


class Embedder:
    """Stands for a model that is soon done."""

    def embed(self, text: str) -> int:
        """Take a few milliseconds."""
        time.sleep(0.004)
        return len(text)


def simulate(lattices: ProxyPool[Lattice], is_over: threading.Event) -> None:
    """Keep one pool busy with long sweeps, and measure in between."""
    sweeps = lattices.sweep.imap_unordered(random.random() for _ in range(1_000_000))
    for n_swept, _ in enumerate(itertools.takewhile(lambda _result: not is_over.is_set(), sweeps)):
        if n_swept % 40 == 20:
            lattices.measure.map([0.1 * step for step in range(20)])
    sweeps.close()


def parse(parsers: ProxyPool[Parser], is_over: threading.Event) -> None:
    """Keep the other pool busy; what fails is returned among the results."""
    with parsers.parse.options(on_error="return").imap(range(3000)) as results:
        for _ in itertools.takewhile(lambda _result: not is_over.is_set(), results):
            pass


def run(seconds: float) -> None:
    """Run three pools for so long."""
    with ProxyPool(Embedder, worker_count=2, name="embeddings") as embedders:
        embedders.embed.map(["some text"] * 300)

    is_over = threading.Event()
    with (
        ProxyPool(Lattice, worker_count=4, name="ising-lattices") as lattices,
        ProxyPool(Parser, worker_count=2, name="source-parser", max_restarts=(100, 5.0)) as parsers,
    ):
        threads = [
            threading.Thread(target=simulate, args=(lattices, is_over)),
            threading.Thread(target=parse, args=(parsers, is_over)),
        ]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        is_over.set()
        for thread in threads:
            thread.join()


def main() -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="how long (default: %(default)g)")
    seconds = parser.parse_args().seconds
    details = objproxy.start_dashboard()
    print(f"open {details.url}", flush=True)
    run(seconds)


if __name__ == "__main__":
    main()

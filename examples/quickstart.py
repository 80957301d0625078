"""Quickstart: one live lattice of magnets in each worker, compared with Onsager's exact result of 1944.

The Ising model is a grid of magnets that point up or down. Below the critical temperature, 2.269, most of them agree;
how many is known exactly, so the simulation can be checked. Each worker builds one lattice, which takes a moment, and
keeps it: a broadcast lets every lattice go on from where it stands, a fan-out gives one temperature at a time to
whichever lattice is free. On the way one call raises an error and one worker is killed; the pool tells both and goes
on.

    python examples/quickstart.py
    python examples/quickstart.py --workers 4 --size 128 --sweeps 1000

"""

from __future__ import annotations

import argparse
import math
import os
import signal
from collections.abc import Sequence

import numpy as np

from objproxy import ProxyPool, WorkerDiedError, current_worker

CRITICAL_TEMPERATURE = 2 / math.log(1 + math.sqrt(2))


class Lattice:
    """A square Ising lattice with periodic borders, kept at one temperature.

    Parameters
    ----------
    size : int
        Rows and columns; even, for the checkerboard update.
    temperature : float
        In units of the coupling.
    n_settling : int
        Sweeps before the lattice is used.
    """

    def __init__(self, size: int, temperature: float, n_settling: int) -> None:
        self.n_settling = n_settling
        self.spins = np.ones((size, size))
        self.squares = np.indices((size, size)).sum(axis=0) % 2 == np.array([0, 1])[:, None, None]  # black, white
        self.set_temperature(temperature)

    @property
    def magnetisation(self) -> float:
        """Mean of all spins, -1 to 1."""
        return float(self.spins.mean())

    def set_temperature(self, temperature: float) -> None:
        """Start from all spins up, and settle at another temperature."""
        if temperature <= 0:
            raise ValueError(f"temperature {temperature} is not positive")
        self.temperature = temperature
        self.spins[:] = 1
        self.sweep(self.n_settling)

    def sweep(self, n_sweeps: int) -> float:
        """Give every spin the chance to flip, `n_sweeps` times; return the mean magnetisation on the way."""
        rng = current_worker().rng  # in a fan-out every item has its own stream, whichever worker runs it
        spins, total = self.spins, 0.0
        for _ in range(n_sweeps):
            for squares in self.squares:
                neighbours = np.roll(spins, 1, 0) + np.roll(spins, -1, 0) + np.roll(spins, 1, 1) + np.roll(spins, -1, 1)
                flips = rng.random(spins.shape) < np.exp(-2 * spins * neighbours / self.temperature)
                spins[flips & squares] *= -1
            total += spins.mean()
        return total / max(n_sweeps, 1)

    def measure(self, temperature: float, n_sweeps: int) -> float:
        """Return the mean magnetisation at a temperature."""
        self.set_temperature(temperature)
        return self.sweep(n_sweeps)

    def crash(self) -> None:
        """Die as a process dies that the system kills for want of memory."""
        os.kill(os.getpid(), signal.SIGKILL)


def exact_magnetisation(temperature: float) -> float:
    """Return Onsager's result for an infinite lattice."""
    if temperature >= CRITICAL_TEMPERATURE:
        return 0.0
    return (1 - math.sinh(2 / temperature) ** -4) ** (1 / 8)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description="Ising lattices in parallel, compared with the exact result")
    parser.add_argument("--workers", type=int, default=None, help="default: one for each usable CPU")
    parser.add_argument("--size", type=int, default=64, help="rows and columns of a lattice, even (default: 64)")
    parser.add_argument("--sweeps", type=int, default=3000, help="sweeps of one measurement (default: 3000)")
    parser.add_argument("--seed", type=int, default=1944, help="root of all random numbers (default: 1944)")
    options = parser.parse_args(argv)
    if options.size < 2 or options.size % 2:
        parser.error(f"--size {options.size}: the lattice needs an even number of rows")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    options = parse_arguments(argv)
    arguments = (options.size, 2.0, options.sweeps // 2)
    with ProxyPool(Lattice, worker_count=options.workers, init_args=arguments, seed=options.seed) as pool:
        seconds = max(worker.init for worker in pool.insights().workers)
        print(f"{len(pool)} workers, a lattice of {options.size} x {options.size} in each, built in {seconds:.1f} s")

        # Broadcast: every lattice runs the call once; the results come back as one array, in the order of the workers.
        means = pool.sweep(options.sweeps)
        print(f"broadcast at T = 2.0: mean {means.mean():.3f}, exact {exact_magnetisation(2.0):.3f}\n")

        # Fan-out: one call for each item, on whichever lattice is free; results in the order of the items.
        temperatures = [1.5, 1.8, 2.0, 2.1, 2.2, 2.6, 3.0]
        measured = pool.measure(temperatures, [options.sweeps] * len(temperatures), map_args=True)
        print("    T   measured   exact   difference")
        for temperature, mean in zip(temperatures, measured, strict=True):
            exact = exact_magnetisation(temperature)
            print(f"  {temperature:.1f}   {mean:8.3f}   {exact:5.3f}   {mean - exact:+10.3f}")

        # One instance, its attribute and the memory it lives in.
        print(f"\npool[0] stands at T = {pool[0].temperature}, magnetisation {pool[0].magnetisation:+.3f}")

        # The method's own error is raised here; the worker lives.
        try:
            pool[0].set_temperature(-1.0)
        except ValueError as error:
            print(f"pool[0] raised ValueError: {error}")

        # A worker that dies fails the call it ran, and nothing else; a new lattice takes its place.
        try:
            pool[0].crash()
        except WorkerDiedError as error:
            print(f"pool[0] died: worker {error.worker_id}, {error.signal}, in {error.method!r}")
        pool.wait_ready()
        after = pool.sweep(options.sweeps // 4)
        generations = [worker.generation for worker in pool.workers]
        print(f"the pool goes on: {len(after)} of {len(pool)} lattices answered, generations {generations}")


if __name__ == "__main__":
    main()

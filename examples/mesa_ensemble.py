"""An ensemble of an agent-based model: the order in which the players of a game decide.

The model is `PdGrid` of the package mesa: a player in every cell of a grid plays the prisoner's dilemma with its
eight neighbours and copies the move of whoever is richest. Huberman and Glance ("Evolutionary games and computer
simulations", PNAS 90, 1993) found that cooperation depends on whether all decide at the same moment or one after the
other. One run says little; the ensemble, over seeds and over the temptation to defect, gives the mean and its spread.

Each worker imports mesa once, which takes a second, and holds one world. A fan-out gives it one setting at a time: it
builds that world anew, runs it and keeps it, so that one can ask each worker for its last world afterwards.

    python examples/mesa_ensemble.py
    python examples/mesa_ensemble.py --seeds 20 --steps 100 --output dilemma.png

It needs mesa and matplotlib (``pip install ".[examples]"``).
"""

from __future__ import annotations

import argparse
import inspect
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from objproxy import ProxyPool

#: The model's names for the orders, with colour and label.
ORDERS = {"Random": ("#0072b2", "one after the other"), "Simultaneous": ("#d55e00", "all at the same moment")}

#: What a defector gains from a cooperator, who gains 1 from another; the time series are drawn for the third.
TEMPTATIONS = (1.2, 1.4, 1.6, 1.8, 2.0)


class World:
    """One world at a time, rebuilt for each run.

    Parameters
    ----------
    size : int
        Rows and columns of the grid.
    """

    def __init__(self, size: int) -> None:
        from mesa.examples.advanced.pd_grid.model import PdGrid

        self._size = size
        self._model_class = PdGrid
        # The parameter that takes the seed has had two names.
        self._seed_name = "rng" if "rng" in inspect.signature(PdGrid).parameters else "seed"
        self.n_runs = 0
        self.model: Any = None

    def run(self, order: str, temptation: float, seed: int, n_steps: int) -> np.ndarray:
        """Build a world and run it.

        Returns
        -------
        ndarray, shape (n_steps + 1,)
            Share of cooperators before the first step and after each.
        """
        payoffs = {("C", "C"): 1, ("C", "D"): 0, ("D", "C"): temptation, ("D", "D"): 0}
        self.model = self._model_class(self._size, self._size, order, payoffs, **{self._seed_name: seed})
        self.model.run(n_steps)
        self.n_runs += 1
        history = self.model.datacollector.get_model_vars_dataframe()
        return history["Cooperating_Agents"].to_numpy() / self._size**2

    def describe(self) -> str:
        """Return one line about the world that this worker holds."""
        if self.model is None:
            return "no run"
        moves = [agent.move for agent in self.model.agents]
        return f"{self.n_runs} runs; in its last world {moves.count('C')} of {len(moves)} players cooperate"


def simulate(options: argparse.Namespace) -> np.ndarray:
    """Run the ensemble.

    Returns
    -------
    ndarray, shape (n_orders, n_temptations, n_seeds, n_steps + 1)
        Shares of cooperators.
    """
    settings = list(itertools.product(ORDERS, TEMPTATIONS, range(options.seeds)))
    orders, temptations, seeds = zip(*settings, strict=True)
    with ProxyPool(World, worker_count=options.workers, init_args=(options.size,)) as pool:
        runs = pool.run(orders, temptations, seeds, itertools.repeat(options.steps), map_args=True)
        for worker_id, line in enumerate(pool.describe()):
            print(f"worker {worker_id}: {line}")
    return runs.reshape(len(ORDERS), len(TEMPTATIONS), options.seeds, -1)


def print_table(shares: np.ndarray) -> None:
    """Print mean and standard deviation of the final shares."""
    print("\ncooperators at the end" + "".join(f"{f'T = {temptation}':>14}" for temptation in TEMPTATIONS))
    for (_, label), runs in zip(ORDERS.values(), shares[..., -1] * 100, strict=True):
        pairs = zip(runs.mean(axis=1), runs.std(axis=1), strict=True)
        cells = (f"{mean:.0f} ± {spread:.0f} %" for mean, spread in pairs)
        print(f"{label:<22}" + "".join(f"{cell:>14}" for cell in cells))


def draw(shares: np.ndarray, path: str) -> None:
    """Draw one temptation over time, and the final shares over all temptations."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    n_seeds, steps = shares.shape[2], np.arange(shares.shape[3])
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 10})
    figure, (over_time, at_end) = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")

    middle = len(TEMPTATIONS) // 2
    shifts = (-0.008, 0.008)  # keeps the bars of one temptation apart
    for (colour, label), shift, runs in zip(ORDERS.values(), shifts, shares * 100, strict=True):
        series = runs[middle]
        mean, spread = series.mean(axis=0), series.std(axis=0)
        low, high = np.clip(mean - spread, 0, 100), np.clip(mean + spread, 0, 100)
        over_time.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        over_time.plot(steps, series.T, color=colour, alpha=0.3, linewidth=0.7)
        over_time.plot(steps, mean, color=colour, linewidth=2.2, label=label)

        final = runs[..., -1]
        mean, spread = final.mean(axis=1), final.std(axis=1)
        reach = np.stack([np.minimum(spread, mean), np.minimum(spread, 100 - mean)])
        style = {"color": colour, "marker": "o", "linewidth": 2.2, "elinewidth": 1.2, "capsize": 4}
        at_end.errorbar(np.array(TEMPTATIONS) + shift, mean, reach, **style)

    over_time.set(title=f"Temptation {TEMPTATIONS[middle]}, over time", xlabel="step", xlim=(0, steps[-1]))
    over_time.set(ylabel="players who cooperate (%)", ylim=(0, 102))
    over_time.legend(frameon=False, loc="center right", title="Players decide", alignment="left")
    at_end.set(title=f"After {steps[-1]} steps", xlabel="temptation to defect", xticks=TEMPTATIONS)
    figure.suptitle(f"Prisoner's dilemma on a grid: mean and one standard deviation of {n_seeds} seeds")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description="An ensemble of the prisoner's dilemma on a grid")
    parser.add_argument("--workers", type=int, default=None, help="default: one for each usable CPU")
    parser.add_argument("--seeds", type=int, default=6, help="runs of each setting (default: 6)")
    parser.add_argument("--steps", type=int, default=40, help="steps of a run (default: 40)")
    parser.add_argument("--size", type=int, default=30, help="rows and columns of the grid (default: 30)")
    parser.add_argument("--output", default="mesa_ensemble.png", help="the figure (default: mesa_ensemble.png)")
    options = parser.parse_args(argv)

    shares = simulate(options)
    print_table(shares)
    draw(shares, options.output)
    print(f"\nfigure: {options.output}")


if __name__ == "__main__":
    main()

"""An ensemble that shares one large data set and returns large results: bootstrap of a regression at every point of a map.

A field is observed for many years at every point of a grid: a trend, an oscillation, and noise. Ridge regression of
scikit-learn gives the trend at all points at once. How certain is it? Each member of the ensemble draws years with replacement
and fits again; the spread of the members is the uncertainty.

The data (by default 82 MB) is put into shared memory once, and every worker maps the same pages. Each member returns a whole
map, which comes back through shared memory too. Each member draws from a random stream of its own, so the result is the same
for any number of workers.

    python examples/bootstrap_trends.py
    python examples/bootstrap_trends.py --members 200 --output trends.png

It needs scikit-learn, and matplotlib for the figure (``pip install ".[examples]"``).
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence

import numpy as np

from objproxy import ProxyPool, SharedValue, current_worker

SEED = 7


class TrendFinder:
    """Fits the trend of every point of a map, to years drawn with replacement."""

    def __init__(self) -> None:
        from sklearn.linear_model import Ridge

        self._model = Ridge(alpha=1e-6)

    def fit(self, years: np.ndarray, field: np.ndarray) -> np.ndarray:
        """Return the trend at every point, shape (n_points,), from `field` of shape (n_years, n_points)."""
        centred = (years - years.mean()) / 10.0  # decades
        design = np.column_stack([centred, np.sin(2 * np.pi * years / 11), np.cos(2 * np.pi * years / 11)])
        return self._model.fit(design, field).coef_[:, 0]

    def fit_member(self, _number: int, years: np.ndarray, field: np.ndarray) -> np.ndarray:
        """Return the trend for one draw of years."""
        drawn = current_worker().rng.integers(len(years), size=len(years))
        return self.fit(years[drawn], field[drawn])


def make_field(size: int, n_years: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return years, shape (n_years,); the field, shape (n_years, size²); and its true trend per decade, shape (size²,)."""
    rng = np.random.default_rng(SEED)
    x, y = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size))
    truth = (0.2 + 0.3 * np.exp(-4 * ((x - 0.3) ** 2 + y**2)) - 0.2 * np.exp(-6 * ((x + 0.5) ** 2 + (y + 0.4) ** 2))).ravel()
    years = np.arange(n_years, dtype=float)
    field = rng.normal(scale=0.8, size=(n_years, size * size))
    field += np.outer((years - years.mean()) / 10.0, truth)
    field += 0.5 * np.sin(2 * np.pi * years / 11)[:, np.newaxis]
    return years, field, truth


def run_ensemble(pool: ProxyPool[TrendFinder], years: np.ndarray, data: SharedValue, n_members: int) -> np.ndarray:
    """Return the trends of all members, shape (n_members, n_points)."""
    members = range(n_members)
    return pool.fit_member(members, itertools.repeat(years), itertools.repeat(data), map_args=True)


def draw(maps: dict[str, np.ndarray], size: int, path: str) -> None:
    """Draw maps side by side."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(maps), figsize=(4 * len(maps), 3.4), layout="constrained")
    for cell, (title, values) in zip(axes, maps.items(), strict=True):
        shown = cell.imshow(values.reshape(size, size), origin="lower", extent=(-1, 1, -1, 1))
        cell.set_title(title)
        figure.colorbar(shown, ax=cell, shrink=0.8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description="Uncertainty of a trend at every point of a map, by bootstrap")
    parser.add_argument("--workers", type=int, default=None, help="default: one for each usable CPU")
    parser.add_argument("--members", type=int, default=40, help="members of the ensemble (default: 40)")
    parser.add_argument("--size", type=int, default=320, help="points along each side of the map (default: 320)")
    parser.add_argument("--years", type=int, default=100, help="years of data (default: 100)")
    parser.add_argument("--output", default=None, help="where a figure goes (default: no figure)")
    options = parser.parse_args(argv)

    years, field, truth = make_field(options.size, options.years)
    with ProxyPool(TrendFinder, worker_count=options.workers, seed=SEED) as pool, pool.put(field) as data:
        print(f"{len(pool)} workers share {data.nbytes / 1e6:.0f} MB; each of {options.members} members returns", end=" ")
        trends = run_ensemble(pool, years, data, options.members)
        print(f"{trends[0].nbytes / 1e6:.2f} MB")
        best = pool[0].fit(years, data)

    spread = trends.std(axis=0, ddof=1)
    covered = np.abs(best - truth) <= 1.645 * spread
    print(f"trend per decade {best.mean():.3f}, truly {truth.mean():.3f}")
    print(f"mean uncertainty at a point {spread.mean():.3f}, true error {np.sqrt(np.mean((best - truth) ** 2)):.3f}")
    print(f"truth within the 90 % interval at {covered.mean():.0%} of the points")
    if options.output:
        draw({"true trend": truth, "estimate": best, "uncertainty": spread}, options.size, options.output)
        print(f"figure: {options.output}")


if __name__ == "__main__":
    main()

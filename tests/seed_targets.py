"""Objects that draw from the generators that a whole process shares."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from objproxy import current_worker


class Drawing:
    """Draws numbers; each worker has drawn a few before its first call."""

    def __init__(self) -> None:
        random.seed(current_worker().worker_id)

    def draw(self, item: Any = 0, *, again: Any = None) -> tuple[float, ...]:
        rng = float(current_worker().rng.random())
        return (random.random(), float(np.random.random()), rng, float(np.random.normal()), random.gauss(0, 1))

    def draw_many(self, n_numbers: int) -> list[float]:
        """Draw a number of items' own, so that generators are left in different states."""
        return [random.random() for _ in range(n_numbers)] + list(np.random.normal(size=n_numbers))

    def simulate(self, _item: int) -> list[float]:
        """Run a small model of Mesa, whose generator is its own and gets its seed from the worker's."""
        import mesa

        model = mesa.Model(seed=int(current_worker().rng.integers(2**31)))
        return [model.random.random() for _ in range(3)]

    def edges(self, _item: int) -> list[tuple[int, int]]:
        import networkx as nx

        edges: list[tuple[int, int]] = list(nx.gnp_random_graph(12, 0.3).edges)
        return edges

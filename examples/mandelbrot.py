"""A picture that all workers paint: fill and reduce on a shared array.

The points of the plane cost very different times, so rows are fanned out and whichever worker is free paints the next ones,
straight into shared memory: nothing large is sent. Three passes over one array:

1. fill: iterate z -> z² + c for every point and write how long it took to escape;
2. reduce: each worker counts the values in its rows, the caller adds the counts up;
3. fill again: map each value to its rank, so that every shade covers as much of the picture.

The share of points that never escape gives the area of the Mandelbrot set, 1.50659 by the finest pixel counts that are known
(Förstemann 2017, "Numerical estimation of the area of the Mandelbrot set").

    python examples/mandelbrot.py
    python examples/mandelbrot.py --height 1500 --output mandelbrot.png

It needs matplotlib for the picture (``pip install ".[examples]"``).
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence

import numpy as np

from objproxy import ProxyPool, SharedArray

#: Part of the plane: real parts, imaginary parts.
LEFT, RIGHT, BOTTOM, TOP = -2.05, 0.55, -1.25, 1.25


class Painter:
    """Paints rows of the picture.

    Parameters
    ----------
    n_max : int
        Iterations after which a point is taken for one that never escapes.
    """

    def __init__(self, n_max: int) -> None:
        self.n_max = n_max

    def iterate(self, times: np.ndarray, rows: slice) -> None:
        """Write the iterations until each point of `rows` escapes, smoothed; 0 for those that do not."""
        height, width = times.shape
        real = LEFT + (RIGHT - LEFT) * (np.arange(width) + 0.5) / width
        imaginary = BOTTOM + (TOP - BOTTOM) * (np.arange(height)[rows] + 0.5) / height
        c = (real + 1j * imaginary[:, np.newaxis]).ravel()
        z, index = c.copy(), np.arange(c.size)
        escaped = np.zeros(c.size, dtype=times.dtype)
        for n in range(1, self.n_max):
            size = z.real**2 + z.imag**2
            is_out = size > 100.0
            if is_out.any():
                # With the size of z the steps between the counts become smooth.
                escaped[index[is_out]] = n + 1 - np.log2(np.log(size[is_out]) / 2)
                z, c, index = z[~is_out], c[~is_out], index[~is_out]
            z = z * z + c
        times[rows] = escaped.reshape(-1, width)

    def count(self, times: np.ndarray, rows: slice, edges: np.ndarray) -> np.ndarray:
        """Return how many values of `rows` lie between each two edges."""
        return np.histogram(times[rows], edges)[0]

    def rank(self, times: np.ndarray, rows: slice, edges: np.ndarray, ranks: np.ndarray) -> None:
        """Replace each value of `rows` by the share of values that are smaller."""
        part = times[rows]
        times[rows] = np.where(part > 0, np.interp(part, edges[1:], ranks), 0)


def paint(pool: ProxyPool[Painter], times: SharedArray, rows_at_once: int) -> float:
    """Paint the picture; return the area of the set."""
    height = times.shape[0]
    rows = [slice(start, start + rows_at_once) for start in range(0, height, rows_at_once)]
    everywhere = itertools.repeat(times)  # in each call a plain ndarray, the same memory for all

    pool.iterate(everywhere, rows, map_args=True)
    inside = np.count_nonzero(times.array == 0) / times.array.size

    edges = np.geomspace(0.1, times.array.max(), 2000)
    counts = pool.count(everywhere, rows, itertools.repeat(edges), map_args=True, stack_results=sum)
    ranks = np.cumsum(counts) / max(counts.sum(), 1)
    pool.rank(everywhere, rows, itertools.repeat(edges), itertools.repeat(ranks), map_args=True)
    return float(inside * (RIGHT - LEFT) * (TOP - BOTTOM))


def draw(picture: np.ndarray, path: str) -> None:
    """Write the picture to a file, one pixel for each point."""
    from matplotlib import image

    image.imsave(path, picture**2, cmap="magma", origin="lower")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description="Paint the Mandelbrot set with all CPUs, in shared memory")
    parser.add_argument("--workers", type=int, default=None, help="default: one for each usable CPU")
    parser.add_argument("--height", type=int, default=800, help="rows of the picture (default: 800)")
    parser.add_argument("--iterations", type=int, default=1000, help="after which a point is inside (default: 1000)")
    parser.add_argument("--output", default=None, help="where the picture goes (default: no picture)")
    options = parser.parse_args(argv)

    width = round(options.height * (RIGHT - LEFT) / (TOP - BOTTOM))
    with (
        ProxyPool(Painter, worker_count=options.workers, init_args=(options.iterations,)) as pool,
        SharedArray.zeros((options.height, width), dtype=np.float32) as times,
    ):
        area = paint(pool, times, rows_at_once=8)
        painted = [worker.n_tasks for worker in pool.workers]
        picture = times.array  # outlives the shared array and the pool

    print(f"{len(painted)} workers painted {picture.shape[1]} x {picture.shape[0]} points, parts painted by each: {painted}")
    print(f"area of the set {area:.3f}, known to be 1.507")
    print(f"mean shade outside {picture[picture > 0].mean():.2f}")
    if options.output:
        draw(picture, options.output)
        print(f"picture: {options.output}")


if __name__ == "__main__":
    main()

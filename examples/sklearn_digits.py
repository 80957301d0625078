"""A classifier fitted once in each worker, which then reads batches of handwritten digits.

The constructor takes the time: it loads the 1797 images that ship with scikit-learn and fits a support vector machine
to half of them. The other half is sent through the pool in batches; whichever worker is free reads the next one. The
table shows which digit was taken for which.

    python examples/sklearn_digits.py
    python examples/sklearn_digits.py --batch-size 10 --output digits.png

It needs scikit-learn, and matplotlib for the figure (``pip install ".[examples]"``).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from objproxy import ProxyPool


class DigitReader:
    """A classifier of images of 8 x 8 pixels, fitted to the first half of the data set.

    Parameters
    ----------
    gamma : float
        Width of the kernel of the support vector machine.
    """

    def __init__(self, gamma: float) -> None:
        from sklearn.svm import SVC

        images, digits = load_half(first=True)
        self.n_fitted = len(images)
        self.n_read = 0
        self._model = SVC(gamma=gamma).fit(images, digits)

    def read(self, images: np.ndarray) -> np.ndarray:
        """Return the digits of the images, shape (n_images, 64)."""
        self.n_read += len(images)
        return self._model.predict(images)


def load_half(*, first: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return images, shape (n, 64), and digits, shape (n,), of one half of the data set."""
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    middle = len(images) // 2
    return (images[:middle], digits[:middle]) if first else (images[middle:], digits[middle:])


def print_confusion(confusion: np.ndarray) -> None:
    """Print how often each digit (row) was read as each other (column)."""
    print("\n digit   read as" + "".join(f"{digit:>4}" for digit in range(10)) + "   right")
    for digit, row in enumerate(confusion):
        cells = "".join(f"{count or '.':>4}" for count in row)
        print(f"{digit:>6}          {cells}   {row[digit] / row.sum():4.0%}")


def draw(confusion: np.ndarray, images: np.ndarray, digits: np.ndarray, answers: np.ndarray, path: str) -> None:
    """Draw the table of confusions, and the images that were read wrongly."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(10, 5), layout="constrained")
    left, right = figure.subfigures(1, 2)
    axes = left.subplots()
    axes.imshow(np.sqrt(confusion), cmap="Blues")
    for (row, column), count in np.ndenumerate(confusion):
        if count:
            colour = "white" if row == column else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour, size=9)
    axes.set(xlabel="read as", ylabel="digit", xticks=range(10), yticks=range(10))
    axes.set_title(f"{np.mean(digits == answers):.1%} of {len(digits)} images are read rightly")

    wrong = np.flatnonzero(digits != answers)[:24]
    right.suptitle("Read wrongly")
    for cell, index in zip(right.subplots(4, 6).flat, wrong, strict=False):
        cell.imshow(images[index].reshape(8, 8), cmap="gray_r")
        cell.set_title(f"{digits[index]} as {answers[index]}", size=8)
    for cell in right.axes:
        cell.axis("off")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description="Read handwritten digits with one classifier in each worker")
    parser.add_argument("--workers", type=int, default=None, help="default: one for each usable CPU")
    parser.add_argument("--batch-size", type=int, default=30, help="images in one item (default: 30)")
    parser.add_argument("--gamma", type=float, default=0.001, help="width of the kernel (default: 0.001)")
    parser.add_argument("--output", default=None, help="where a figure goes (default: no figure)")
    options = parser.parse_args(argv)

    images, digits = load_half(first=False)
    batches = [images[start : start + options.batch_size] for start in range(0, len(images), options.batch_size)]

    with ProxyPool(DigitReader, worker_count=options.workers, init_args=(options.gamma,)) as pool:
        print(f"{len(pool)} workers, each fitted to {pool[0].n_fitted} images")
        # The last batch is shorter, so the results are joined end to end instead of stacked.
        answers = pool.read(batches, map_args=True, stack_results=np.concatenate)
        print(f"images read by each: {', '.join(map(str, pool.n_read))}")

    confusion = np.zeros((10, 10), dtype=int)
    np.add.at(confusion, (digits, answers), 1)
    print(f"accuracy {np.mean(digits == answers):.1%} of {len(digits)} images")
    print_confusion(confusion)
    if options.output:
        draw(confusion, images, digits, answers, options.output)
        print(f"\nfigure: {options.output}")


if __name__ == "__main__":
    main()

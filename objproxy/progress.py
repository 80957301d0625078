"""Progress bars: one place from which every verb gets its bar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def check_progress_bar(wanted: Any) -> None:
    """Check that `wanted` says what bar there shall be."""
    if wanted is not None and not isinstance(wanted, (bool, dict)) and not callable(wanted):
        raise TypeError(
            f"progress_bar={wanted!r}: expected True, False, a dict of tqdm's options, or a function of (done, total)"
        )


class Progress:
    """Counts the items that are done and shows them, or does nothing.

    Parameters
    ----------
    wanted : bool, dict or callable
        False: nothing; True: a tqdm bar; a dict: a tqdm bar with these options; a callable: called with (done, total).
    total : int or None
        Number of items, if it is known.
    description : str
        Shown in front of the bar.
    """

    def __init__(self, wanted: Any, total: int | None, description: str) -> None:
        self.n_done = 0
        self._total = total
        self._callback: Callable[[int, int | None], Any] | None = None
        self._bar: Any = None
        if callable(wanted):
            self._callback = wanted
        elif isinstance(wanted, dict) or wanted is True:
            self._bar = _make_bar(
                {
                    "total": total,
                    "desc": description,
                    **({k: v for k, v in wanted.items() if k != "style"} if isinstance(wanted, dict) else {}),
                }
            )

    def update(self, n_items: int) -> None:
        """Note that `n_items` more are done."""
        self.n_done += n_items
        if self._bar is not None:
            self._bar.update(n_items)
        elif self._callback is not None:
            self._callback(self.n_done, self._total)

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


def _make_bar(options: dict[str, Any]) -> Any:
    from tqdm import tqdm  # who shows no bar never loads it

    return tqdm(**options)

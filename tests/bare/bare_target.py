"""A class whose module loads nothing but the standard library."""

from __future__ import annotations

import sys


class Bare:
    """Sees no array, and knows what is loaded."""

    def loaded(self, name: str) -> bool:
        return name in sys.modules

    def double(self, x: int) -> int:
        return 2 * x

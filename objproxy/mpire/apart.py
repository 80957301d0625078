"""Keep the items of a chunk apart that travels as one argument: one item shall not see what a function does to another."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

#: Values of these types never change.
_CONSTANT = frozenset({int, float, complex, bool, type(None), str, bytes})

#: What can change, and is looked into.
_CHANGING = frozenset({list, dict})
_KNOWN = _CONSTANT | _CHANGING | {tuple}


def split_if_shared(items: Sequence[Any]) -> Sequence[Sequence[Any]]:
    """Return a chunk whole if no two items can hold the same changing object, else each item alone.

    Parameters
    ----------
    items : sequence
        The chunk.
    """
    return [items] if len(items) < 2 or _share_nothing(items) else [[item] for item in items]


def _share_nothing(items: Sequence[Any]) -> bool:
    if not isinstance(items, (list, tuple)) or not _KNOWN.issuperset(map(type, items)):
        return False
    changing = [id(item) for item in items if type(item) in _CHANGING]
    return len(set(changing)) == len(changing) and _CONSTANT.issuperset(map(type, gc.get_referents(*items)))

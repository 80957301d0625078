"""Tell whether the items of a map could see each other's changes if they were pickled together.

One pickle keeps one object for all that refer to it. So two items of a chunk may travel in one pickle only if no object that
can change belongs to both. The check looks at a whole level of objects at a time, with calls that loop in C. It may say no
where the answer is yes; the items are then pickled one by one.
"""

from __future__ import annotations

import array
import builtins
import collections
import copyreg
import gc
import itertools
import sys
from collections.abc import Iterable, Sequence
from enum import EnumMeta
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from objproxy._worker.reducers import is_registered

#: Values of these types never change, and hold nothing.
PLAIN = frozenset({int, float, complex, bool, type(None), str, bytes})

#: The same, or shared wherever they go: code, modules, classes (`is_atom`), and these.
_ATOMS = frozenset(
    {
        *(FunctionType, BuiltinFunctionType, ModuleType, range, slice, type(Ellipsis), type(NotImplemented)),
        getattr(builtins, "sentinel", range),  # since Python 3.15
    }
)

#: Other types whose values never change, by their modules, which are not loaded for this.
_ATOMS_OF_MODULES = {
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "decimal": ("Decimal",),
    "fractions": ("Fraction",),
    "pathlib": ("PosixPath", "PurePosixPath"),
    "uuid": ("UUID",),
}

#: Containers that never change, but what is in them may.
_FROZEN = frozenset({tuple, frozenset})

#: What can change, and holds nothing but what the garbage collector sees.
_CONTAINERS = frozenset(
    {list, dict, set, collections.deque, collections.defaultdict, collections.OrderedDict, bytearray, array.array}
)

#: Those with a length.
_SIZED = _FROZEN | _CONTAINERS

#: How deep the check looks, and at how many objects of a level for each item; past that, pickling one by one costs less.
_MAX_DEPTH = 5
_MAX_PARTS = 16

#: What stands for something that is shared on purpose has this attribute, on its class.
SHARED_MARK = "_objproxy_is_shared"

#: Types that stand for something shared on purpose.
shared_types: set[type] = set()


def is_immutable(value: Any) -> bool:
    """Return whether `value` can be given to any number of items: nothing in it can change."""
    level: Iterable[Any] = (value,)
    for _ in range(_MAX_DEPTH):
        kinds = _parts_of(set(map(type, level)))
        if kinds is None or not _FROZEN.issuperset(kinds):
            return False
        level = list(itertools.chain.from_iterable(part for part in level if type(part) in kinds))
        if not level:
            return True
    return False


def share_nothing(columns: Sequence[Sequence[Any]]) -> bool:
    """Return whether no two items of these columns can hold the same changing object.

    Parameters
    ----------
    columns : sequence of sequence
        For each argument its values, one for each item.
    """
    level = columns[0] if len(columns) == 1 else list(itertools.chain.from_iterable(columns))
    limit = _MAX_PARTS * len(level)
    seen: set[int] = set()
    for _ in range(_MAX_DEPTH):
        found = set(map(type, level))
        kinds = _parts_of(found)
        if kinds is None:
            return False
        if not kinds:
            return True
        if len(kinds) < len(found):
            level = [part for part in level if type(part) in kinds]
        if not _FROZEN.issuperset(kinds) and not _are_new(level, seen):
            return False
        if (_SIZED.issuperset(kinds) and sum(map(len, level)) > limit) or _holds_objects(level, kinds):
            return False
        level = gc.get_referents(*level)
        if len(level) > 2 * limit:
            return False
    return False


def _parts_of(kinds: set[type]) -> set[type] | None:
    """Return those types whose values have to be looked into; None if there is one that cannot be."""
    rest = {kind for kind in kinds - PLAIN if not is_atom(kind)}
    return rest if all(map(_can_be_looked_into, rest)) else None


def is_atom(kind: type) -> bool:
    """Return whether objects of this type, which is none of `PLAIN`, never change, or are shared on purpose."""
    if kind in _ATOMS or kind in shared_types or issubclass(kind, (type, EnumMeta)) or isinstance(kind, EnumMeta):
        return True
    if kind.__name__ in _ATOMS_OF_MODULES.get(kind.__module__.partition(".")[0], ()):
        return kind is getattr(sys.modules[kind.__module__], kind.__name__, None)
    if hasattr(kind, SHARED_MARK):
        return True
    numpy: Any = sys.modules.get("numpy")
    return numpy is not None and issubclass(kind, numpy.generic) and not issubclass(kind, (numpy.void, numpy.object_))


def _can_be_looked_into(kind: type) -> bool:
    if kind in _CONTAINERS or kind in _FROZEN or kind is _array_type():
        return True
    return _is_pickled_as_usual(kind)


def _is_pickled_as_usual(kind: type) -> bool:
    """Return whether a pickle of an object of this class holds its attributes, and its parts, and nothing else."""
    usual: Any = object
    return (
        kind.__reduce_ex__ is usual.__reduce_ex__
        and kind.__reduce__ is usual.__reduce__
        and kind.__getstate__ is usual.__getstate__
        and (not hasattr(kind, "__getnewargs__") or hasattr(kind, "_fields"))  # a named tuple
        and not hasattr(kind, "__getnewargs_ex__")
        and bool(kind.__flags__ & _IS_HEAP_TYPE)
        and kind not in copyreg.dispatch_table
        and not is_registered(kind)
    )


#: Of the flags of a type: it was made by a ``class`` statement (or by few C extensions).
_IS_HEAP_TYPE = 1 << 9


def _are_new(level: Sequence[Any], seen: set[int]) -> bool:
    """Return whether all these objects differ, also from those before, and note them."""
    ids = set(map(id, level))
    if len(ids) < len(level) or not seen.isdisjoint(ids):
        return False
    seen |= ids
    return True


def _holds_objects(level: Sequence[Any], kinds: set[type]) -> bool:
    """Return whether an array holds Python objects, which the garbage collector does not see."""
    array_type = _array_type()
    return array_type in kinds and any(type(part) is array_type and part.dtype.hasobject for part in level)


def _array_type() -> Any:
    return getattr(sys.modules.get("numpy"), "ndarray", None)

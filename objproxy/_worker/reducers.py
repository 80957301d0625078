"""How objects of one type are pickled where the type's own way copies its memory: the registry, and what is known by itself.

::

    type of an object ── registered with `register_buffers`? ──> that function
                      ── of NumPy, PyTorch, polars, Pillow?   ──> `arrays`, `tensors`, `tables`, `images`
                      ── of `multiprocessing`?                ──> `heritage`
                      ── else                                 ──> its own way (``__reduce_ex__``, ``copyreg``)

A library is recognised by the module of the type, or of one of its bases. So nothing is imported: the library is there already.
A type is looked up once; a pickler then finds its reducer in a dict.
"""

from __future__ import annotations

import copyreg
import importlib
import operator
import pickle
import sys
import weakref
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Reduce = Callable[[Any], Any]
Share = Callable[[type, Reduce | None], Reduce | None]
_T = TypeVar("_T")

#: The module here that knows the types of a library, by the library's name.
_HOMES = {"PIL": "images", "multiprocessing": "heritage", "numpy": "arrays", "polars": "tables", "torch": "tensors"}

#: What `register_buffers` was given, in this process.
_registered: dict[type, Reduce] = {}

#: What the program has registered, in a worker: by module and qualified name of the type, pickled until the type is met.
_announced: dict[tuple[str, str], bytes] = {}

#: What was found for a type whose objects are pickled as usual, or not.
_known: weakref.WeakKeyDictionary[type, Reduce | None] = weakref.WeakKeyDictionary()

#: Pickle an object in its own way, without a step in Python.
_USUAL: Reduce = operator.methodcaller("__reduce_ex__", 5)


def register_buffers(kind: type[_T], reduce: Callable[[_T], Any]) -> None:
    """Have large memory of one type travel beside the pickle, in shared memory.

    Arrays, tensors, tables and images of common libraries do so without this; `docs/data.md` lists them. For another type say
    here what its memory is, as ``copyreg.pickle`` would for pickles with everything in them.

    Parameters
    ----------
    kind : type
        Objects of exactly this type, none of its subclasses.
    reduce : callable
        ``reduce(obj)`` returns what ``obj.__reduce_ex__(5)`` would: ``(make, args)``, or more as for `object.__reduce__`. Each
        large piece of memory in it is wrapped: ``pickle.PickleBuffer(memory)``. The worker, or the caller, calls
        ``make(*args)`` with an object that has the buffer protocol in place of each: writable if the memory was, its own copy,
        valid as long as something refers to it.

    Raises
    ------
    TypeError
        `kind` is no type, or a basic one (``str``, ``list`` …) that the pickler does not ask about; `reduce` cannot be called.

    Notes
    -----
    It holds for arguments, results and everything else that a pool sends. Registered before a pool is made, it holds in its
    workers too, for results: by the module that registers it, if workers import that, and else because a pool tells its
    workers. `reduce` then has to be picklable, by name or by value. Registering a type again replaces its function.

    References
    ----------
    PEP 574, "Pickle protocol 5 with out-of-band data".

    Examples
    --------
    >>> import pickle
    >>> from array import array
    >>> from objproxy import register_buffers
    >>> class Signal:
    ...     def __init__(self, samples):
    ...         self.samples = samples
    >>> def make_signal(memory):
    ...     return Signal(memoryview(memory).cast("d"))
    >>> register_buffers(Signal, lambda signal: (make_signal, (pickle.PickleBuffer(signal.samples),)))
    """
    if not isinstance(kind, type):
        raise TypeError(f"register_buffers({kind!r}, ...): expected a type")
    if kind in _BASIC or issubclass(kind, type):
        raise TypeError(
            f"register_buffers({kind.__name__}, ...): picklers have their own way for this type, and ask for no other"
        )
    if not callable(reduce):
        raise TypeError(f"register_buffers({kind.__name__}, {reduce!r}): expected a function of one object")
    _register(kind, reduce)


def _register(kind: type, reduce: Reduce) -> None:
    global _kept
    _registered[kind] = reduce
    _kept = None


#: Types that the pickler knows by itself.
_BASIC = frozenset(
    {bool, bytearray, bytes, dict, float, frozenset, int, list, set, str, tuple, type(None), type(...), type(NotImplemented)}
)


def announce(dumps: Callable[[Any], bytes]) -> dict[tuple[str, str], bytes]:
    """Return what is registered here, as a worker's `hear` takes it; `dumps` pickles one pair."""
    own = {(kind.__module__, kind.__qualname__): dumps((kind, reduce)) for kind, reduce in _registered.items()}
    return {**_announced, **own}


def hear(announced: dict[tuple[str, str], bytes]) -> None:
    """Take over what the program has registered. Nothing is unpickled, or imported, before an object of the type is met."""
    _announced.update(announced)
    _known.clear()


def is_registered(kind: type) -> bool:
    """Return whether objects of a type have a function of `register_buffers`."""
    return kind in _registered or bool(_announced and (kind.__module__, kind.__qualname__) in _announced)


class Reducers(dict[type, Reduce]):
    """The custom reducers, by exact type; `pickle.Pickler` takes it as its ``dispatch_table``.

    Parameters
    ----------
    special : dict
        Reducers that take part by all means.
    is_frozen : bool
        Whether arrays shall arrive read-only.
    usual : callable or None
        The reducer of a type that has none of its own; None raises KeyError, and the pickler does as usual itself.
    share : callable or None
        Takes a type and its reducer, if there is one, and returns the reducer to use: that of `shared_values`, where objects
        of the type cross once. None if no type does.
    """

    def __init__(
        self, special: Mapping[type, Reduce], *, is_frozen: bool, usual: Reduce | None = None, share: Share | None = None
    ) -> None:
        super().__init__({**special, **_registered})
        self.is_frozen = is_frozen
        self._usual = usual
        self._met: list[type] = []
        self._share = share
        if share is not None:
            self.update((kind, share(kind, reduce) or reduce) for kind, reduce in list(self.items()))

    @property
    def is_complete(self) -> bool:
        """Whether it is the table of a pickler that has no other."""
        return self._usual is not None

    def by_name(self) -> Reducers:
        """Return the table of a pickler that has no other."""
        return self.extended(copyreg.dispatch_table, usual=_USUAL)

    def extended(self, more: Mapping[type, Reduce], usual: Reduce | None = None) -> Reducers:
        """Return a table that has these reducers, too, where this one has none."""
        table = Reducers(more, is_frozen=self.is_frozen, usual=usual, share=self._share)
        table.update(self)
        return table

    def __missing__(self, kind: type) -> Reduce:
        reduce = find_reducer(kind, is_frozen=self.is_frozen) or self._usual
        if self._share is not None:
            reduce = self._share(kind, reduce)
        if reduce is None or issubclass(kind, type):  # a class: by its name
            raise KeyError(kind)
        self[kind] = reduce
        if kind.__flags__ & _IS_HEAP_TYPE:
            self._met.append(kind)
        return reduce

    def forget_classes(self) -> None:
        """Let go of the classes that were met: a table that is kept shall not keep them."""
        while self._met:
            self.pop(self._met.pop(), None)


#: Of the flags of a type: it was made by a ``class`` statement (or by few C extensions).
_IS_HEAP_TYPE = 1 << 9

#: The table of picklers that refer by name, and what `copyreg` had when it was made. Making it costs as much as a small pickle.
_kept: Reducers | None = None
_copyreg_then: dict[type, Any] = {}


def usual_reducers() -> Reducers:
    """Return the table of a pickler that refers to classes by their names; the same one as long as nothing is registered."""
    global _kept, _copyreg_then
    table = _kept
    if table is None or _copyreg_then != copyreg.dispatch_table:
        _copyreg_then = dict(copyreg.dispatch_table)
        of_arrays = array_reducer(is_frozen=False)
        special = {} if of_arrays is None else dict([of_arrays])
        table = _kept = Reducers(special, is_frozen=False).by_name()
    return table


def find_reducer(kind: type, *, is_frozen: bool) -> Reduce | None:
    """Return how objects of a type are reduced; None if in their own way."""
    if kind in _registered:
        return _registered[kind]
    if is_frozen:
        return _look_up(kind, is_frozen=True)
    try:
        return _known[kind]
    except KeyError:
        found = _known[kind] = _look_up(kind, is_frozen=False)
        return found


def _look_up(kind: type, *, is_frozen: bool) -> Reduce | None:
    pickled = _announced.get((kind.__module__, kind.__qualname__)) if _announced else None
    if pickled is not None:
        announced, reduce = pickle.loads(pickled)
        if announced is kind:
            _register(kind, reduce)
            return reduce  # type: ignore[no-any-return]
    if kind in copyreg.dispatch_table:
        return None
    for base in kind.__mro__:
        home = _HOMES.get(str(base.__module__).partition(".")[0])
        if home is not None:
            module: Any = importlib.import_module(f"objproxy._worker.{home}")
            found: Reduce | None = module.find_reducer(kind, is_frozen=is_frozen)
            return found
    return None


def array_reducer(*, is_frozen: bool) -> tuple[type, Reduce] | None:
    """Return the type of arrays and its reducer; None if NumPy is not loaded."""
    kind = getattr(sys.modules.get("numpy"), "ndarray", None)
    if kind is None:
        return None
    from objproxy._worker import arrays

    return kind, arrays.freeze_array if is_frozen else arrays.reduce_array

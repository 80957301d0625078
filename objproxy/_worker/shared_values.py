"""Objects that many results or arguments refer to (`register_shared`): each crosses once and is one object where it arrives.

::

    pickling a result in a worker                                 the caller
    -----------------------------                                 ----------
    meets an object of a registered type
      for the first time: packs it with the registered
      objects in it, as one group  ── SHARED frame ─────────────> arrived[base][number] = [object, ...]
      writes (base, number, index) in its place
    the result ── journal ── REPLY frame ───────────────────────> unpickling calls take(base, number, index)
    at the end of the message, if only this table
      holds an object ── UNSHARED frame ────────────────────────> del arrived[base][number]

A group is sent before the first result that refers to it exists. So results that a dead worker leaves in its journal can be
rebuilt: the caller reads the channel to its end first. It drops the groups of a worker when that is gone.

The picklers ask this module only if a type is registered.
"""

from __future__ import annotations

import copyreg
import functools
import itertools
import os
import pickle
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

__all__ = ["register_shared"]

Reduce = Callable[[Any], Any]

#: Most objects that are noted for one receiver. Beyond that all are forgotten, and sent anew when they are met again.
MAX_HELD = 64

#: Registered types by module and qualified name, so that a process knows a type without importing it. The value gives the
#: version of an object: a function, its pickle until it is first needed, or None.
registered: dict[tuple[str, str], Any] = {}

#: What workers have sent, by the base of their shared memory and the number of the group.
arrived: dict[int, dict[int, Any]] = {}

os.register_at_fork(after_in_child=arrived.clear)


def register_shared(kind: type, *, version: Callable[[Any], Any] | None = None) -> type:
    """Have objects of a type cross once for each worker, however many results refer to them.

    Results of one worker that refer to one object of this type refer to one object in the caller too. It is pickled when the
    first of them is returned. An object in arguments is sent once to each worker, in the same way.

    Parameters
    ----------
    kind : type
        The type; subclasses are included. Of a built-in type nothing can be registered.
    version : callable or None
        Takes an object and returns a value that compares equal as long as the object is the same for its receivers, for
        instance its length if it only grows. The object is sent anew when its version has changed. None: it is sent once, and
        later changes do not follow.

    Returns
    -------
    type
        `kind`, so that this can be used as a decorator.

    Raises
    ------
    TypeError
        `kind` is no type, or is built in; `version` cannot be called.

    Notes
    -----
    Without `version` you promise that results do not need what changes in the object after its first result. spaCy's vocab is
    an example: it grows, but each document brings the strings that it uses.

    Register in the module that defines or uses the type, or in the program before the pool is made. Workers that run
    already do not learn of it. On pools of threads, and on the serial one, results are passed by reference as ever.

    The caller holds an object until its worker has no other reference to it, or the worker is gone, or the pool is closed.
    What results refer to stays. Attributes that are read (``pool.name``), exceptions and snapshots hold copies of their own.

    Examples
    --------
    >>> import objproxy
    >>> class Vocab:
    ...     def __init__(self):
    ...         self.strings = ["a", "b"]
    >>> _ = objproxy.register_shared(Vocab, version=lambda vocab: len(vocab.strings))
    """
    if not isinstance(kind, type):
        raise TypeError(f"register_shared({kind!r}): expected a type")
    if kind.__module__ == "builtins":
        raise TypeError(f"register_shared({kind.__name__}): a built-in type cannot be registered; make a subclass of it")
    if version is not None and not callable(version):
        raise TypeError(f"version={version!r}: expected a function that takes an object and returns its version, or None")
    registered[_name(kind)] = version
    return kind


def _name(kind: type) -> tuple[str, str]:
    """Return the name of a type; a class that went by value has lost the names of what was around it."""
    goes_by_value = kind.__module__ == "__main__" or "<locals>" in kind.__qualname__
    return kind.__module__, kind.__name__ if goes_by_value else kind.__qualname__


def pack_registry(pack: Callable[[str, Any], bytes]) -> tuple[tuple[str, str, Any], ...]:
    """Return the registered types as they travel to a worker; `pack` pickles the version of the type with a name."""
    return tuple(
        (*name, version if version is None or type(version) is bytes else pack(name[1], version))
        for name, version in list(registered.items())
    )


def register_packed(packed: Iterable[tuple[str, str, Any]]) -> None:
    """Register, in a worker, the types that are registered in the caller."""
    for module, name, version in packed:
        registered[module, name] = version


def _find(kind: type) -> tuple[str, str] | None:
    """Return under which name a type, or a base of it, is registered; None if it is not."""
    return next((name for base in kind.__mro__ if (name := _name(base)) in registered), None)


def _version_of(name: tuple[str, str], value: Any) -> Any:
    version = registered[name]
    if type(version) is bytes:
        version = registered[name] = pickle.loads(version)
    return None if version is None else version(value)


class _Held(NamedTuple):
    """One object that a receiver has.

    Attributes
    ----------
    value, version : object
        The object, and its version when it was sent.
    group : Group
        With which it was sent.
    place : int
        Its place there.
    """

    value: Any
    version: Any
    group: Group
    place: int


def _count_references(held: _Held) -> int:
    return sys.getrefcount(held.value)


class Group:
    """Objects that were sent together, since the first refers to the others.

    Parameters
    ----------
    n_left : int
        How many of them the sender has noted.
    """

    def __init__(self, n_left: int) -> None:
        self.n_left = n_left

    def refer(self, index: int, packing: Any) -> tuple[Any, ...]:
        """Return how an object of the group looks in a pickle."""
        raise NotImplementedError


class Sharing:
    """Notes which objects a receiver has, and sends those that it lacks.

    Parameters
    ----------
    send : callable
        Takes a value and the `Packing` in which it was met, sends it with this sharing, and returns a function that makes a
        group of a number of objects.
    """

    def __init__(self, send: Callable[[Any, Any], Callable[[int], Group]]) -> None:
        self._send = send
        self._held: dict[int, _Held] = {}
        self._members: list[Any] | None = None  # of the group that is being written
        self._versions: dict[int, Any] = {}  # of these, by id

    def wrap_reducers(self, packing: Any) -> Callable[[type, Reduce | None], Reduce | None]:
        """Return what makes of the reducer of a type the one that is used: objects of registered types are reduced here."""

        def wrap(kind: type, reduce: Reduce | None) -> Reduce | None:
            name = _find(kind)
            if name is None:
                return reduce
            usual = reduce or copyreg.dispatch_table.get(kind) or _reduce_usual
            return functools.partial(self._reduce, packing, name, usual)

        return wrap

    def _reduce(self, packing: Any, name: tuple[str, str], usual: Reduce, value: Any) -> Any:
        key = id(value)
        if self._members is not None and key in self._versions:
            return usual(value)
        version = _version_of(name, value)
        held = self._held.get(key)
        if held is None or held.version != version:
            if self._members is not None:
                self._versions[key] = version
                self._members.append(value)
                return usual(value)
            held = self._ship(value, version, packing)
        return held.group.refer(held.place, packing)

    def _ship(self, value: Any, version: Any, packing: Any) -> _Held:
        """Send an object, and the registered objects in it that the receiver lacks."""
        self._members, self._versions = members, versions = [value], {id(value): version}
        try:
            # The list comes last: by then it holds all of them, and each is in the pickle already.
            make_group = self._send((value, members), packing)
        finally:
            self._members, self._versions = None, {}
        group = make_group(len(members))
        for index, member in enumerate(members):
            self._drop(id(member))
            self._held[id(member)] = _Held(member, versions[id(member)], group, index)
        return self._held[id(value)]

    def drop_unused(self) -> None:
        """Forget the objects to which nothing else in this process refers; all of them if there are too many."""
        is_full = len(self._held) > MAX_HELD
        for key, held in list(self._held.items()):
            if is_full or _count_references(held) <= _ONE_REFERENCE:
                self._drop(key)

    def drop_all(self) -> None:
        """Forget all objects."""
        for key in list(self._held):
            self._drop(key)

    def _drop(self, key: int) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            held.group.n_left -= 1
            if not held.group.n_left:
                self.on_unused(held.group)

    def on_unused(self, group: Group) -> None:
        """Take in that no object of a group is noted any more."""


#: Counted for an object to which one `_Held` refers.
_ONE_REFERENCE = _count_references(_Held(object(), None, Group(1), 0))


def _reduce_usual(value: Any) -> Any:
    return value.__reduce_ex__(5)


class SentGroup(Group):
    """Objects that a worker has sent to its caller.

    Parameters
    ----------
    base, number : int
        Whose group it is, and which.
    """

    def __init__(self, n_left: int, base: int, number: int) -> None:
        super().__init__(n_left)
        self._base = base
        self.number = number

    def refer(self, index: int, packing: Any) -> tuple[Any, ...]:
        """Return how an object of the group looks in a pickle."""
        return take, (self._base, self.number, index)


class ResultSharing(Sharing):
    """What the caller of a worker has.

    Parameters
    ----------
    base : int
        Of the worker's shared memory.
    send : callable
        Packs a value with this sharing and sends it under a number.
    """

    def __init__(self, base: int, send: Callable[[int, Any, Sharing], None]) -> None:
        super().__init__(self._send_numbered)
        self._base = base
        self._send_value = send
        self._numbers = itertools.count()
        self.unused: list[int] = []

    def _send_numbered(self, value: Any, _packing: Any) -> Callable[[int], Group]:
        number = next(self._numbers)
        self._send_value(number, value, self)
        return functools.partial(SentGroup, base=self._base, number=number)

    def on_unused(self, group: Group) -> None:
        """Note what the caller may drop; results on their way may refer to it still."""
        assert isinstance(group, SentGroup)
        self.unused.append(group.number)


class _Broken:
    """Stands for a group that cannot be rebuilt here."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def keep(base: int, number: int, load: Callable[[], Any]) -> None:
    """Take a group in; if it cannot be rebuilt, that is the error of each result that refers to it."""
    try:
        found: Any = load()[1]
    except BaseException as exc:
        found = _Broken(exc.with_traceback(None))
    arrived.setdefault(base, {})[number] = found


def take(base: int, number: int, index: int) -> Any:
    """Return an object that a worker has sent; this is how one looks in the pickle of a result."""
    found = arrived[base][number]
    if type(found) is _Broken:
        raise found.error.with_traceback(None)
    return found[index]


def drop(base: int, numbers: Iterable[int]) -> None:
    """Let go of groups to which no result will refer any more."""
    groups = arrived.get(base, {})
    for number in numbers:
        groups.pop(number, None)


def drop_all(base: int) -> None:
    """Let go of everything that a worker has sent: it is gone."""
    arrived.pop(base, None)

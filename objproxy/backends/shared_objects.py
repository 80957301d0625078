"""Objects that workers open once, however many calls name them: shared arrays, values that were put, and registered types.

An object of a registered type (`register_shared`) is packed when a call first names it. Each worker opens it once; the calls
send its number.
"""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Callable
from typing import Any

from objproxy._worker.arena import Arena
from objproxy._worker.items import pack_operation
from objproxy._worker.parcel import Packing, Parcel, pack
from objproxy._worker.plane import get_shared, get_shared_part
from objproxy._worker.shared_values import Group, Sharing
from objproxy._worker.waits import make_patient_lock
from objproxy._worker.wire import Operation
from objproxy.backends.plane import Lane

_keys = itertools.count(1)


class OpenedObject:
    """A shared object as the lanes to the workers see it (`backends.plane.SharedObject`).

    Parameters
    ----------
    kind : str
        How workers open it.
    about : object
        What opening it needs beside its memory.
    parcel : Parcel
        Its memory.
    """

    def __init__(self, kind: str, about: Any, parcel: Parcel) -> None:
        self.key = next(_keys)
        self.kind = kind
        self.about = about
        self.parcel = parcel
        self._lanes: weakref.WeakSet[Lane] = weakref.WeakSet()
        self._is_closed = False

    def is_opened_by(self, lane: Lane) -> None:
        """Note who has to be told when this is closed."""
        self._lanes.add(lane)
        if self._is_closed:  # by now: the call that named it was waiting for its worker
            lane.forget(self.key)

    def close(self) -> None:
        """Tell everybody who has it open."""
        self._is_closed = True
        for lane in list(self._lanes):
            lane.forget(self.key)

    @property
    def is_inherited(self) -> bool:
        """Whether its memory belongs to the parent of this forked process."""
        return any(extent.arena.segments.is_inherited for extent, _ in self.parcel.pieces)

    def reduce(self, packing: Packing) -> Any:
        """Return how it looks in a pickle."""
        packing.shared.append(self)
        return get_shared, (self.key,)

    def __del__(self) -> None:
        arenas = {extent.arena for extent, _ in self.parcel.pieces}
        self.parcel.pieces.clear()
        for arena in arenas:
            arena.trim_if_free()


class OpenedGroup(Group):
    """Objects of registered types that workers open together.

    Parameters
    ----------
    opened : OpenedObject
        How workers see them.
    needed : tuple
        Shared objects to which they refer, to be opened before.
    """

    def __init__(self, n_left: int, opened: OpenedObject, needed: tuple[Any, ...]) -> None:
        super().__init__(n_left)
        self.opened = opened
        self._needed = needed

    def refer(self, index: int, packing: Packing) -> tuple[Any, ...]:
        """Return how an object of the group looks in a pickle, and note what the receiver must have opened."""
        packing.shared.extend(shared for shared in (*self._needed, self.opened) if shared not in packing.shared)
        return get_shared_part, (self.opened.key, index)


class ArgumentSharing(Sharing):
    """What the workers of a pool have, or can open.

    Parameters
    ----------
    arena : Arena or None
        Where large buffers go.
    """

    def __init__(self, arena: Arena | None) -> None:
        super().__init__(self._open)
        self._arena = arena
        self._lock = make_patient_lock()  # guards the tables while arguments are pickled, which is the user's code

    def pack(self, operation: Operation) -> bytes | Parcel:
        """Pickle the arguments of a call."""
        with self._lock:
            return pack_operation(operation, self._arena, self)

    def _open(self, value: Any, _packing: Packing) -> Callable[[int], Group]:
        self.drop_unused()
        packed = pack(value, self._arena, sharing=self)
        parcel = Parcel(packed, []) if isinstance(packed, bytes) else packed
        opened = OpenedObject("group", parcel.stream, parcel)
        return functools.partial(OpenedGroup, opened=opened, needed=parcel.shared)

    def on_unused(self, group: Group) -> None:
        """Have workers let go of a group; calls that were made before still get it."""
        assert isinstance(group, OpenedGroup)
        group.opened.close()

    def close(self) -> None:
        """Let go of every object."""
        with self._lock:
            self.drop_all()

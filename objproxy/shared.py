"""Arrays that several processes write, and values that are shipped once.

Both are *shared objects*: a call that names one sends a number, and a worker opens what stands behind it once, however many
calls name it. Everything else about memory between processes is in `backends.plane` and `_worker.parcel`; ordinary arrays need
nothing of this.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, cast

from objproxy._worker import parcel as parcels
from objproxy._worker.arena import map_shared
from objproxy._worker.loans import BESIDE, Borrower, Part
from objproxy._worker.mutable import shared_types
from objproxy._worker.parcel import Packing, Parcel
from objproxy._worker.segments import Mapping, Segments
from objproxy.array_operations import ArrayOperations
from objproxy.backends.plane import program_plane
from objproxy.backends.shared_objects import OpenedObject

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    Shape = SupportsIndex | Sequence[SupportsIndex]


class SharedArray(ArrayOperations):
    """An array in shared memory, which the methods of all instances read and write.

    In a call it stands for itself: a worker's method gets a plain ``ndarray``, also where the shared array is an item of a map
    or lies deep in a container, and what the method writes is seen by everybody at once. There is no lock: let each call write
    a part of its own.

    In the caller it is used as an array is: ``shared[0]``, ``shared[1:3] = 5``, ``shared + 1``, ``shared.sum()``,
    ``np.add(shared, 1, out=shared)``. An index gives a view, which is shared too; arithmetic gives ordinary arrays.

    Parameters
    ----------
    array : array_like
        Is copied, with its shape, dtype and order (C or Fortran); any dtype without Python objects, any number of dimensions,
        size 0 too.

    Raises
    ------
    TypeError
        The dtype holds Python objects, or the array is masked.
    SharedMemoryFullError
        There is not enough memory.

    Notes
    -----
    A view (``array``, or what a worker's object has kept) keeps the memory alive: reading it after `close`, or after the pool
    is gone, is safe. The memory is given back when the last view is gone, in whatever process. When a worker dies, what it had
    written stays.

    On a pool of threads, and on the serial one, methods get the very same array.

    Examples
    --------
    >>> import itertools
    >>> from objproxy import ProxyPool, SharedArray
    >>> class Filler:
    ...     def fill(self, array, row):
    ...         array[row] = row
    >>> with ProxyPool(Filler, worker_count=2) as pool, SharedArray.zeros((4, 3)) as shared:
    ...     _ = pool.fill(itertools.repeat(shared), range(4), map_args=True)
    ...     total = shared.array.sum()
    >>> float(total)
    18.0
    """

    _objproxy_is_shared = True  # every item of a map may have it

    def __init__(self, array: ArrayLike) -> None:
        import numpy as np

        if isinstance(array, np.ma.MaskedArray):
            raise TypeError(
                "a masked array cannot be shared; share its data and its mask: SharedArray(a.data), SharedArray(a.mask)"
            )
        source = np.asarray(array)
        is_fortran = source.flags.f_contiguous and not source.flags.c_contiguous
        self._allocate(source.shape, source.dtype, "F" if is_fortran else "C")
        self._array[...] = source

    @classmethod
    def empty(cls, shape: Shape, dtype: DTypeLike = float, order: Literal["C", "F"] = "C") -> SharedArray:
        """Make an array whose values are whatever the memory holds.

        Parameters
        ----------
        shape : int or sequence of int
            Its shape.
        dtype : dtype
            Without Python objects; float by default.
        order : {'C', 'F'}
            Which index runs fastest in memory.
        """
        import numpy as np

        if order not in ("C", "F"):
            raise ValueError(f"order={order!r}: expected 'C' or 'F'")
        # Let NumPy check both, without memory: a broadcast array has one element.
        checked = np.broadcast_to(np.empty((), dtype), cast(Any, shape))
        made = cls.__new__(cls)
        made._allocate(checked.shape, checked.dtype, order)
        return made

    @classmethod
    def zeros(cls, shape: Shape, dtype: DTypeLike = float, order: Literal["C", "F"] = "C") -> SharedArray:
        """Make an array of zeros; see `empty`."""
        import numpy as np

        made = cls.empty(shape, dtype, order)
        if not made._is_fresh:
            made._array[...] = np.zeros((), made.dtype)  # of dates, dtype.type() is NaT; of records there is none
        return made

    @classmethod
    def full(
        cls, shape: Shape, fill_value: ArrayLike, dtype: DTypeLike | None = None, order: Literal["C", "F"] = "C"
    ) -> SharedArray:
        """Make an array of one value; without a dtype, with that of the value. See `empty`."""
        import numpy as np

        made = cls.empty(shape, np.asarray(fill_value).dtype if dtype is None else dtype, order)
        made._array[...] = fill_value
        return made

    def _allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any], order: Literal["C", "F"]) -> None:
        import numpy as np

        _register(type(self), SharedArray._opened)

        if dtype.hasobject:
            raise TypeError(
                f"an array of dtype {dtype} holds Python objects, which live in one process and cannot be shared; "
                "give it a dtype of numbers, dates or fixed-width text, or pass the objects as ordinary arguments"
            )
        nbytes = dtype.itemsize * functools.reduce(lambda product, n: product * n, shape, 1)
        plane = program_plane()
        extent = plane.arena.take(max(1, nbytes), is_mapped=False)
        memory = map_shared(plane.segments, extent.block.offset, extent.nbytes, is_full=True)
        memory.on_gone = _Hold(extent)
        self._is_fresh = extent.is_fresh
        self._array: Any = np.ndarray(shape, dtype, memory, order=order)
        self._about = dtype, shape
        self._shared: OpenedObject | None = OpenedObject("array", (dtype, shape, order), Parcel(b"", [(extent, BESIDE)]))
        self._key = self._shared.key
        self._end = weakref.finalize(self, self._shared.close)
        self._end.atexit = False

    @property
    def array(self) -> NDArray[Any]:
        """The array itself, in this process; the same one every time.

        Raises
        ------
        ValueError
            The shared array is closed.
        """
        return self._opened()

    def _opened(self) -> NDArray[Any]:
        if self._array is None:
            raise ValueError("this shared array is closed; keep a view (shared.array) to read it later")
        array: NDArray[Any] = self._array
        return array

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        shape: tuple[int, ...] = self._about[1]
        return shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its dtype."""
        dtype: np.dtype[Any] = self._about[0]
        return dtype

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return self.dtype.itemsize * functools.reduce(lambda product, n: product * n, self.shape, 1)

    @property
    def is_closed(self) -> bool:
        """Whether it is closed."""
        return self._array is None

    def close(self) -> None:
        """Let go of the memory; views stay readable, and it goes with the last of them. Closing twice is harmless."""
        if self._array is not None:
            self._array = None
            self._end()
            self._shared = None  # calls that were made before still hold it

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the array, without a copy where none is asked for."""
        array = self.array
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ValueError(f"an array of dtype {array.dtype} cannot become one of dtype {dtype} without a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __enter__(self) -> SharedArray:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = ", closed" if self.is_closed else ""
        return f"<{type(self).__name__} of shape {self.shape}, dtype {self.dtype}{state}>"

    def __reduce__(self) -> Any:
        raise TypeError(
            f"a {type(self).__name__} travels only in calls of a pool, which shares it; "
            "to store it, or to send it elsewhere, pickle its .array"
        )


class _Hold:
    """Keeps the memory of a mapping from being used again, as long as the mapping is there."""

    __slots__ = ("_extent",)

    def __init__(self, extent: Any) -> None:
        self._extent = extent

    def __call__(self) -> None:
        """Let go."""
        arena = self._extent.arena
        del self._extent
        arena.trim_if_free()


class SharedValue:
    """A value that was shipped once; in a call it stands for what it was made of. `ProxyPool.put` makes it.

    Attributes
    ----------
    nbytes : int
        Bytes that were shipped.

    Notes
    -----
    A worker rebuilds the value when a call first names it, and gives the same object to all calls. Arrays in it are read-only.
    Lists, dicts and objects of other classes are not protected: a method that changes them changes what later calls on that
    worker see. A worker that is replaced opens the value again. The memory is given back when the handle is closed or gone, and
    no worker uses it any more.
    """

    def __init__(self, value: Any, *, beside: bool) -> None:
        _register(SharedValue, lambda shared: shared._value())
        packed = parcels.pack(value, program_plane().arena if beside else None, is_frozen=True)
        parcel = Parcel(packed, []) if isinstance(packed, bytes) else packed
        if parcel.shared:
            raise TypeError("a value that holds a SharedArray cannot be put: pass the SharedArray itself, it is shared already")
        self.nbytes = len(parcel.stream) + sum(extent.nbytes for extent, _ in parcel.pieces)
        self._shared: OpenedObject | None = OpenedObject("value", parcel.stream, parcel)
        self._local: list[Any] = []
        self._end = weakref.finalize(self, self._shared.close)
        self._end.atexit = False

    def close(self) -> None:
        """Let go of the value; calls that were made before still get it. Closing twice is harmless."""
        self._local.clear()
        self._end()
        self._shared = None

    @property
    def is_closed(self) -> bool:
        """Whether it is closed."""
        return self._shared is None

    def _value(self) -> Any:
        """Return the value, for a pool whose objects live in this process."""
        if self._shared is None:
            raise ValueError("this value is closed; put it again")
        if not self._local:
            parcel = self._shared.parcel
            parts = [Part(extent.block.offset, extent.nbytes, position, 0, False) for extent, position in parcel.pieces]
            self._local.append(
                parcels.freeze(parcels.unpack(parcel.stream, parts, _OwnMemory(program_plane().segments, parcel)))
            )
        return self._local[0]

    def __enter__(self) -> SharedValue:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        # Without a comma: MPIRE's face takes what is behind the first one.
        return f"<SharedValue of {self.nbytes} bytes{' (closed)' if self.is_closed else ''}>"

    def __reduce__(self) -> Any:
        raise TypeError("what pool.put() returns travels only in calls of a pool; to store it, pickle the value itself")


class _OwnMemory(Borrower):
    """Opens segments of this very process, which need no loan."""

    def __init__(self, segments: Segments, parcel: Parcel) -> None:
        self._segments = segments
        self._pieces = list(parcel.pieces)

    def map(self, part: Part, *, is_shared: bool) -> Mapping:
        """Map a part; the mapping keeps the memory."""
        mapping = self._segments.map(part.offset, part.nbytes, is_shared=is_shared)
        mapping.on_gone = self._pieces.copy().clear
        return mapping

    def give_back(self, slot: int) -> None:
        """Do nothing."""


def _reduce(value: Any, packing: Packing) -> Any:
    if value.is_closed:
        raise ValueError(f"{value!r} cannot be sent any more")
    if value._shared.is_inherited:
        raise ValueError(f"{value!r} belongs to the process that this one was forked from, and cannot be sent from here")
    return value._shared.reduce(packing)


def _register(kind: type, resolve: Callable[[Any], Any]) -> None:
    """Have picklers, and pools in the caller's memory, look for objects of this kind; before the first they need not."""
    parcels.reducers[kind] = _reduce
    shared_types.add(kind)
    parcels.resolvers[kind] = resolve

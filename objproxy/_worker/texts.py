"""Large ``str``, ``bytes`` and ``bytearray`` beside the pickle.

A pickler has its own way for these types and asks no reducer. Its way copies text twice, into memory that is fresh each time,
and fresh pages cost more than the copy. So they are looked for before, in containers, and pickled first, as what has a buffer:

::

    prelude: (Large(text), ...)  ── the pickler's memo: "text is what this was" ──>  the value, with a reference for each text

What the look does not find goes the pickler's way; that is slower and gives the same.

The other side allocates the object and asks for huge pages before it copies: 64 MB in 25 ms instead of 70.
"""

from __future__ import annotations

import ctypes
import gc
import pickle
import sys
from collections.abc import Callable
from typing import Any

#: A smaller one stays in the pickle.
LARGE_MIN = 1 << 17

#: How deep the look goes, and at how many objects of one level.
_MAX_DEPTH = 6
_MAX_PARTS = 1024

_TYPES = frozenset({str, bytes, bytearray})
_CONTAINERS = frozenset({list, tuple, dict})

#: Encodings of text that is not ASCII. Both keep each character or refuse; UTF-8 is slower to read than these.
_ENCODINGS = ("latin-1", "utf-16-le")

_HUGE = 1 << 21
_ADVISE_HUGE = 14  # a request of madvise


def find_large(value: Any) -> list[Any]:
    """Return the large texts and byte strings in a value, each once. This runs once for each pickle, and most hold little."""
    if type(value) not in _CONTAINERS:
        return [value] if type(value) in _TYPES and len(value) >= LARGE_MIN else []
    found: dict[int, Any] = {}
    containers = [value]
    for _ in range(_MAX_DEPTH):
        level = gc.get_referents(*containers)
        if len(level) > _MAX_PARTS:
            break
        containers = []
        for part in level:
            kind = type(part)
            if kind in _TYPES:
                if len(part) >= LARGE_MIN:
                    found[id(part)] = part
            elif kind in _CONTAINERS:
                containers.append(part)
        if not containers:
            break
    return list(found.values()) if found else []


def write_first(pickler: Any, written: list[Any], values: list[Any]) -> None:
    """Pickle large values before anything else, so that what `pickler` writes next refers to them.

    Parameters
    ----------
    pickler : pickle.Pickler
        Has written nothing.
    written : list
        Where its pieces go.
    values : list
        What `find_large` has found.
    """
    large = [stand_in for value in values if (stand_in := _stand_in(value)) is not None]
    if not large:
        return
    pickler.dump(tuple(large))
    written[-1] = written[-1][:-1] + pickle.POP  # go on, instead of stopping: one pickle holds both
    memo = pickler.memo.copy()
    for stand_in in large:
        number, _ = memo.pop(id(stand_in))
        memo[id(stand_in.value)] = number, stand_in.value
    pickler.memo = memo


class Large:
    """Stands for a large value in the prelude.

    Parameters
    ----------
    value : str, bytes or bytearray
        The value.
    make : callable
        Makes it of its memory, and `args`.
    memory : object
        Has a buffer.
    args : tuple
        More for `make`.
    """

    __slots__ = ("_args", "_make", "_memory", "value")

    def __init__(self, value: Any, make: Callable[..., Any], memory: Any, *args: Any) -> None:
        self.value = value
        self._make = make
        self._memory = memory
        self._args = args

    def __reduce_ex__(self, _protocol: Any) -> Any:
        return self._make, (pickle.PickleBuffer(self._memory), *self._args)


def _stand_in(value: Any) -> Large | None:
    """Return what stands for a value; None if it has to go the pickler's way."""
    if type(value) is bytes:
        return Large(value, make_bytes, value)
    if type(value) is bytearray:
        return Large(value, make_bytearray, value)
    if value.isascii():
        return Large(value, make_ascii, _memory_of_ascii(value))
    for encoding in _ENCODINGS:
        try:
            return Large(value, _make_text, value.encode(encoding), encoding)
        except UnicodeEncodeError:
            continue
    return None  # it holds surrogates


def _memory_of_ascii(text: str) -> Any:
    """Return the characters of a text, without a copy where Python is CPython."""
    address = _address_of_text(text)
    return text.encode() if address is None else (ctypes.c_char * len(text)).from_address(address)


def _make_text(memory: Any, encoding: str) -> str:
    return str(memory, encoding)


def make_ascii(memory: Any) -> str:
    """Return the text with these characters."""
    nbytes = memoryview(memory).nbytes
    if _functions is None:
        return str(memory, "ascii")
    text: str = _functions.PyUnicode_New(nbytes, 127)
    _fill(_address_of_text(text), memory, nbytes)
    return text


def make_bytes(memory: Any) -> bytes:
    """Return a copy of a buffer as ``bytes``."""
    nbytes = memoryview(memory).nbytes
    if _functions is None:
        return bytes(memory)
    made: bytes = _functions.PyBytes_FromStringAndSize(None, nbytes)
    _fill(_functions.PyBytes_AsString(made), memory, nbytes)
    return made


def make_bytearray(memory: Any) -> bytearray:
    """Return a copy of a buffer as a ``bytearray``."""
    nbytes = memoryview(memory).nbytes
    if _functions is None:
        return bytearray(memory)
    made: bytearray = _functions.PyByteArray_FromStringAndSize(None, nbytes)
    _fill(_functions.PyByteArray_AsString(made), memory, nbytes)
    return made


def _fill(address: int | None, memory: Any, nbytes: int) -> None:
    """Fill the fresh memory of an object that only this function has seen."""
    assert address is not None
    assert _functions is not None
    start, stop = -(-address // _HUGE) * _HUGE, (address + nbytes) // _HUGE * _HUGE
    if stop > start and _madvise is not None:
        _madvise(start, stop - start, _ADVISE_HUGE)  # where it is refused, pages are small
    target = memoryview((ctypes.c_char * nbytes).from_address(address)).cast("B")
    target[:] = memoryview(memory).cast("B")


def _address_of_text(text: str) -> int | None:
    """Return where the characters of an ASCII text are; None if Python is no CPython."""
    if _functions is None:
        return None
    address: int = _functions.PyUnicode_AsUTF8AndSize(text, None)  # of ASCII this is no copy
    return address


def _find_functions() -> Any:
    """Return the functions of CPython that allocate objects without filling them; None elsewhere."""
    if sys.implementation.name != "cpython":
        return None
    functions: Any = ctypes.PyDLL(None)  # of its own, so that others' types of the same functions stay
    size, made, address = ctypes.c_ssize_t, ctypes.py_object, ctypes.c_void_p
    types = {
        "PyUnicode_New": (made, [size, ctypes.c_uint32]),
        "PyUnicode_AsUTF8AndSize": (address, [ctypes.py_object, ctypes.c_void_p]),
        "PyBytes_FromStringAndSize": (made, [ctypes.c_void_p, size]),
        "PyBytes_AsString": (address, [ctypes.py_object]),
        "PyByteArray_FromStringAndSize": (made, [ctypes.c_void_p, size]),
        "PyByteArray_AsString": (address, [ctypes.py_object]),
    }
    for name, (result, arguments) in types.items():
        function = getattr(functions, name, None)
        if function is None:
            return None
        function.restype, function.argtypes = result, arguments
    return functions


def _find_madvise() -> Any:
    if sys.platform != "linux":
        return None
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return madvise


_functions = _find_functions()
_madvise = _find_madvise()

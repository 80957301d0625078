"""The Arrow C data interface: read where the memory of a table is, and make a table of memory that lies elsewhere.

References
----------
https://arrow.apache.org/docs/format/CDataInterface.html, CStreamInterface.html, CDataInterface/PyCapsuleInterface.html
"""

from __future__ import annotations

import ctypes
import pickle
import struct
from collections.abc import Iterator, Sequence
from ctypes import POINTER, c_char_p, c_int, c_int64, c_void_p
from typing import Any, NamedTuple


class UnknownLayoutError(Exception):
    """A type whose buffers are not known here."""


class _Schema(ctypes.Structure):
    pass


class _Array(ctypes.Structure):
    pass


class _Stream(ctypes.Structure):
    pass


_Schema._fields_ = [
    ("format", c_char_p),
    ("name", c_char_p),
    ("metadata", c_void_p),
    ("flags", c_int64),
    ("n_children", c_int64),
    ("children", POINTER(POINTER(_Schema))),
    ("dictionary", POINTER(_Schema)),
    ("release", c_void_p),
    ("private_data", c_void_p),
]
_Array._fields_ = [
    ("length", c_int64),
    ("null_count", c_int64),
    ("offset", c_int64),
    ("n_buffers", c_int64),
    ("n_children", c_int64),
    ("buffers", POINTER(c_void_p)),
    ("children", POINTER(POINTER(_Array))),
    ("dictionary", POINTER(_Array)),
    ("release", c_void_p),
    ("private_data", c_void_p),
]
_GET = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p)
_ERROR = ctypes.CFUNCTYPE(c_void_p, c_void_p)
_RELEASE = ctypes.CFUNCTYPE(None, c_void_p)
_Stream._fields_ = [
    ("get_schema", c_void_p),
    ("get_next", c_void_p),
    ("get_last_error", c_void_p),
    ("release", c_void_p),
    ("private_data", c_void_p),
]

_capsules = ctypes.PyDLL(None)
_capsules.PyCapsule_GetPointer.restype = c_void_p
_capsules.PyCapsule_GetPointer.argtypes = [ctypes.py_object, c_char_p]
_capsules.PyCapsule_New.restype = ctypes.py_object
_capsules.PyCapsule_New.argtypes = [c_void_p, c_char_p, c_void_p]

_STREAM = b"arrow_array_stream"


class SchemaParts(NamedTuple):
    """A schema, as it travels."""

    format: bytes
    name: bytes | None
    metadata: bytes | None
    flags: int
    children: tuple[SchemaParts, ...]
    dictionary: SchemaParts | None


class ArrayParts(NamedTuple):
    """An array, as it travels; a buffer is None where there is none."""

    length: int
    null_count: int
    offset: int
    buffers: tuple[Any, ...]
    children: tuple[ArrayParts, ...]
    dictionary: ArrayParts | None


# ---- reading ---------------------------------------------------------------------------------------------------------------


def describe(table: Any) -> tuple[SchemaParts, list[ArrayParts], int]:
    """Return the schema of a table, its batches, whose buffers are `pickle.PickleBuffer`, and the bytes in these.

    Raises
    ------
    UnknownLayoutError
        A type is not known here, or the table cannot be read.
    """
    capsule = table.__arrow_c_stream__()
    stream = ctypes.cast(_capsules.PyCapsule_GetPointer(capsule, _STREAM), POINTER(_Stream)).contents
    found = _Schema()
    _check(_GET(stream.get_schema)(ctypes.addressof(stream), ctypes.addressof(found)))
    try:
        schema = _read_schema(found)
    finally:
        _release(found)
    reader = _Reader()
    return schema, list(_read_batches(stream, schema, reader)), reader.nbytes


def _read_batches(stream: Any, schema: SchemaParts, reader: _Reader) -> Iterator[ArrayParts]:
    while True:
        array = _Array()
        _check(_GET(stream.get_next)(ctypes.addressof(stream), ctypes.addressof(array)))
        if not array.release:
            return
        yield reader.read(array, schema, _Owner(array))


def _check(status: int) -> None:
    if status:
        raise UnknownLayoutError(f"the table cannot be read: error {status}")


def _release(structure: Any) -> None:
    if structure.release:
        _RELEASE(structure.release)(ctypes.addressof(structure))


def _read_schema(schema: Any) -> SchemaParts:
    children = tuple(_read_schema(schema.children[at].contents) for at in range(schema.n_children))
    dictionary = _read_schema(schema.dictionary.contents) if schema.dictionary else None
    return SchemaParts(schema.format, schema.name, _read_metadata(schema.metadata), schema.flags, children, dictionary)


def _read_metadata(address: int | None) -> bytes | None:
    """Return metadata: a number of pairs, and each text with its length before it."""
    if not address:
        return None
    at = address
    (n_pairs,) = struct.unpack("=i", ctypes.string_at(at, 4))
    at += 4
    for _ in range(2 * n_pairs):
        (nbytes,) = struct.unpack("=i", ctypes.string_at(at, 4))
        at += 4 + nbytes
    return ctypes.string_at(address, at - address)


class _Owner:
    """Keeps the memory of an array until it is gone itself."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __del__(self) -> None:
        _release(self._array)


#: Bytes of an element, by the format.
_WIDTHS = {
    **dict.fromkeys(("c", "C"), 1),
    **dict.fromkeys(("s", "S", "e"), 2),
    **dict.fromkeys(("i", "I", "f", "tdD", "tts", "ttm", "tiM"), 4),
    **dict.fromkeys(("l", "L", "g", "tdm", "ttu", "ttn", "tDs", "tDm", "tDu", "tDn", "tiD"), 8),
    "tin": 16,
}
_NO_BUFFERS, _ONLY_VALIDITY = ("n",), ("+s",)


class _Reader:
    """Finds the buffers of arrays, and counts their bytes."""

    def __init__(self) -> None:
        self.nbytes = 0

    def read(self, array: Any, schema: SchemaParts, owner: _Owner) -> ArrayParts:
        """Return an array of a schema as it travels."""
        layout = schema.format.decode()
        dictionary = None
        if schema.dictionary is not None:
            dictionary = self.read(array.dictionary.contents, schema.dictionary, owner)
        children = tuple(self.read(array.children[at].contents, child, owner) for at, child in enumerate(schema.children))
        buffers = tuple(self._buffer(array.buffers[at], nbytes, owner) for at, nbytes in enumerate(_sizes(array, layout)))
        return ArrayParts(array.length, array.null_count, array.offset, buffers, children, dictionary)

    def _buffer(self, address: int | None, nbytes: int, owner: _Owner) -> Any:
        if not address:
            return None
        self.nbytes += nbytes
        memory = (ctypes.c_char * nbytes).from_address(address)
        memory.owner = owner  # type: ignore[attr-defined]
        return pickle.PickleBuffer(memory)


def _sizes(array: Any, layout: str) -> list[int]:
    """Return the bytes of each buffer of an array; how many there are depends on its format."""
    if layout in _NO_BUFFERS:
        return []
    n_elements = array.offset + array.length
    validity = (n_elements + 7) // 8
    if layout in _ONLY_VALIDITY or layout.startswith("+w:"):
        return [validity]
    if layout == "b":
        return [validity, validity]
    if layout in ("vu", "vz"):
        return _sizes_of_views(array, n_elements, validity)
    if layout in ("u", "z", "+l", "+m", "U", "Z", "+L"):
        return _sizes_with_offsets(array, layout, n_elements, validity)
    width = _width(layout)
    if width is None:
        raise UnknownLayoutError(layout)
    return [validity, width * n_elements]


def _width(layout: str) -> int | None:
    """Return the bytes of an element of a plain array."""
    if layout.startswith("ts"):  # a time stamp; its zone follows
        return 8
    kind, _, about = layout.partition(":")
    if kind == "w":
        return int(about)
    if kind == "d":  # precision, scale and, if not 128, bits
        numbers = about.split(",")
        return (int(numbers[2]) if len(numbers) > 2 else 128) // 8
    return _WIDTHS.get(layout)


def _sizes_with_offsets(array: Any, layout: str, n_elements: int, validity: int) -> list[int]:
    width = 8 if layout in ("U", "Z", "+L") else 4
    sizes = [validity, width * (n_elements + 1) if array.buffers[1] else 0]
    if layout.startswith("+"):
        return sizes
    last = ctypes.string_at(array.buffers[1] + width * n_elements, width) if array.buffers[1] else b""
    return [*sizes, int.from_bytes(last, "little")]


def _sizes_of_views(array: Any, n_elements: int, validity: int) -> list[int]:
    """Return the sizes for text in pieces: validity, views, any number of pieces, and the sizes of these."""
    n_pieces = array.n_buffers - 3
    pieces = [
        int.from_bytes(ctypes.string_at(array.buffers[array.n_buffers - 1] + 8 * at, 8), "little") for at in range(n_pieces)
    ]
    return [validity, 16 * n_elements, *pieces, 8 * n_pieces]


# ---- making ----------------------------------------------------------------------------------------------------------------

#: What foreign code has been given, by number: structures, and the memory that they point to. It is kept until released.
_given: dict[int, Any] = {}


class Stream:
    """A table as a library of Arrow tables takes it; once.

    Parameters
    ----------
    schema : SchemaParts
        Of the whole.
    batches : sequence of ArrayParts
        The rows; each buffer is any object with a buffer.
    """

    def __init__(self, schema: SchemaParts, batches: Sequence[ArrayParts]) -> None:
        self._schema = schema
        self._batches = list(reversed(batches))

    def __arrow_c_stream__(self, requested_schema: object = None) -> Any:
        """Return the capsule of a stream."""
        stream = _Stream()
        get_schema, get_next = _GET(self._get_schema), _GET(self._get_next)
        stream.get_schema, stream.get_next = _address(get_schema), _address(get_next)
        stream.get_last_error, stream.release = _address(_no_error), _address(_end_stream)
        _keep(stream, stream, get_schema, get_next)
        return _capsules.PyCapsule_New(ctypes.addressof(stream), _STREAM, None)

    def _get_schema(self, _stream: int, target: int) -> int:
        _fill_schema(_Schema.from_address(target), self._schema)
        return 0

    def _get_next(self, _stream: int, target: int) -> int:
        array = _Array.from_address(target)
        if self._batches:
            _fill_array(array, self._batches.pop())
        else:
            array.release = None
        return 0


def _address(function: Any) -> Any:
    return ctypes.cast(function, c_void_p).value


def _fill_schema(schema: Any, parts: SchemaParts) -> None:
    """Write a schema where it is wanted; what it points to is kept under a number until it is released."""
    children = [_Schema() for _ in parts.children]
    for child, its_parts in zip(children, parts.children, strict=True):
        _fill_schema(child, its_parts)
    schema.format, schema.name, schema.flags = parts.format, parts.name, parts.flags
    metadata = None if parts.metadata is None else ctypes.create_string_buffer(parts.metadata, len(parts.metadata))
    schema.metadata = None if metadata is None else ctypes.addressof(metadata)
    dictionary = None
    if parts.dictionary is not None:
        dictionary = _Schema()
        _fill_schema(dictionary, parts.dictionary)
    _finish(schema, _Schema, children, dictionary, (parts, metadata), _end_schema)


def _fill_array(array: Any, parts: ArrayParts) -> None:
    children = [_Array() for _ in parts.children]
    for child, its_parts in zip(children, parts.children, strict=True):
        _fill_array(child, its_parts)
    views = [None if buffer is None else _Memory(buffer) for buffer in parts.buffers]
    buffers = (c_void_p * max(1, len(views)))(*[None if view is None else view.address for view in views])
    array.length, array.null_count, array.offset = parts.length, parts.null_count, parts.offset
    array.n_buffers, array.buffers = len(views), ctypes.cast(buffers, POINTER(c_void_p))
    dictionary = None
    if parts.dictionary is not None:
        dictionary = _Array()
        _fill_array(dictionary, parts.dictionary)
    _finish(array, _Array, children, dictionary, (views, buffers), _end_array)


class _Memory:
    """The address of a buffer, read-only or not, and what keeps it."""

    def __init__(self, buffer: Any) -> None:
        import numpy as np

        self._array = np.frombuffer(buffer, np.uint8) if memoryview(buffer).nbytes else np.empty(1, np.uint8)
        self.address = self._array.ctypes.data


def _finish(structure: Any, kind: Any, children: list[Any], dictionary: Any, kept: Any, end: Any) -> None:
    """Give a structure its children, and the function that ends it."""
    pointers = (POINTER(kind) * max(1, len(children)))(*map(ctypes.pointer, children))
    structure.n_children, structure.children = len(children), ctypes.cast(pointers, POINTER(POINTER(kind)))
    if dictionary is not None:
        structure.dictionary = ctypes.pointer(dictionary)
    structure.release = _address(end)
    _keep(structure, children, dictionary, pointers, kept)


def _keep(structure: Any, *kept: Any) -> None:
    """Keep objects until a structure is released; it may be moved before, so its own address does not tell which it is."""
    key = ctypes.create_string_buffer(1)  # its address is a number that nothing else has while it is kept
    structure.private_data = ctypes.addressof(key)
    _given[ctypes.addressof(key)] = key, kept


def _end(structure: Any) -> None:
    """Release a structure, and those children that nobody has taken over."""
    _, kept = _given.pop(structure.private_data)
    structure.release = None
    children, dictionary = kept[:2]
    for part in (*children, *(() if dictionary is None else (dictionary,))):
        _release(part)


@_RELEASE  # type: ignore[untyped-decorator]
def _end_schema(address: int) -> None:
    _end(_Schema.from_address(address))


@_RELEASE  # type: ignore[untyped-decorator]
def _end_array(address: int) -> None:
    _end(_Array.from_address(address))


@_RELEASE  # type: ignore[untyped-decorator]
def _end_stream(address: int) -> None:
    stream = _Stream.from_address(address)
    _given.pop(stream.private_data)
    stream.release = None


@_ERROR  # type: ignore[untyped-decorator]
def _no_error(_address: int) -> None:
    return None

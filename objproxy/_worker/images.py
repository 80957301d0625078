"""Pickle Pillow's images with their pixels beside the pickle.

An image is pickled by its state, for which `tobytes` makes the pixels, in pieces that are then joined. Here they are written
into one piece of memory, as they lie in the image: four bytes for a pixel of RGB. On the other side an image of most modes lies
in that memory, and is copied when it is first written, as by `PIL.Image.frombuffer`; the pixels of palettes are copied once.
"""

from __future__ import annotations

import pickle
import sys
from typing import Any

from objproxy._worker.reducers import Reduce

#: How pixels of a mode lie in an image, and their bytes.
_RAW_MODES = {
    "L": ("L", 1),
    "P": ("P", 1),
    "RGB": ("RGBX", 4),
    "RGBA": ("RGBA", 4),
    "CMYK": ("CMYK", 4),
    "I": ("I", 4),
    "F": ("F", 4),
    "I;16": ("I;16", 2),
}

#: Modes whose images can lie in foreign memory.
_MAPPED = ("L", "RGB", "RGBA", "CMYK", "I", "F", "I;16")

#: Below this the own way is as fast.
_LARGE_MIN = 1 << 16

#: Bytes that the encoder writes at a time: they stay in the processor's cache.
_PIECE = 1 << 17

_TINY = (1, 1)


def find_reducer(kind: type, *, is_frozen: bool) -> Reduce | None:
    """Return how images are reduced; None if in their own way."""
    usual: Any = object
    image = getattr(sys.modules.get("PIL.Image"), "Image", None)
    if image is None or not issubclass(kind, image):
        return None
    is_usual = kind.__reduce_ex__ is usual.__reduce_ex__ and kind.__reduce__ is usual.__reduce__
    return _reduce_image if is_usual and hasattr(kind, "__getstate__") and hasattr(kind, "__setstate__") else None


def _reduce_image(image: Any) -> Any:
    if image.mode not in _RAW_MODES or image.width * image.height * _RAW_MODES[image.mode][1] < _LARGE_MIN:
        return image.__reduce_ex__(5)
    image.load()
    kind: Any = type(image)
    twin = kind.__new__(kind)
    vars(twin).update(vars(image))
    twin.tobytes = bytes  # the state without the pixels
    state = twin.__getstate__()
    if type(state) is not list or len(state) < 5 or state[1:3] != [image.mode, image.size] or state[4] != b"":
        return image.__reduce_ex__(5)
    return _make, (kind,), (state, pickle.PickleBuffer(_pixels(image))), None, None, _set_state


def _make(kind: Any) -> Any:
    return kind.__new__(kind)


def _pixels(image: Any) -> Any:
    """Return the pixels in one piece of memory."""
    import numpy as np  # whose memory has huge pages

    raw_mode, width = _RAW_MODES[image.mode]
    memory = np.empty(image.width * image.height * width, np.uint8)
    encoder = sys.modules["PIL.Image"]._getencoder(image.mode, "raw", (raw_mode,))
    encoder.setimage(image.im, (0, 0, *image.size))
    at, status, view = 0, 0, memory.data
    while not status:
        _, status, piece = encoder.encode(max(_PIECE, 4 * image.width))
        view[at : at + len(piece)] = piece
        at += len(piece)
    if status < 0 or at != len(view):
        raise OSError(f"Pillow could not write the pixels of an image of mode {image.mode}: error {status}")
    return memory


def _set_state(image: Any, about: tuple[list[Any], Any]) -> None:
    """Give an image its state, and its pixels in place of those that are not in it."""
    state, memory = about
    _, mode, size, palette, *_ = state
    is_mapped = mode in _MAPPED and not palette
    take = _lie_in if is_mapped else _copy_from
    image.frombytes = lambda _nothing: take(image, size, mode, memory)
    if is_mapped:
        state[2] = _TINY  # no memory is needed
    image.__setstate__(state)
    vars(image).pop("frombytes", None)


def _lie_in(image: Any, size: tuple[int, int], mode: str, memory: Any) -> None:
    from PIL import Image

    pillow: Any = Image
    image.im = pillow.core.map_buffer(memory, size, "raw", 0, (mode, 0, 1))
    image._size = size
    image.readonly = 1


def _copy_from(image: Any, _size: tuple[int, int], mode: str, memory: Any) -> None:
    type(image).frombytes(image, memory, "raw", (_RAW_MODES[mode][0], 0, 1))

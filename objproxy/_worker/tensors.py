"""Pickle PyTorch's tensors with their memory beside the pickle.

A tensor's own way of being pickled ends at its storage, of which `torch.save` makes several copies. So tensors of every kind
(quantized, sparse, parameters, views with strides, subclasses) keep their own way, and storages in the memory of the processor
are reduced here. A tensor that is a part of a larger storage takes only its own elements along.
"""

from __future__ import annotations

import sys
from typing import Any

from objproxy._worker.reducers import Reduce


def find_reducer(kind: type, *, is_frozen: bool) -> Reduce | None:
    """Return how tensors and storages are reduced; None if in their own way. Tensors cannot be read-only."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return None
    if kind is getattr(torch, "Tensor", None):
        return _reduce_tensor
    if kind is getattr(torch, "UntypedStorage", None):
        return _reduce_untyped
    return _reduce_typed if kind is getattr(torch, "TypedStorage", None) else None


def _reduce_tensor(tensor: Any) -> Any:
    """Reduce a tensor in its own way, without the rest of the storage of which it is a part."""
    if not _is_part(tensor):
        return tensor.__reduce_ex__(5)
    make, args, *rest = tensor.__reduce_ex__(5)
    whole, _offset, size, _stride, *others = args
    own = tensor.detach().clone(memory_format=sys.modules["torch"].contiguous_format)
    return make, (_typed(own.untyped_storage(), whole.dtype), 0, size, own.stride(), *others), *rest


def _is_part(tensor: Any) -> bool:
    """Return whether a plain tensor has fewer elements than its storage."""
    torch: Any = sys.modules["torch"]
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor._backward_hooks:
        return False
    if torch._utils._get_obj_state(tensor) or tensor.is_neg() or tensor.is_conj():
        return False
    return bool(tensor.numel() * tensor.element_size() < tensor.untyped_storage().nbytes())


def _reduce_typed(storage: Any) -> Any:
    memory = _memory_of(storage._untyped_storage)
    return storage.__reduce_ex__(5) if memory is None else (_rebuild_typed, (memory, storage.dtype))


def _reduce_untyped(storage: Any) -> Any:
    memory = _memory_of(storage)
    return storage.__reduce_ex__(5) if memory is None else (_rebuild_untyped, (memory,))


def _memory_of(storage: Any) -> Any:
    """Return an array of the bytes of a storage; None if they are on another device, or there are none."""
    torch: Any = sys.modules["torch"]
    if storage.device.type != "cpu" or not storage.nbytes():
        return None
    try:
        return torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
    except RuntimeError:  # PyTorch was built for another NumPy, or without it
        return None


def _rebuild_typed(memory: Any, dtype: Any) -> Any:
    return _typed(_rebuild_untyped(memory), dtype)


def _typed(storage: Any, dtype: Any) -> Any:
    return sys.modules["torch"].TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)


def _rebuild_untyped(memory: Any) -> Any:
    """Return a storage that lies in the memory of an array, and keeps it."""
    import torch

    return torch.from_numpy(memory).untyped_storage()

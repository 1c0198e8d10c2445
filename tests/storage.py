"""How many bytes tensors really hold."""

from __future__ import annotations

from itertools import chain

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def held_bytes(module: torch.nn.Module) -> int:
    """Bytes of all parameters and buffers; of a quantized one, those of the tensors inside it."""
    return sum(_bytes(tensor) for tensor in chain(module.parameters(), module.buffers()))


def _bytes(tensor: torch.Tensor) -> int:
    if not is_traceable_wrapper_subclass(tensor):
        return tensor.untyped_storage().nbytes()
    names, _ = tensor.__tensor_flatten__()
    return sum(_bytes(getattr(tensor, name)) for name in names)

"""Has a module on the device for a while: one that only some jobs need."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch

from services.runtime.placement import place


@contextmanager
def borrowed(module: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> Iterator[torch.nn.Module]:
    """A copy of `module` on `device`, placed as `place` does it; its memory is free again afterwards.

    The copy begins with the very tensors of `module`, which may be a mapped file, and `module` itself stays
    as it is. So what `place` need not change takes no memory of its own: on the CPU in the stored data type,
    all but the weights that weight norm is folded into.
    """
    copied = copy.deepcopy(module, _shared_tensors(module))
    place(copied, device, dtype)
    try:
        yield copied
    finally:
        # Whoever still holds the copy holds no memory with it.
        for part in copied.modules():
            part._parameters.clear()
            part._buffers.clear()


def _shared_tensors(module: torch.nn.Module) -> dict[int, Any]:
    """What a deep copy takes for each tensor, by the identity of the tensor: itself, or its data.

    A parameter gets an object of its own, because `place` changes parameters in place.
    """
    shared: dict[int, Any] = {}
    for part in module.modules():
        for tensor in chain(part._parameters.values(), part._buffers.values(), vars(part).values()):
            if isinstance(tensor, torch.nn.Parameter):
                shared[id(tensor)] = torch.nn.Parameter(tensor.data, tensor.requires_grad)
            elif isinstance(tensor, torch.Tensor):
                shared[id(tensor)] = tensor
    return shared

"""Weights of 8 bits in the order that oneDNN's products of integers want.

oneDNN puts them there at half a gigabyte a second, which takes longer than all else that waking a stage does.
On a CPU with AMX the order is known, and copying is as fast as memory.
"""

from __future__ import annotations

import ctypes

import torch

from services.runtime.cpu_features import has_feature

_BLOCK = 64
"""Outputs, and inputs, of a block."""
_TOGETHER = 4
"""Inputs of an output that lie side by side: those that one instruction adds up."""

_PRIME = 251
"""Numbers that repeat after so many have no two blocks alike, so they tell one order from another."""

_firsts: dict[torch.Size, torch.Tensor | None] = {}
"""By shape, the first weight as oneDNN packed it; None where its order is another one."""


def pack(values: torch.Tensor) -> torch.Tensor:
    """[outputs, inputs] int8, as `onednn.qlinear_pointwise` takes it for inputs whose zero point is 0.

    What oneDNN makes of a weight of the same shape shows whether its order is the one that is known here.
    Where it is not, oneDNN packs all of them.
    """
    first = _firsts.get(values.shape)
    if first is None:
        packed: torch.Tensor = torch.ops.onednn.qlinear_prepack(values, None)
        if values.shape not in _firsts:
            _firsts[values.shape] = packed if _is_order_known(values.shape) else None
        return packed
    # Behind the weights there is what other zero points would subtract, which stays that of the first one.
    packed = first.clone()
    _weights(packed, values).copy_(_blocks(values))
    return packed


def _is_order_known(shape: torch.Size) -> bool:
    if not has_feature("amx_int8") or shape[0] % _BLOCK or shape[1] % _BLOCK:
        return False
    numbers = torch.arange(shape.numel(), dtype=torch.int32).remainder_(_PRIME).sub_(_PRIME // 2)
    values = numbers.to(torch.int8).view(shape)
    packed = torch.ops.onednn.qlinear_prepack(values, None)
    is_large_enough = int(torch.ops.mkldnn._nbytes(packed)) >= values.numel()
    return is_large_enough and torch.equal(_weights(packed, values), _blocks(values))


def _blocks(values: torch.Tensor) -> torch.Tensor:
    """`values` as [blocks of outputs, blocks of inputs, inputs, outputs], an int32 for `_TOGETHER` inputs."""
    outputs, inputs = values.shape
    together = values.view(torch.int32)
    blocks = together.view(outputs // _BLOCK, _BLOCK, inputs // _BLOCK, _BLOCK // _TOGETHER)
    return blocks.permute(0, 2, 3, 1)


def _weights(packed: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The weights in the memory of `packed`, of the shape of `_blocks`; torch itself does not look there."""
    memory = (ctypes.c_char * values.numel()).from_address(int(torch.ops.mkldnn.data_ptr(packed)))
    return torch.frombuffer(memory, dtype=torch.int32).view(_blocks(values).shape)

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

_known: dict[torch.Size, torch.Tensor | None] = {}
"""By shape, oneDNN's own result for the first weight; None where its order is another one."""


def pack(values: torch.Tensor) -> torch.Tensor:
    """[outputs, inputs] int8, as `onednn.qlinear_pointwise` takes it for inputs whose zero point is 0.

    The first weight of every shape is packed by oneDNN, and shows whether its order is the one that is known
    here. Where it is not, oneDNN packs all of them.
    """
    known = _known.get(values.shape)
    if known is None:
        packed: torch.Tensor = torch.ops.onednn.qlinear_prepack(values, None)
        if values.shape not in _known:
            _known[values.shape] = packed if _is_known_order(packed, values) else None
        return packed
    # Behind the weights there is what other zero points would subtract, which stays that of the first one.
    packed = known.clone()
    _weights(packed, values).copy_(_blocks(values))
    return packed


def _is_known_order(packed: torch.Tensor, values: torch.Tensor) -> bool:
    if not has_feature("amx_int8"):
        return False
    if values.shape[0] % _BLOCK or values.shape[1] % _BLOCK or _byte_count(packed) < values.numel():
        return False
    return torch.equal(_weights(packed, values), _blocks(values))


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


def _byte_count(packed: torch.Tensor) -> int:
    return int(torch.ops.mkldnn._nbytes(packed))

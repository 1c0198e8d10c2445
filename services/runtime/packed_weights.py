"""Weights of 8 bits in the order that oneDNN's products of integers want.

oneDNN puts them there at half a gigabyte a second, which takes longer than all else that waking a stage does.
With AMX or AVX-512 the order is known, and copying is as fast as memory.
"""

from __future__ import annotations

import ctypes

import torch

_BLOCK = 64
"""Outputs, and inputs, of a block."""
_TOGETHER = 4
"""Inputs of an output that lie side by side: those that one instruction adds up."""

_PRIME = 251
"""Numbers that repeat after so many have no two blocks alike, so they tell one order from another."""

_firsts: dict[torch.Size, torch.Tensor | None] = {}
"""By shape, the first weight as oneDNN packed it; None where its order is another one."""


def pack(values: torch.Tensor) -> torch.Tensor:
    """[outputs, inputs] int8, as `onednn.qlinear_pointwise` takes it.

    What oneDNN makes of a weight of the same shape shows whether its order is the one that is known here.
    Where it is not, oneDNN packs all of them.
    """
    first = _firsts.get(values.shape)
    if first is None:
        packed: torch.Tensor = torch.ops.onednn.qlinear_prepack(values, None)
        if values.shape not in _firsts:
            _firsts[values.shape] = packed if _is_order_known(values.shape) else None
        return packed
    packed = first.clone()
    weights, corrections = _parts(packed, values)
    weights.copy_(_blocks(values))
    corrections.copy_(_corrections(values))
    return packed


def _is_order_known(shape: torch.Size) -> bool:
    if shape[0] % _BLOCK or shape[1] % _BLOCK:
        return False
    numbers = torch.arange(shape.numel(), dtype=torch.int32).remainder_(_PRIME).sub_(_PRIME // 2)
    values = numbers.to(torch.int8).view(shape)
    packed = torch.ops.onednn.qlinear_prepack(values, None)
    if _byte_count(packed) != 4 * sum(_part_counts(values)):
        return False
    weights, corrections = _parts(packed, values)
    return torch.equal(weights, _blocks(values)) and torch.equal(corrections, _corrections(values))


def _blocks(values: torch.Tensor) -> torch.Tensor:
    """`values` as [blocks of outputs, inputs, outputs], an int32 for `_TOGETHER` inputs."""
    return values.view(torch.int32).view(len(values) // _BLOCK, _BLOCK, -1).transpose(1, 2)


def _corrections(values: torch.Tensor) -> torch.Tensor:
    """[outputs], int32: what is added to a product for each unit of the input's zero point."""
    # Many times as fast as a sum of 8-bit integers.
    return -torch._int_mm(values.new_ones(1, values.shape[1]), values.t())[0]


def _parts(packed: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights in `packed`, of the shape of `_blocks`, and behind them their corrections.

    They are its memory, where torch itself does not look, and valid while it lives.
    """
    counts = _part_counts(values)
    assert _byte_count(packed) == 4 * sum(counts), f"{_byte_count(packed)} bytes for {counts} numbers"
    memory = (ctypes.c_int32 * sum(counts)).from_address(int(torch.ops.mkldnn.data_ptr(packed)))
    weights, corrections = torch.split(torch.frombuffer(memory, dtype=torch.int32), counts)
    return weights.view(_blocks(values).shape), corrections


def _part_counts(values: torch.Tensor) -> list[int]:
    """How many int32 the packed weights are, and how many their corrections."""
    return [values.numel() // _TOGETHER, len(values)]


def _byte_count(packed: torch.Tensor) -> int:
    return int(torch.ops.mkldnn._nbytes(packed))

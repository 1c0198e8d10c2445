"""Rows of activations to 8 bits and back, as kernels."""

from __future__ import annotations

import torch

from services.runtime.kernels.kernel import kernel

_STEPS = 127.0
_LEAST_SCALE = 1e-30
"""Of a row that is zero everywhere."""


@kernel("rows width")
def quantize_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[rows, width] as int8, and the float32 scale of each row, [rows, 1]."""
    rows = rows.to(torch.float32)
    # All of it within the maximum, with nothing between that and its use: the compiler then keeps a row in
    # the cache between the two, instead of going through all rows twice.
    scale = (rows.abs() * (1 / _STEPS)).clamp(min=_LEAST_SCALE).amax(dim=-1, keepdim=True)
    return (rows * scale.reciprocal()).round().to(torch.int8), scale


@kernel("rows width, rows 1 float32")
def scale_rows(rows: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Multiplies each row by its scale, in float32."""
    return (rows.to(torch.float32) * scale).to(rows.dtype)


@kernel("rows width, rows width, rows 1 float32")
def gated_silu_in_8_bits(
    gate: torch.Tensor, up: torch.Tensor, scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """silu(gate) * up of a feed-forward layer, as `quantize_rows` has it.

    Args:
        gate: [rows, width], each row still to be multiplied by its scale.
        up: as `gate`.
        scale: [rows, 1].
    """
    gate, up = gate.float() * scale, up.float() * scale
    quantized: tuple[torch.Tensor, torch.Tensor] = quantize_rows.function(torch.nn.functional.silu(gate) * up)
    return quantized


KERNELS = (quantize_rows, scale_rows, gated_silu_in_8_bits)

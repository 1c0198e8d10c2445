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
    largest = rows.abs().amax(dim=-1, keepdim=True).to(torch.float32)
    scale = (largest / _STEPS).clamp(min=_LEAST_SCALE)
    return (rows.to(torch.float32) / scale).round().to(torch.int8), scale


@kernel("rows width, rows 1 float32")
def scale_rows(rows: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Multiplies each row by its scale, in float32."""
    return (rows.to(torch.float32) * scale).to(rows.dtype)


KERNELS = (quantize_rows, scale_rows)

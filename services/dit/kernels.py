"""What the transformer computes between its matrix products, as kernels.

They round where the classes of diffusers round. Rows are tokens of all items together.
"""

from __future__ import annotations

import torch

from services.runtime.integer_products import is_supported
from services.runtime.kernels import int8
from services.runtime.kernels.kernel import Kernel, kernel

NORM_EPSILON = 1e-6
"""Of every norm of every published model."""


def _normed(states: torch.Tensor, weight: torch.Tensor, dimensions: tuple[int, ...]) -> torch.Tensor:
    """`RMSNorm` of diffusers."""
    variance = states.to(torch.float32).pow(2).mean(dimensions, keepdim=True)
    return (states * torch.rsqrt(variance + NORM_EPSILON)).to(weight.dtype) * weight


@kernel("rows width, width, width, width")
def norm_modulate(
    rows: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
) -> torch.Tensor:
    """The norm of [rows, width], scaled and shifted by what the timestep says."""
    return _normed(rows, weight, (-1,)) * (1 + scale) + shift


@kernel("rows width, rows width, width, width, width, width")
def add_norm_modulate(
    rows: torch.Tensor,
    update: torch.Tensor,
    gate: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of `rows` and the gated `update` of a branch, and its `norm_modulate` for the next branch."""
    total = rows + update * gate
    return total, _normed(total, weight, (-1,)) * (1 + scale) + shift


@kernel("rows heads 2 half, 2 half, rows half, rows half")
def norm_rotate(
    heads: torch.Tensor, weight: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor
) -> torch.Tensor:
    """Norms each head of a query or a key, and turns it by its position.

    Args:
        heads: [rows, heads, 2, half]: the first half of a head is turned against the second one.
        weight: [2, half].
        cosine: [rows, half].
        sine: as `cosine`.
    """
    first, second = _normed(heads, weight, (-2, -1)).float().unbind(2)
    cosine, sine = cosine[:, None], sine[:, None]
    turned = torch.stack([first * cosine - second * sine, second * cosine + first * sine], dim=2)
    return turned.to(heads.dtype)


@kernel("rows width, rows width")
def gated_silu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """What a feed-forward layer puts into its last product."""
    return torch.nn.functional.silu(gate) * up


KERNELS = (norm_modulate, add_norm_modulate, norm_rotate, gated_silu)


def kernels_for(device: torch.device, dtype: torch.dtype) -> tuple[Kernel, ...]:
    """Those that a pass on `device` in `dtype` takes, however the weights are held."""
    return (*KERNELS, *int8.KERNELS) if is_supported(device, dtype) else KERNELS

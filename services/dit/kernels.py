"""What the transformer computes between its matrix products, as kernels.

They round where the classes of diffusers round. Rows are tokens of all items together.
"""

from __future__ import annotations

import torch

from services.dit import native_attention
from services.runtime.kernels import int8_activations
from services.runtime.kernels.kernel import AnyKernel, kernel
from services.runtime.weights.integer_products import is_supported

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
    turned = first * cosine - second * sine, second * cosine + first * sine
    # Stacked as they stay: the other way round, a compiled kernel writes them in float32 first.
    return torch.stack([half.to(heads.dtype) for half in turned], dim=2)


@kernel("rows width, rows width, rows 1 float32, width, width, width, width")
def add_scaled_norm_modulate(
    rows: torch.Tensor,
    update: torch.Tensor,
    update_scale: torch.Tensor,
    gate: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`add_norm_modulate` of an update whose rows are still to be multiplied by `update_scale`."""
    update = _scaled(update, update_scale)
    result: tuple[torch.Tensor, torch.Tensor] = add_norm_modulate.function(
        rows, update, gate, weight, scale, shift
    )
    return result


@kernel("rows heads 2 half, rows 1 float32, 2 half, rows half, rows half")
def scaled_norm_rotate(
    heads: torch.Tensor,
    heads_scale: torch.Tensor,
    weight: torch.Tensor,
    cosine: torch.Tensor,
    sine: torch.Tensor,
) -> torch.Tensor:
    """`norm_rotate` of heads whose rows are still to be multiplied by `heads_scale`."""
    heads = _scaled(heads, heads_scale[:, :, None, None])
    result: torch.Tensor = norm_rotate.function(heads, weight, cosine, sine)
    return result


@kernel("rows heads width, rows 1 float32, width")
def scaled_norm(heads: torch.Tensor, heads_scale: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The norm of each head of rows that are still to be multiplied by `heads_scale`."""
    return _normed(_scaled(heads, heads_scale[:, :, None]), weight, (-1,))


def _scaled(states: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (states.to(torch.float32) * scale).to(states.dtype)


@kernel("rows width, rows width")
def gated_silu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """What a feed-forward layer puts into its last product."""
    return torch.nn.functional.silu(gate) * up


KERNELS = (norm_modulate, add_norm_modulate, norm_rotate, gated_silu)

AFTER_INTEGERS = (add_scaled_norm_modulate, scaled_norm_rotate, scaled_norm)
"""Those that follow a product of integers."""


def kernels_for(device: torch.device, dtype: torch.dtype) -> tuple[AnyKernel, ...]:
    """Those that a pass on `device` in `dtype` takes, however the weights are held: all, or none of them."""
    integers = (*AFTER_INTEGERS, *int8_activations.KERNELS) if is_supported(device, dtype) else ()
    attention = (native_attention.KERNEL,) if native_attention.is_supported(device, dtype) else ()
    return (*KERNELS, *integers, *attention)

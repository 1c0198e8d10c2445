"""What the VAE computes between its convolutions, as kernels."""

from __future__ import annotations

import torch

from services.runtime.kernels.kernel import kernel


@kernel("rows width, width, width")
def snake(rows: torch.Tensor, alpha: torch.Tensor, inverse_beta: torch.Tensor) -> torch.Tensor:
    """x + sin(alpha x)^2 / beta, the activation of `Snake1d`, for [rows, width]."""
    return rows + inverse_beta * torch.sin(alpha * rows).pow(2)


@kernel("rows width, rows width, width, width")
def add_snake(
    rows: torch.Tensor, update: torch.Tensor, alpha: torch.Tensor, inverse_beta: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of `rows` and `update`, and its `snake`."""
    total = rows + update
    return total, total + inverse_beta * torch.sin(alpha * total).pow(2)


KERNELS = (snake, add_snake)

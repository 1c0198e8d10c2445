"""What kernels are tried with."""

from __future__ import annotations

import torch

from services.runtime.kernels.kernel import Kernel

LENGTHS = {"rows": 37, "width": 24, "heads": 3, "half": 8}
"""None that a compiler takes for usual."""


def inputs(
    kernel: Kernel, dtype: torch.dtype = torch.float32, device: str = "cpu", **lengths: int
) -> list[torch.Tensor]:
    """Random arguments, the same for the same lengths; `lengths` stand in for some of `LENGTHS`."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for argument in kernel.arguments:
        shape = [(LENGTHS | lengths)[d] if isinstance(d, str) else d for d in argument.dimensions]
        found.append(torch.randn(shape, generator=generator).to(device, argument.dtype or dtype))
    return found


def results(computed: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """What a kernel returned, where it may be one or several."""
    return (computed,) if isinstance(computed, torch.Tensor) else computed

"""How far a result is from the one that it should be."""

from __future__ import annotations

import torch


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """The L2 norm of the difference, in parts of that of `exact`."""
    found, exact = found.double(), exact.double()
    return float((found - exact).norm() / exact.norm())

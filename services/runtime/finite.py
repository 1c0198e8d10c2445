"""Guards the results of engines against overflow."""

from __future__ import annotations

import torch

from acestage.errors import NonFiniteError


def check_finite(tensor: torch.Tensor, stage: str, what: str) -> None:
    """Raises `NonFiniteError` where a float16 `tensor` has a value that is infinite or not a number.

    Other types have the range of float32, which the models do not leave; their results pass as they are.

    Args:
        tensor: of any shape, still in the type that it was computed in.
        stage: what computed it.
        what: it is, and where in the work, such as "the latents after step 3 of 8".
    """
    if tensor.dtype != torch.float16 or torch.isfinite(tensor).all():
        return
    raise NonFiniteError(
        f"{stage}: {what} overflow float16, which ends at 65504; float32 and bfloat16 would hold them",
        metadata={"stage": stage, "dtype": "float16", "where": what},
    )

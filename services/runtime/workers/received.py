"""The tensors of a request, on their way into an engine."""

from __future__ import annotations

import torch

from acestage.errors import InvalidArgumentError
from services.runtime.workers.messages import Message


def received_tensors(request: Message) -> dict[str, torch.Tensor]:
    """The tensors of `request` by name, on the CPU, each with memory of its own.

    Raises:
        InvalidArgumentError: one of them has values that are infinite or not a number.
    """
    return {name: _require_finite(name, tensor.to_torch()) for name, tensor in request.tensor_map().items()}


def _require_finite(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` itself, which came as `name`. Looks at every value, and takes no memory for it.

    Raises:
        InvalidArgumentError: a value is infinite or not a number.
    """
    # What is not a number is the least and the most of all values that it is among.
    if tensor.is_floating_point() and not all(bound.isfinite() for bound in torch.aminmax(tensor)):
        raise InvalidArgumentError.at(
            f"tensor.{name}", "has values that are infinite or not a number; accepted: finite values"
        )
    return tensor

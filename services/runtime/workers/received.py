"""The tensors of a request, on their way into an engine."""

from __future__ import annotations

import torch

from acestage.errors import InvalidArgumentError
from services.runtime.rpc.request_limits import MAX_MAGNITUDE
from services.runtime.workers.messages import Message


def received_tensors(request: Message) -> dict[str, torch.Tensor]:
    """The tensors of `request` by name, on the CPU, each with memory of its own.

    Raises:
        InvalidArgumentError: one of them has values beyond `MAX_MAGNITUDE`, or that are not a number.
    """
    return {name: _require_usable(name, tensor.to_torch()) for name, tensor in request.tensor_map().items()}


def _require_usable(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` itself, which came as `name`. Looks at every value, and takes no memory for it.

    Raises:
        InvalidArgumentError: a value is beyond `MAX_MAGNITUDE`, or not a number.
    """
    # What is not a number is the least and the most of all values that it is among.
    bounds = [bound.item() for bound in torch.aminmax(tensor)] if tensor.is_floating_point() else []
    if not all(abs(bound) <= MAX_MAGNITUDE for bound in bounds):
        raise InvalidArgumentError.at(
            f"tensor.{name}",
            f"has values that are too large or not a number; accepted: {-MAX_MAGNITUDE:g} to "
            f"{MAX_MAGNITUDE:g}",
        )
    return tensor

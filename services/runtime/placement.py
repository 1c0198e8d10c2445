"""Moves a module's weights from their mapped files to a device."""

from __future__ import annotations

import torch


def place(module: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Moves `module` to `device`, and what its checkpoint holds to `dtype`.

    Tensors go one by one, so that the host never holds a second copy of all weights. Buffers that are not
    part of the checkpoint, such as the frequencies of rotary embeddings, keep their precision: in bfloat16
    they would be wrong.
    """
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            parameter.data = parameter.data.to(device, dtype)
        for name, buffer in part.named_buffers(recurse=False):
            is_stored = name not in part._non_persistent_buffers_set
            keeps = not is_stored or not buffer.is_floating_point()
            setattr(part, name, buffer.to(device, None if keeps else dtype))

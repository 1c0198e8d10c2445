"""Has a module on the device for a while: one that only some jobs need, or that a job needs once."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch

from services.runtime.weights.placement import place


@contextmanager
def borrowed(
    module: torch.nn.Module,
    device: torch.device,
    dtype: torch.dtype,
    placer: Callable[[Any, torch.device, torch.dtype], None] = place,
) -> Iterator[torch.nn.Module]:
    """A copy of `module` on `device`, placed by `placer`; its memory is free again afterwards.

    The copy begins with the very tensors of `module`, which may be a mapped file, and `module` itself stays
    as it is. So what `placer` need not change takes no memory of its own: on the CPU in the stored data type,
    all but the weights that weight norm is folded into.
    """
    copied = copy.deepcopy(module, replacements(module, lambda tensor: tensor))
    placer(copied, device, dtype)
    try:
        yield copied
    finally:
        _empty(copied)  # whoever still holds the copy holds no memory with it


@contextmanager
def borrowed_by_layers(
    module: torch.nn.Module, device: torch.device, dtype: torch.dtype
) -> Iterator[torch.nn.Module]:
    """As `borrowed`, but each of the `layers` of `module` is on `device` for one pass, and empty after it."""

    def place_layer(layer: torch.nn.Module, arguments: object) -> None:
        place(layer, device, dtype)

    def empty_layer(layer: torch.nn.Module, arguments: object, result: object) -> None:
        _empty(layer)

    with borrowed(module, device, dtype, functools.partial(place, left_out=("layers",))) as copied:
        for layer in copied.get_submodule("layers").children():
            layer.register_forward_pre_hook(place_layer)
            layer.register_forward_hook(empty_layer)
        yield copied


def _empty(module: torch.nn.Module) -> None:
    for part in module.modules():
        part._parameters.clear()
        part._buffers.clear()


def replacements(
    module: torch.nn.Module, replace: Callable[[torch.Tensor], torch.Tensor]
) -> dict[int, torch.Tensor]:
    """What a deep copy of `module` is to take for each of its tensors, by the identity of the tensor.

    It is what `replace` makes of the tensor. A parameter becomes one of the copy's own, because `place`
    changes parameters in place.
    """
    found: dict[int, torch.Tensor] = {}
    for part in module.modules():
        for tensor in chain(part._parameters.values(), part._buffers.values(), vars(part).values()):
            if isinstance(tensor, torch.nn.Parameter):
                found[id(tensor)] = torch.nn.Parameter(replace(tensor), tensor.requires_grad)
            elif isinstance(tensor, torch.Tensor):
                found[id(tensor)] = replace(tensor)
    return found

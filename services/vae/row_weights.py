"""Puts layers for rows in the place of those of diffusers, with weights that are made now or were kept."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence, Set

import torch
from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDecoder, OobleckEncoder

from services.runtime.stage_worker import LayerTensors
from services.runtime.weights import placement
from services.vae import row_layers
from services.vae.row_layers import row_layer


def place_for_rows(module: OobleckDecoder | OobleckEncoder, device: torch.device, dtype: torch.dtype) -> None:
    """Moves `module` to `device`, and what its checkpoint holds to `dtype`, with its layers for rows.

    One layer after the other: there is never a second copy of more than one.
    """
    for name in _layer_names(module):
        layer = module.get_submodule(name)
        replacement = row_layer(layer)
        if replacement is not None:  # else `RowWeights` has restored it
            module.set_submodule(name, replacement(layer, replacement.prepare(layer, device, dtype)))


class RowWeights:
    """`PreparedWeights` of `module`: those that `place_for_rows` makes."""

    libraries: Sequence[str] = ("torch",)
    code: Sequence[str] = tuple(map(inspect.getsource, (placement, row_layers, sys.modules[__name__])))

    def __init__(self, module: OobleckDecoder) -> None:
        self._module = module

    def layer_names(self) -> Set[str]:
        return set(_layer_names(self._module))

    def tensors(self) -> LayerTensors:
        return {
            name: {key: part.detach() for key, part in self._module.get_submodule(name).named_parameters()}
            for name in _layer_names(self._module)
        }

    def restore(self, kept: LayerTensors, device: torch.device, dtype: torch.dtype) -> None:
        for name in self.layer_names():
            layer = self._module.get_submodule(name)
            replacement = row_layer(layer)
            assert replacement is not None, f"{name} is restored already"
            moved = {key: tensor.to(device) for key, tensor in kept[name].items()}
            self._module.set_submodule(name, replacement(layer, moved))


def _layer_names(module: torch.nn.Module) -> list[str]:
    """The names of the layers that have parameters of their own."""
    return [name for name, layer in module.named_modules() if layer._parameters]

"""The weights of a stage that INT8 applies to, as those that are prepared once and kept."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Collection, Sequence, Set

import torch

from services.runtime.kernels import int8_activations
from services.runtime.stage_worker import LayerTensors
from services.runtime.weights import integer_products, packed_weights, quantization
from services.runtime.weights.placement import parts_of
from services.runtime.weights.quantization import is_quantized


class Int8Weights:
    """`PreparedWeights` of `modules`: products of integers, or INT8 that is weight-only.

    Args:
        modules: all of a stage.
        left_out: names of their children that `place` leaves as they are.
    """

    libraries: Sequence[str] = ("torch", "torchao")
    code: Sequence[str] = tuple(
        map(
            inspect.getsource,
            (int8_activations, integer_products, packed_weights, quantization, sys.modules[__name__]),
        )
    )

    def __init__(self, modules: Sequence[torch.nn.Module], left_out: Collection[str] = ()) -> None:
        self._layers = {
            f"{index}.{name}": layer
            for index, module in enumerate(modules)
            for name, layer in parts_of(module, left_out)
            if is_quantized(name, layer)
        }

    def layer_names(self) -> Set[str]:
        return self._layers.keys()

    def tensors(self) -> LayerTensors:
        return {
            name: integer_products.kept_tensors(layer) or quantization.kept_tensors(layer)
            for name, layer in self._layers.items()
        }

    def restore(self, kept: LayerTensors, device: torch.device, dtype: torch.dtype) -> None:
        for name, layer in self._layers.items():
            if "packed" in kept[name]:
                integer_products.restore(layer, kept[name])  # of a CPU, where they are
            else:
                moved = {key: tensor.to(device) for key, tensor in kept[name].items()}
                quantization.restore(layer, moved, dtype)

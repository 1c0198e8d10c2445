"""Weights in 8 bits: the large matrices of a transformer take half the bytes of bfloat16.

A row of a matrix is kept as int8 and one float32 scale. The layer multiplies by the int8 values in its own
data type and scales the result, so activations are as precise as without.
"""

from __future__ import annotations

from typing import TypeGuard

import torch

_SMALLEST_FLOAT16_NORMAL = 2.0**-14


def is_quantized(name: str, layer: torch.nn.Module) -> TypeGuard[torch.nn.Linear]:
    """Whether `layer`, at `name` within its module, is one of those that int8 applies to.

    Those are the matrices of the repeated layers, all but 4 % of the diffusion transformer. Left out are
    embeddings of tokens, latents, conditions and time: they are small, and each error in them is in every
    layer that follows.
    """
    return isinstance(layer, torch.nn.Linear) and "layers" in name.split(".")


def quantized_bytes(weight: torch.Tensor, dtype: torch.dtype) -> int:
    """Bytes of `weight` [rows, columns] once quantized in a model that computes in `dtype`."""
    row_bytes = torch.float32.itemsize + torch.int8.itemsize  # a scale, and a zero point that is always 0
    pre_scale_bytes = dtype.itemsize if dtype == torch.float16 else 0
    return weight.numel() + weight.shape[0] * row_bytes + pre_scale_bytes


def quantize(layer: torch.nn.Linear) -> None:
    """Replaces the weight of `layer`, which must be on its device, by int8."""
    # Imported here: who quantizes nothing need not have it.
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    # The compiler settings that it would make are for the whole process, which compiles nothing.
    quantize_(layer, Int8WeightOnlyConfig(set_inductor_config=False))
    if layer.weight.dtype == torch.float16:
        _keep_products_in_range(layer.weight)


def _keep_products_in_range(weight: torch.Tensor) -> None:
    """Moves most of the scale from behind the product with int8 values to before it.

    Those values reach 127 where the weights are a thousandth of it, so inputs of 10 would overflow float16.
    A power of two costs no precision.
    """
    scale: torch.Tensor = weight.scale  # type: ignore[attr-defined]
    power = scale.max().log2().ceil().exp2().clamp(min=_SMALLEST_FLOAT16_NORMAL)
    weight.act_pre_scale = power.to(torch.float16)  # type: ignore[attr-defined]
    weight.scale = scale / power  # type: ignore[attr-defined]

"""Weights in 8 bits: the large matrices of a transformer take half the bytes of bfloat16.

A row of a matrix is kept as int8 and one float32 scale. The layer multiplies by the int8 values in its own
data type and scales the result, so activations are as precise as without.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
from torch._subclasses.fake_tensor import FakeTensor

_SMALLEST_FLOAT16_NORMAL = 2.0**-14

_QUANTIZED_NUMBERS = 1 << 20
"""Numbers of a weight that are quantized at once: what is computed on the way stays in a CPU's caches."""


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
    """Replaces the weight of `layer`, which must be on its device, by int8; one that is int8 stays."""
    # Imported here: who quantizes nothing need not have it.
    from torchao.quantization import Int8Tensor, PerRow

    weight = layer.weight.data
    if isinstance(weight, Int8Tensor):
        return
    row_count = max(1, _QUANTIZED_NUMBERS // weight.shape[1])
    if isinstance(weight, FakeTensor):
        row_count = len(weight)  # of which nothing is computed: each part would only take time
    parts = [Int8Tensor.from_hp(rows, PerRow()) for rows in torch.split(weight, row_count)]
    values, scale = (torch.cat([getattr(part, name) for part in parts]) for name in ("qdata", "scale"))
    _put(layer, values, scale, weight.dtype)
    if layer.weight.dtype == torch.float16:
        _keep_products_in_range(layer.weight)


def kept_tensors(layer: torch.nn.Linear) -> dict[str, torch.Tensor]:
    """What `restore` needs of a layer that `quantize` has changed; shares its memory."""
    weight: Any = layer.weight.data
    kept = {"values": weight.qdata, "scale": weight.scale}
    return kept if weight.act_pre_scale is None else kept | {"pre_scale": weight.act_pre_scale}


def restore(layer: torch.nn.Linear, kept: Mapping[str, torch.Tensor], dtype: torch.dtype) -> None:
    """Makes `layer`, of a model that computes in `dtype`, what it was once quantized, where `kept` is."""
    _put(layer, kept["values"], kept["scale"], dtype)
    layer.weight.act_pre_scale = kept.get("pre_scale")  # type: ignore[attr-defined]


def _put(layer: torch.nn.Linear, values: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> None:
    from torchao.quantization import Int8Tensor

    zero_point = torch.zeros_like(scale, dtype=torch.int8)
    whole = Int8Tensor(values, scale, [1, values.shape[1]], dtype, zero_point=zero_point)
    layer.weight = torch.nn.Parameter(whole, requires_grad=False)


def _keep_products_in_range(weight: torch.Tensor) -> None:
    """Moves most of the scale from behind the product with int8 values to before it.

    Those values reach 127 where the weights are a thousandth of it, so inputs of 10 would overflow float16.
    A power of two costs no precision.
    """
    scale: torch.Tensor = weight.scale  # type: ignore[attr-defined]
    power = scale.max().log2().ceil().exp2().clamp(min=_SMALLEST_FLOAT16_NORMAL)
    weight.act_pre_scale = power.to(torch.float16)  # type: ignore[attr-defined]
    weight.scale = scale / power  # type: ignore[attr-defined]

"""Products of 8-bit integers: on a CPU that has instructions for them, twice as fast as those in bfloat16."""

from __future__ import annotations

import functools
import weakref
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensor

from services.runtime.kernels.int8 import quantize_rows, scale_rows


def is_supported(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `device` multiplies integers faster than numbers of `dtype`."""
    return device.type == "cpu" and dtype == torch.bfloat16 and _multiplies_integers()


def quantize_dynamically(layer: torch.nn.Linear) -> None:
    """Makes the weight of `layer` int8, with a scale for each of its rows, and so its input in every pass.

    The product is one of integers. Beside the error of the weights there is one of the same size from the
    input.
    """
    values, scale = quantize_rows(layer.weight.data)
    product = _IntegerProduct(values, scale.flatten(), None if layer.bias is None else layer.bias.data)
    layer.forward = product  # type: ignore[assignment, method-assign]
    # It keeps shape and type, and takes no memory.
    layer.weight.data = layer.weight.data.new_zeros(1).expand(layer.weight.shape)


class _IntegerProduct:
    """Multiplies [rows, inputs] by an int8 weight [outputs, inputs]."""

    _last: tuple[weakref.ref[torch.Tensor], torch.Tensor, torch.Tensor] | None = None
    """The last input of any layer, quantized: layers that take the same one follow each other."""

    def __init__(self, values: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._output_count = len(values)
        self._scale = scale
        self._bias = bias
        # Fake values cannot be packed, nor multiplied.
        self._packed: torch.Tensor | None = None
        self._fake_values = values if isinstance(values, FakeTensor) else None
        if self._fake_values is None:
            self._packed = torch.ops.onednn.qlinear_prepack(values, None)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        values, scale = self._quantized(rows)
        result: torch.Tensor
        if self._packed is None:
            result = rows.new_empty(len(rows), self._output_count)
        else:
            result = torch.ops.onednn.qlinear_pointwise(
                values, 1.0, 0, self._packed, self._scale, _zeros(self._output_count), None, 1.0, 0,
                rows.dtype, "none", [], "",
            )  # fmt: skip
        result = scale_rows(result, scale)
        return result if self._bias is None else result + self._bias

    @classmethod
    def _quantized(cls, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if cls._last is None or cls._last[0]() is not rows:
            cls._last = (weakref.ref(rows), *quantize_rows(rows))
        return cls._last[1:]


@functools.cache
def _zeros(count: int) -> torch.Tensor:
    """Zero points of a symmetric quantization."""
    return torch.zeros(count, dtype=torch.int64)


@functools.cache
def _multiplies_integers() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return " amx_int8" in flags or " avx512_vnni" in flags or " avx_vnni" in flags

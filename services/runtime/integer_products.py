"""Products of 8-bit integers: on a CPU that has instructions for them, twice as fast as those in bfloat16."""

from __future__ import annotations

import functools
import weakref
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch._subclasses.fake_tensor import FakeTensor

from services.runtime.cpu_features import has_feature
from services.runtime.kernel_scratch import PRODUCT_BYTES
from services.runtime.kernels.int8 import quantize_rows, scale_rows
from services.runtime.packed_weights import pack

_INSTRUCTIONS = ("amx_int8", "avx512_vnni")
_RESULT = torch.bfloat16
_ZERO_POINT = 0 if has_feature("amx_int8") else 128
"""What a zero of the input is stored as. oneDNN's product with packed weights takes a signed input with AMX
alone, and with AVX-512 an unsigned one: else, and for results in bfloat16 with AVX2, it is a loop over single
numbers, hundreds of times slower. AVX-VNNI without AVX-512 was not tried."""


def is_supported(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `device` multiplies integers faster than numbers of `dtype`."""
    return device.type == "cpu" and dtype == _RESULT and has_feature(*_INSTRUCTIONS)


def quantize_dynamically(layer: torch.nn.Linear) -> None:
    """Makes the weight of `layer` int8, with a scale for each of its rows, and so its input in every pass.

    The product is one of integers. Beside the error of the weights there is one of the same size from the
    input.
    """
    values, scale = quantize_rows(layer.weight.data)
    product = IntegerProduct(values, scale.flatten(), None if layer.bias is None else layer.bias.data)
    layer.forward = product  # type: ignore[assignment, method-assign]
    # It keeps shape and type, and takes no memory.
    layer.weight.data = layer.weight.data.new_zeros(1).expand(layer.weight.shape)


def products_of(*layers: torch.nn.Module) -> tuple[IntegerProduct, ...] | None:
    """The products of `layers`; None where one of them has something else in its place, or beside it."""
    products = tuple(layer.forward for layer in layers if isinstance(layer, torch.nn.Linear))
    found = tuple(product for product in products if isinstance(product, IntegerProduct))
    return found if len(found) == len(layers) else None


def forget_last_input() -> None:
    """Frees what is kept for a layer that takes the input of the one before."""
    IntegerProduct._last = None


@dataclass(frozen=True, slots=True)
class Quantized:
    """An input [rows, inputs] in 8 bits.

    Attributes:
        values: as the product takes them: int8, or uint8 around a zero point of 128.
        scale: [rows, 1], float32.
    """

    values: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def of(cls, values: torch.Tensor, scale: torch.Tensor) -> Quantized:
        """Takes over int8 `values`, and changes them in place."""
        # Flipping the highest bit adds 128.
        return cls(values.view(torch.uint8).bitwise_xor_(_ZERO_POINT) if _ZERO_POINT else values, scale)


@dataclass(frozen=True, slots=True)
class _Last:
    """An input as it was at `version`."""

    rows: weakref.ref[torch.Tensor]
    version: int
    quantized: Quantized


class IntegerProduct:
    """Multiplies [rows, inputs] by an int8 weight [outputs, inputs]."""

    _last: ClassVar[_Last | None] = None
    """The last input of any layer: layers that take the same one follow each other."""

    def __init__(self, values: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._output_count = len(values)
        self._scale = scale
        self._bias = bias
        # Fake values cannot be packed, nor multiplied.
        self._is_fake = isinstance(values, FakeTensor)
        self._packed = values if self._is_fake else pack(values)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        return self.of(self.quantized(rows))

    def of(self, rows: Quantized) -> torch.Tensor:
        """[rows, outputs]."""
        result: torch.Tensor = scale_rows(self.unscaled(rows), rows.scale)
        return result if self._bias is None else result + self._bias

    def product(self, rows: Quantized) -> tuple[torch.Tensor, torch.Tensor | None]:
        """[rows, outputs], and what each row is still to be multiplied by; None with a bias, for nothing."""
        return (self.unscaled(rows), rows.scale) if self._bias is None else (self.of(rows), None)

    def unscaled(self, rows: Quantized) -> torch.Tensor:
        """[rows, outputs], each row still to be multiplied by its scale, without the bias."""
        result: torch.Tensor
        if self._is_fake:
            result = rows.values.new_empty(len(rows.values), self._output_count, dtype=_RESULT)
            rows.values.new_empty(PRODUCT_BYTES)  # what oneDNN has for itself meanwhile
        else:
            result = torch.ops.onednn.qlinear_pointwise(
                rows.values, 1.0, _ZERO_POINT, self._packed, self._scale, _zeros(self._output_count), None,
                1.0, 0, _RESULT, "none", [], "",
            )  # fmt: skip
        return result

    @classmethod
    def quantized(cls, rows: torch.Tensor) -> Quantized:
        """[rows, inputs] in 8 bits; the same for the layers that take the same input one after the other."""
        last = cls._last
        if last is None or last.rows() is not rows or last.version != rows._version:
            last = cls._last = _Last(weakref.ref(rows), rows._version, Quantized.of(*quantize_rows(rows)))
        return last.quantized


@functools.cache
def _zeros(count: int) -> torch.Tensor:
    """Zero points of a symmetric quantization."""
    return torch.zeros(count, dtype=torch.int64)

"""Products of 8-bit integers: on a CPU that has instructions for them, twice as fast as those in bfloat16."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensor

from services.runtime.kernels.int8_activations import quantize_rows, scale_rows
from services.runtime.memory.kernel_scratch import PRODUCT_BYTES
from services.runtime.processes.cpu_features import has_feature
from services.runtime.weights import packed_weights

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
    input. A layer that was made so before stays as it is.
    """
    if not isinstance(layer.forward, IntegerProduct):
        values, scale = quantize_rows(layer.weight.data)
        # Fake values cannot be packed.
        packed = values if isinstance(values, FakeTensor) else packed_weights.pack(values)
        _put(layer, packed, scale.flatten())


def kept_tensors(layer: torch.nn.Linear) -> dict[str, torch.Tensor] | None:
    """What `restore` needs of a layer, whose memory it shares; None where it has no product of integers."""
    if not isinstance(layer.forward, IntegerProduct):
        return None
    return {"scale": layer.forward.scale, **packed_weights.kept_tensors(layer.forward.packed)}


def restore(layer: torch.nn.Linear, kept: Mapping[str, torch.Tensor]) -> None:
    """Makes `layer` what `quantize_dynamically` made of it, in the memory of `kept`.

    Raises:
        RuntimeError: torch does not take it.
    """
    _put(layer, packed_weights.restore(kept, layer.weight.shape), kept["scale"], kept["packed"])


def _put(
    layer: torch.nn.Linear, packed: torch.Tensor, scale: torch.Tensor, memory: torch.Tensor | None = None
) -> None:
    if layer.bias is not None:
        layer.bias.data = layer.bias.data.to(_RESULT)
    product = IntegerProduct(packed, scale, None if layer.bias is None else layer.bias.data, memory)
    layer.forward = product  # type: ignore[assignment, method-assign]
    # It keeps its shape, and takes no memory.
    layer.weight.data = scale.new_zeros(1, dtype=_RESULT).expand(layer.weight.shape)


def products_of(*layers: torch.nn.Module) -> tuple[IntegerProduct, ...] | None:
    """The products of `layers`; None where one of them has something else in its place, or beside it."""
    products = tuple(layer.forward for layer in layers if isinstance(layer, torch.nn.Linear))
    found = tuple(product for product in products if isinstance(product, IntegerProduct))
    return found if len(found) == len(layers) else None


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
    def of(cls, rows: torch.Tensor) -> Quantized:
        """`rows` [rows, inputs] in 8 bits."""
        return cls.taking(*quantize_rows(rows))

    @classmethod
    def taking(cls, values: torch.Tensor, scale: torch.Tensor) -> Quantized:
        """Takes over int8 `values`, and changes them in place."""
        # Flipping the highest bit adds 128.
        return cls(values.view(torch.uint8).bitwise_xor_(_ZERO_POINT) if _ZERO_POINT else values, scale)


class IntegerProduct:
    """Multiplies [rows, inputs] by an int8 weight [outputs, inputs].

    Attributes:
        packed: the weight, as oneDNN has it, or a fake one.
        scale: of its rows, [outputs], float32.
        memory: what has the memory of `packed`, where that has not.
    """

    def __init__(
        self,
        packed: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor | None,
        memory: torch.Tensor | None = None,
    ) -> None:
        self.packed = packed
        self.scale = scale
        self.memory = memory
        self._bias = bias

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        return self.of(Quantized.of(rows))

    def of(self, rows: Quantized) -> torch.Tensor:
        """[rows, outputs]."""
        result: torch.Tensor = scale_rows(self.unscaled(rows), rows.scale)
        return result if self._bias is None else result + self._bias

    def product(self, rows: Quantized) -> tuple[torch.Tensor, torch.Tensor | None]:
        """[rows, outputs], and what each row is still to be multiplied by; None with a bias, for nothing."""
        return (self.unscaled(rows), rows.scale) if self._bias is None else (self.of(rows), None)

    def unscaled(self, rows: Quantized) -> torch.Tensor:
        """[rows, outputs] in bfloat16, each row still to be multiplied by its scale, without the bias."""
        result: torch.Tensor
        output_count = len(self.scale)
        if isinstance(self.packed, FakeTensor):
            result = rows.values.new_empty(len(rows.values), output_count, dtype=_RESULT)
            rows.values.new_empty(PRODUCT_BYTES)  # what oneDNN has for itself meanwhile
        else:
            result = torch.ops.onednn.qlinear_pointwise(
                rows.values, 1.0, _ZERO_POINT, self.packed, self.scale, _zeros(output_count), None,
                1.0, 0, _RESULT, "none", [], "",
            )  # fmt: skip
        return result


@functools.cache
def _zeros(count: int) -> torch.Tensor:
    """Zero points of a symmetric quantization."""
    return torch.zeros(count, dtype=torch.int64)

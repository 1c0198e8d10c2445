"""Weights in oneDNN's own order, and made of memory that has that order already."""

from __future__ import annotations

import pytest
import torch

from services.runtime.weights import packed_weights
from services.runtime.weights.integer_products import is_supported
from services.runtime.weights.packed_weights import ALIGNMENT, kept_tensors, pack

HAS_INTEGERS = is_supported(torch.device("cpu"), torch.bfloat16)

# Without instructions for it, oneDNN makes inputs unsigned and adds two products in 16 bits.
LARGEST = 127 if HAS_INTEGERS else 63

SHAPES = [(128, 192), (64, 64), (100, 36)]
"""Outputs and inputs; the last one is no number of whole blocks."""


def weight(shape: tuple[int, int], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-LARGEST, LARGEST + 1, shape, dtype=torch.int8, generator=generator)


def product(rows: torch.Tensor, packed: torch.Tensor, output_count: int, zero_point: int) -> torch.Tensor:
    result: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
        rows, 1.0, zero_point, packed, torch.ones(output_count), torch.zeros(output_count, dtype=torch.int64),
        None, 1.0, 0, torch.float32, "none", [], "",
    )  # fmt: skip
    return result


def copied(packed: torch.Tensor, offset: int = 0) -> dict[str, torch.Tensor]:
    """What is kept of `packed`, in other memory, `offset` bytes behind where a weight may begin."""
    kept = kept_tensors(packed)
    memory = torch.empty(2 * ALIGNMENT + kept["packed"].numel(), dtype=torch.int8)
    start = -memory.data_ptr() % ALIGNMENT + offset
    copy = memory[start : start + kept["packed"].numel()]
    copy.copy_(kept["packed"])
    return {"packed": copy, "order": kept["order"].clone()}


@pytest.mark.parametrize("zero_point", [0, 128])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_exact_also_with_a_weight_in_other_memory(
    shape: tuple[int, int], zero_point: int
) -> None:
    rows, values = weight((7, shape[1]), 99), weight(shape, 1)
    stored = (rows.to(torch.int16) + zero_point).to(torch.uint8) if zero_point else rows
    expected = (rows.to(torch.int32) @ values.to(torch.int32).t()).to(torch.float32)
    packed = pack(values)
    kept = copied(packed)
    assert torch.equal(product(stored, packed, shape[0], zero_point), expected)
    del packed
    restored = packed_weights.restore(kept, values.shape)
    assert torch.equal(product(stored, restored, shape[0], zero_point), expected)
    kept["packed"].zero_()
    assert not torch.equal(product(stored, restored, shape[0], zero_point), expected)  # it is no copy


def test_a_weight_of_too_few_bytes_is_refused() -> None:
    values = weight(SHAPES[0], 1)
    kept = copied(pack(values))
    kept["packed"] = kept["packed"][:-ALIGNMENT]
    with pytest.raises(RuntimeError, match="its order takes"):
        packed_weights.restore(kept, values.shape)


def test_a_weight_that_begins_elsewhere_is_refused() -> None:
    values = weight(SHAPES[0], 1)
    with pytest.raises(RuntimeError, match="does not divide"):
        packed_weights.restore(copied(pack(values), offset=8), values.shape)

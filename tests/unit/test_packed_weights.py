"""Weights in oneDNN's own order, put there by us."""

from __future__ import annotations

import pytest
import torch

from services.runtime import packed_weights
from services.runtime.integer_products import is_supported
from services.runtime.packed_weights import pack

HAS_INTEGERS = is_supported(torch.device("cpu"), torch.bfloat16)

# Without instructions for it, oneDNN makes inputs unsigned and adds two products in 16 bits.
LARGEST = 127 if HAS_INTEGERS else 63

SHAPES = [(128, 192), (64, 64), (100, 36)]
"""Outputs and inputs; the last one is no number of whole blocks."""


@pytest.fixture(autouse=True)
def _nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_weights, "_firsts", {})


def weight(shape: tuple[int, int], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-LARGEST, LARGEST + 1, shape, dtype=torch.int8, generator=generator)


def product(rows: torch.Tensor, packed: torch.Tensor, output_count: int, zero_point: int = 0) -> torch.Tensor:
    result: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
        rows, 1.0, zero_point, packed, torch.ones(output_count), torch.zeros(output_count, dtype=torch.int64),
        None, 1.0, 0, torch.float32, "none", [], "",
    )  # fmt: skip
    return result


@pytest.mark.parametrize("zero_point", [0, 128])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_weight_gives_its_own_exact_products(shape: tuple[int, int], zero_point: int) -> None:
    rows = weight((7, shape[1]), 99)
    stored = (rows.to(torch.int16) + zero_point).to(torch.uint8) if zero_point else rows
    weights = [weight(shape, seed) for seed in range(3)]
    packed = [pack(values) for values in weights]
    for values, one in zip(weights, packed, strict=True):
        expected = rows.to(torch.int32) @ values.to(torch.int32).t()
        assert torch.equal(product(stored, one, shape[0], zero_point), expected.to(torch.float32))


@pytest.mark.skipif(not HAS_INTEGERS, reason="other CPUs have other orders")
def test_the_order_is_the_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pack(weight(SHAPES[0], 1))
    monkeypatch.setattr(torch.ops.onednn, "qlinear_prepack", None)  # from now on it is not asked
    pack(weight(SHAPES[0], 2))


def test_where_the_order_is_another_one_onednn_packs_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_weights, "_blocks", lambda values: values.view(torch.int32).flip(0).flatten())
    first, second = torch.zeros(SHAPES[0], dtype=torch.int8), weight(SHAPES[0], 2)
    pack(first)  # alike in any order
    rows = weight((7, SHAPES[0][1]), 99)
    expected = rows.to(torch.int32) @ second.to(torch.int32).t()
    assert torch.equal(product(rows, pack(second), SHAPES[0][0]), expected.to(torch.float32))


def test_where_corrections_are_others_onednn_packs_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        packed_weights, "_corrections", lambda values: torch.zeros(len(values), dtype=torch.int32)
    )
    first, second = weight(SHAPES[0], 1), weight(SHAPES[0], 2)
    pack(first)
    zeros = torch.full((7, SHAPES[0][1]), 128, dtype=torch.uint8)
    assert not product(zeros, pack(second), SHAPES[0][0], 128).any()

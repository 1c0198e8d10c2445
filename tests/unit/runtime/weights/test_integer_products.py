"""Products of 8-bit integers, on a CPU that has instructions for them."""

from __future__ import annotations

import copy
import ctypes
import re
from collections.abc import Iterator

import pytest
import torch
from diffusers.models.transformers.ace_step_transformer import AceStepMLP

from services.dit import transformer_pass
from services.runtime.weights import integer_products
from services.runtime.weights.integer_products import (
    IntegerProduct,
    Quantized,
    is_supported,
    products_of,
    quantize_dynamically,
)
from services.runtime.weights.packed_weights import kept_tensors, pack, restore
from tests.relative_error import relative_error

CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(
    not is_supported(CPU, torch.bfloat16), reason="this CPU does not multiply integers"
)


@pytest.fixture(autouse=True)
def _computes_alone() -> Iterator[None]:
    with torch.no_grad():
        yield


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def layers(*, bias: bool = False) -> tuple[torch.nn.Linear, torch.nn.Linear]:
    """A layer, and the same with integers."""
    exact = torch.nn.Linear(256, 96, bias=bias, dtype=torch.bfloat16)
    exact.weight.data = noise(96, 256, seed=2) / 16
    integer = torch.nn.Linear(256, 96, bias=bias, dtype=torch.bfloat16)
    integer.load_state_dict(exact.state_dict())
    quantize_dynamically(integer)
    return exact, integer


@pytest.mark.parametrize("row_count", [1, 2, 300])
def test_a_product_is_off_by_the_rounding_of_both_factors(row_count: int) -> None:
    exact, integer = layers()
    # Each row has a scale of its own, so a large one costs the others nothing.
    rows = noise(row_count, 256) * torch.logspace(-3, 3, row_count)[:, None].bfloat16()
    for found, expected in zip(integer(rows), exact(rows), strict=True):
        assert 0.001 < relative_error(found, expected) < 0.02


def test_no_product_is_a_loop_over_single_numbers(capfd: pytest.CaptureFixture[str]) -> None:
    packed = pack(torch.ones(128, 256, dtype=torch.int8))
    restored = restore(kept_tensors(packed), torch.Size([128, 256]))
    products = [IntegerProduct(weight, torch.ones(128), None) for weight in (packed, restored)]
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        for product in products:
            product(noise(20, 256))
    ctypes.CDLL(None).fflush(None)
    # Those of a weight as oneDNN packed it, and of one that was made of its memory.
    implementations = re.findall(r"exec,cpu,matmul,([^,]+),", capfd.readouterr().out)
    assert len(implementations) == 2
    assert not [name for name in implementations if "ref" in name]


def test_inputs_with_and_without_a_sign_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    _, integer = layers()
    rows = noise(20, 256)
    results = []
    for zero_point in (0, 128):
        monkeypatch.setattr(integer_products, "_ZERO_POINT", zero_point)
        results.append(integer(rows))
    assert torch.equal(*results)


def feed_forward_layers() -> tuple[AceStepMLP, AceStepMLP]:
    """A feed-forward layer, and the same with integers."""
    exact = AceStepMLP(64, 192).bfloat16()
    for number, parameter in enumerate(exact.parameters()):
        parameter.data = noise(*parameter.shape, seed=number) / 8
    integer = copy.deepcopy(exact)
    for layer in (integer.gate_proj, integer.up_proj, integer.down_proj):
        quantize_dynamically(layer)
    return exact, integer


def feed_forward(layer: AceStepMLP, rows: torch.Tensor) -> torch.Tensor:
    product, scale = transformer_pass.feed_forward(layer, rows)
    return product if scale is None else product.float() * scale


@pytest.mark.parametrize("row_count", [1, 2, 2500])
def test_a_feed_forward_layer_is_off_by_the_rounding_of_its_products(row_count: int) -> None:
    exact, integer = feed_forward_layers()
    rows = noise(row_count, 64) * torch.logspace(-2, 0, row_count)[:, None].bfloat16()
    for found, expected in zip(feed_forward(integer, rows), exact(rows), strict=True):
        assert 0.001 < relative_error(found, expected) < 0.04


def test_an_adapter_on_one_of_its_layers_leaves_the_others_in_integers() -> None:
    exact, integer = feed_forward_layers()
    wrapped = torch.nn.Sequential(integer.up_proj)
    wrapped.out_features = 192  # type: ignore[assignment]
    integer.up_proj = wrapped  # type: ignore[assignment]
    assert products_of(integer.gate_proj, integer.up_proj) is None
    rows = noise(30, 64)
    assert 0.001 < relative_error(feed_forward(integer, rows), exact(rows)) < 0.03


def test_a_bias_is_added() -> None:
    exact, integer = layers(bias=True)
    assert torch.equal(integer(torch.zeros(2, 256, dtype=torch.bfloat16))[1], exact.bias)
    rows = noise(20, 256)
    assert relative_error(integer(rows), exact(rows)) < 0.02


def test_scales_are_left_to_what_takes_a_product_but_not_where_a_bias_was_added() -> None:
    rows = noise(20, 256)
    _, integer = layers()
    product, scale = products_of(integer)[0].product(Quantized.of(rows))  # type: ignore[index]
    assert scale is not None
    torch.testing.assert_close((product.float() * scale).bfloat16(), integer(rows))
    _, biased = layers(bias=True)
    product, scale = products_of(biased)[0].product(Quantized.of(rows))  # type: ignore[index]
    assert scale is None
    assert torch.equal(product, biased(rows))
    _, fed = feed_forward_layers()
    assert transformer_pass.feed_forward(fed, noise(30, 64))[1] is not None


def test_rows_of_zeros_stay_zeros() -> None:
    _, integer = layers()
    assert not integer(torch.zeros(3, 256, dtype=torch.bfloat16)).any()


def test_a_weight_keeps_its_shape_and_takes_no_memory() -> None:
    _, integer = layers()
    assert integer.weight.shape == (96, 256)
    assert integer.weight.untyped_storage().nbytes() == torch.bfloat16.itemsize


def test_other_devices_and_types_are_left_to_others() -> None:
    assert not is_supported(torch.device("cuda"), torch.bfloat16)
    assert not is_supported(CPU, torch.float32)

"""8-bit weights: what becomes of their bytes, and of what is computed with them."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AceStepTransformer1DModel
from diffusers.pipelines.ace_step import AceStepConditionEncoder
from torchao.quantization import Int8Tensor, PerRow

from acestage.checkpoints import open_checkpoint
from acestage.checkpoints.component_names import CONDITION_ENCODER, TRANSFORMER
from acestage.checkpoints.loading import load_component
from acestage.planning import Quantization
from scripts.random_checkpoint.sizes import model_settings
from services.dit.engine import Conditioning, DitEngine
from services.dit.parameters import DenoiseParameters
from services.runtime.weights.placement import place, placed_bytes
from services.runtime.weights.quantization import is_quantized, quantize
from tests.relative_error import relative_error

CPU = torch.device("cpu")
TINY = open_checkpoint("tiny-turbo", checkpoints_dir=Path("checkpoints"))

ROUNDING = 0.01
"""Of a matrix of normal numbers. The largest of a row is about 3.5 times their spread, so a step is 3.5 / 127
of it, and rounding to a step makes an error of 1 / sqrt(12) of it: 0.8 %."""


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(rows: int, columns: int) -> torch.nn.Linear:
    layer = torch.nn.Linear(columns, rows)
    layer.weight.data = noise(rows, columns) * columns**-0.5
    return layer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("input_size", [0.01, 1.0, 300.0])
@torch.no_grad()
def test_a_wide_layer_is_off_by_the_rounding_of_its_weights_alone(
    dtype: torch.dtype, input_size: float
) -> None:
    layer = linear(1024, 2048)
    exact, states = layer.weight.detach().clone(), input_size * noise(100, 2048, seed=2)
    layer.bias.data.zero_()
    layer.to(dtype)
    quantize(layer)
    output = layer(states.to(dtype))
    assert output.dtype == dtype
    # In float16 inputs as large as these would overflow, were they multiplied by the int8 values as they are.
    assert torch.isfinite(output).all()
    assert 0.003 < relative_error(output, states @ exact.T) < ROUNDING


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_quantized_in_parts_is_the_one_quantized_at_once(dtype: torch.dtype) -> None:
    layer = linear(1000, 3000).to(dtype)  # two parts of 349 rows, and one of what is left
    at_once = Int8Tensor.from_hp(layer.weight.detach(), PerRow())
    quantize(layer)
    in_parts: Any = layer.weight
    for name in ("qdata", "scale", "zero_point"):
        assert torch.equal(getattr(in_parts, name), getattr(at_once, name))
    assert (in_parts.block_size, in_parts.dtype) == (at_once.block_size, at_once.dtype)


@torch.no_grad()
def test_every_layer_of_the_models_is_off_by_rounding_alone() -> None:
    count = 0
    for component in ("transformer", "text_encoder", "condition_encoder"):
        exact, module = load_component(TINY, component), load_component(TINY, component)
        place(module, CPU, torch.float32, "int8")
        for name, layer in exact.named_modules():
            if is_quantized(name, layer):
                states = noise(50, layer.in_features, seed=3)
                output = module.get_submodule(name)(states)
                assert 0.001 < relative_error(output, layer(states)) < ROUNDING
                count += 1
    assert count > 60


@torch.no_grad()
def denoised(dtype: torch.dtype, quantization: Quantization) -> torch.Tensor:
    transformer = load_component(TINY, "transformer")
    place(transformer, CPU, dtype, quantization)
    conditioning = Conditioning(noise(1, 60, 64), noise(1, 1, 64), noise(1, 250, 16))
    *_, latents = DitEngine(transformer).denoise(conditioning, DenoiseParameters(seeds=(1,)))
    assert isinstance(latents, torch.Tensor)
    return latents


def test_latents_are_nearer_to_exact_ones_than_those_of_bfloat16() -> None:
    exact = denoised(torch.float32, "none")
    error = relative_error(denoised(torch.float32, "int8"), exact)
    assert 0.001 < error < 0.03
    assert error < relative_error(denoised(torch.bfloat16, "none"), exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_types_quantization_adds_little_to_their_own_rounding(dtype: torch.dtype) -> None:
    exact = denoised(torch.float32, "none")
    plain = relative_error(denoised(dtype, "none"), exact)
    quantized = relative_error(denoised(dtype, "int8"), exact)
    assert quantized < plain + 0.03


@pytest.mark.parametrize(
    ("name", "cls"), [(TRANSFORMER, AceStepTransformer1DModel), (CONDITION_ENCODER, AceStepConditionEncoder)]
)
def test_a_published_model_takes_about_half_the_bytes_of_bfloat16(name: str, cls: type) -> None:
    with torch.device("meta"):
        module = cls(**model_settings("full", "turbo")[name])
    plain = placed_bytes([module], torch.bfloat16)
    assert placed_bytes([module], torch.bfloat16, "int8") < 0.53 * plain


def test_a_layer_in_full_precision_is_gone_before_the_next_one_is_moved() -> None:
    dense: list[weakref.ref[torch.Tensor]] = []

    def watched(layer: torch.nn.Linear) -> None:
        assert not [weight for weight in dense if weight() is not None]
        assert layer.weight.dtype == torch.bfloat16
        dense.append(weakref.ref(layer.weight))
        quantize(layer)

    place(load_component(TINY, "transformer"), CPU, torch.bfloat16, "int8", watched)
    assert len(dense) == 4 * 11

"""An engine that overflows float16 says so, and where; in wider types the same weights work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from acestage.checkpoints import open_checkpoint
from acestage.errors import NonFiniteError
from acestage.tensors import WireTensor
from services.dit.worker import load as load_dit
from services.runtime.finite import check_finite
from services.runtime.stage_worker import StageWorker
from services.runtime.workers.messages import Message
from services.text_encoder.worker import load as load_text_encoder
from services.vae.worker import load as load_vae

CPU = torch.device("cpu")
TINY = open_checkpoint("tiny-turbo", checkpoints_dir=Path("checkpoints"))
OVERSIZED = 1e5
"""Makes the weights of the models below large, but finite in float16, and what they compute larger."""


def noise(name: str, *shape: int) -> WireTensor:
    return WireTensor.from_torch(name, torch.randn(*shape, generator=torch.Generator().manual_seed(1)))


def text_encoder() -> tuple[StageWorker, torch.nn.Parameter, Message]:
    worker = load_text_encoder(TINY)
    weight = worker.modules()[1].get_parameter("lyric_encoder.layers.0.mlp.down_proj.weight")
    return worker, weight, Message("encode", {"prompt": {"caption": "piano"}, "frame_count": 20})


def dit() -> tuple[StageWorker, torch.nn.Parameter, Message]:
    worker = load_dit(TINY)
    weight = worker.modules()[0].get_parameter("layers.1.mlp.down_proj.weight")
    tensors = (
        noise("encoder_hidden_states", 1, 30, 64),
        noise("null_condition", 1, 1, 64),
        noise("context_latents", 1, 40, 16),
    )
    return worker, weight, Message("denoise", {"seeds": [1], "step_count": 3}, tensors)


def vae() -> tuple[StageWorker, torch.nn.Parameter, Message]:
    worker = load_vae(TINY)
    weight = worker.modules()[0].get_parameter("conv1.weight_g")
    fields = {"tile_frame_count": 8, "frame_count": 20, "start_frame": 0, "stop_frame": 20}
    return worker, weight, Message("decode", fields, (noise("latents", 1, 20, 8),))


def vae_encoder() -> tuple[StageWorker, torch.nn.Parameter, Message]:
    worker = load_vae(TINY)
    weight = worker.engine.encoder.get_parameter("conv1.weight_g")
    fields = {"tile_frame_count": 8, "frame_count": 20, "start_frame": 0}
    return worker, weight, Message("encode", fields, (noise("audio", 1, 20 * 1920, 2),))


STAGES = {
    "text_encoder": (text_encoder, "the hidden states of the prompt"),
    "dit": (dit, "the latents after step 1 of 3"),
    "vae": (vae, "the samples of tile 1 of 3"),
    "vae encoder": (vae_encoder, "the latents of tile 1 of 3"),
}


def results(stage: str, dtype: torch.dtype, factor: float) -> Iterator[Message]:
    worker, weight, request = STAGES[stage][0]()
    with torch.no_grad():
        weight.data = weight * factor
        worker.place(CPU, dtype, "none")
        for module in worker.modules():
            assert all(torch.isfinite(parameter).all() for parameter in module.parameters())
        yield from worker.run(request)


@pytest.mark.parametrize("stage", STAGES)
def test_an_overflow_of_float16_is_an_error_that_says_where(stage: str) -> None:
    with pytest.raises(NonFiniteError) as caught:
        next(results(stage, torch.float16, OVERSIZED))
    where = STAGES[stage][1]
    name = stage.split()[0]
    assert caught.value.metadata == {"stage": name, "dtype": "float16", "where": where}
    assert f"{name}: {where} overflow float16" in caught.value.message


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_wider_types_compute_the_same_weights(stage: str, dtype: torch.dtype) -> None:
    *_, last = results(stage, dtype, OVERSIZED)
    assert all(torch.isfinite(tensor.to_torch()).all() for tensor in last.tensors)


@pytest.mark.parametrize("stage", STAGES)
def test_float16_that_does_not_overflow_passes(stage: str) -> None:
    *_, last = results(stage, torch.float16, 1.0)
    assert all(torch.isfinite(tensor.to_torch()).all() for tensor in last.tensors)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_value_is_enough(value: float) -> None:
    tensor = torch.zeros(3, 4, dtype=torch.float16)
    check_finite(tensor, "dit", "zeros")
    tensor[1, 2] = value
    with pytest.raises(NonFiniteError):
        check_finite(tensor, "dit", "zeros")
    check_finite(tensor.float(), "dit", "zeros")

"""In bfloat16 and float16 the engines compute what the pipeline computes from the same noise."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AceStepPipeline

from acestage.checkpoints import open_checkpoint
from acestage.checkpoints.loading import load_component
from acestage.planning import Quantization
from acestage.protos.generation.v1.generation_pb2 import GenerateRequest
from services.dit.engine import DitEngine
from services.dit.noise import ItemNoise
from services.dit.parameters import DenoiseParameters
from tests.in_process import InProcess
from tests.parity.reference import denoise, random_conditioning

CPU = torch.device("cpu")
REQUEST: dict[str, Any] = {
    "caption": "warm piano",
    "lyrics": "la la",
    "duration_s": 10,
    "seed": 5,
    "step_count": 4,
}
TOLERANCE = {torch.bfloat16: 0.05, torch.float16: 0.01}
"""Of full scale: rounding alone, with which float32 differs from the same type far more."""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_audio_is_that_of_the_pipeline(checkpoints: dict[str, Path], dtype: torch.dtype) -> None:
    path = checkpoints["base/diffusers"]
    engines = InProcess(path)
    for runner in engines.runners.values():
        runner.place(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        pipeline = AceStepPipeline.from_pretrained(path, torch_dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    audio = pipeline(
        prompt=REQUEST["caption"],
        lyrics=REQUEST["lyrics"],
        audio_duration=REQUEST["duration_s"],
        num_inference_steps=REQUEST["step_count"],
        latents=ItemNoise((REQUEST["seed"],)).draw(250, 8).to(dtype),
    ).audios
    reference = audio.float().numpy().transpose(0, 2, 1)
    ours = engines.generate(GenerateRequest(**REQUEST))
    assert np.abs(reference).max() > 0.5
    assert np.abs(ours - reference).max() <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_int8_weights_change_the_latents_a_little(checkpoints: dict[str, Path], dtype: torch.dtype) -> None:
    parameters = DenoiseParameters(seeds=(7,), step_count=2, guidance_scale=3.0)
    checkpoint = open_checkpoint(checkpoints["base/diffusers"], checkpoints_dir=Path())
    quantizations: tuple[Quantization, ...] = ("none", "int8")
    found = {}
    for quantization in quantizations:
        engine = DitEngine(load_component(checkpoint, "transformer"))
        engine.place(CPU, dtype, quantization)
        found[quantization] = denoise(engine, random_conditioning(), parameters).float()
    error = (found["int8"] - found["none"]).norm() / found["none"].norm()
    assert 0.001 < error < 0.1

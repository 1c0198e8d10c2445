"""The reference: `diffusers.AceStepPipeline`, float32 on the CPU."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AceStepPipeline

from acestage.protos.generation.v1.generation_pb2 import GenerateRequest
from services.dit.engine import Conditioning, DitEngine
from services.dit.parameters import DenoiseParameters

TOLERANCE = 1e-4
"""Of full scale, in every sample."""


def load_reference(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # diffusers builds its VAE on the old weight_norm
        pipeline = AceStepPipeline.from_pretrained(path, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def reference_audio(pipeline: Any, request: GenerateRequest) -> npt.NDArray[np.float32]:
    """What the pipeline makes of `request`, [items, samples, channels]; the seed must be set."""
    batch_size = request.batch_size if request.HasField("batch_size") else 1
    generators = [torch.Generator("cpu").manual_seed(request.seed + index) for index in range(batch_size)]
    options: dict[str, Any] = {
        "audio_duration": request.duration_s,
        "num_inference_steps": request.step_count,
        "shift": request.shift if request.HasField("shift") else 3.0,
        "guidance_scale": request.guidance_scale if request.HasField("guidance_scale") else 7.0,
        "cfg_interval_start": request.cfg_interval_start,
        "cfg_interval_end": request.cfg_interval_end if request.HasField("cfg_interval_end") else 1.0,
        "timesteps": list(request.timesteps) or None,
        "bpm": request.bpm if request.HasField("bpm") else None,
        "keyscale": request.key_scale or None,
        "timesignature": request.time_signature or None,
        "instruction": request.instruction or None,
        "vocal_language": request.language or "en",
    }
    # A single take uses the plain form of the pipeline's arguments.
    caption: Any = request.caption if batch_size == 1 else [request.caption] * batch_size
    lyrics: Any = request.lyrics if batch_size == 1 else [request.lyrics] * batch_size
    generator: Any = generators[0] if batch_size == 1 else generators
    audio = pipeline(prompt=caption, lyrics=lyrics, generator=generator, **options).audios
    return np.asarray(audio.numpy()).transpose(0, 2, 1)


def assert_same_audio(ours: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]) -> None:
    assert ours.shape == reference.shape
    assert np.abs(reference).max() > 0.5, "the reference is silent: nothing would be compared"
    assert np.abs(ours - reference).max() <= TOLERANCE


def reference_latents(pipeline: Any, **options: Any) -> tuple[Conditioning, torch.Tensor]:
    """What the pipeline makes of `options`, [1, frames, channels], and what its transformer was given for it.

    With a cover strength below 1 the transformer is called again in every step, with the plain states.
    """
    calls: list[dict[str, Any]] = []
    forward = pipeline.transformer.forward

    def watched(**arguments: Any) -> Any:
        calls.append(arguments)
        return forward(**arguments)

    pipeline.transformer.forward = watched
    try:
        latents = pipeline(output_type="latent", **options).audios
    finally:
        del pipeline.transformer.forward
    states = calls[0]["encoder_hidden_states"][:1]
    others = [call["encoder_hidden_states"][:1] for call in calls[1:]]
    plain = [other for other in others if other.shape != states.shape or not torch.equal(other, states)]
    conditioning = Conditioning(
        states,
        pipeline.condition_encoder.null_condition_emb.detach(),
        calls[0]["context_latents"][:1],
        plain[0] if plain else None,
    )
    return conditioning, latents


@torch.no_grad()
def denoise(engine: DitEngine, given: Conditioning, parameters: DenoiseParameters) -> torch.Tensor:
    """The last latents [items, frames, channels]."""
    *_, latents = engine.denoise(given, parameters)
    assert isinstance(latents, torch.Tensor)
    return latents


def random_conditioning() -> Conditioning:
    """For one item of 101 latent frames."""
    generator = torch.Generator().manual_seed(3)
    shapes = ((1, 40, 64), (1, 1, 64), (1, 101, 16))
    return Conditioning(*(torch.randn(*shape, generator=generator) for shape in shapes))

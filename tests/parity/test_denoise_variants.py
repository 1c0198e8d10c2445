"""Covers, later starts and fresh noise: the loop against the pipeline's, and against the formulas."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from acestage.checkpoints import open_checkpoint
from acestage.checkpoints.loading import load_component
from services.dit.engine import Conditioning, DitEngine, StepDone
from services.dit.parameters import DenoiseParameters
from services.dit.schedule import nearest
from services.dit.time_embeddings import embed_timesteps
from tests.parity.reference import TOLERANCE, load_reference, reference_latents

FRAMES, CHANNELS = 101, 8
SHIFTED = [3 * t / (1 + 2 * t) for t in (1.0, 0.8, 0.6, 0.4, 0.2)]
"""The timesteps of five steps with a shift of 3."""


@pytest.fixture(scope="module", params=["base", "turbo"])
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def load_engine(checkpoints: dict[str, Path], variant: str) -> DitEngine:
    path = checkpoints[f"{variant}/diffusers"]
    return DitEngine(load_component(open_checkpoint(path, checkpoints_dir=Path()), "transformer"))


@pytest.fixture(scope="module")
def engine(checkpoints: dict[str, Path]) -> DitEngine:
    return load_engine(checkpoints, "base")


def conditioning() -> Conditioning:
    generator = torch.Generator().manual_seed(3)
    shapes = ((1, 40, 64), (1, 1, 64), (1, FRAMES, 2 * CHANNELS), (1, 33, 64), (1, FRAMES, CHANNELS))
    return Conditioning(*(torch.randn(*shape, generator=generator) for shape in shapes))


@torch.no_grad()
def denoise(engine: DitEngine, seeds: tuple[int, ...] = (1,), **fields: Any) -> tuple[int, torch.Tensor]:
    """How many steps were reported, and the latents."""
    fields = {"step_count": 5, "guidance_scale": 1.0} | fields
    *steps, latents = engine.denoise(conditioning(), DenoiseParameters(seeds=seeds, **fields))
    assert steps == [StepDone(step, len(steps)) for step in range(1, len(steps) + 1)]
    assert isinstance(latents, torch.Tensor)
    return len(steps), latents


@torch.no_grad()
def by_formula(
    engine: DitEngine, timesteps: list[float], *, n: float = 0.0, is_sde: bool = False
) -> torch.Tensor:
    """Seed 1 without guidance, written down step by step: from t to the next one, and to 0 at the end."""
    given = conditioning()
    assert given.source_latents is not None
    generator = torch.Generator("cpu").manual_seed(1)
    x = torch.randn(1, FRAMES, CHANNELS, generator=generator)
    if n > 0:
        start = timesteps.index(min(timesteps, key=lambda t: abs(t - (1 - n))))
        timesteps = timesteps[start:]
        x = timesteps[0] * x + (1 - timesteps[0]) * given.source_latents
    passes = engine.transformer_pass
    context = given.context_latents
    prepared = passes.prepare(
        given.encoder_hidden_states, context, positions=passes.positions(context), keeps_prompt=False
    )
    times = embed_timesteps(engine.transformer, timesteps)
    for t, t_next in zip(timesteps, [*timesteps[1:], 0.0], strict=True):
        v = passes.velocity(x, times[t], prepared)
        if not is_sde:
            x = x + (t_next - t) * v
            continue
        x0 = x - t * v
        x = x0 if t_next == 0 else t_next * torch.randn(x.shape, generator=generator) + (1 - t_next) * x0
    return x


def assert_same(ours: torch.Tensor, reference: torch.Tensor) -> None:
    assert (ours - reference).abs().max() <= TOLERANCE * reference.abs().max()


@pytest.mark.parametrize("strength", [0.6, 0.0])
def test_a_blended_cover_equals_the_pipeline(
    checkpoints: dict[str, Path], variant: str, strength: float
) -> None:
    pipeline = load_reference(checkpoints[f"{variant}/diffusers"])
    given, reference = reference_latents(
        pipeline,
        prompt="warm piano",
        lyrics="la la la",
        task_type="cover",
        audio_codes="<|audio_code_17|><|audio_code_4000|>" * 5,
        audio_cover_strength=strength,
        num_inference_steps=5,
        generator=torch.Generator("cpu").manual_seed(7),
        guidance_scale=3.0,
        cfg_interval_end=0.6,
    )
    assert given.plain_hidden_states is not None
    parameters = DenoiseParameters(
        seeds=(7,),
        step_count=5,
        guidance_scale=3.0,
        cfg_interval=(0.0, 0.6),
        audio_cover_strength=strength,
    )
    engine = load_engine(checkpoints, variant)
    with torch.no_grad():
        *_, ours = engine.denoise(given, parameters)
        *_, unblended = engine.denoise(given, dataclasses.replace(parameters, audio_cover_strength=1.0))
    assert isinstance(ours, torch.Tensor)
    assert isinstance(unblended, torch.Tensor)
    assert_same(ours, reference)
    assert (ours - unblended).abs().max() > 100 * TOLERANCE * ours.abs().max(), "the blend would not show"


@pytest.mark.parametrize(("n", "step_count"), [(0.05, 4), (0.2, 3), (0.35, 2), (1.0, 1)])
def test_work_on_a_cover_starts_from_the_noised_source(engine: DitEngine, n: float, step_count: int) -> None:
    done_count, ours = denoise(engine, cover_noise_strength=n)
    assert done_count == step_count
    assert_same(ours, by_formula(engine, SHIFTED, n=n))


def test_of_two_timesteps_equally_near_the_first_is_the_start() -> None:
    assert nearest([1.0, 0.75, 0.5, 0.25], 0.625) == 1
    assert nearest([1.0, 0.75, 0.5, 0.25], 0.0) == 3


def test_later_starts_work_with_timesteps_of_ones_own(engine: DitEngine) -> None:
    timesteps = [0.9, 0.5, 0.25]
    step_count, ours = denoise(
        engine, timesteps=tuple(timesteps), cover_noise_strength=0.4, infer_method="sde"
    )
    assert step_count == 2
    assert_same(ours, by_formula(engine, timesteps, n=0.4, is_sde=True))


def test_sde_adds_fresh_noise_in_every_step_but_the_last(engine: DitEngine) -> None:
    _, ours = denoise(engine, infer_method="sde")
    assert_same(ours, by_formula(engine, SHIFTED, is_sde=True))
    assert (ours - denoise(engine)[1]).abs().max() > 0.1 * ours.abs().max()
    assert_same(denoise(engine, infer_method="sde", step_count=1)[1], denoise(engine, step_count=1)[1])


def test_items_of_a_batch_are_the_single_takes_bit_by_bit(engine: DitEngine) -> None:
    fields: dict[str, Any] = {
        "guidance_scale": 4.0,
        "cfg_interval": (0.3, 0.8),
        "audio_cover_strength": 0.7,
        "cover_noise_strength": 0.3,
        "infer_method": "sde",
    }
    _, batch = denoise(engine, (5, 9, 2), **fields)
    for index, seed in enumerate((5, 9, 2)):
        assert torch.equal(batch[index], denoise(engine, (seed,), **fields)[1][0])

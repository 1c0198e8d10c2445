"""The denoising loop."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from acestage.checkpoints import open_checkpoint
from acestage.checkpoints.loading import load_component
from services.dit.engine import Conditioning, DitEngine, StepDone
from services.dit.parameters import DenoiseParameters
from services.dit.worker import without_weights


@pytest.fixture(scope="module")
def engine(checkpoints: dict[str, Path]) -> DitEngine:
    return DitEngine(
        load_component(open_checkpoint(checkpoints["base/diffusers"], checkpoints_dir=Path()), "transformer")
    )


def conditioning() -> Conditioning:
    generator = torch.Generator().manual_seed(3)
    shapes = ((1, 40, 64), (1, 1, 64), (1, 101, 16))
    return Conditioning(*(torch.randn(*shape, generator=generator) for shape in shapes))


@pytest.mark.parametrize(
    ("version", "is_turbo"),
    [
        ("turbo", True),
        ("xl_turbo", True),
        ("turbo_shift3", True),
        ("xl_base", False),
        ("turbocharged", False),
    ],
)
def test_without_a_flag_the_version_tells_everywhere_whether_a_pipeline_is_turbo(
    checkpoints: dict[str, Path], tmp_path: Path, version: str, is_turbo: bool
) -> None:
    path = shutil.copytree(checkpoints["base/diffusers"], tmp_path / "model")
    config = path / "transformer" / "config.json"
    settings = json.loads(config.read_text()) | {"model_version": version}
    del settings["is_turbo"]
    config.write_text(json.dumps(settings))

    checkpoint = open_checkpoint(path, checkpoints_dir=Path())

    assert checkpoint.model.is_turbo is is_turbo
    assert without_weights(checkpoint).engine.is_turbo is is_turbo


@torch.no_grad()
def denoise(engine: DitEngine, **fields: Any) -> torch.Tensor:
    parameters = DenoiseParameters(seeds=(1, 2), step_count=6, **fields)
    *steps, latents = engine.denoise(conditioning(), parameters)
    assert steps == [StepDone(step, 6) for step in range(1, 7)]
    assert isinstance(latents, torch.Tensor)
    return latents


def test_guidance_one_half_at_a_time_gives_the_same_latents(engine: DitEngine) -> None:
    joint = denoise(engine)
    split = denoise(engine, split_guidance=True)
    assert (joint - split).abs().max() <= 1e-4 * joint.abs().max()
    assert (joint - denoise(engine, guidance_scale=1.0)).abs().max() > 0.1 * joint.abs().max()


def test_guidance_one_half_at_a_time_never_runs_two_items_at_once(
    engine: DitEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    passes = engine.transformer_pass.velocity

    def watched(latents: torch.Tensor, *arguments: Any) -> Any:
        batches.append(len(latents))
        return passes(latents, *arguments)

    monkeypatch.setattr(engine.transformer_pass, "velocity", watched)
    denoise(engine)
    assert batches == [2] * 12
    batches.clear()
    denoise(engine, split_guidance=True, cfg_interval=(0.5, 1.0))
    assert set(batches) == {1}
    assert 12 < len(batches) < 24

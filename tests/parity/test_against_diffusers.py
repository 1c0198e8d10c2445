"""The engines give the audio of `diffusers.AceStepPipeline` on the same checkpoint, request and seed."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from acestage.protos.generation.v1.generation_pb2 import GenerateRequest
from tests.in_process import InProcess
from tests.parity.reference import assert_same_audio, load_reference, reference_audio

LYRICS = "[verse]\nRain on the window, Schnee auf dem Dach\n[chorus]\n雨 música ☔"

REQUESTS: dict[str, dict[str, Any]] = {
    "instrumental": {"duration_s": 10, "step_count": 8},
    "lyrics": {"duration_s": 10, "step_count": 8, "lyrics": LYRICS, "language": "de"},
    "odd steps": {"duration_s": 10, "step_count": 7},
    "one step": {"duration_s": 10, "step_count": 1},
    "odd frames": {"duration_s": 13.37, "step_count": 3},
    "longer than a tile": {"duration_s": 24.96, "step_count": 2},
    "unshifted": {"duration_s": 10, "step_count": 4, "shift": 1.0},
    "shift 2": {"duration_s": 10, "step_count": 4, "shift": 2.0},
    "timesteps": {"duration_s": 10, "step_count": 8, "timesteps": [0.97, 0.76, 0.615, 0.5, 0.28, 0.085]},
    "metadata": {
        "duration_s": 10,
        "step_count": 3,
        "bpm": 96,
        "key_scale": "F# minor",
        "time_signature": "3",
        "instruction": "Make it rain",
    },
    "long lyrics": {"duration_s": 10, "step_count": 2, "lyrics": "la la la, oh oh oh. " * 600},
    "long caption": {"duration_s": 10, "step_count": 2, "caption": "slow warm piano, " * 100},
    "batch": {"duration_s": 10, "step_count": 4, "lyrics": LYRICS, "batch_size": 3},
}
GUIDANCE: dict[str, dict[str, Any]] = {
    "mild guidance": {"duration_s": 10, "step_count": 5, "guidance_scale": 2.5, "lyrics": LYRICS},
    "no guidance": {"duration_s": 10, "step_count": 5, "guidance_scale": 1.0},
    "interval": {"duration_s": 10, "step_count": 9, "cfg_interval_start": 0.2, "cfg_interval_end": 0.7},
}


@functools.cache
def load_pipeline(path: Path) -> Any:
    return load_reference(path)


@functools.lru_cache(maxsize=1)
def reference(path: Path, request: bytes) -> npt.NDArray[np.float32]:
    """The same request is compared with both layouts, one after the other."""
    return reference_audio(load_pipeline(path), GenerateRequest.FromString(request))


@functools.cache
def load_engines(path: Path) -> InProcess:
    return InProcess(path)


def compare(checkpoints: dict[str, Path], variant: str, layout: str, fields: dict[str, Any]) -> None:
    # The pipeline reads the diffusers layout alone; both layouts have the same weights.
    path = checkpoints[f"{variant}/diffusers"]
    engines = load_engines(checkpoints[f"{variant}/{layout}"])
    request = GenerateRequest(**{"caption": "warm lo-fi piano, rain", "seed": 1234} | fields)
    assert_same_audio(engines.generate(request), reference(path, request.SerializeToString()))


@pytest.mark.parametrize("layout", ["diffusers", "original"])
@pytest.mark.parametrize("name", REQUESTS)
def test_turbo_equals_the_pipeline(checkpoints: dict[str, Path], layout: str, name: str) -> None:
    compare(checkpoints, "turbo", layout, REQUESTS[name])


@pytest.mark.parametrize("layout", ["diffusers", "original"])
@pytest.mark.parametrize("name", REQUESTS | GUIDANCE)
def test_base_with_guidance_equals_the_pipeline(checkpoints: dict[str, Path], layout: str, name: str) -> None:
    compare(checkpoints, "base", layout, (REQUESTS | GUIDANCE)[name])


@pytest.mark.parametrize("layout", ["diffusers", "original"])
@pytest.mark.parametrize("name", ["lyrics", "batch"])
def test_a_transformer_wider_than_its_encoder_equals_the_pipeline(
    checkpoints: dict[str, Path], layout: str, name: str
) -> None:
    compare(checkpoints, "xl", layout, REQUESTS[name])


def test_inputs_matter(checkpoints: dict[str, Path]) -> None:
    """Guards the comparisons above: a model that ignores its inputs would pass them whatever we send."""
    engines = load_engines(checkpoints["base/diffusers"])
    plain = {"caption": "piano", "seed": 1, "duration_s": 10, "step_count": 4, "guidance_scale": 3}
    changes: list[dict[str, Any]] = [
        {"caption": "drums"},
        {"lyrics": "la"},
        {"seed": 2},
        {"bpm": 90},
        {"guidance_scale": 6},
        {"shift": 1},
        {"cfg_interval_end": 0.4},
    ]
    audio = engines.generate(GenerateRequest(**plain))
    for change in changes:
        other = engines.generate(GenerateRequest(**plain | change))
        assert np.abs(audio - other).max() > 100e-4, change


def test_items_of_a_batch_are_the_single_takes_bit_by_bit(checkpoints: dict[str, Path]) -> None:
    engines = load_engines(checkpoints["base/diffusers"])
    plain = {"caption": "piano", "duration_s": 10, "step_count": 3}
    batch = engines.generate(GenerateRequest(**plain, seed=5, batch_size=3))
    for index in range(3):
        single = engines.generate(GenerateRequest(**plain, seed=5 + index))
        assert np.array_equal(batch[index], single[0])

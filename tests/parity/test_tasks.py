"""Every task gives the audio of `diffusers.AceStepPipeline`, for requests drawn at random.

The pipeline draws source latents from the VAE's posterior; here it takes the mean, as we do. What it lacks
(starting from the source, sde, seeds of one's own, extending a song) has formulas of its own in other tests.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDiagonalGaussianDistribution
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acestage.generation_options import TRACK_NAMES
from acestage.protos.generation.v1.generation_pb2 import GenerateRequest
from acestage.protos.stage.v1.stage_pb2 import Model
from services.orchestrator.song import requests
from services.orchestrator.song.generation_settings import GenerationSettings
from tests.in_process import InProcess, Samples
from tests.parity.reference import TOLERANCE, load_reference

RATE_HZ = 48_000
HOP = 1920
LATENT_RATE_HZ = 25
CHANNELS = 8
"""Of the tiny models' latents."""

load_engines = functools.cache(InProcess)
load_pipeline = functools.cache(load_reference)


@pytest.fixture(autouse=True)
def posterior_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OobleckDiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mean)


def music(seconds: float, seed: int) -> Samples:
    """Chords in noise, [samples, 2], well within full scale."""
    count = round(seconds * RATE_HZ)
    rng = np.random.default_rng(seed)
    time = np.arange(count)[:, None] / RATE_HZ
    tones = sum(np.sin(2 * np.pi * time * hz) for hz in rng.uniform(80, 2_000, (3, 2)))
    return (0.1 * tones + 0.02 * rng.standard_normal((count, 2))).astype(np.float32)


EVERYBODYS_TASKS = ("text2music", "cover", "cover-nofsq", "repaint")
TRACK_TASKS = ("extract", "lego", "complete")
TASKS_OF_VARIANTS = [
    *(("turbo", task) for task in EVERYBODYS_TASKS),
    *(("base", task) for task in (*EVERYBODYS_TASKS, *TRACK_TASKS)),
    *(("xl", task) for task in ("cover", "repaint")),
]
"""Turbo models know no tracks; XL ones differ in their widths alone."""

TIMES = st.integers(0, 30).map(lambda tenths: tenths / 10)


@st.composite
def requests_with_audio(draw: st.DrawFn, task: str) -> tuple[dict[str, Any], float, float | None]:
    """The fields of a request, the length of its source (0 without one), and of its reference."""
    fields: dict[str, Any] = {
        "task": task,
        "caption": draw(st.sampled_from(["warm piano", "loud drums, rain", "Träumerei 雨"])),
        "lyrics": draw(st.sampled_from(["", "[verse]\nla la\n[chorus]\noh"])),
        "seed": draw(st.integers(0, 2**31)),
        "step_count": draw(st.integers(1, 4)),
        "shift": draw(st.sampled_from([1.0, 2.0, 3.0])),
        "batch_size": draw(st.sampled_from([1, 1, 1, 2])),
        "guidance_scale": draw(st.sampled_from([1.0, 4.0, 7.0])),
        "cfg_interval_start": draw(st.sampled_from([0.0, 0.3])),
        "cfg_interval_end": draw(st.sampled_from([1.0, 0.8])),
    }
    if draw(st.booleans()):
        fields["timesteps"] = draw(st.sampled_from([[0.97, 0.6, 0.2], [1.0, 0.5], [0.8]]))
    if draw(st.booleans()):
        fields["instruction"] = "Make it rain:"
    if draw(st.booleans()):
        fields |= {"bpm": 90, "key_scale": "F# minor", "time_signature": "3", "language": "de"}
    source_s = 0.0 if task == "text2music" else draw(st.sampled_from([1.0, 2.345]))
    if task == "text2music" and draw(st.sampled_from([False, True, True])):
        fields["audio_codes"] = draw(
            st.lists(st.integers(0, 63_999), min_size=5, max_size=12).map(
                lambda codes: "".join(f"<|audio_code_{code}|>" for code in codes)
            )
        )
    elif task == "text2music":
        fields["duration_s"] = draw(st.sampled_from([10.0, 10.13]))
    if task in ("cover", "cover-nofsq") or "audio_codes" in fields:
        fields["audio_cover_strength"] = draw(st.sampled_from([0.0, 0.4, 1.0]))
    if task in ("repaint", "lego"):
        start_s, end_s = sorted((draw(TIMES), draw(TIMES)))
        if start_s + 0.1 < min(end_s, source_s):
            fields |= {"repaint_start_s": start_s}
            fields |= {"repaint_end_s": end_s} if end_s < source_s else {}
    if task in ("extract", "lego") and draw(st.booleans()):
        fields["track_name"] = draw(st.sampled_from(TRACK_NAMES))
    if task == "complete":
        fields["track_classes"] = draw(st.lists(st.sampled_from(TRACK_NAMES), max_size=3, unique=True))
    return fields, source_s, draw(st.none() | st.just(1.0))


@contextmanager
def source_as_it_is(pipeline: Any) -> Iterator[None]:
    """The pipeline has no cover without audio codes: it is a cover of the latents that other tasks get."""
    prepare = pipeline.prepare_src_latents

    def plain(**options: Any) -> Any:
        return prepare(**options | {"task_type": "repaint"})

    pipeline.prepare_src_latents = plain
    try:
        yield
    finally:
        del pipeline.prepare_src_latents


def reference_raw(
    pipeline: Any,
    model: Model,
    request: GenerateRequest,
    resolved: GenerationSettings,
    source: Samples | None,
    reference: Samples | None,
) -> Samples:
    """What the pipeline decodes before it normalises, [items, samples, channels]."""
    count = len(resolved.seeds)
    timeline, window = resolved.timeline, resolved.window_frames
    frames = resolved.frame_count(model)
    noise = [
        torch.randn((1, frames, CHANNELS), generator=torch.Generator("cpu").manual_seed(seed))
        for seed in resolved.seeds
    ]
    options: dict[str, Any] = {
        "task_type": resolved.task.removesuffix("-nofsq"),
        "audio_duration": resolved.duration_s,
        "num_inference_steps": resolved.step_count,
        "shift": resolved.shift,
        "guidance_scale": request.guidance_scale,
        "cfg_interval_start": request.cfg_interval_start,
        "cfg_interval_end": request.cfg_interval_end,
        "timesteps": list(resolved.timesteps) or None,
        "bpm": resolved.bpm,
        "keyscale": resolved.key_scale or None,
        "timesignature": resolved.time_signature or None,
        "vocal_language": resolved.language,
        "instruction": request.instruction or None,
        "track_name": resolved.track_name or None,
        "complete_track_classes": list(resolved.track_classes) or None,
        "audio_cover_strength": resolved.audio_cover_strength,
        "audio_codes": request.audio_codes or None,
        # In the middle of a frame, so that its rounding cannot take another one.
        "repainting_start": (window.start + 0.5) / LATENT_RATE_HZ if window else None,
        "repainting_end": (window.stop + 0.5) / LATENT_RATE_HZ if window else None,
    }
    if source is not None:
        assert timeline is not None
        options["src_audio"] = torch.from_numpy(timeline.source_audio(source).T.copy())
    if reference is not None:
        options["reference_audio"] = torch.from_numpy(reference.T.copy())
    with source_as_it_is(pipeline) if resolved.task == "cover-nofsq" else nullcontext():
        latents = pipeline(
            prompt=[resolved.caption] * count,
            lyrics=[resolved.lyrics] * count,
            latents=torch.cat(noise),
            output_type="latent",
            **options,
        ).audios
    with torch.no_grad():
        audio = pipeline.vae.decode(latents.transpose(1, 2)).sample
    return np.asarray(audio.numpy()).transpose(0, 2, 1)


@pytest.mark.parametrize(("variant", "task"), TASKS_OF_VARIANTS)
@given(data=st.data())
@settings(max_examples=2, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_task_equals_the_pipeline(
    checkpoints: dict[str, Path], variant: str, task: str, data: st.DataObject
) -> None:
    compare(checkpoints, variant, *data.draw(requests_with_audio(task)))


def test_of_a_long_reference_the_pipeline_takes_as_much(checkpoints: dict[str, Path]) -> None:
    fields = {"task": "cover", "caption": "piano", "seed": 5, "step_count": 2, "batch_size": 2}
    compare(checkpoints, "turbo", fields | {"audio_cover_strength": 0.4}, 4.2, 31.5)


def compare(
    checkpoints: dict[str, Path],
    variant: str,
    fields: dict[str, Any],
    source_s: float,
    reference_s: float | None,
) -> None:
    engines = load_engines(checkpoints[f"{variant}/original"])
    source = music(source_s, seed=1) if source_s else None
    reference = None if reference_s is None else music(reference_s, seed=2)
    request = GenerateRequest(**fields)
    made = engines.make(request, source=source, reference=reference)
    named = GenerateRequest(**fields, source_id="source" if source_s else "")
    count = None if source is None else len(source)
    resolved = requests.resolve(named, engines.model, source_sample_count=count)
    pipeline = load_pipeline(checkpoints[f"{variant}/diffusers"])
    expected = reference_raw(pipeline, engines.model, request, resolved, source, reference)
    assert_same(made.raw, expected, resolved, source)


def assert_same(
    ours: Samples, expected: Samples, resolved: GenerationSettings, source: Samples | None
) -> None:
    """Within `TOLERANCE` of full scale, once the peak is there, in all samples that are new."""
    scale = 1.0 / np.abs(expected).max(axis=(1, 2), keepdims=True)
    assert np.isfinite(scale).all()
    new = slice(0, ours.shape[1])
    if resolved.keeps_source:
        assert source is not None
        assert resolved.timeline is not None
        window, fade = resolved.timeline.window, 480
        assert np.array_equal(ours[:, : window.start], np.stack([source[: window.start]] * len(ours)))
        assert np.array_equal(ours[:, window.stop :], np.stack([source[window.stop :]] * len(ours)))
        new = slice(window.start + fade, window.stop - fade)
    assert ours.shape[1] <= expected.shape[1] < ours.shape[1] + HOP
    assert (np.abs(ours[:, new] - expected[:, : ours.shape[1]][:, new]) * scale).max() <= TOLERANCE

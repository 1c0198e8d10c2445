"""The part of a reference that the model hears, and latents that are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AceStepPipeline

from acestage.protos.stage.v1.stage_pb2 import Model, StageReport
from acestage.protos.vae.v1 import vae_pb2
from acestage.tensors import WireTensor
from services.orchestrator.song.source_latents import (
    MAX_CACHED_BYTES,
    Audio,
    OnEvent,
    SourceLatents,
    reference_clip,
)
from services.orchestrator.song.timeline import Timeline, whole_song, with_window
from services.orchestrator.stage_clients import Deadline, VaeClient
from tests.unit.orchestrator.unreached import UNREACHED

RATE_HZ = 100
MODEL = Model(
    name="m", latent_channel_count=8, latent_frame_rate_hz=25, sample_rate_hz=RATE_HZ, hop_sample_count=4
)
OTHER = Model(name="n", latent_frame_rate_hz=25, sample_rate_hz=RATE_HZ, hop_sample_count=4)
SAMPLES = np.ones((2 * RATE_HZ, 2), np.float32)
AUDIO = Audio("a", SAMPLES, MODEL, "float32")
SONG = whole_song(len(SAMPLES), MODEL)


class _HeardError(Exception):
    pass


class _Vae:
    dtype = torch.float32

    def encode(self, audio: torch.Tensor) -> object:
        raise _HeardError(audio)


class _Pipeline:
    """In the place of a pipeline: its VAE gives back the audio that it is to encode."""

    sample_rate = RATE_HZ
    vae = _Vae()


@pytest.mark.parametrize("count", [100, 999, 2_999, 3_000, 3_001, 3_500, 10_007])
def test_a_clip_is_that_of_the_pipeline(count: int) -> None:
    samples = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    with pytest.raises(_HeardError) as heard:
        AceStepPipeline.prepare_reference_audio_latents(
            _Pipeline(), torch.from_numpy(samples.T.copy()), 1, torch.device("cpu"), torch.float32
        )
    (audio,) = heard.value.args
    assert np.array_equal(reference_clip(samples, RATE_HZ), audio[0].T.numpy())


class _CountingVae(VaeClient):
    """A VAE whose latents are the number of the encode, counted from 1."""

    def __init__(self, latent_bytes: int) -> None:
        super().__init__("vae", "nowhere", UNREACHED)
        self.models: list[str] = []
        self.shapes: list[tuple[int, int, int]] = []
        self._latent_bytes = latent_bytes

    async def encode(
        self,
        parameters: vae_pb2.EncodeParameters,
        audio: WireTensor,
        shape: tuple[int, int, int],
        on_event: OnEvent,
        deadline: Deadline,
    ) -> WireTensor:
        self.shapes.append(shape)
        self.models.append(parameters.model)
        on_event(vae_pb2.EncodeResponse(report=StageReport(kernels="eager")))
        on_event(vae_pb2.EncodeResponse(tile=vae_pb2.TileCompleted()))
        values = np.full(self._latent_bytes // 4, len(self.models), np.float32)
        return WireTensor("latents", "float32", (1, len(values), 1), values.data.cast("B"))


def encodes(*asked: tuple[Audio, Timeline | None], latent_bytes: int = 4) -> Sequence[int]:
    """Which encode each of the latents came from; no timeline means a reference."""

    async def ask() -> list[int]:
        latents = SourceLatents(_CountingVae(latent_bytes))
        found = []
        for audio, timeline in asked:
            if timeline is None:
                encoded = await latents.of_reference(audio, lambda event: None, Deadline(None))
            else:
                encoded = await latents.of_source(audio, timeline, lambda event: None, Deadline(None))
            tensor = encoded.latents
            assert encoded.kernels == "eager"
            assert tensor.name == ("reference_latents" if timeline is None else "source_latents")
            found.append(int(np.frombuffer(tensor.data, np.float32, 1)[0]))
        return found

    return asyncio.run(ask())


def test_latents_must_have_a_frame_for_each_hop_of_the_audio() -> None:
    async def ask() -> list[tuple[int, int, int]]:
        vae = _CountingVae(4)
        latents = SourceLatents(vae)
        await latents.of_source(AUDIO, SONG, lambda event: None, Deadline(None))
        await latents.of_reference(AUDIO, lambda event: None, Deadline(None))
        return vae.shapes

    assert asyncio.run(ask()) == [(1, 50, 8), (1, 30 * 25, 8)]


def test_the_same_audio_in_the_same_place_is_encoded_once() -> None:
    moved = [with_window(len(SAMPLES), start_s, 1.5, MODEL) for start_s in (0.2, 0.4, 1.0)]
    assert encodes((AUDIO, SONG), *((AUDIO, timeline) for timeline in moved)) == [1, 1, 1, 1]
    assert encodes((AUDIO, None), (AUDIO, None)) == [1, 1]


@pytest.mark.parametrize(
    ("audio", "timeline"),
    [
        (replace(AUDIO, audio_id="b"), SONG),
        (replace(AUDIO, model=OTHER), SONG),
        (replace(AUDIO, dtype="bfloat16"), SONG),
        (AUDIO, with_window(len(SAMPLES), -1.0, 1.0, MODEL)),  # the source begins later
        (AUDIO, with_window(len(SAMPLES), 1.0, 3.0, MODEL)),  # the song is longer
        (AUDIO, None),
    ],
    ids=["id", "model", "dtype", "start", "length", "reference"],
)
def test_what_latents_depend_on_makes_another_encode(audio: Audio, timeline: Timeline | None) -> None:
    assert encodes((AUDIO, SONG), (audio, timeline), (AUDIO, SONG), (audio, timeline)) == [1, 2, 1, 2]


@pytest.mark.parametrize(
    "audio",
    [
        replace(AUDIO, audio_id="b"),
        replace(AUDIO, model=OTHER),
        replace(AUDIO, dtype="bfloat16"),
    ],
    ids=["id", "model", "dtype"],
)
def test_another_reference_is_encoded_by_itself(audio: Audio) -> None:
    assert encodes((AUDIO, None), (audio, None), (AUDIO, None)) == [1, 2, 1]


def test_the_latents_that_were_not_asked_for_longest_make_room() -> None:
    *full, last = ((replace(AUDIO, audio_id=str(index)), SONG) for index in range(5))
    first, second, *_ = full
    asked = encodes(*full, first, last, first, second, latent_bytes=MAX_CACHED_BYTES // 4)
    assert asked == [1, 2, 3, 4, 1, 5, 1, 6]
    assert encodes(*full, last, last, latent_bytes=MAX_CACHED_BYTES + 4) == [1, 2, 3, 4, 5, 5]

"""Uploaded audio as latents: of a source in its place in the song, and of a reference for its timbre."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from acestage.protos.stage.v1.stage_pb2 import Model
from acestage.protos.vae.v1 import vae_pb2
from acestage.tensors import WireTensor
from services.orchestrator.song.recent import Recent
from services.orchestrator.song.timeline import Span, Timeline
from services.orchestrator.stage_clients import Deadline, VaeClient
from services.runtime.rpc.request_limits import TIMBRE_REFERENCE_S

Samples = npt.NDArray[np.float32]
OnEvent = Callable[[vae_pb2.EncodeResponse], Any]

_PART_COUNT = 3
"""Parts of a reference that the model hears: ten seconds from its front, its middle and its back."""

MAX_CACHED_BYTES = 128 << 20
"""How many latents are kept for later requests about the same audio: those of ten minutes take 3.8 MB."""


@dataclass(frozen=True, slots=True)
class HeldAudio:
    """Samples [samples, channels] that a job works on; they stay there even when their ids are dropped."""

    source: Samples | None = None
    reference: Samples | None = None

    @property
    def source_sample_count(self) -> int | None:
        return None if self.source is None else len(self.source)


@dataclass(frozen=True, slots=True)
class Audio:
    """Audio to encode.

    Attributes:
        audio_id: stands for the samples.
        samples: [samples, channels].
        model: whose VAE is to be used.
        dtype: what that computes in.
    """

    audio_id: str
    samples: Samples
    model: Model
    dtype: str


@dataclass(frozen=True, slots=True)
class EncodedAudio:
    """Latents [1, frames, channels], and what the kernels of the VAE were that made them."""

    latents: WireTensor
    kernels: str


@dataclass(frozen=True, slots=True)
class _Key:
    """What latents depend on; `place` is that of a source in its song."""

    audio_id: str
    model: str
    dtype: str
    place: tuple[Span, int] | None


class SourceLatents:
    """Encodes audio, and remembers the latents: who edits a song asks again and again."""

    def __init__(self, vae: VaeClient) -> None:
        self._vae = vae
        self._recent: Recent[_Key, EncodedAudio] = Recent(
            MAX_CACHED_BYTES, lambda encoded: len(encoded.latents.data)
        )

    async def of_source(
        self, audio: Audio, timeline: Timeline, on_event: OnEvent, deadline: Deadline
    ) -> EncodedAudio:
        """ "source_latents" [1, frames of the song, channels], with silence where the source is not.

        Args:
            audio: the source.
            timeline: where it lies.
            on_event: hears of the stage's progress.
            deadline: when the caller gives up.

        Raises:
            AcestageError: the stage failed.
        """
        # The window is no part of it: it is moved again and again over the same source.
        key = _Key(audio.audio_id, audio.model.name, audio.dtype, (timeline.source, timeline.frame_count))
        return await self._encoded(
            "source_latents",
            key,
            audio.model,
            lambda: timeline.source_audio(audio.samples),
            on_event,
            deadline,
        )

    async def of_reference(self, audio: Audio, on_event: OnEvent, deadline: Deadline) -> EncodedAudio:
        """ "reference_latents" [1, frames of 30 s, channels]; arguments and errors as in `of_source`."""
        key = _Key(audio.audio_id, audio.model.name, audio.dtype, None)
        return await self._encoded(
            "reference_latents",
            key,
            audio.model,
            lambda: reference_clip(audio.samples, audio.model.sample_rate_hz),
            on_event,
            deadline,
        )

    async def _encoded(
        self,
        name: str,
        key: _Key,
        model: Model,
        prepare: Callable[[], Samples],
        on_event: OnEvent,
        deadline: Deadline,
    ) -> EncodedAudio:
        async def encode() -> EncodedAudio:
            kernels = ""

            def hear(response: vae_pb2.EncodeResponse) -> None:
                nonlocal kernels
                kernels = response.report.kernels or kernels
                on_event(response)

            audio = await asyncio.to_thread(_to_wire, prepare)
            parameters = vae_pb2.EncodeParameters(model=model.name)
            shape = (1, audio.shape[1] // model.hop_sample_count, model.latent_channel_count)
            latents = await self._vae.encode(parameters, audio, shape, hear, deadline)
            return EncodedAudio(replace(latents, name=name), kernels)

        return await self._recent.get(key, encode)


def _to_wire(prepare: Callable[[], Samples]) -> WireTensor:
    audio = np.ascontiguousarray(prepare(), dtype="<f4")
    return WireTensor("audio", "float32", (1, *audio.shape), audio.data.cast("B"))


def reference_clip(samples: Samples, sample_rate_hz: int) -> Samples:
    """What the timbre encoder hears of a reference [samples, channels]: 30 s of it, repeated where shorter.

    Parts begin at the front, at a third, and ten seconds before the end, as in
    `AceStepPipeline.prepare_reference_audio_latents` of diffusers.
    """
    wanted = TIMBRE_REFERENCE_S * sample_rate_hz
    if len(samples) < wanted:
        samples = np.tile(samples, (math.ceil(wanted / len(samples)), 1))
    part = wanted // _PART_COUNT
    starts = (0, len(samples) // _PART_COUNT, len(samples) - part)
    return np.concatenate([samples[start : start + part] for start in starts])

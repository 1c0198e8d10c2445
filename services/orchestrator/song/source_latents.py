"""Uploaded audio as latents: of a source in its place in the song, and of a reference for its timbre."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from acestage.protos.stage.v1.stage_pb2 import Model
from acestage.protos.vae.v1 import vae_pb2
from acestage.tensors import WireTensor
from services.orchestrator.song.timeline import Timeline
from services.orchestrator.stage_clients import Deadline, VaeClient
from services.orchestrator.uploads.audio_store import AudioStore

Samples = npt.NDArray[np.float32]
OnEvent = Callable[[vae_pb2.EncodeResponse], Any]

REFERENCE_S = 30
"""Seconds of a reference that the model hears: ten from its front, its middle and its back."""
_PART_COUNT = 3

MAX_CACHED_COUNT = 32
"""Latents that are kept for the next request about the same audio: 3.8 MB for ten minutes."""


@dataclass(frozen=True, slots=True)
class _Key:
    audio_id: str
    timeline: Timeline | None
    model: str
    dtype: str


class SourceLatents:
    """Encodes audio of the store, and remembers the latents: who edits a song asks again and again."""

    def __init__(self, store: AudioStore, vae: VaeClient) -> None:
        self._store = store
        self._vae = vae
        self._cache: OrderedDict[_Key, WireTensor] = OrderedDict()

    async def of_source(
        self,
        audio_id: str,
        timeline: Timeline,
        model: Model,
        dtype: str,
        on_event: OnEvent,
        deadline: Deadline,
    ) -> WireTensor:
        """ "source_latents" [1, frames of the song, channels], with silence where the source is not.

        Args:
            audio_id: of the source.
            timeline: where it lies.
            model: whose VAE is to be used.
            dtype: in which that computes.
            on_event: hears of the stage's progress.
            deadline: of the caller.

        Raises:
            NotFoundError: the audio is not there any more.
            AcestageError: the stage failed.
        """
        key = _Key(audio_id, timeline, model.name, dtype)
        return await self._encoded("source_latents", key, timeline.source_audio, on_event, deadline)

    async def of_reference(
        self, audio_id: str, model: Model, dtype: str, on_event: OnEvent, deadline: Deadline
    ) -> WireTensor:
        """ "reference_latents" [1, frames of 30 s, channels]; arguments and errors as in `of_source`."""
        key = _Key(audio_id, None, model.name, dtype)

        def clip(samples: Samples) -> Samples:
            return reference_clip(samples, model.sample_rate_hz)

        return await self._encoded("reference_latents", key, clip, on_event, deadline)

    async def _encoded(
        self,
        name: str,
        key: _Key,
        prepare: Callable[[Samples], Samples],
        on_event: OnEvent,
        deadline: Deadline,
    ) -> WireTensor:
        found = self._cache.pop(key, None)
        if found is None:
            audio = await asyncio.to_thread(self._audio, key.audio_id, prepare)
            parameters = vae_pb2.EncodeParameters(model=key.model)
            latents = await self._vae.encode(audio, parameters, on_event, deadline)
            found = replace(latents, name=name)
        self._cache[key] = found
        if len(self._cache) > MAX_CACHED_COUNT:
            self._cache.popitem(last=False)
        return found

    def _audio(self, audio_id: str, prepare: Callable[[Samples], Samples]) -> WireTensor:
        with self._store.use(audio_id) as samples:
            audio = np.ascontiguousarray(prepare(samples), dtype="<f4")
        return WireTensor("audio", "float32", (1, *audio.shape), audio.data.cast("B"))


def reference_clip(samples: Samples, sample_rate_hz: int) -> Samples:
    """What the timbre encoder hears of a reference [samples, channels]: 30 s of it, repeated where shorter.

    Parts begin at the front, at a third, and ten seconds before the end, as in
    `AceStepPipeline.prepare_reference_audio_latents` of diffusers.
    """
    wanted = REFERENCE_S * sample_rate_hz
    if len(samples) < wanted:
        samples = np.tile(samples, (math.ceil(wanted / len(samples)), 1))
    part = wanted // _PART_COUNT
    starts = (0, len(samples) // _PART_COUNT, len(samples) - part)
    return np.concatenate([samples[start : start + part] for start in starts])

"""A quick listen before the work: a few steps over the first seconds of what is new, from the same seeds."""

from __future__ import annotations

from dataclasses import replace

from acestage.protos.stage.v1.stage_pb2 import Model
from acestage.tensors import ITEM_BYTES, WireTensor
from services.orchestrator.song.generation_settings import GenerationSettings
from services.orchestrator.song.timeline import Span

PREVIEW_S = 10.0
STEP_SHARE = 4
"""One step in so many."""
LEAST_STEPS = 2

_BY_FRAME = ("context_latents", "source_latents")
"""Tensors [1, frames, …]."""


class Preview:
    """What the preview of a job does.

    Noise is drawn frame by frame, so that a preview from the song's start begins with the song's own noise.

    Attributes:
        settings: those of the job, with fewer steps.
        frames: the part of the song.
    """

    def __init__(self, settings: GenerationSettings, model: Model) -> None:
        frame_count = settings.frame_count(model)
        first = settings.window_frames.start if settings.window_frames else 0
        stop = min(frame_count, first + round(PREVIEW_S * model.latent_frame_rate_hz))
        self.frames = Span(first, stop)
        step_count = min(settings.step_count, max(LEAST_STEPS, settings.step_count // STEP_SHARE))
        given = settings.timesteps
        self.settings = replace(
            settings,
            step_count=step_count,
            # The first one of each of so many equal parts.
            timesteps=tuple(
                given[index * len(given) // step_count] for index in range(step_count if given else 0)
            ),
            # The part is sent as it is, also where it lies between parts of a source.
            timeline=None,
            source_id="",
        )

    def cut(self, tensor: WireTensor) -> WireTensor:
        """The part of an input of the DiT; `tensor` itself where it does not run over the song."""
        if tensor.name not in _BY_FRAME:
            return tensor
        _, _, width = tensor.shape
        row_bytes = width * ITEM_BYTES[tensor.dtype]
        data = memoryview(tensor.data)[self.frames.start * row_bytes : self.frames.stop * row_bytes]
        return WireTensor(tensor.name, tensor.dtype, (1, len(self.frames), width), data)

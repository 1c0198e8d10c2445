"""The engines of all stages in this process, called one after the other: a song without services."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from acestage.checkpoints import Checkpoint
from acestage.generation import STAGES
from acestage.planning import DEFAULT_TILE_FRAMES, Quantization
from bench.speed import as_workers
from services.dit import worker as dit
from services.dit.engine import Conditioning, StepDone
from services.dit.parameters import DenoiseParameters
from services.runtime.stage_worker import StageWorker
from services.text_encoder import worker as text_encoder
from services.text_encoder.encode_job import EncodeJob
from services.text_encoder.prompt import Prompt
from services.vae import worker as vae


@dataclass(slots=True)
class Sung:
    """How a song was made; seconds count from its beginning.

    Attributes:
        last_step_s: until the last denoising step was done.
        first_audio_s: until the first samples were there.
        total_s: until all were.
    """

    last_step_s: float = 0.0
    first_audio_s: float = 0.0
    total_s: float = 0.0


class OneProcess:
    """The engines of `checkpoint`, placed on the CPU."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype, quantization: Quantization) -> None:
        self._frame_rate_hz = checkpoint.model.latent_frame_rate_hz
        self._text_encoder = text_encoder.load(checkpoint)
        self._dit = dit.load(checkpoint)
        self._vae = vae.load(checkpoint)
        workers: tuple[StageWorker, ...] = (self._text_encoder, self._dit, self._vae)
        for stage, worker in zip(STAGES, workers, strict=True):
            as_workers.place(stage, worker, checkpoint, dtype, quantization)

    @torch.no_grad()
    def sing(self, caption: str, duration_s: float, step_count: int, seed: int) -> Sung:
        """Makes one song, without guidance, and forgets its audio."""
        song = Sung()
        begun = time.monotonic()
        job = EncodeJob(Prompt(caption, duration_s=duration_s), math.ceil(duration_s * self._frame_rate_hz))
        encoded = self._text_encoder.engine.encode(job)
        conditioning = Conditioning(
            encoded.encoder_hidden_states, encoded.null_condition, encoded.context_latents
        )
        parameters = DenoiseParameters((seed,), step_count, guidance_scale=1.0, keeps_prompt=True)
        for event in self._dit.engine.denoise(conditioning, parameters):
            if isinstance(event, StepDone):
                song.last_step_s = time.monotonic() - begun
                continue
            for _ in self._vae.engine.decode(event, DEFAULT_TILE_FRAMES):
                song.first_audio_s = song.first_audio_s or time.monotonic() - begun
        song.total_s = time.monotonic() - begun
        return song

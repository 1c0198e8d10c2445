"""The engines one after the other in this process, without services: what the split must equal bit by bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from acestage.checkpoints import Checkpoint, open_checkpoint
from acestage.checkpoints.loading import (
    load_condition_encoder,
    load_decoder,
    load_text_encoder,
    load_tokenizer,
    load_transformer,
)
from acestage.protos.generation.v1.generation_pb2 import GenerateRequest
from acestage.protos.vae.v1.vae_pb2 import AudioChunk
from services.dit.engine import Conditioning, DitEngine
from services.dit.parameters import DenoiseParameters
from services.orchestrator import requests
from services.orchestrator.audio_meter import AudioMeter
from services.runtime.stage_server import model_to_pb
from services.text_encoder.encode_job import EncodeJob
from services.text_encoder.engine import TextEncoderEngine
from services.text_encoder.prompt import Prompt
from services.vae.engine import VaeEngine
from tests.running_stack import THREADS


class InProcess:
    """All three engines of a checkpoint."""

    def __init__(self, path: str | Path) -> None:
        checkpoint: Checkpoint = open_checkpoint(path, checkpoints_dir=Path("checkpoints"))
        self.model = model_to_pb(checkpoint.model)
        self.text_encoder = TextEncoderEngine(
            load_tokenizer(checkpoint),
            load_text_encoder(checkpoint),
            load_condition_encoder(checkpoint),
            latent_frame_rate_hz=checkpoint.model.latent_frame_rate_hz,
        )
        self.dit = DitEngine(load_transformer(checkpoint))
        self.vae = VaeEngine(load_decoder(checkpoint))

    @torch.no_grad()
    def generate(self, request: GenerateRequest) -> npt.NDArray[np.float32]:
        """Normalised audio [items, samples, channels], computed with as many threads as the workers use."""
        torch.set_num_threads(THREADS)
        requests.check(request)
        settings = requests.resolve(request, self.model)
        prompt = Prompt(
            caption=settings.caption,
            lyrics=settings.lyrics,
            language=settings.language,
            duration_s=settings.duration_s,
            bpm=settings.bpm,
            key_scale=settings.key_scale,
            time_signature=settings.time_signature,
            instruction=settings.instruction,
        )
        encoded = self.text_encoder.encode(EncodeJob(prompt, settings.frame_count(self.model)))
        conditioning = Conditioning(
            encoded.encoder_hidden_states, encoded.null_condition, encoded.context_latents
        )
        parameters = DenoiseParameters(
            seeds=settings.seeds,
            step_count=settings.step_count,
            shift=settings.shift,
            guidance_scale=settings.guidance_scale,
            cfg_interval=settings.cfg_interval,
            timesteps=settings.timesteps,
        )
        *_, latents = self.dit.denoise(conditioning, parameters)
        assert isinstance(latents, torch.Tensor)
        items: list[list[npt.NDArray[np.float32]]] = [[] for _ in settings.seeds]
        meters = [AudioMeter() for _ in settings.seeds]
        for tile in self.vae.decode(latents, 0):
            samples = tile.audio.contiguous().numpy()
            items[tile.item_index].append(samples)
            meters[tile.item_index].add(
                AudioChunk(samples=samples.tobytes(), channel_count=samples.shape[1], sample_rate_hz=1)
            )
        tracks = [meter.track(index, 0) for index, meter in enumerate(meters)]
        return np.stack(
            [np.concatenate(item) * np.float32(t.gain) for item, t in zip(items, tracks, strict=True)]
        )

"""Denoising to be timed: with our engine, and as the pipeline of diffusers does it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from acestage.checkpoints import Checkpoint
from services.dit.engine import Conditioning, StepDone
from services.dit.noise import ItemNoise
from services.dit.parameters import DenoiseParameters
from services.dit.schedule import make_scheduler

TOKEN_COUNT = 256
"""Of the condition: a caption and some lines of lyrics."""


@dataclass(frozen=True, slots=True)
class Denoised:
    """One run.

    Attributes:
        steps_s: seconds of each step, the first one with what is done once a job.
        latents: [items, frames, channels].
    """

    steps_s: list[float]
    latents: torch.Tensor


def in_turn(runs: Mapping[str, Iterator[StepDone | torch.Tensor]]) -> dict[str, Denoised]:
    """Does one step of each of `runs`, then the next one of each, and so on to their latents.

    Every other round of steps goes through them in the opposite order, as in `interleaved`. All must have as
    many steps.
    """
    steps_s: dict[str, list[float]] = {name: [] for name in runs}
    latents: dict[str, torch.Tensor] = {}
    for number in itertools.count():
        for name in list(runs)[:: 1 if number % 2 == 0 else -1]:
            begun = time.perf_counter()
            event = next(runs[name])
            if isinstance(event, StepDone):
                steps_s[name].append(time.perf_counter() - begun)
            else:
                latents[name] = event
        if latents:
            break
    return {name: Denoised(steps_s[name], latents[name]) for name in runs}


def random_conditioning(checkpoint: Checkpoint, width: int, frame_count: int) -> Conditioning:
    """A condition of `TOKEN_COUNT` tokens of `width`, and a source, of random numbers; bfloat16.

    All frames are to be generated.
    """
    generator = torch.Generator().manual_seed(1)
    channels = checkpoint.model.latent_channel_count
    source = torch.randn(1, frame_count, channels, generator=generator)
    return Conditioning(
        torch.randn(1, TOKEN_COUNT, width, generator=generator).bfloat16(),
        torch.zeros(1, 1, width, dtype=torch.bfloat16),
        torch.cat([source, torch.ones_like(source)], dim=-1).bfloat16(),
    )


def diffusers_denoise(
    transformer: Any, conditioning: Conditioning, parameters: DenoiseParameters
) -> Iterator[StepDone | torch.Tensor]:
    """The loop of `AceStepPipeline` in diffusers, without guidance; what it yields is as `DitEngine.denoise`.

    All items go through the transformer at once, and all of the model runs in every step.
    """
    dtype, item_count = transformer.dtype, len(parameters.seeds)
    states, context = (
        tensor.to(dtype).expand(item_count, -1, -1)
        for tensor in (conditioning.encoder_hidden_states, conditioning.context_latents)
    )
    scheduler = make_scheduler(parameters)
    channels = context.shape[2] // 2
    latents = ItemNoise(parameters.seeds).draw(context.shape[1], channels).to(dtype)
    for index, timestep in enumerate(scheduler.timesteps):
        t = float(timestep) * torch.ones((item_count,), dtype=dtype)
        velocity = transformer(
            hidden_states=latents,
            timestep=t,
            timestep_r=t,
            encoder_hidden_states=states,
            context_latents=context,
            return_dict=False,
        )[0]
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        yield StepDone(index + 1, len(scheduler.timesteps))
    yield latents

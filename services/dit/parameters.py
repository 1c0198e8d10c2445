"""What a denoising job asks for, without torch and without protobuf."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DenoiseParameters:
    """How to denoise.

    Attributes:
        seeds: one item of the batch each.
        step_count: denoising steps, at least 1.
        shift: shift of the timestep schedule, above 0.
        guidance_scale: APG guidance is on above 1, unless the model is a turbo model.
        cfg_interval: guidance is applied while 1 - t lies within, bounds included.
        timesteps: overrides `step_count` and `shift` unless empty: falling values in (0, 1].
        split_guidance: the halves of guidance go through the model one after the other instead of at once:
            half the activations, and the same latents up to rounding.
    """

    seeds: tuple[int, ...]
    step_count: int = 8
    shift: float = 3.0
    guidance_scale: float = 7.0
    cfg_interval: tuple[float, float] = (0.0, 1.0)
    timesteps: tuple[float, ...] = ()
    split_guidance: bool = False

"""The timestep schedule: where denoising stops on the way from noise (t = 1) to data (t = 0)."""

from __future__ import annotations

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from services.dit.parameters import DenoiseParameters


def make_scheduler(parameters: DenoiseParameters) -> FlowMatchEulerDiscreteScheduler:
    """An Euler scheduler set to the job's sigmas.

    Equally spaced from 1 down to, without, 0, then shifted: s * t / (1 + (s - 1) * t). Custom timesteps
    are taken as they are. The scheduler itself must not scale or shift again: ACE-Step's timesteps are
    its sigmas (reference: `AceStepPipeline._get_timestep_schedule` in diffusers).

    With a cover noise strength n above 0, those before the sigma that is nearest to 1 - n are dropped.
    """
    if parameters.timesteps:
        sigmas = torch.tensor(parameters.timesteps, dtype=torch.float32)
    else:
        sigmas = torch.linspace(1.0, 0.0, parameters.step_count + 1, dtype=torch.float32)[:-1]
        if parameters.shift != 1.0:
            sigmas = parameters.shift * sigmas / (1 + (parameters.shift - 1) * sigmas)
    levels: list[float] = sigmas.tolist()
    if parameters.cover_noise_strength > 0.0:
        levels = levels[nearest(levels, 1.0 - parameters.cover_noise_strength) :]
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0)
    scheduler.set_timesteps(sigmas=levels)
    return scheduler


def nearest(levels: list[float], level: float) -> int:
    """The index of the value in `levels` that is nearest to `level`; the first of two equally near ones."""
    return min(range(len(levels)), key=lambda index: abs(levels[index] - level))


def noised_source(source: torch.Tensor, noise: torch.Tensor, t: float) -> torch.Tensor:
    """Where work on a cover starts: t * noise + (1 - t) * source, with t the first timestep that is left.

    As in the sampler of ACE-Step 1.5 (`cover_noise_strength`).
    """
    return t * noise + (1.0 - t) * source


def sde_step(
    latents: torch.Tensor, velocity: torch.Tensor, t: float, t_next: float, noise: torch.Tensor | None
) -> torch.Tensor:
    """The latents at `t_next`: the data that `velocity` points to, noised afresh.

    x0 = x - t * v, then t_next * noise + (1 - t_next) * x0, or x0 alone where there is no noise, at the end.
    As in the "sde" method of ACE-Step 1.5's sampler. Computed in float32, and returned in the type of
    `latents`, as Euler's step of the scheduler is.
    """
    data = latents.to(torch.float32, copy=True).sub_(velocity, alpha=t)
    if noise is not None:
        data.mul_(1.0 - t_next).add_(noise, alpha=t_next)
    return data.to(latents.dtype)

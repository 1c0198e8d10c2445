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
    """
    if parameters.timesteps:
        sigmas = torch.tensor(parameters.timesteps, dtype=torch.float32)
    else:
        sigmas = torch.linspace(1.0, 0.0, parameters.step_count + 1, dtype=torch.float32)[:-1]
        if parameters.shift != 1.0:
            sigmas = parameters.shift * sigmas / (1 + (parameters.shift - 1) * sigmas)
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0)
    scheduler.set_timesteps(sigmas=sigmas.tolist())
    return scheduler

"""Denoising with the diffusion transformer. Plain classes: no gRPC, no processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from diffusers import AceStepTransformer1DModel
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance

from services.dit.adapters import Adapters
from services.dit.attention import WindowedAttentionProcessor
from services.dit.noise import ItemNoise
from services.dit.parameters import DenoiseParameters
from services.dit.schedule import make_scheduler, noised_source, sde_step
from services.dit.token_chunks import TokenChunks
from services.runtime.finite import check_finite

# Constants of ACE-Step's adaptive projected guidance (arXiv 2410.02416), as its reference pipeline has them.
APG_MOMENTUM = -0.75
APG_ETA = 0.0
APG_NORM_THRESHOLD = 2.5

_PER_TOKEN = ("self_attn_norm", "cross_attn_norm", "mlp_norm", "mlp")
"""Parts of a layer with temporaries larger than their input: float32 copies, wide intermediates."""


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What the stages before give, the same for every item of the batch.

    Attributes:
        encoder_hidden_states: [1, tokens, width].
        null_condition: [1, 1, width], the learned unconditional embedding.
        context_latents: [1, frames, 2 * channels], source latents and chunk mask.
        plain_hidden_states: [1, tokens, width], what the caption alone gives; needed where the audio cover
            strength is below 1.
        source_latents: [1, frames, channels]; needed where the cover noise strength is above 0.
    """

    encoder_hidden_states: torch.Tensor
    null_condition: torch.Tensor
    context_latents: torch.Tensor
    plain_hidden_states: torch.Tensor | None = None
    source_latents: torch.Tensor | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> Conditioning:
        """What the transformer sees, moved; the source's latents stay where the noise is drawn."""
        plain = self.plain_hidden_states
        return Conditioning(
            self.encoder_hidden_states.to(device, dtype),
            self.null_condition.to(device, dtype),
            self.context_latents.to(device, dtype),
            None if plain is None else plain.to(device, dtype),
            self.source_latents,
        )


@dataclass(frozen=True, slots=True)
class StepDone:
    """Step `step` of `step_count` (1-based) is done."""

    step: int
    step_count: int


class DitEngine:
    """The transformer and its denoising loop."""

    def __init__(self, transformer: AceStepTransformer1DModel) -> None:
        self.transformer = transformer
        transformer.set_attn_processor(WindowedAttentionProcessor())
        for layer in transformer.layers:
            for name in _PER_TOKEN:
                setattr(layer, name, TokenChunks(getattr(layer, name)))
        config = transformer.config
        self.adapters = Adapters(transformer)
        self.is_turbo = bool(config.is_turbo) or config.model_version == "turbo"
        self.channel_count = int(config.audio_acoustic_hidden_dim)

    def denoise(
        self, conditioning: Conditioning, parameters: DenoiseParameters
    ) -> Iterator[StepDone | torch.Tensor]:
        """Yields `StepDone` after every step, then the latents [items, frames, channels] in the model's type.

        Raises:
            InvalidArgumentError: an adapter is not one for this model.
            NonFiniteError: a step overflowed float16.

        Items go through the transformer one at a time: an item's result does not depend on the batch, and
        neither does the memory.
        """
        with self.adapters.applied(parameters.adapters):
            yield from self._denoise(conditioning, parameters)

    def _denoise(
        self, conditioning: Conditioning, parameters: DenoiseParameters
    ) -> Iterator[StepDone | torch.Tensor]:
        device, dtype = self.transformer.device, self.transformer.dtype
        conditioning = conditioning.to(device, dtype)
        noise = ItemNoise(parameters.seeds)
        shape = (conditioning.context_latents.shape[1], self.channel_count)
        scheduler = make_scheduler(parameters)
        levels: list[float] = scheduler.sigmas.tolist()  # the timesteps, and 0 at the end
        latents = noise.draw(*shape)
        if parameters.cover_noise_strength > 0.0:
            assert conditioning.source_latents is not None
            latents = noised_source(conditioning.source_latents.float(), latents, levels[0])
        latents = latents.to(device, dtype)
        step_count = len(scheduler.timesteps)
        momentum = [MomentumBuffer(APG_MOMENTUM) for _ in parameters.seeds]
        for index, timestep in enumerate(scheduler.timesteps):
            velocities = [
                self._step_velocity(item, levels[index], conditioning, parameters, buffer)
                for item, buffer in zip(torch.split(latents, 1), momentum, strict=True)
            ]
            velocity = torch.cat(velocities)
            if parameters.infer_method == "ode":
                latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
            else:
                t_next = levels[index + 1]
                fresh = noise.draw(*shape).to(device) if t_next > 0.0 else None
                latents = sde_step(latents, velocity, levels[index], t_next, fresh)
            check_finite(latents, "dit", f"the latents after step {index + 1} of {step_count}")
            yield StepDone(index + 1, step_count)
        yield latents

    def _step_velocity(
        self,
        latents: torch.Tensor,
        t: float,
        conditioning: Conditioning,
        parameters: DenoiseParameters,
        momentum: MomentumBuffer,
    ) -> torch.Tensor:
        """The velocity at `t`: guided where the interval says so, then blended with the plain one.

        The blend is strength * v + (1 - strength) * plain v, as in `AceStepPipeline` of diffusers. Plain
        passes are never guided.
        """
        first, last = parameters.cfg_interval
        has_guidance = parameters.guidance_scale > 1.0 and not self.is_turbo
        context = conditioning.context_latents
        if has_guidance and first <= 1.0 - t <= last:
            velocity = self._guided_velocity(latents, t, conditioning, parameters, momentum)
        else:
            velocity = self._velocity(latents, t, conditioning.encoder_hidden_states, context)
        strength = parameters.audio_cover_strength
        if strength < 1.0:
            assert conditioning.plain_hidden_states is not None
            plain = self._velocity(latents, t, conditioning.plain_hidden_states, context)
            velocity = strength * velocity + (1.0 - strength) * plain
        return velocity

    def _velocity(
        self, latents: torch.Tensor, t: float, encoder_hidden_states: torch.Tensor, context: torch.Tensor
    ) -> torch.Tensor:
        timestep = torch.full((latents.shape[0],), t, device=latents.device, dtype=latents.dtype)
        velocity: torch.Tensor = self.transformer(
            hidden_states=latents,
            timestep=timestep,
            timestep_r=timestep,
            encoder_hidden_states=encoder_hidden_states,
            context_latents=context,
            return_dict=False,
        )[0]
        return velocity

    def _guided_velocity(
        self,
        latents: torch.Tensor,
        t: float,
        conditioning: Conditioning,
        parameters: DenoiseParameters,
        momentum: MomentumBuffer,
    ) -> torch.Tensor:
        """Adaptive projected guidance from the conditional and the unconditional velocity."""
        states = conditioning.encoder_hidden_states
        null = conditioning.null_condition.expand_as(states)
        context = conditioning.context_latents
        if parameters.split_guidance:
            conditional = self._velocity(latents, t, states, context)
            unconditional = self._velocity(latents, t, null, context)
        else:
            both = torch.cat([states, null])
            velocity = self._velocity(latents.expand(2, -1, -1), t, both, context.expand(2, -1, -1))
            conditional, unconditional = velocity.chunk(2)
        guided: torch.Tensor = normalized_guidance(
            pred_cond=conditional,
            pred_uncond=unconditional,
            guidance_scale=parameters.guidance_scale - 1.0,
            momentum_buffer=momentum,
            eta=APG_ETA,
            norm_threshold=APG_NORM_THRESHOLD,
            use_original_formulation=True,
            norm_dim=(1,),
        )
        return guided

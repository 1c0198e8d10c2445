"""Denoising with the diffusion transformer. Plain classes: no gRPC, no processes."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers import AceStepTransformer1DModel
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance

from acestage.checkpoints.model_version import is_turbo
from acestage.errors import CheckpointError
from acestage.planning import Quantization
from services.dit.adapters import Adapters
from services.dit.kernels import NORM_EPSILON
from services.dit.noise import ItemNoise
from services.dit.parameters import DenoiseParameters
from services.dit.schedule import make_scheduler, noised_source, sde_step
from services.dit.time_embeddings import EMBEDDERS, TimeEmbedding, embed_timesteps
from services.dit.transformer_pass import Prepared, TransformerPass
from services.runtime.finite import check_finite
from services.runtime.weights import integer_products
from services.runtime.weights.placement import place
from services.runtime.weights.quantization import quantize

# Constants of ACE-Step's adaptive projected guidance (arXiv 2410.02416), as its reference pipeline has them.
APG_MOMENTUM = -0.75
APG_ETA = 0.0
APG_NORM_THRESHOLD = 2.5


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What the stages before give, the same for every item of the batch.

    Attributes:
        encoder_hidden_states: [1, tokens, width].
        null_condition: [1, 1, width], the learned unconditional embedding.
        context_latents: [1, frames, 2 * channels], source latents and chunk mask.
        plain_hidden_states: [1, tokens, width], the prompt without the task's instruction, for a pass over
            the same context; needed where the audio cover strength is below 1.
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
class Prompts:
    """What a job's passes look at, prepared once.

    Attributes:
        times: the embeddings of the job's timesteps.
        conditional: the prompt.
        unconditional: nothing, where guidance takes a pass of its own for it.
        both: the prompt and nothing, where one pass computes both.
        plain: the prompt without the task's instruction, where a cover's strength is below 1.
    """

    times: Mapping[float, TimeEmbedding]
    conditional: Prepared
    unconditional: Prepared | None = None
    both: Prepared | None = None
    plain: Prepared | None = None


@dataclass(frozen=True, slots=True)
class StepDone:
    """Step `step` of `step_count` (1-based) is done."""

    step: int
    step_count: int


class DitEngine:
    """The transformer and its denoising loop."""

    def __init__(self, transformer: AceStepTransformer1DModel) -> None:
        self.transformer = transformer
        config = transformer.config
        if config.rms_norm_eps != NORM_EPSILON:
            raise CheckpointError(f"rms_norm_eps: is {config.rms_norm_eps:g}; accepted: {NORM_EPSILON:g}")
        self.adapters = Adapters(transformer)
        self.transformer_pass = TransformerPass(transformer)
        self.is_turbo = is_turbo(bool(config.is_turbo), config.model_version)
        self.channel_count = int(config.audio_acoustic_hidden_dim)

    def place(
        self,
        device: torch.device,
        dtype: torch.dtype,
        quantization: Quantization,
        ways_of: torch.device | None = None,
    ) -> None:
        """Moves the transformer to `device` in `dtype`, as its passes need it. Called once.

        Args:
            device: where to.
            dtype: to compute in.
            quantization: of the weights.
            ways_of: the device that decides which of several ways passes take; None: `device`.
        """
        ways_of = ways_of or device
        is_integer = integer_products.is_supported(ways_of, dtype)
        quantizer = integer_products.quantize_dynamically if is_integer else quantize
        place(self.transformer, device, dtype, quantization, quantizer, left_out=EMBEDDERS)
        self.transformer_pass.groups_heads = ways_of.type == "cpu"

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
        prompts = self.prepare(conditioning, parameters, levels[:-1])
        for index, timestep in enumerate(scheduler.timesteps):
            velocities = [
                self.step_velocity(item, levels[index], prompts, parameters, buffer)
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

    def prepare(
        self, conditioning: Conditioning, parameters: DenoiseParameters, timesteps: Sequence[float]
    ) -> Prompts:
        """What does not depend on the latents, from what is on the device."""
        times = embed_timesteps(self.transformer, timesteps)
        prepare = functools.partial(
            self.transformer_pass.prepare,
            positions=self.transformer_pass.positions(conditioning.context_latents),
            keeps_prompt=parameters.keeps_prompt,
        )
        states, context = conditioning.encoder_hidden_states, conditioning.context_latents
        null = conditioning.null_condition
        plain = None
        if parameters.audio_cover_strength < 1.0:
            assert conditioning.plain_hidden_states is not None
            plain = prepare(conditioning.plain_hidden_states, context)
        if not self._is_guided(parameters):
            return Prompts(times, prepare(states, context), plain=plain)
        if parameters.split_guidance:
            # All its tokens are alike, and attention over them gives what attention over one gives.
            unconditional = prepare(null, context)
            return Prompts(times, prepare(states, context), unconditional, plain=plain)
        both = prepare(torch.cat([states, null.expand_as(states)]), context.expand(2, -1, -1))
        return Prompts(times, both.first(), both=both, plain=plain)

    def step_velocity(
        self,
        latents: torch.Tensor,
        t: float,
        prompts: Prompts,
        parameters: DenoiseParameters,
        momentum: MomentumBuffer,
    ) -> torch.Tensor:
        """The velocity at `t`: guided where the interval says so, then blended with the plain one.

        The blend is strength * v + (1 - strength) * plain v, as in `AceStepPipeline` of diffusers. Plain
        passes are never guided.

        Args:
            latents: [1, frames, channels].
            t: the timestep, one of those that `prepare` was given.
            prompts: what `prepare` gave for these parameters.
            parameters: of the job.
            momentum: of the item's guidance.
        """
        velocity_of = self.transformer_pass.velocity
        time = prompts.times[t].to(latents.device)
        first, last = parameters.cfg_interval
        if self._is_guided(parameters) and first <= 1.0 - t <= last:
            velocity = self._guided_velocity(latents, time, prompts, parameters, momentum)
        else:
            velocity = velocity_of(latents, time, prompts.conditional)
        strength = parameters.audio_cover_strength
        if strength < 1.0:
            assert prompts.plain is not None
            velocity = strength * velocity + (1.0 - strength) * velocity_of(latents, time, prompts.plain)
        return velocity

    def _is_guided(self, parameters: DenoiseParameters) -> bool:
        return parameters.guidance_scale > 1.0 and not self.is_turbo

    def _guided_velocity(
        self,
        latents: torch.Tensor,
        time: TimeEmbedding,
        prompts: Prompts,
        parameters: DenoiseParameters,
        momentum: MomentumBuffer,
    ) -> torch.Tensor:
        """Adaptive projected guidance from the conditional and the unconditional velocity."""
        velocity_of = self.transformer_pass.velocity
        if prompts.both is not None:
            both = velocity_of(latents.expand(2, -1, -1), time, prompts.both)
            conditional, unconditional = both.chunk(2)
        else:
            assert prompts.unconditional is not None
            conditional = velocity_of(latents, time, prompts.conditional)
            unconditional = velocity_of(latents, time, prompts.unconditional)
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

"""What a denoising job asks for, without torch and without protobuf."""

from __future__ import annotations

from dataclasses import dataclass

from services.runtime.rpc.request_limits import InferMethod


@dataclass(frozen=True, slots=True)
class AdapterUse:
    """An adapter that a job uses, as its file was when the job was planned.

    Attributes:
        name: for messages.
        scale: how much of it; 0 is none.
        file: its safetensors file.
        config_file: PEFT's settings beside it; None where there are none.
        config_digest: of these settings; empty where there are none.
        file_bytes: size of the file.
        modified_ns: when the file was last changed, as `os.stat` says it.
        parameter_count: numbers in its low-rank matrices.
        widest: the most features that a layer gives to which it adds, of the layers that see every token.
    """

    name: str
    scale: float
    file: str
    config_file: str | None
    config_digest: str
    file_bytes: int
    modified_ns: int
    parameter_count: int
    widest: int


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
        keeps_prompt: keep what the layers make of the prompt for all steps, instead of making it in each.
        audio_cover_strength: below 1, how much of each step's velocity follows the cover's conditioning; the
            rest follows the plain one.
        cover_noise_strength: above 0, the work starts from the noised source, the closer to it the higher.
        infer_method: "ode" goes on deterministically; "sde" adds fresh noise in every step but the last.
        adapters: low-rank updates of the model's weights, all of them added.
    """

    seeds: tuple[int, ...]
    step_count: int = 8
    shift: float = 3.0
    guidance_scale: float = 7.0
    cfg_interval: tuple[float, float] = (0.0, 1.0)
    timesteps: tuple[float, ...] = ()
    split_guidance: bool = False
    keeps_prompt: bool = False
    audio_cover_strength: float = 1.0
    cover_noise_strength: float = 0.0
    infer_method: InferMethod = "ode"
    adapters: tuple[AdapterUse, ...] = ()

"""Generation requests: what is accepted, what the defaults are."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass

from acestage.checks import Checks
from acestage.errors import VramBudgetExceededError
from acestage.limits import Clamped, Limits
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.stage.v1.stage_pb2 import Model
from services.orchestrator.limits import MIN_DURATION_S, MODEL_DURATION, MODEL_LIMITS
from services.runtime.request_limits import MAX_ITEM_COUNT, check_prompt, check_quantization

DEFAULT_DURATION_S = 60.0
STEPS = (1, 200)
SHIFT = (0.1, 10.0)
GUIDANCE_SCALE = (0.0, 30.0)
MAX_SEED = 2**63 - 1 - MAX_ITEM_COUNT
RANDOM_SEED = -1

TURBO_STEPS = 8
BASE_STEPS = 32
"""Models without distilled guidance need more steps."""


@dataclass(frozen=True, slots=True)
class DenoisedOn:
    """Where and how the DiT worked in the end."""

    device: str
    dtype: str
    quantization: str


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """Every setting of a job, defaults filled in. Units and ranges as in `GenerateRequest`."""

    caption: str
    lyrics: str
    language: str
    duration_s: float
    bpm: int | None
    key_scale: str
    time_signature: str
    seed: int
    step_count: int
    shift: float
    guidance_scale: float
    cfg_interval: tuple[float, float]
    timesteps: tuple[float, ...]
    instruction: str
    batch_size: int
    quantization: str

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each item of the batch."""
        return tuple(self.seed + index for index in range(self.batch_size))

    def frame_count(self, model: Model) -> int:
        """Latent frames for the duration."""
        return math.ceil(self.duration_s * model.latent_frame_rate_hz)

    def to_pb(self, model: Model, denoised: DenoisedOn) -> pb.Settings:
        return pb.Settings(
            caption=self.caption,
            lyrics=self.lyrics,
            language=self.language,
            duration_s=self.duration_s,
            bpm=self.bpm,
            key_scale=self.key_scale,
            time_signature=self.time_signature,
            seed=self.seed,
            step_count=self.step_count,
            shift=self.shift,
            guidance_scale=self.guidance_scale,
            cfg_interval_start=self.cfg_interval[0],
            cfg_interval_end=self.cfg_interval[1],
            timesteps=self.timesteps,
            instruction=self.instruction,
            batch_size=self.batch_size,
            model=model,
            device=denoised.device,
            dtype=denoised.dtype,
            quantization=denoised.quantization,
        )


def item_count(request: pb.GenerateRequest) -> int:
    """Takes that `request` asks for, whether or not so many are accepted; at least 1."""
    return max(1, request.batch_size)


def lower(request: pb.GenerateRequest, limits: Limits) -> tuple[pb.GenerateRequest, tuple[Clamped, ...]]:
    """`request` with values above a limit lowered to it, where it allows that, and what was lowered.

    Anything else that is wrong stays as it is, for `check` to refuse.
    """
    lowered, clamped = pb.GenerateRequest(), []
    lowered.CopyFrom(request)
    for field, limit, kind in (
        ("duration_s", limits.max_duration_s, float),
        ("batch_size", limits.max_batch_size, int),
    ):
        value = getattr(request, field)
        if request.clamp and math.isfinite(value) and value > limit.value > 0:
            setattr(lowered, field, kind(limit.value))
            clamped.append(Clamped(field, value, limit))
    return lowered, tuple(clamped)


def check(request: pb.GenerateRequest, limits: Limits = MODEL_LIMITS) -> None:
    """Checks all fields; unset ones are fine.

    Raises:
        InvalidArgumentError: with every wrong field of `request`.
        VramBudgetExceededError: no song at all fits on the device.
    """
    checks = Checks()
    check_prompt(checks, request)
    longest = limits.max_duration_s if limits.max_duration_s.value else MODEL_DURATION
    most_items = limits.max_batch_size
    if request.HasField("duration_s"):
        checks.within(request.duration_s, "duration_s", MIN_DURATION_S, longest.value, longest.source)
    if request.HasField("batch_size"):
        checks.within(request.batch_size, "batch_size", 1, most_items.value, most_items.source)
    for field, (least, most_value) in {
        "seed": (RANDOM_SEED, MAX_SEED),
        "step_count": STEPS,
        "shift": SHIFT,
        "guidance_scale": GUIDANCE_SCALE,
        "cfg_interval_start": (0.0, 1.0),
        "cfg_interval_end": (0.0, 1.0),
    }.items():
        if request.HasField(field):  # type: ignore[arg-type]
            checks.within(getattr(request, field), field, least, most_value)
    start, end = _cfg_interval(request)
    checks.require(
        start <= end, "cfg_interval_start", f"is {start:g}; accepted: up to cfg_interval_end, {end:g}"
    )
    timesteps = _timesteps(request)
    checks.timesteps(timesteps, "timesteps", STEPS[1])
    is_empty = bool(request.timesteps) and not timesteps
    check_quantization(checks, request.quantization, "quantization")
    checks.require(not is_empty, "timesteps", "are 0 alone; accepted: falling values in (0, 1]")
    checks.done()
    if not limits.max_duration_s.value:
        source = limits.max_duration_s.source
        raise VramBudgetExceededError(
            f"duration_s: no song fits, not even one of {MIN_DURATION_S} s ({source})",
            metadata={"source": source},
        )


def resolve(request: pb.GenerateRequest, model: Model, limits: Limits = MODEL_LIMITS) -> GenerationSettings:
    """The settings that a checked `request` means for `model` within `limits`."""
    timesteps = _timesteps(request)
    default_steps = TURBO_STEPS if model.is_turbo else BASE_STEPS
    steps = request.step_count if request.HasField("step_count") else default_steps
    has_seed = request.HasField("seed") and request.seed != RANDOM_SEED
    default_duration_s = min(DEFAULT_DURATION_S, limits.max_duration_s.value)
    guidance = request.guidance_scale if request.HasField("guidance_scale") else 7.0
    return GenerationSettings(
        caption=request.caption,
        lyrics=request.lyrics,
        language=request.language.strip() or "en",
        duration_s=request.duration_s if request.HasField("duration_s") else default_duration_s,
        bpm=request.bpm if request.HasField("bpm") else None,
        key_scale=request.key_scale.strip(),
        time_signature=request.time_signature.strip(),
        seed=request.seed if has_seed else secrets.randbelow(2**32),
        step_count=len(timesteps) or steps,
        shift=request.shift if request.HasField("shift") else 3.0,
        guidance_scale=1.0 if model.is_turbo else guidance,
        cfg_interval=_cfg_interval(request),
        timesteps=timesteps,
        instruction=request.instruction,
        batch_size=request.batch_size if request.HasField("batch_size") else 1,
        quantization=request.quantization,
    )


def _timesteps(request: pb.GenerateRequest) -> tuple[float, ...]:
    """Without the closing 0 that lists often have: the last step always goes there."""
    timesteps = tuple(request.timesteps)
    return timesteps[:-1] if timesteps and timesteps[-1] == 0.0 else timesteps


def _cfg_interval(request: pb.GenerateRequest) -> tuple[float, float]:
    end = request.cfg_interval_end if request.HasField("cfg_interval_end") else 1.0
    return request.cfg_interval_start, end

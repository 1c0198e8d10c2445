"""Generation requests: what is accepted, what the defaults are."""

from __future__ import annotations

import math
import secrets
from dataclasses import replace

from acestage.checks import Checks
from acestage.errors import VramBudgetExceededError
from acestage.generation_options import Adapter
from acestage.limits import Clamped, Limits
from acestage.planning import MAX_BATCH_SIZE
from acestage.protos.generation.v1 import generation_pb2 as pb
from acestage.protos.stage.v1.stage_pb2 import Model
from services.orchestrator.limits.limits import MIN_DURATION_S, MODEL_DURATION, MODEL_LIMITS
from services.orchestrator.song import audio_codes, source_requests
from services.orchestrator.song.generation_settings import GenerationSettings
from services.orchestrator.song.tasks import COVER, TEXT_TO_MUSIC
from services.runtime.rpc.request_limits import (
    ADAPTER_SCALE,
    MAX_ADAPTER_COUNT,
    check_infer_method,
    check_prompt,
    check_quantization,
)

DEFAULT_DURATION_S = 60.0
STEPS = (1, 200)
SHIFT = (0.1, 10.0)
GUIDANCE_SCALE = (0.0, 30.0)
MAX_SEED = 2**63 - 1 - MAX_BATCH_SIZE
RANDOM_SEED = -1

TURBO_STEPS = 8
BASE_STEPS = 32
"""Models without distilled guidance need more steps."""


def item_count(request: pb.GenerateRequest) -> int:
    """Takes that `request` asks for, whether or not so many are accepted; at least 1."""
    return max(1, len(request.seeds) or request.batch_size)


def lower(request: pb.GenerateRequest, limits: Limits) -> tuple[pb.GenerateRequest, tuple[Clamped, ...]]:
    """`request` with values above a limit lowered to it, where it allows that, and what was lowered.

    Anything else that is wrong stays as it is, for `check` to refuse.
    """
    lowered, clamped = pb.GenerateRequest(), []
    lowered.CopyFrom(request)
    if not request.clamp:
        return lowered, ()
    longest, most_items = limits.max_duration_s, limits.max_batch_size
    if math.isfinite(request.duration_s) and request.duration_s > longest.value > 0:
        lowered.duration_s = longest.value
        clamped.append(Clamped("duration_s", request.duration_s, longest))
    if request.batch_size > most_items.value > 0:
        lowered.batch_size = int(most_items.value)
        clamped.append(Clamped("batch_size", request.batch_size, most_items))
    if len(request.seeds) > most_items.value > 0:
        del lowered.seeds[int(most_items.value) :]
        clamped.append(Clamped("seeds", len(request.seeds), most_items))
    return lowered, tuple(clamped)


def check(
    request: pb.GenerateRequest,
    limits: Limits = MODEL_LIMITS,
    *,
    model: Model | None = None,
    source_sample_count: int | None = None,
) -> None:
    """Checks all fields; unset ones are fine.

    Args:
        request: what was asked for.
        limits: of the services.
        model: that is to do it; None where it is not known, and then what depends on it is not checked.
        source_sample_count: of the source, at the model's rate; None where it is not known.

    Raises:
        InvalidArgumentError: with every wrong field of `request`.
        VramBudgetExceededError: no song at all fits on the device.
    """
    checks = Checks()
    check_prompt(checks, request)
    _check_amounts(checks, request, limits)
    _check_denoising(checks, request)
    source_requests.check(checks, request, limits, model, source_sample_count)
    checks.done()
    if not limits.max_duration_s.value:
        source = limits.max_duration_s.source
        raise VramBudgetExceededError(
            f"duration_s: no song fits, not even one of {MIN_DURATION_S} s ({source})",
            metadata={"field": "duration_s", "source": source},
        )


def _check_amounts(checks: Checks, request: pb.GenerateRequest, limits: Limits) -> None:
    longest = limits.max_duration_s if limits.max_duration_s.value else MODEL_DURATION
    most_items = limits.max_batch_size
    if request.HasField("duration_s"):
        checks.within(request.duration_s, "duration_s", MIN_DURATION_S, longest.value, longest.source)
    if request.HasField("batch_size"):
        checks.within(request.batch_size, "batch_size", 1, most_items.value, most_items.source)
    if request.HasField("seed"):
        checks.within(request.seed, "seed", RANDOM_SEED, MAX_SEED)
    if request.seeds:
        for field in ("seed", "batch_size"):
            is_given = request.HasField(field)
            checks.require(not is_given, field, "is set beside seeds; accepted: one or the other")
        checks.within(len(request.seeds), "seeds", 1, most_items.value, most_items.source)
        for index, seed in enumerate(request.seeds[:MAX_BATCH_SIZE]):
            checks.within(seed, f"seeds[{index}]", 0, MAX_SEED)


def _check_denoising(checks: Checks, request: pb.GenerateRequest) -> None:
    for field, (least, most_value) in {
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
        start <= end, "cfg_interval_start", f"is {start:.10g}; accepted: up to cfg_interval_end, {end:.10g}"
    )
    timesteps = _timesteps(request)
    checks.timesteps(timesteps, "timesteps", STEPS[1])
    is_empty = bool(request.timesteps) and not timesteps
    check_quantization(checks, request.quantization, "quantization")
    checks.require(not is_empty, "timesteps", "are 0 alone; accepted: falling values in (0, 1]")
    check_infer_method(checks, request.infer_method, "infer_method")
    checks.at_most(len(request.adapters), "adapters", "adapters", MAX_ADAPTER_COUNT)
    for index, adapter in enumerate(request.adapters[:MAX_ADAPTER_COUNT]):
        checks.require(bool(adapter.name), f"adapters[{index}].name", "is empty")
        if adapter.HasField("scale"):
            checks.within(adapter.scale, f"adapters[{index}].scale", *ADAPTER_SCALE)


def resolve(
    request: pb.GenerateRequest,
    model: Model,
    limits: Limits = MODEL_LIMITS,
    *,
    source_sample_count: int | None = None,
) -> GenerationSettings:
    """The settings that a checked `request` means for `model` within `limits`; arguments as in `check`."""
    timesteps = _timesteps(request)
    default_steps = TURBO_STEPS if model.is_turbo else BASE_STEPS
    steps = request.step_count if request.HasField("step_count") else default_steps
    guidance = request.guidance_scale if request.HasField("guidance_scale") else 7.0
    codes = audio_codes.parse(request.audio_codes)
    task = request.task or TEXT_TO_MUSIC
    cover_strength = request.audio_cover_strength if request.HasField("audio_cover_strength") else 1.0
    settings = GenerationSettings(
        task=COVER if codes else task,
        caption=request.caption,
        lyrics=request.lyrics,
        language=request.language.strip() or "en",
        duration_s=_duration_s(request, limits),
        bpm=request.bpm if request.HasField("bpm") else None,
        key_scale=request.key_scale.strip(),
        time_signature=request.time_signature.strip(),
        seeds=_seeds(request),
        step_count=len(timesteps) or steps,
        shift=request.shift if request.HasField("shift") else 3.0,
        guidance_scale=1.0 if model.is_turbo else guidance,
        cfg_interval=_cfg_interval(request),
        timesteps=timesteps,
        infer_method=request.infer_method or "ode",
        own_instruction=request.instruction,
        quantization=request.quantization,
        source_id=request.source_id,
        timeline=source_requests.timeline(request, model, source_sample_count),
        reference_id=request.reference_id,
        codes=codes,
        audio_cover_strength=cover_strength,
        cover_noise_strength=request.cover_noise_strength,
        repaint_start_s=request.repaint_start_s if request.HasField("repaint_start_s") else None,
        repaint_end_s=request.repaint_end_s if request.HasField("repaint_end_s") else None,
        track_name=request.track_name,
        track_classes=tuple(request.track_classes),
        adapters=tuple(Adapter.from_pb(adapter) for adapter in request.adapters),
    )
    if settings.timeline is not None:
        return replace(settings, duration_s=settings.timeline.sample_count / model.sample_rate_hz)
    if codes:
        return replace(settings, duration_s=settings.frame_count(model) / model.latent_frame_rate_hz)
    return settings


def _duration_s(request: pb.GenerateRequest, limits: Limits) -> float:
    if request.HasField("duration_s"):
        return request.duration_s
    return min(DEFAULT_DURATION_S, limits.max_duration_s.value)


def _seeds(request: pb.GenerateRequest) -> tuple[int, ...]:
    if request.seeds:
        return tuple(request.seeds)
    has_seed = request.HasField("seed") and request.seed != RANDOM_SEED
    first = request.seed if has_seed else secrets.randbelow(2**32)
    return tuple(first + index for index in range(item_count(request)))


def _timesteps(request: pb.GenerateRequest) -> tuple[float, ...]:
    """Without the closing 0 that lists often have: the last step always goes there."""
    timesteps = tuple(request.timesteps)
    return timesteps[:-1] if timesteps and timesteps[-1] == 0.0 else timesteps


def _cfg_interval(request: pb.GenerateRequest) -> tuple[float, float]:
    end = request.cfg_interval_end if request.HasField("cfg_interval_end") else 1.0
    return request.cfg_interval_start, end

"""One set of limits, resolved from the planner or the tier table, and the settings. No I/O."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from acestage.limits import LanguageModelLimit, Limit, Limits
from acestage.planning import (
    DEFAULT_TILE_FRAMES,
    GIB,
    MAX_BATCH_SIZE,
    MAX_DURATION_S,
    LanguageModelMemory,
    StageMemory,
    choose_dit,
    choose_encode,
    choose_tile,
)
from acestage.planning.stage_memory import largest
from acestage.protos.stage.v1 import stage_pb2
from acestage.settings import Settings
from services.orchestrator.limits.tiers import Tier, tier_of

MIN_DURATION_S = 10
"""The shortest song that the model was made for, in seconds."""

MODEL_DURATION = Limit(MAX_DURATION_S, "the model")
MOST_ITEMS = Limit(MAX_BATCH_SIZE, "the most for one request")
MODEL_LIMITS = Limits(MODEL_DURATION, MOST_ITEMS, (), "", 0, "", "planner")
"""Limits that no device and no setting can raise."""


@dataclass(frozen=True, slots=True)
class StageFacts:
    """A stage on its device, for one of its models.

    Attributes:
        stage: "text_encoder", "dit" or "vae".
        device: "cpu" or "cuda:N".
        device_bytes: what the stage sees of it; 0 where it does not say.
        memory: what the stage needs; None where it does not say.
        latent_frame_rate_hz: latent frames for a second of music.
    """

    stage: str
    device: str
    device_bytes: int
    memory: StageMemory | None
    latent_frame_rate_hz: float

    @classmethod
    def from_pb(cls, info: stage_pb2.GetStageInfoResponse, model: str) -> StageFacts:
        """What a stage says that serves `model`."""
        hosted = next(hosted for hosted in info.models if hosted.model.name == model)
        return cls(
            stage=info.stage,
            device=info.device,
            device_bytes=info.device_bytes,
            memory=StageMemory.from_pb(hosted.memory) if hosted.memory.activations else None,
            latent_frame_rate_hz=hosted.model.latent_frame_rate_hz,
        )


def resolve(
    settings: Settings,
    stages: Sequence[StageFacts],
    language_models: Sequence[LanguageModelMemory],
    item_count: int = 1,
    *,
    model: str = "",
) -> Limits:
    """The limits for what `stages` run on; those that are not known set none.

    Args:
        settings: the basis, and what caps it.
        stages: in the order of a job's way; the device of the DiT is the one that the tier table is about.
        language_models: those to decide on.
        item_count: takes that a request asks for: where the device is just large enough, each costs seconds.
        model: the name of the one that `stages` are about.
    """
    device = next((stage.device for stage in stages if stage.stage == "dit"), "")
    device_bytes = min(
        (found for stage in stages if stage.device == device and (found := _device_bytes(settings, stage))),
        default=0,
    )
    tier = tier_of(device_bytes) if device_bytes else None
    duration, batch = MODEL_DURATION, MOST_ITEMS
    if settings.limits == "tier" and tier is not None:
        has_lm = settings.init_language_model is True
        duration_s = tier.max_duration_with_lm_s if has_lm else tier.max_duration_s
        batch_size = tier.max_batch_size_with_lm if has_lm else tier.max_batch_size
        duration = _lower(duration, Limit(duration_s, tier.name))
        batch = _lower(batch, Limit(batch_size, tier.name))
    if settings.max_batch_size is not None:
        batch = _lower(batch, Limit(settings.max_batch_size, "ACESTEP_MAX_BATCH_SIZE"))
    if settings.limits == "planner":
        for stage in stages:
            duration = _lower(duration, _longest_song(settings, stage, min(item_count, int(batch.value))))
    if settings.max_duration_s is not None:
        duration = _lower(duration, Limit(settings.max_duration_s, "ACESTEP_MAX_DURATION"))
    return Limits(
        max_duration_s=duration,
        max_batch_size=batch,
        language_models=tuple(
            _language_model(settings, found, device, device_bytes, tier) for found in language_models
        ),
        device=device,
        device_bytes=device_bytes,
        tier=tier.name if tier else "",
        basis=settings.limits,
        model=model,
    )


def _lower(limit: Limit, other: Limit) -> Limit:
    """The lower one; `limit` where they are equal."""
    return other if other.value < limit.value else limit


def _device_bytes(settings: Settings, stage: StageFacts) -> int:
    """What the stage may count on; 0 where it is not known."""
    if settings.max_vram_gb is None:
        return stage.device_bytes
    simulated = int(settings.max_vram_gb * GIB)
    return min(simulated, stage.device_bytes or simulated)


def _longest_song(settings: Settings, stage: StageFacts, item_count: int) -> Limit:
    """The longest song in whole seconds for which `stage` fits on its device by itself; 0 where none does."""
    memory, device_bytes = stage.memory, _device_bytes(settings, stage)
    if memory is None or not device_bytes:
        return MODEL_DURATION

    def fits(duration_s: int) -> bool:
        frame_count = math.ceil(duration_s * stage.latent_frame_rate_hz)
        match stage.stage:
            case "text_encoder":
                way = choose_encode(memory, device_bytes, frame_count, quantization=settings.quantization)
                return way.fits
            case "dit":
                way = choose_dit(
                    *(memory, device_bytes, frame_count, item_count),
                    has_guidance=False,  # its halves can go one after the other
                    quantization=settings.quantization,
                )
                return way.fits
        # Tiles of the VAE get smaller as need be, so the song's length does not count.
        return choose_tile(memory, device_bytes, settings.vae_tile_frame_count or DEFAULT_TILE_FRAMES) > 0

    duration_s = largest(fits, MAX_DURATION_S)
    takes = f", {item_count} takes" if item_count > 1 else ""
    source = f"planner: {stage.stage} on {stage.device} with {device_bytes / GIB:.1f} GiB{takes}"
    return Limit(duration_s if duration_s >= MIN_DURATION_S else 0, source)


def _language_model(
    settings: Settings, model: LanguageModelMemory, device: str, device_bytes: int, tier: Tier | None
) -> LanguageModelLimit:
    name, needed = model.name, model.total_bytes
    if settings.init_language_model is False:
        return LanguageModelLimit(name, False, "ACESTEP_INIT_LLM")
    if settings.language_model is not None and not _is_named(settings.language_model, name):
        return LanguageModelLimit(name, False, "ACESTEP_LM_MODEL_PATH")
    if tier is None:
        return LanguageModelLimit(name, True, "the memory of the device is not known")
    if settings.limits == "tier":
        return LanguageModelLimit(name, name in tier.language_models, tier.name)
    source = f"planner: needs {needed / GIB:.1f} GiB, {device} has {device_bytes / GIB:.1f} GiB"
    return LanguageModelLimit(name, needed <= device_bytes, source)


def _is_named(path: str, name: str) -> bool:
    """Whether `path`, such as "acestep-5Hz-lm-1.7B", is the language model `name`."""
    return re.search(rf"(^|[-_]){re.escape(name)}$", PurePath(path).name) is not None

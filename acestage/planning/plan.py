"""A plan: how each stage makes a song on a device, whether it fits, and how much more would."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from acestage.planning.choices import (
    DEFAULT_TILE_FRAMES,
    Choice,
    choose_dit,
    choose_encode,
    tile_ways,
)
from acestage.planning.language_model import LanguageModelMemory
from acestage.planning.stage_memory import GIB, Quantization, StageMemory, largest
from acestage.setting_types import QuantizationChoice

MAX_DURATION_S = 600
MAX_BATCH_SIZE = 8
EXCLUSIVE_BYTES = 4 * GIB
"""A device of up to 4 GiB has one stage at a time: two contexts and two sets of weights do not fit."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """How one stage works.

    Attributes:
        mode: as in `StageMemory.activations`.
        dtype: data type of the activations, and of the weights that are not quantized.
        quantization: how the weights are held.
        weights_bytes: on the device.
        activation_bytes: at their peak.
        context_bytes: what the process takes before the first tensor.
        reserve_bytes: margin.
        tile_frames: latent frames of a tile, without its halo; None for a stage that has no tiles.
        fits: whether the device has so many bytes.
    """

    mode: str
    dtype: str
    quantization: Quantization
    weights_bytes: int
    activation_bytes: int
    context_bytes: int
    reserve_bytes: int
    tile_frames: int | None
    fits: bool

    @property
    def total_bytes(self) -> int:
        parts = self.weights_bytes, self.activation_bytes, self.context_bytes, self.reserve_bytes
        return sum(parts)


@dataclass(frozen=True, slots=True)
class Plan:
    """What fits on a device.

    Attributes:
        fits: whether every stage does, when its turn comes.
        device_bytes: size of the device.
        duration_s: length of a song.
        batch_size: songs at once.
        exclusive: the device has one stage at a time, because it is small or because that is wished.
        resident: all stages fit side by side, so that none has to leave.
        stages: by name, in the order of the work.
        max_duration_s: the longest song of that batch size that fits, in whole seconds up to ten minutes.
        max_batch_size: the most songs of that duration that fit, up to 8.
        language_models: names of those that fit when they have the device.
    """

    fits: bool
    device_bytes: int
    duration_s: float
    batch_size: int
    exclusive: bool
    resident: bool
    stages: Mapping[str, StagePlan]
    max_duration_s: int
    max_batch_size: int
    language_models: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """As one object of plain values."""
        values = dataclasses.asdict(self)
        for name, stage in self.stages.items():
            values["stages"][name]["total_bytes"] = stage.total_bytes
        return values


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a plan is made for.

    Attributes:
        dtype: to compute in.
        vae_dtype: the VAE's, where that is another one.
        frame_rate_hz: latent frames a second.
        has_guidance: whether guidance is on, where the model takes it.
        quantization: "auto" takes INT8 where the weights as they are do not fit.
        tile_frame_count: the most frames of a tile.
        one_at_a_time: one stage has the device at a time, whatever its size.
    """

    dtype: str
    frame_rate_hz: float = 25.0
    has_guidance: bool = True
    quantization: QuantizationChoice = "auto"
    tile_frame_count: int = DEFAULT_TILE_FRAMES
    one_at_a_time: bool = False
    vae_dtype: str | None = None


def make_plan(
    stages: Mapping[str, StageMemory],
    device_bytes: int,
    duration_s: float,
    batch_size: int = 1,
    *,
    wishes: Wishes,
    language_models: Sequence[LanguageModelMemory] = (),
) -> Plan:
    """Plans `batch_size` songs of `duration_s` on a device.

    Args:
        stages: the memory of "text_encoder", "dit" and "vae".
        device_bytes: size of the device.
        duration_s: length of a song.
        batch_size: items go through the stages one at a time; what stays of the others counts.
        wishes: how it is to be made.
        language_models: those to look at.
    """

    def planned(seconds: float, count: int) -> dict[str, StagePlan]:
        return _plan_stages(stages, device_bytes, seconds, count, wishes)

    def fits(seconds: float, count: int) -> bool:
        return all(stage.fits for stage in planned(seconds, count).values())

    plans = planned(duration_s, batch_size)
    is_exclusive = wishes.one_at_a_time or device_bytes <= EXCLUSIVE_BYTES
    total_bytes = sum(stage.total_bytes for stage in plans.values())
    return Plan(
        fits=all(stage.fits for stage in plans.values()),
        device_bytes=device_bytes,
        duration_s=duration_s,
        batch_size=batch_size,
        exclusive=is_exclusive,
        resident=not is_exclusive and total_bytes <= device_bytes,
        stages=plans,
        max_duration_s=largest(lambda seconds: fits(seconds, batch_size), MAX_DURATION_S),
        max_batch_size=largest(lambda count: fits(duration_s, count), MAX_BATCH_SIZE),
        language_models=[model.name for model in language_models if model.total_bytes <= device_bytes],
    )


def _plan_stages(
    stages: Mapping[str, StageMemory],
    device_bytes: int,
    duration_s: float,
    item_count: int,
    wishes: Wishes,
) -> dict[str, StagePlan]:
    frames = math.ceil(duration_s * wishes.frame_rate_hz)
    encoder, dit = stages["text_encoder"], stages["dit"]
    encode = choose_encode(encoder, device_bytes, frames, quantization=wishes.quantization)
    denoise = choose_dit(
        dit,
        device_bytes,
        frames,
        item_count,
        has_guidance=wishes.has_guidance,
        quantization=wishes.quantization,
    )
    return {
        "text_encoder": _stage_plan(encoder, encode, wishes.dtype),
        "dit": _stage_plan(dit, denoise, wishes.dtype),
        "vae": _vae_plan(stages["vae"], device_bytes, frames, wishes),
    }


def _vae_plan(memory: StageMemory, device_bytes: int, frame_count: int, wishes: Wishes) -> StagePlan:
    ways = tile_ways(memory, min(frame_count, wishes.tile_frame_count))
    fitting = [way for way in ways if way[1] <= device_bytes]
    tile, total_bytes = fitting[0] if fitting else ways[-1]
    return _stage_plan(
        memory,
        Choice("tile", "none", total_bytes, bool(fitting)),
        wishes.vae_dtype or wishes.dtype,
        tile_frames=tile,
    )


def _stage_plan(
    memory: StageMemory, choice: Choice, dtype: str, *, tile_frames: int | None = None
) -> StagePlan:
    return StagePlan(
        mode=choice.mode,
        dtype=dtype,
        quantization=choice.quantization,
        weights_bytes=memory.weights_bytes[choice.quantization],
        activation_bytes=choice.total_bytes - memory.resting_bytes(choice.quantization),
        context_bytes=memory.context_bytes,
        reserve_bytes=memory.reserve_bytes,
        tile_frames=tile_frames,
        fits=choice.fits,
    )

"""How a job is fitted to a device: what it needs, and what to do when that was not enough. No torch."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from acestage.errors import VramBudgetExceededError
from acestage.planning import MIB, Quantization, StageMemory, as_quantization
from acestage.setting_types import QuantizationChoice
from services.runtime.workers.messages import Message


class AdaptationKind(enum.Enum):
    """Ways out where the plain way does not work, in the order in which they are tried."""

    SMALLER_TILE = "smaller_tile"
    SPLIT_GUIDANCE = "split_guidance"
    INT8 = "int8"
    FLOAT32 = "float32"


@dataclass(frozen=True, slots=True)
class Adaptation:
    """What was done differently while a job ran.

    Attributes:
        before: what it was, for example "128" frames of a tile.
        after: what it became.
        cause: why, for people.
    """

    kind: AdaptationKind
    before: str
    after: str
    cause: str


@dataclass(frozen=True, slots=True)
class Resources:
    """What a stage has to work with for one of its models.

    Attributes:
        device: "cpu", "cuda:N" or "fake:N".
        device_bytes: all of it, or less where a smaller one is simulated.
        weights_of: the model whose weights are placed.
        dtype: the data type to compute in.
        quantization: how weights may be held.
        memories: what the stage needs, by data type.
        tile_frame_count: the most latent frames in a tile of the VAE, without its halo.
    """

    device: str
    device_bytes: int
    weights_of: str
    dtype: str
    quantization: QuantizationChoice
    memories: Mapping[str, StageMemory]
    tile_frame_count: int


@dataclass(frozen=True, slots=True)
class Placement:
    """What lies on a device, and how: whose weights, in which data type."""

    model: str
    dtype: str
    quantization: Quantization


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way of doing a job.

    Attributes:
        request: what the worker is told.
        dtype: the data type to compute in.
        quantization: how the weights are held.
        vram_bytes: what it needs on the device, all in all.
        way: what sets it apart from the other ways, for people.
    """

    request: Message
    dtype: str
    quantization: Quantization
    vram_bytes: int
    way: str

    def told(self, **fields: Any) -> Attempt:
        """The same with other fields in its request."""
        request = replace(self.request, fields={**self.request.fields, **fields})
        return replace(self, request=request)


@dataclass(frozen=True, slots=True)
class Rung:
    """An attempt, and what leads to it from the one before."""

    kind: AdaptationKind
    attempt: Attempt


class JobBudget(Protocol):
    """What a stage knows about the memory of its jobs."""

    def rungs(self, request: Message, resources: Resources, dtype: str) -> Sequence[Rung]:
        """All ways of doing the job in `dtype`, the best first."""
        ...

    def remaining(self, request: Message, event: Message) -> Message:
        """What is still to be done once the worker has sent `event`."""
        ...


def quantization_of(request: Message, resources: Resources) -> QuantizationChoice:
    """How weights may be held: as the request says, else as the stage's setting does."""
    asked: str = request.fields["quantization"]
    return as_quantization(asked) if asked else resources.quantization


def first_that_fits(rungs: Sequence[Rung], stage: str, resources: Resources) -> int:
    """The index of the best rung whose bytes the device has.

    Raises:
        VramBudgetExceededError: there is none; says how much the least would take.
    """
    for index, rung in enumerate(rungs):
        if rung.attempt.vram_bytes <= resources.device_bytes:
            return index
    least = min((rung.attempt for rung in rungs), key=lambda attempt: attempt.vram_bytes)
    raise VramBudgetExceededError(
        f"{stage} needs at least {least.vram_bytes / MIB:.0f} MiB on {resources.device} for this request "
        f"({least.way}); accepted: what fits into {resources.device_bytes / MIB:.0f} MiB",
        metadata={
            "stage": stage,
            "device": resources.device,
            "needed_bytes": str(least.vram_bytes),
            "device_bytes": str(resources.device_bytes),
        },
    )

"""What requests may ask for at an orchestrator, and what set each limit, as `Client.limits` says it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from acestage.protos.generation.v1 import generation_pb2 as pb


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that a field may be.

    Attributes:
        value: in the unit of the field; 0 where nothing at all fits on the device.
        source: what set it, for people: "the model", "planner: dit on cuda:0 with 4.0 GiB",
            "tier 1 (up to 4 GB)", or the name of a setting.
    """

    value: float
    source: str

    def to_pb(self) -> pb.Limit:
        return pb.Limit(value=self.value, source=self.source)

    @classmethod
    def from_pb(cls, limit: pb.Limit) -> Limit:
        return cls(int(limit.value) if limit.value.is_integer() else limit.value, limit.source)


@dataclass(frozen=True, slots=True)
class LanguageModelLimit:
    """Whether the language model `name` ("0.6B", "1.7B" or "4B") may be used, and what decided it."""

    name: str
    is_allowed: bool
    source: str


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of every front door.

    Attributes:
        max_duration_s: the longest song, in seconds, of a request for one take. Where the device is just
            large enough, more takes leave a little less.
        max_batch_size: the most takes of one request.
        language_models: every language model, allowed or not.
        device: where the DiT works: "cpu" or "cuda:N".
        device_bytes: of that device, or of the smaller one that is simulated; 0 where it is not known.
        tier: the row of the tier table that the device falls into; empty where its bytes are not known.
        basis: where limits come from: "planner" or "tier".
        model: the name of the one that they are for; empty where no stage said what it serves.
    """

    max_duration_s: Limit
    max_batch_size: Limit
    language_models: tuple[LanguageModelLimit, ...]
    device: str
    device_bytes: int
    tier: str
    basis: str
    model: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_pb(self) -> pb.GetLimitsResponse:
        return pb.GetLimitsResponse(
            max_duration_s=self.max_duration_s.to_pb(),
            max_batch_size=self.max_batch_size.to_pb(),
            language_models=[
                pb.LanguageModelLimit(name=model.name, is_allowed=model.is_allowed, source=model.source)
                for model in self.language_models
            ],
            device=self.device,
            device_bytes=self.device_bytes,
            tier=self.tier,
            basis=self.basis,
            model=self.model,
        )

    @classmethod
    def from_pb(cls, limits: pb.GetLimitsResponse) -> Limits:
        return cls(
            max_duration_s=Limit.from_pb(limits.max_duration_s),
            max_batch_size=Limit.from_pb(limits.max_batch_size),
            language_models=tuple(
                LanguageModelLimit(model.name, model.is_allowed, model.source)
                for model in limits.language_models
            ),
            device=limits.device,
            device_bytes=limits.device_bytes,
            tier=limits.tier,
            basis=limits.basis,
            model=limits.model,
        )


@dataclass(frozen=True, slots=True)
class Clamped:
    """A value of a request that was lowered to a limit because the request allowed it."""

    field: str
    requested: float
    limit: Limit

    def to_pb(self) -> pb.Clamped:
        return pb.Clamped(field=self.field, requested=self.requested, limit=self.limit.to_pb())

    @classmethod
    def from_pb(cls, clamped: pb.Clamped) -> Clamped:
        requested = clamped.requested
        return cls(
            clamped.field,
            int(requested) if requested.is_integer() else requested,
            Limit.from_pb(clamped.limit),
        )

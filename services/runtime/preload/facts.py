"""What a preload says once it is ready. No torch: the service reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from acestage.planning import StageMemory
from acestage.protos.stage.v1 import stage_pb2


@dataclass(frozen=True, slots=True)
class MappedModel:
    """A model whose weights are mapped.

    Attributes:
        weights_of: the model that a worker places for it: itself, or an earlier one with the same weights.
        dtype: the resolved data type to compute in.
        memories: what the stage needs for it, by data type.
    """

    weights_of: str
    dtype: str
    memories: Mapping[str, StageMemory]

    @property
    def memory(self) -> StageMemory:
        """What the stage needs in its usual data type."""
        return self.memories[self.dtype]


@dataclass(frozen=True, slots=True)
class PreloadFacts:
    """A preload that can fork: its models by name, the default first."""

    models: Mapping[str, MappedModel]

    def to_fields(self) -> dict[str, Any]:
        """JSON values."""
        return {
            name: {
                "weights_of": model.weights_of,
                "dtype": model.dtype,
                "memories": {
                    dtype: memory.to_pb().SerializeToString().hex()
                    for dtype, memory in model.memories.items()
                },
            }
            for name, model in self.models.items()
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> PreloadFacts:
        return cls(
            {
                name: MappedModel(model["weights_of"], model["dtype"], _memories(model["memories"]))
                for name, model in fields.items()
            }
        )


def _memories(fields: Mapping[str, str]) -> dict[str, StageMemory]:
    return {
        dtype: StageMemory.from_pb(stage_pb2.StageMemory.FromString(bytes.fromhex(text)))
        for dtype, text in fields.items()
    }

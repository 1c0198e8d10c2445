"""Embeddings of a job's timesteps, by weights that are on the device for that alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AceStepTransformer1DModel

from services.runtime.weights.borrowed import borrowed

EMBEDDERS = ("time_embed", "time_embed_r")
"""The parts of the transformer that compute them, 4 % of its weights: of no use to a job's steps."""

_GROUP_COUNT = 32
"""Timesteps that are embedded at once: 1 MB of bfloat16 at the published width, however many a job has."""


@dataclass(frozen=True, slots=True)
class TimeEmbedding:
    """What the layers get of a timestep t, and of a reference timestep that is no other.

    Attributes:
        embedding: [1, width].
        modulation: [1, 6, width].
    """

    embedding: torch.Tensor
    modulation: torch.Tensor

    def to(self, device: torch.device) -> TimeEmbedding:
        return TimeEmbedding(self.embedding.to(device), self.modulation.to(device))


def embed_timesteps(
    transformer: AceStepTransformer1DModel, timesteps: Sequence[float]
) -> Mapping[float, TimeEmbedding]:
    """The embeddings of `timesteps` in the type of `transformer`, on the host: a step needs one of them."""
    device, dtype = transformer.device, transformer.dtype
    parts: Any = transformer
    with borrowed(parts.time_embed_r, device, dtype) as embed:
        reference = embed(torch.zeros(1, device=device, dtype=dtype))
    found: dict[float, TimeEmbedding] = {}
    with borrowed(parts.time_embed, device, dtype) as embed:
        for start in range(0, len(timesteps), _GROUP_COUNT):
            group = timesteps[start : start + _GROUP_COUNT]
            own = embed(torch.cat([torch.full((1,), t, device=device, dtype=dtype) for t in group]))
            embeddings, modulations = (
                (part + of_reference).cpu().split(1)
                for part, of_reference in zip(own, reference, strict=True)
            )
            found.update(zip(group, map(TimeEmbedding, embeddings, modulations), strict=True))
    return found

"""What a denoising job needs on the device, and how it can do with less."""

from __future__ import annotations

import math
from collections.abc import Sequence

from acestage.planning import dit_ways
from acestage.tensors import ITEM_BYTES
from services.runtime.job_budget import AdaptationKind, Attempt, Resources, Rung, quantization_of
from services.runtime.messages import Message


class DitBudget:
    """Both halves of guidance at once, then one after the other, then with weights in INT8."""

    def rungs(self, request: Message, resources: Resources, dtype: str) -> Sequence[Rung]:
        ways = dit_ways(
            resources.memories[dtype],
            request.tensor_map()["context_latents"].shape[1],
            len(request.fields["seeds"]),
            has_guidance=request.fields["guidance_scale"] > 1.0,
            quantization=quantization_of(request, resources),
        )
        more_bytes = _plain_bytes(request, dtype) + _adapter_bytes(request, dtype)
        is_guided = ways[0].mode == "guided"
        found = []
        for way in ways:
            is_split = is_guided and way.mode == "single"
            text = f"{dtype}, weights {way.quantization}" + (", guidance split" if is_split else "")
            attempt = Attempt(request, dtype, way.quantization, way.total_bytes + more_bytes, text)
            kind = AdaptationKind.SPLIT_GUIDANCE if is_split else AdaptationKind.INT8
            found.append(Rung(kind, attempt.told(split_guidance=is_split)))
        return found

    def remaining(self, request: Message, event: Message) -> Message:
        """All of it: latents come at the end."""
        return request


def _plain_bytes(request: Message, dtype: str) -> int:
    """Blending in the plain conditioning: its states, and the velocity that waits for that of its pass.

    The source's latents take nothing: they are in the host's memory, where the noise is drawn.
    """
    tensors = request.tensor_map()
    if "plain_hidden_states" not in tensors:
        return 0
    _, frames, twice_the_channels = tensors["context_latents"].shape
    count = math.prod(tensors["plain_hidden_states"].shape) + frames * twice_the_channels // 2
    return count * ITEM_BYTES[dtype]


def _adapter_bytes(request: Message, dtype: str) -> int:
    """Adapters are on the device for as long as the job runs. What their passes take besides is small."""
    count: int = sum(use["parameter_count"] for use in request.fields.get("adapters", ()))
    return count * ITEM_BYTES[dtype]

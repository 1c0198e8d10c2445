"""What a denoising job needs on the device, and how it can do with less."""

from __future__ import annotations

from collections.abc import Sequence

from acestage.planning import dit_ways
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
        is_guided = ways[0].mode == "guided"
        found = []
        for way in ways:
            is_split = is_guided and way.mode == "single"
            text = f"{dtype}, weights {way.quantization}" + (", guidance split" if is_split else "")
            attempt = Attempt(request, dtype, way.quantization, way.total_bytes, text)
            kind = AdaptationKind.SPLIT_GUIDANCE if is_split else AdaptationKind.INT8
            found.append(Rung(kind, attempt.told(split_guidance=is_split)))
        return found

    def remaining(self, request: Message, event: Message) -> Message:
        """All of it: latents come at the end."""
        return request

"""What a denoising job needs on the device, and how it can do with less."""

from __future__ import annotations

from collections.abc import Sequence

from services.runtime.job_budget import AdaptationKind, Attempt, Resources, Way, quantizations
from services.runtime.messages import Message


class DitBudget:
    """Both halves of guidance at once, then one after the other, then with weights in INT8.

    Args:
        is_turbo: the model runs without guidance.
    """

    def __init__(self, *, is_turbo: bool) -> None:
        self._is_turbo = is_turbo

    def ways(self, request: Message, resources: Resources, dtype: str) -> Sequence[Way]:
        memory = resources.memories[dtype]
        frame_count = request.tensor_map()["context_latents"].shape[1]
        item_count = len(request.fields["seeds"])
        is_guided = request.fields["guidance_scale"] > 1.0 and not self._is_turbo
        choice = request.fields.get("quantization") or resources.quantization
        found = []
        for quantization in quantizations(choice):
            for split in (False, True) if is_guided else (False,):
                mode = "guided" if is_guided and not split else "single"
                vram_bytes = memory.total_bytes(mode, frame_count, quantization)
                vram_bytes += (item_count - 1) * memory.activation_bytes("item", frame_count, quantization)
                kind = AdaptationKind.SPLIT_GUIDANCE if split else AdaptationKind.INT8
                way = f"{dtype}, weights {quantization}" + (", guidance split" if split else "")
                attempt = Attempt(request, dtype, quantization, vram_bytes, way)
                found.append((kind, attempt.told(split_guidance=split)))
        return found

    def remaining(self, request: Message, event: Message) -> Message:
        """All of it: latents come at the end."""
        return request

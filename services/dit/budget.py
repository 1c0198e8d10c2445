"""What a denoising job needs on the device, and how it can do with less."""

from __future__ import annotations

from collections.abc import Sequence

from acestage.tensors import ITEM_BYTES
from services.runtime.job_budget import AdaptationKind, Attempt, Resources, Way, quantizations
from services.runtime.messages import Message

LATENT_COPIES = 4
"""Latents of all items at once: noise, latents, velocities, and the result of a step."""


class DitBudget:
    """Both halves of guidance at once, then one after the other, then with weights in INT8.

    Args:
        is_turbo: the model runs without guidance.
        latent_channel_count: channels of a latent frame.
    """

    def __init__(self, *, is_turbo: bool, latent_channel_count: int) -> None:
        self._is_turbo = is_turbo
        self._latent_channel_count = latent_channel_count

    def ways(self, request: Message, resources: Resources, dtype: str) -> Sequence[Way]:
        memory = resources.memories[dtype]
        frame_count = request.tensor_map()["context_latents"].shape[1]
        item_count = len(request.fields["seeds"])
        latents_bytes = item_count * frame_count * self._latent_channel_count * ITEM_BYTES[dtype]
        is_guided = request.fields["guidance_scale"] > 1.0 and not self._is_turbo
        choice = request.fields.get("quantization") or resources.quantization
        found = []
        for quantization in quantizations(choice):
            for split in (False, True) if is_guided else (False,):
                mode = "guided" if is_guided and not split else "single"
                vram_bytes = memory.total_bytes(mode, frame_count, quantization)
                kind = AdaptationKind.SPLIT_GUIDANCE if split else AdaptationKind.INT8
                way = f"{dtype}, weights {quantization}" + (", guidance split" if split else "")
                attempt = Attempt(
                    request, dtype, quantization, vram_bytes + LATENT_COPIES * latents_bytes, way
                )
                found.append((kind, attempt.told(split_guidance=split)))
        return found

    def remaining(self, request: Message, event: Message) -> Message:
        """All of it: latents come at the end."""
        return request

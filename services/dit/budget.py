"""What a denoising job needs on the device, and how it can do with less."""

from __future__ import annotations

import math
from collections.abc import Sequence

from acestage.planning import Quantization, StageMemory, dit_ways
from acestage.tensors import ITEM_BYTES
from services.dit.tokens import CHUNK_TOKENS, PATCH_FRAMES
from services.runtime.jobs.job_budget import AdaptationKind, Attempt, Resources, Rung, quantization_of
from services.runtime.workers.messages import Message


class DitBudget:
    """Both halves of guidance at once, then one after the other, then with weights in INT8.

    Each with the keys and values of the prompt kept, where the device is large enough, and then without: the
    same way, since the music is the same, only slower.
    """

    def rungs(self, request: Message, resources: Resources, dtype: str) -> Sequence[Rung]:
        ways = dit_ways(
            resources.memories[dtype],
            request.tensor_map()["context_latents"].shape[1],
            len(request.fields["seeds"]),
            has_guidance=request.fields["guidance_scale"] > 1.0,
            quantization=quantization_of(request, resources),
        )
        plain_bytes = _plain_bytes(request, dtype)
        is_guided = ways[0].mode == "guided"
        found = []
        for way in ways:
            is_split = is_guided and way.mode == "single"
            text = f"{dtype}, weights {way.quantization}" + (", guidance split" if is_split else "")
            vram_bytes = way.total_bytes + plain_bytes + _adapter_bytes(request, dtype, way.mode)
            kept_bytes = _kept_bytes(request, resources.memories[dtype], way.mode, way.quantization)
            kind = AdaptationKind.SPLIT_GUIDANCE if is_split else AdaptationKind.INT8
            has_room = 0 < kept_bytes <= resources.device_bytes - vram_bytes
            for keeps_prompt in (True, False) if has_room else (False,):
                needed_bytes = vram_bytes + (kept_bytes if keeps_prompt else 0)
                attempt = Attempt(request, dtype, way.quantization, needed_bytes, text)
                found.append(Rung(kind, attempt.told(split_guidance=is_split, keeps_prompt=keeps_prompt)))
        return found

    def remaining(self, request: Message, event: Message) -> Message:
        """All of it: latents come at the end."""
        return request


def _kept_bytes(request: Message, memory: StageMemory, mode: str, quantization: Quantization) -> int:
    """The keys and values of all prompts, where they are kept from step to step."""
    tensors = request.tensor_map()
    item_count = 2 if mode == "guided" else 1
    token_count = item_count * tensors["encoder_hidden_states"].shape[1] + 1  # and that of no prompt
    if "plain_hidden_states" in tensors:
        token_count += tensors["plain_hidden_states"].shape[1]
    return memory.activations["prompt", quantization].bytes_at(token_count)


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


def _adapter_bytes(request: Message, dtype: str, mode: str) -> int:
    """Adapters are on the device for as long as the job runs.

    What an adapter adds to a layer's result is beside it, before both are added up: for a chunk of tokens, of
    all that are in a pass. That counts once, since adapters and layers take turns.
    """
    uses = request.fields.get("adapters", ())
    if not uses:
        return 0
    frame_count = request.tensor_map()["context_latents"].shape[1]
    token_count = math.ceil(frame_count / PATCH_FRAMES) * (2 if mode == "guided" else 1)
    widest: int = max(use["widest"] for use in uses)
    passing_count = min(token_count, CHUNK_TOKENS) * widest
    stored_count: int = sum(use["parameter_count"] for use in uses)
    return (stored_count + passing_count) * ITEM_BYTES[dtype]

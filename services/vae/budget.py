"""What a job of the VAE needs on the device, and how it can do with less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from acestage.planning import encode_tile_ways, tile_ways
from services.runtime.jobs.job_budget import AdaptationKind, Attempt, Resources, Rung
from services.runtime.workers.messages import Message


class VaeBudget:
    """Tiles as large as allowed, then smaller ones: the result is the same."""

    def rungs(self, request: Message, resources: Resources, dtype: str) -> Sequence[Rung]:
        fields = request.fields
        most = fields["tile_frame_count"] or resources.tile_frame_count
        memory = resources.memories[dtype]
        if request.kind == "decode":
            wanted_count = fields["stop_frame"] - fields["start_frame"]
            ways = tile_ways(memory, min(most, wanted_count))
        else:
            ways = encode_tile_ways(memory, fields["frame_count"], most)
        received_bytes = _received_bytes(request, resources)
        found = []
        for tile, way_bytes in ways:
            vram_bytes = way_bytes + received_bytes
            attempt = Attempt(request, dtype, "none", vram_bytes, f"{dtype}, tiles of {tile} frames")
            found.append(Rung(AdaptationKind.SMALLER_TILE, attempt.told(tile_frame_count=tile)))
        return found

    def remaining(self, request: Message, event: Message) -> Message:
        """What comes after the tile that `event` brings: its audio or latents have been passed on already."""
        stop_frame = event.fields["stop_frame"]
        if request.kind == "decode":
            left = {"start": {"item_index": event.fields["item_index"], "frame": stop_frame}}
        else:
            left = {"start_frame": stop_frame}
        return replace(request, fields={**request.fields, **left})


def _received_bytes(request: Message, resources: Resources) -> int:
    """The tensors of the request stay in the host's memory, which is the device's where that is the CPU.

    Ten minutes of audio are 220 MiB; a CUDA device sees them tile by tile.
    """
    if resources.device != "cpu":
        return 0
    return sum(memoryview(tensor.data).nbytes for tensor in request.tensors)

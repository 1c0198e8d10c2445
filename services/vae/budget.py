"""What a decoding job needs on the device, and how it can do with less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from acestage.planning import tile_ways
from services.runtime.job_budget import AdaptationKind, Attempt, Resources, Rung
from services.runtime.messages import Message


class VaeBudget:
    """Tiles as large as allowed, then smaller ones: the audio is the same."""

    def rungs(self, request: Message, resources: Resources, dtype: str) -> Sequence[Rung]:
        frame_count = request.tensor_map()["latents"].shape[1]
        most = request.fields["tile_frame_count"] or resources.tile_frame_count
        found = []
        for tile, vram_bytes in tile_ways(resources.memories[dtype], frame_count, most):
            attempt = Attempt(request, dtype, "none", vram_bytes, f"{dtype}, tiles of {tile} frames")
            found.append(Rung(AdaptationKind.SMALLER_TILE, attempt.told(tile_frame_count=tile)))
        return found

    def remaining(self, request: Message, event: Message) -> Message:
        """What comes after the tile that `event` brings: its audio has been sent already."""
        start = {"item_index": event.fields["item_index"], "frame": event.fields["stop_frame"]}
        return replace(request, fields={**request.fields, "start": start})

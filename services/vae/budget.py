"""What a decoding job needs on the device, and how it can do with less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from services.runtime.job_budget import AdaptationKind, Attempt, Resources, Way
from services.runtime.messages import Message

LEAST_TILE_FRAMES = 4
"""Below this nearly all that is decoded is halo, and what is saved no longer matters."""


class VaeBudget:
    """Tiles as large as allowed, then half as large, and so on: the audio is the same."""

    def ways(self, request: Message, resources: Resources, dtype: str) -> Sequence[Way]:
        memory = resources.memories[dtype]
        frame_count = request.tensor_map()["latents"].shape[1]
        most = request.fields["tile_frame_count"] or resources.tile_frame_count
        tile = min(most, frame_count)
        found = []
        while True:
            decoded = min(frame_count, tile + 2 * memory.halo_frame_count)
            attempt = Attempt(
                request,
                dtype,
                "none",
                memory.total_bytes("tile", decoded),
                f"{dtype}, tiles of {tile} frames",
            )
            found.append((AdaptationKind.SMALLER_TILE, attempt.told(tile_frame_count=tile)))
            if tile <= LEAST_TILE_FRAMES:
                return found
            tile = max(tile // 2, LEAST_TILE_FRAMES)

    def remaining(self, request: Message, event: Message) -> Message:
        """What comes after the tile that `event` brings: its audio has been sent already."""
        start = {"item_index": event.fields["item_index"], "frame": event.fields["stop_frame"]}
        return replace(request, fields={**request.fields, "start": start})

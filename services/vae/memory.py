"""What the VAE needs on its device, measured from its architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from acestage.planning import RESERVE_BYTES, ActivationCurve, StageMemory, context_bytes
from services.runtime.memory_probe import fake_tensors, peak_bytes, placed_copy
from services.runtime.placement import placed_bytes
from services.vae.engine import VaeEngine

if TYPE_CHECKING:
    from services.vae.worker import VaeWorker

TILE_FRAME_COUNTS = (8, 16, 32, 128, 512)
"""Frames of a tile, without its halo, at which the curve is measured."""


def measure(worker: VaeWorker, dtype: torch.dtype, cpu_thread_count: int | None) -> StageMemory:
    """Runs the decoder on fake tensors. The one mode is "tile", by frames with the halo on both sides."""
    with fake_tensors():
        engine = placed_copy(worker, dtype, "none").engine
        points = tuple(
            (frames + 2 * engine.halo_frame_count, _peak_bytes(engine, frames, cpu_thread_count))
            for frames in TILE_FRAME_COUNTS
        )
        return StageMemory(
            context_bytes=context_bytes(cpu_thread_count),
            reserve_bytes=RESERVE_BYTES,
            weights_bytes={"none": placed_bytes(worker.modules(), dtype)},
            activations={("tile", "none"): ActivationCurve(points)},
            halo_frame_count=engine.halo_frame_count,
        )


def _peak_bytes(engine: VaeEngine, tile_frame_count: int, cpu_thread_count: int | None) -> int:
    channel_count = engine.decoder.conv1.in_channels
    halo = engine.halo_frame_count
    # Two tiles, with a halo each on the inner side alone: the first one's audio is there during the second.
    tile = tile_frame_count + halo
    latents = torch.zeros(1, 2 * tile, channel_count)

    def decode() -> None:
        for _ in engine.decode(latents, tile):
            pass

    return peak_bytes(decode, cpu_thread_count=cpu_thread_count)

"""What the VAE needs on its device, measured from its architecture."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import torch

from acestage.planning import RESERVE_BYTES, ActivationCurve, StageMemory, context_bytes
from services.runtime.memory.memory_probe import LiveBytes, fake_tensors, peak_bytes, placed_copy
from services.runtime.weights.placement import placed_bytes
from services.vae.engine import DecodeStart, VaeEngine
from services.vae.oobleck import blocks_of
from services.vae.upsampling import whole_frame_counts

if TYPE_CHECKING:
    from services.vae.worker import VaeWorker

TILE_FRAME_COUNTS = (8, 16, 32, 128, 512)
"""Frames of a tile, without its halo, at which the curves are measured; that of a decode is measured on both
sides of its steps besides."""


def measure(worker: VaeWorker, dtype: torch.dtype, cpu_thread_count: int | None) -> StageMemory:
    """Runs decoder and encoder on fake tensors.

    Modes are "tile" (a decode) and "encode_tile", both by frames with the halo on both sides. The weights of
    the encoder, which is there for an encode alone, count as part of "encode_tile".
    """
    with fake_tensors():
        engine = placed_copy(worker, dtype, "none").engine
        decode = tuple(
            (frames + 2 * engine.halo_frame_count, _decode_peak_bytes(engine, frames, cpu_thread_count))
            for frames in _decoded_frame_counts(engine)
        )
        encode = _encode_points(engine, cpu_thread_count)
        return StageMemory(
            context_bytes=context_bytes(cpu_thread_count),
            reserve_bytes=RESERVE_BYTES,
            weights_bytes={"none": placed_bytes(worker.modules(), dtype)},
            activations={
                ("tile", "none"): ActivationCurve(decode),
                ("encode_tile", "none"): ActivationCurve(encode),
            },
            halo_frame_count=engine.halo_frame_count,
            encoder_halo_frame_count=engine.encoder_halo_frame_count,
        )


def _decoded_frame_counts(engine: VaeEngine) -> list[int]:
    """`TILE_FRAME_COUNTS` and the steps: beside pieces of a block there are all of its results."""
    least, most = TILE_FRAME_COUNTS[0], TILE_FRAME_COUNTS[-1]
    steps = {frames for last in whole_frame_counts(blocks_of(engine.decoder)) for frames in (last, last + 1)}
    return sorted({*TILE_FRAME_COUNTS, *(frames for frames in steps if least < frames < most)})


def _decode_peak_bytes(engine: VaeEngine, tile_frame_count: int, cpu_thread_count: int | None) -> int:
    """The peak of two tiles with both halos: the first one's result is there during the second."""
    halo = engine.halo_frame_count
    latents = torch.zeros(1, 2 * (halo + tile_frame_count), engine.latent_channel_count)
    # From its beginning an item has smaller tiles first, so this goes on behind the first frames.
    behind_the_first = DecodeStart(0, halo)

    def decode() -> None:
        for _ in islice(engine.decode(latents, tile_frame_count, behind_the_first), 2):
            pass

    return peak_bytes(decode, cpu_thread_count=cpu_thread_count)


def _encode_points(engine: VaeEngine, cpu_thread_count: int | None) -> tuple[tuple[int, int], ...]:
    """Latent frames of a tile with its halo, and the peak of two of them, by tile: with the halo on the inner
    side alone, since an encode computes its halo as it does the rest.
    """
    halo = engine.encoder_halo_frame_count
    tiles = [frames + halo for frames in TILE_FRAME_COUNTS]
    songs = [torch.zeros(1, 2 * tile * engine.hop_sample_count, engine.audio_channel_count) for tile in tiles]
    points = []
    with LiveBytes(cpu_thread_count) as counter, engine.borrowed_encoder() as encoder:
        borrowing_bytes = counter.peak_bytes
        for tile, song in zip(tiles, songs, strict=True):
            counter.peak_bytes = counter.live_bytes
            for _ in engine.encode_with(encoder, song, tile):
                pass
            points.append((tile + halo, max(borrowing_bytes, counter.peak_bytes)))
    return tuple(points)

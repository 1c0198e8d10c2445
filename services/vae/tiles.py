"""Tile arithmetic: which latent frames must be decoded to get some frames' audio exactly. No I/O, no torch.

The decoder is a chain of convolutions. How far a sample looks is found from their geometry, layer by layer
from the output back to the latents; a tile that includes these frames (the halo) gives the very samples
of the untiled decode.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Convolution:
    """One layer of the chain: a convolution of stride 1, or a transposed convolution of any stride."""

    kernel_size: int
    padding: int
    dilation: int = 1
    stride: int = 1
    is_transposed: bool = False

    def input_range(self, start: int, stop: int) -> tuple[int, int]:
        """The inputs that outputs [start, stop) depend on, not clipped to what exists."""
        span = (self.kernel_size - 1) * self.dilation
        if self.is_transposed:  # output o takes input i where 0 <= o + padding - i * stride <= span
            first = math.ceil((start + self.padding - span) / self.stride)
            return first, (stop - 1 + self.padding) // self.stride + 1
        return start - self.padding, stop - self.padding + span


def halo_frame_count(layers: Sequence[Convolution]) -> int:
    """Latent frames needed on each side of a tile, for layers given from latents to audio."""
    hop = math.prod(layer.stride for layer in layers)
    frames = 8
    start, stop = 0, frames * hop
    for layer in reversed(layers):
        start, stop = layer.input_range(start, stop)
    return max(-start, stop - frames)


@dataclass(frozen=True, slots=True)
class Tile:
    """Frames [start, stop) are wanted; frames [halo_start, halo_stop) are decoded for them."""

    start: int
    stop: int
    halo_start: int
    halo_stop: int


def tiles(frame_count: int, tile_frame_count: int, halo: int, first: int = 0) -> Iterator[Tile]:
    """Cuts the song from frame `first` on into tiles of at most `tile_frame_count`, each with its halo.

    A halo goes as far as the song does, on both sides.
    """
    for start in range(first, frame_count, tile_frame_count):
        stop = min(start + tile_frame_count, frame_count)
        yield Tile(start, stop, max(0, start - halo), min(frame_count, stop + halo))

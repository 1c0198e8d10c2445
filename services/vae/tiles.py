"""Tile arithmetic: which frames must be computed to get some frames' results exactly. No I/O, no torch.

The decoder and the encoder are chains of convolutions. How far a result looks is found from their geometry,
layer by layer from the last one back to the first; a tile that includes these frames (the halo) gives the
very results of the untiled computation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

FIRST_TILE_FRAMES = 16
"""Latent frames of the first tile of a decode: sound starts early, and while it lasts the next tile, twice
as large, is made. On two cores of a CPU, in bfloat16, the published decoder takes 0.25 s for this one (0.64 s
of sound), 0.45 s for the next (1.28 s) and 0.9 s for the third (2.56 s)."""


@dataclass(frozen=True, slots=True)
class Convolution:
    """One layer of the chain: a convolution or a transposed convolution, of any stride."""

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
        return start * self.stride - self.padding, (stop - 1) * self.stride - self.padding + span + 1


def decoder_halo_frame_count(layers: Sequence[Convolution]) -> int:
    """Latent frames needed on each side of a tile, for layers given from latents to audio."""
    frames = _TRIED_FRAMES
    start, stop = _input_range(layers, 0, frames * hop_sample_count(layers))
    return max(-start, stop - frames)


def encoder_halo_frame_count(layers: Sequence[Convolution]) -> int:
    """Latent frames whose samples are needed on each side of a tile, for layers given from audio to latents.

    Whole frames: a tile that began in the middle of one would shift what the strides see.
    """
    frames, hop = _TRIED_FRAMES, hop_sample_count(layers)
    start, stop = _input_range(layers, 0, frames)
    return max(math.ceil(-start / hop), math.ceil(stop / hop) - frames)


_TRIED_FRAMES = 8
"""How many frames the tile has by which a halo is found; any number gives the same one."""


def hop_sample_count(layers: Sequence[Convolution]) -> int:
    """Samples of one latent frame."""
    return math.prod(layer.stride for layer in layers)


def _input_range(layers: Sequence[Convolution], start: int, stop: int) -> tuple[int, int]:
    for layer in reversed(layers):
        start, stop = layer.input_range(start, stop)
    return start, stop


@dataclass(frozen=True, slots=True)
class Tile:
    """Frames [start, stop) are wanted; they depend on frames [halo_start, halo_stop).

    Or rows, where a block of the decoder cuts its own.
    """

    start: int
    stop: int
    halo_start: int
    halo_stop: int

    @property
    def frame_count(self) -> int:
        """Frames that are wanted."""
        return self.stop - self.start

    @property
    def within_halo(self) -> range:
        """The wanted frames, counted from the first one of the halo."""
        return range(self.start - self.halo_start, self.stop - self.halo_start)

    @property
    def halo_frame_count(self) -> int:
        """Frames that the wanted ones depend on besides."""
        return self.halo_stop - self.halo_start - self.frame_count


def tiles(
    frames: range, tile_frame_count: int, halo: int, frame_count: int, *, begins_small: bool = False
) -> Iterator[Tile]:
    """Cuts `frames` of a song into tiles, each with its halo, which goes as far as the song does.

    Args:
        frames: consecutive ones that are wanted.
        tile_frame_count: the most of them in a tile.
        halo: frames on each side.
        frame_count: latent frames of the whole song.
        begins_small: the first tile has `FIRST_TILE_FRAMES`, and each one after it twice as many as the one
            before, up to `tile_frame_count`.
    """
    sizes = _growing_sizes(tile_frame_count) if begins_small else itertools.repeat(tile_frame_count)
    start = frames.start
    for size in sizes:
        if start >= frames.stop:
            return
        stop = min(start + size, frames.stop)
        yield Tile(start, stop, max(0, start - halo), min(frame_count, stop + halo))
        start = stop


def _growing_sizes(most: int) -> Iterator[int]:
    size = FIRST_TILE_FRAMES
    while True:
        yield min(size, most)
        size *= 2

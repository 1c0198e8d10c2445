"""The blocks of the decoder, one after the other, each computing no more than is looked at, piece by piece.

What a tile wants of its results decides what each block computes, from the last one back to the first. The
halo of a tile is several frames wide in front of the first block and a fraction of one behind it, so most of
it costs the first block alone, which has an eighth of the work.

As a song is cut into tiles so are the rows of a block, with halos of their own. What a block needs besides
its input and its result is then small enough for a CPU's cache, and for the heap to keep. For a whole tile it
was larger than the weights, and up to a sixth of a decode went into fresh pages for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch._subclasses.fake_tensor import FakeTensor

from services.vae.tiles import Tile, tiles

PIECE_ROWS = 12288
"""The most rows of a result that are computed at once, without their halo. With half as many a decode takes
2 % longer; with twice as many, pieces of 256 channels in float32 are more than the heap keeps."""


@dataclass(frozen=True, slots=True)
class Block:
    """A transposed convolution, with a kernel of twice its stride, which is even, and convolutions behind it.

    Attributes:
        compute: all of them: [rows, channels] to [rows * stride, width].
        stride: of the transposed one.
        width: channels of the results.
        reach: rows on each side that those behind it look at, all together.
    """

    compute: Callable[[torch.Tensor], torch.Tensor]
    stride: int
    width: int
    reach: int

    @property
    def halo(self) -> int:
        """Rows on each side of some that their results depend on."""
        return math.ceil(self.reach / self.stride) + 1  # the transposed one looks at one row besides


def upsample(blocks: Sequence[Block], rows: torch.Tensor, wanted: range) -> torch.Tensor:
    """The results of `rows[wanted]`, [rows, channels]; they depend on some of the rows around as well."""
    factor = math.prod(block.stride for block in blocks)
    results, _ = _upsampled(blocks, rows, range(wanted.start * factor, wanted.stop * factor))
    return results


def whole_frame_counts(blocks: Sequence[Block]) -> list[int]:
    """For each block, the most frames of a tile for which it does not compute in pieces."""
    found = []
    besides = 0  # rows on each side that later blocks need
    for index in reversed(range(len(blocks))):
        block, before = blocks[index], blocks[:index]
        rows_of_frame = math.prod(earlier.stride for earlier in before)
        found.append((_piece_rows(block) - 2 * besides) // rows_of_frame)
        besides = math.ceil((besides + block.halo) / before[-1].stride) if before else 0
    return found[::-1]


def _upsampled(blocks: Sequence[Block], rows: torch.Tensor, wanted: range) -> tuple[torch.Tensor, int]:
    """Results that have those of `wanted` among them, and the number of the first one."""
    if not blocks:
        return rows, 0
    *before, block = blocks
    inputs = range(wanted.start // block.stride, math.ceil(wanted.stop / block.stride))
    input_count = len(rows) * math.prod(earlier.stride for earlier in before)
    needed = range(max(0, inputs.start - block.halo), min(input_count, inputs.stop + block.halo))
    found, first = _upsampled(before, rows, needed)
    results = _in_pieces(block, found, range(inputs.start - first, inputs.stop - first))
    return results, inputs.start * block.stride


def _in_pieces(block: Block, rows: torch.Tensor, wanted: range) -> torch.Tensor:
    """The results of `rows[wanted]` alone."""
    pieces: Iterable[Tile] = tiles(wanted, _piece_rows(block), block.halo, len(rows))
    if len(wanted) <= _piece_rows(block):
        (only,) = pieces
        return _piece(block, rows, only)
    if isinstance(rows, FakeTensor):  # one tells the memory: the whole result is there during each
        pieces = islice(pieces, 1)
    whole = rows.new_empty(len(wanted) * block.stride, block.width)
    for piece in pieces:
        start = (piece.start - wanted.start) * block.stride
        whole[start : start + piece.frame_count * block.stride] = _piece(block, rows, piece)
    return whole


def _piece_rows(block: Block) -> int:
    """The most rows whose results are computed at once."""
    return max(1, PIECE_ROWS // block.stride)


def _piece(block: Block, rows: torch.Tensor, piece: Tile) -> torch.Tensor:
    results = block.compute(rows[piece.halo_start : piece.halo_stop])
    return results[piece.within_halo.start * block.stride :][: piece.frame_count * block.stride]

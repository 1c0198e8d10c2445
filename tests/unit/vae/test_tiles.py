"""Tile arithmetic: tiles cover what is wanted exactly once, and the halo is the receptive field."""

from __future__ import annotations

import functools

import torch
from hypothesis import given
from hypothesis import strategies as st

from acestage.planning import DEFAULT_TILE_FRAMES
from services.runtime.preload.environment import CONVOLUTION_CACHE_COUNT
from services.vae.tiles import (
    FIRST_TILE_FRAMES,
    Convolution,
    decoder_halo_frame_count,
    encoder_halo_frame_count,
    hop_sample_count,
    tiles,
)
from services.vae.upsampling import Block, upsample, whole_frame_counts

STRIDES = (10, 6, 4, 4, 2)


def decoder_layers() -> list[Convolution]:
    """The published decoder: upsampling by 10, 6, 4, 4 and 2 with three dilated residual units each."""
    layers = [Convolution(7, 3)]
    for stride in STRIDES:
        layers.append(Convolution(2 * stride, (stride + 1) // 2, stride=stride, is_transposed=True))
        for dilation in (1, 3, 9):
            layers += [Convolution(7, 3 * dilation, dilation), Convolution(1, 0)]
    return [*layers, Convolution(7, 3)]


def blocks_without_layers(shapes: set[tuple[int, int]]) -> list[Block]:
    """Those of the published decoder, which note what they are asked to compute: their number, and rows."""

    def block(index: int, stride: int) -> Block:
        def compute(rows: torch.Tensor) -> torch.Tensor:
            shapes.add((index, len(rows)))
            return rows.new_empty(len(rows) * stride, 1)

        return Block(compute, stride, 1, 42 if index == 4 else 39)

    return [block(index, stride) for index, stride in enumerate(STRIDES)]


def encoder_layers() -> list[Convolution]:
    """The published encoder: three dilated residual units, then downsampling, by 2, 4, 4, 6 and 10."""
    layers = [Convolution(7, 3)]
    for stride in reversed(STRIDES):
        for dilation in (1, 3, 9):
            layers += [Convolution(7, 3 * dilation, dilation), Convolution(1, 0)]
        layers.append(Convolution(2 * stride, (stride + 1) // 2, stride=stride))
    return [*layers, Convolution(3, 1)]


def test_the_published_decoder_looks_nine_frames_to_each_side() -> None:
    assert decoder_halo_frame_count(decoder_layers()) == 9


def test_the_convolutions_of_all_pieces_of_a_song_are_kept_compiled() -> None:
    halo = decoder_halo_frame_count(decoder_layers())

    @functools.cache
    def shapes_of(frame_count: int, wanted: range) -> set[tuple[int, int]]:
        shapes = {(-1, frame_count)}
        upsample(blocks_without_layers(shapes), torch.empty(frame_count, 1), wanted)
        return shapes

    layer_counts = {-1: 1, 4: 8}  # of the first convolution, of the last block with the last convolution
    counts = []
    for frame_count in range(250, 2_000):
        cut = tiles(range(frame_count), DEFAULT_TILE_FRAMES, halo, frame_count, begins_small=True)
        shapes = set().union(*(shapes_of(t.halo_stop - t.halo_start, t.within_halo) for t in cut))
        counts.append(sum(layer_counts.get(index, 7) for index, _ in shapes))
    assert 150 < max(counts) <= CONVOLUTION_CACHE_COUNT


def test_of_a_halo_a_block_computes_no_more_than_later_ones_need() -> None:
    shapes: set[tuple[int, int]] = set()
    upsample(blocks_without_layers(shapes), torch.empty(6 + 2 * 9, 1), range(9, 9 + 6))
    needed = [6 + 2 * 7, 60 + 2 * 11, 360 + 2 * 16, 1440 + 2 * 17, 5760 + 2 * 22]
    assert sorted(shapes) == list(enumerate(needed))


def test_blocks_compute_in_pieces_from_a_tile_on_that_is_known() -> None:
    shapes: set[tuple[int, int]] = set()
    blocks = blocks_without_layers(shapes)
    halo = decoder_halo_frame_count(decoder_layers())
    counts = whole_frame_counts(blocks)
    assert counts == [1224, 204, 51, 12, 6]
    for index, frame_count in enumerate(counts):
        for frames, is_whole in ((frame_count, True), (frame_count + 1, False)):
            shapes.clear()
            upsample(blocks, torch.empty(frames + 2 * halo, 1), range(halo, halo + frames))
            assert (len({rows for number, rows in shapes if number == index}) == 1) == is_whole


def test_the_published_encoder_looks_seven_frames_to_each_side() -> None:
    assert encoder_halo_frame_count(encoder_layers()) == 7
    assert hop_sample_count(encoder_layers()) == 1920


def test_a_convolution_needs_its_kernel() -> None:
    assert Convolution(7, 9, dilation=3).input_range(0, 1) == (-9, 10)


def test_a_strided_convolution_needs_the_kernels_of_its_outputs() -> None:
    layer = Convolution(4, 1, stride=2)
    assert layer.input_range(0, 1) == (-1, 3)
    assert layer.input_range(1, 3) == (1, 7)


def test_a_transposed_convolution_needs_the_inputs_that_reach_its_outputs() -> None:
    # Output o is reached by the inputs i with 0 <= o + 1 - 2i <= 3.
    layer = Convolution(4, 1, stride=2, is_transposed=True)
    assert layer.input_range(0, 1) == (-1, 1)
    assert layer.input_range(1, 2) == (0, 2)


@given(
    st.integers(1, 500),
    st.integers(1, 200),
    st.integers(0, 20),
    st.integers(0, 510),
    st.booleans(),
    st.data(),
)
def test_tiles_cover_every_wanted_frame_once_and_have_their_halo(
    frames: int, size: int, halo: int, start: int, begins_small: bool, data: st.DataObject
) -> None:
    wanted = range(start, data.draw(st.integers(0, frames)))
    found = list(tiles(wanted, size, halo, frames, begins_small=begins_small))
    assert [frame for tile in found for frame in range(tile.start, tile.stop)] == list(wanted)
    for tile in found:
        assert tile.frame_count <= size
        assert tile.halo_start == max(0, tile.start - halo)
        assert tile.halo_stop == min(frames, tile.stop + halo)
        assert tile.halo_frame_count == (tile.halo_stop - tile.halo_start) - (tile.stop - tile.start)


def test_small_tiles_at_the_beginning_double_up_to_full_ones() -> None:
    found = list(tiles(range(5, 500), 128, 9, 500, begins_small=True))
    assert FIRST_TILE_FRAMES == 16
    assert [tile.frame_count for tile in found] == [16, 32, 64, 128, 128, 127]
    plain = list(tiles(range(5, 500), 128, 9, 500))
    assert [tile.frame_count for tile in plain] == [128, 128, 128, 111]

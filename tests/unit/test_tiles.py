"""Tile arithmetic: tiles cover a song exactly once, and the halo is the receptive field."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.vae.tiles import Convolution, halo_frame_count, tiles

STRIDES = (10, 6, 4, 4, 2)


def oobleck_layers() -> list[Convolution]:
    """The published decoder: upsampling by 10, 6, 4, 4 and 2 with three dilated residual units each."""
    layers = [Convolution(7, 3)]
    for stride in STRIDES:
        layers.append(Convolution(2 * stride, (stride + 1) // 2, stride=stride, is_transposed=True))
        for dilation in (1, 3, 9):
            layers += [Convolution(7, 3 * dilation, dilation), Convolution(1, 0)]
    return [*layers, Convolution(7, 3)]


def test_the_published_decoder_looks_nine_frames_to_each_side() -> None:
    assert halo_frame_count(oobleck_layers()) == 9


def test_a_convolution_needs_its_kernel() -> None:
    assert Convolution(7, 9, dilation=3).input_range(0, 1) == (-9, 10)


def test_a_transposed_convolution_needs_the_inputs_that_reach_its_outputs() -> None:
    # Output o is reached by the inputs i with 0 <= o + 1 - 2i <= 3.
    layer = Convolution(4, 1, stride=2, is_transposed=True)
    assert layer.input_range(0, 1) == (-1, 1)
    assert layer.input_range(1, 2) == (0, 2)


@given(st.integers(1, 500), st.integers(1, 200), st.integers(0, 20), st.integers(0, 510))
def test_tiles_cover_every_frame_once_and_have_their_halo(
    frames: int, size: int, halo: int, first: int
) -> None:
    found = list(tiles(frames, size, halo, first))
    assert [frame for tile in found for frame in range(tile.start, tile.stop)] == list(range(first, frames))
    for tile in found:
        assert tile.stop - tile.start <= size
        assert tile.halo_start == max(0, tile.start - halo)
        assert tile.halo_stop == min(frames, tile.stop + halo)

"""Layers of the VAE for rows, and its decoder computed in pieces, against those of torch and diffusers."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDecoder, OobleckDecoderBlock

from services.vae import upsampling
from services.vae.oobleck import decode_rows
from services.vae.row_weights import place_for_rows
from services.vae.upsampling import Block

CPU = torch.device("cpu")
HOP = 80  # of the decoder that is tried
INPUTS, OUTPUTS = 70, 3  # more inputs than are transposed at once


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("stride", [2, 3, 10])
@pytest.mark.parametrize("row_count", [1, 2, INPUTS - 1, INPUTS, INPUTS + 1])
def test_upsampling_of_few_rows_and_of_many_is_the_transposed_convolution(
    stride: int, row_count: int
) -> None:
    torch.manual_seed(1)
    block = OobleckDecoderBlock(INPUTS, OUTPUTS, stride).double()
    block.conv_t1.weight_g.mul_(torch.rand_like(block.conv_t1.weight_g))
    rows = torch.randn(row_count, INPUTS, dtype=torch.float64)
    expected = block.conv_t1(rows.t()[None])[0].t()
    place_for_rows(block, CPU, torch.float64)
    torch.testing.assert_close(block.conv_t1(rows), expected, rtol=1e-12, atol=1e-12)


@pytest.fixture
def decoder() -> OobleckDecoder:
    """In float64."""
    torch.manual_seed(2)
    return OobleckDecoder(4, 3, 2, [10, 2, 4], [1, 2, 4]).double()


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("piece_rows", [1, 30, 77, 500, 10_000])
@pytest.mark.parametrize(
    ("frame_count", "wanted"),
    [
        (1, range(1)),
        (2, range(1, 2)),
        (40, range(40)),
        (40, range(12)),
        (40, range(19, 21)),
        (40, range(28, 40)),
    ],
)
def test_what_is_wanted_of_a_decode_is_what_diffusers_decodes(
    frame_count: int, wanted: range, piece_rows: int, decoder: OobleckDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.randn(frame_count, 3, dtype=torch.float64)
    whole = decoder(rows.t()[None])[0].t()
    place_for_rows(decoder, CPU, torch.float64)
    monkeypatch.setattr(upsampling, "PIECE_ROWS", piece_rows)
    expected = whole[wanted.start * HOP : wanted.stop * HOP]
    torch.testing.assert_close(decode_rows(decoder, rows, wanted), expected, rtol=1e-12, atol=1e-12)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize(("piece_rows", "missing"), [(77, 1), (77, 2), (10_000, 2)])
def test_a_narrower_halo_of_blocks_would_be_noticed(
    piece_rows: int, missing: int, decoder: OobleckDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    place_for_rows(decoder, CPU, torch.float64)
    rows = torch.randn(40, 3, dtype=torch.float64)
    monkeypatch.setattr(upsampling, "PIECE_ROWS", piece_rows)
    found = decode_rows(decoder, rows, range(12, 28))
    halo = vars(Block)["halo"].fget
    monkeypatch.setattr(Block, "halo", property(lambda block: halo(block) - missing))
    assert (decode_rows(decoder, rows, range(12, 28)) - found).abs().max() > 1e-6

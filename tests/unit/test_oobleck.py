"""Layers of the VAE for rows, against those of torch."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDecoderBlock

from services.vae.row_weights import place_for_rows

CPU = torch.device("cpu")
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

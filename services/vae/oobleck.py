"""The decoder and the encoder of `AutoencoderOobleck`, computed on rows: [samples, channels].

Their classes in diffusers keep the channels first, so oneDNN and cuDNN copy every input and every result of a
convolution to a layout of their own. With the channels last there is nothing to copy, and what lies between
the convolutions is one pass over memory.

The encoder computes a tile whole. In pieces its results in float32 were up to 1.5e-6 of the largest magnitude
away from those of an untiled pass; 1e-6 is what tiles may differ by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from services.vae.kernels import add_snake
from services.vae.row_layers import ConvolutionOfRows, SnakeRows
from services.vae.upsampling import Block, upsample


def decode_rows(decoder: Any, rows: torch.Tensor, wanted: range) -> torch.Tensor:
    """The audio of some frames, [samples, audio channels], by a decoder after `place_for_rows`.

    Args:
        rows: [frames, latent channels], with the halo of the wanted ones.
        wanted: consecutive ones of them.
    """
    return upsample(blocks_of(decoder), decoder.block[0].snake1(decoder.conv1(rows)), wanted)


def blocks_of(decoder: Any) -> list[Block]:
    """All that a decoder does after `place_for_rows`, but for its first convolution and activation."""
    *blocks, last = decoder.block
    pairs = zip(blocks, decoder.block[1:], strict=True)
    return [
        *(_block(block, following.snake1) for block, following in pairs),
        _block(last, decoder.snake1, decoder.conv2),
    ]


def encode_rows(encoder: Any, rows: torch.Tensor) -> torch.Tensor:
    """[samples, audio channels] to [frames, 2 * latent channels], by an encoder after `place_for_rows`."""
    rows = encoder.conv1(rows)
    for block in encoder.block:
        rows = block.conv1(_residual(_units(block), rows, block.snake1))
    result: torch.Tensor = encoder.conv2(encoder.snake1(rows))
    return result


def _block(block: Any, following: SnakeRows, last: ConvolutionOfRows | None = None) -> Block:
    """A block of the decoder with the activation that follows it, and then the `last` layer, if given."""
    units = _units(block)

    def compute(rows: torch.Tensor) -> torch.Tensor:
        result = _residual(units, block.conv_t1(rows), following)
        return result if last is None else last(result)

    convolutions = [unit.conv1 for unit in units] + ([] if last is None else [last])
    reach = sum(layer.padding for layer in convolutions)
    return Block(compute, block.conv_t1.stride, len(convolutions[-1].weight), reach)


def _units(block: Any) -> list[Any]:
    return [block.res_unit1, block.res_unit2, block.res_unit3]


def _residual(units: Sequence[Any], rows: torch.Tensor, following: SnakeRows) -> torch.Tensor:
    """Runs residual units, and then the activation that follows them."""
    active = units[0].snake1(rows)
    for unit, activation in zip(units, [*(unit.snake1 for unit in units[1:]), following], strict=True):
        active = unit.conv1(active)
        active = unit.snake2(active)
        active = unit.conv2(active)
        rows, active = add_snake(rows, active, activation.alpha, activation.inverse_beta)
    result: torch.Tensor = active
    return result

"""The decoder and the encoder of `AutoencoderOobleck`, computed on rows: [samples, channels].

Their classes in diffusers keep the channels first, so oneDNN and cuDNN copy every input and every result of a
convolution to a layout of their own. With the channels last there is nothing to copy, and what lies between
the convolutions is one pass over memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from services.vae.kernels import add_snake
from services.vae.row_layers import SnakeRows


def decode_rows(decoder: Any, rows: torch.Tensor) -> torch.Tensor:
    """[frames, latent channels] to [samples, audio channels], by a decoder after `place_for_rows`."""
    active = decoder.block[0].snake1(decoder.conv1(rows))
    following = [block.snake1 for block in decoder.block[1:]] + [decoder.snake1]
    for block, activation in zip(decoder.block, following, strict=True):
        active = _residual(_units(block), block.conv_t1(active), activation)
    result: torch.Tensor = decoder.conv2(active)
    return result


def encode_rows(encoder: Any, rows: torch.Tensor) -> torch.Tensor:
    """[samples, audio channels] to [frames, 2 * latent channels], by an encoder after `place_for_rows`."""
    rows = encoder.conv1(rows)
    for block in encoder.block:
        rows = block.conv1(_residual(_units(block), rows, block.snake1))
    result: torch.Tensor = encoder.conv2(encoder.snake1(rows))
    return result


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

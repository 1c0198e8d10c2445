"""The decoder and the encoder of `AutoencoderOobleck`, computed on rows: [samples, channels].

Their classes in diffusers keep the channels first, so oneDNN and cuDNN copy every input and every result of a
convolution to a layout of their own. With the channels last there is nothing to copy, and what lies between
the convolutions is one pass over memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDecoder, OobleckEncoder, Snake1d
from torch.nn.functional import conv2d, linear, pad

from services.runtime.placement import folded_parts, place, weight_norms
from services.vae.kernels import add_snake, snake

_LEAST_BETA = 1e-9
"""What `Snake1d` adds to beta before it divides by it."""

_TRANSPOSED_INPUTS = 64
"""Inputs of an upsampling layer whose weights are transposed at once."""


def place_for_rows(module: OobleckDecoder | OobleckEncoder, device: torch.device, dtype: torch.dtype) -> None:
    """Moves `module` as `place` does, and replaces its layers by those for rows.

    One layer after the other: there is never a second copy of more than one.
    """
    for part in module.modules():
        for name, layer in part.named_children():
            replacement = _LAYERS.get(type(layer))
            if replacement is not None:
                setattr(part, name, replacement(layer, device, dtype))


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


def _residual(units: Sequence[Any], rows: torch.Tensor, following: _Snake) -> torch.Tensor:
    """Runs residual units, and then the activation that follows them."""
    active = units[0].snake1(rows)
    for unit, activation in zip(units, [*(unit.snake1 for unit in units[1:]), following], strict=True):
        active = unit.conv1(active)
        active = unit.snake2(active)
        active = unit.conv2(active)
        rows, active = add_snake(rows, active, activation.alpha, activation.inverse_beta)
    result: torch.Tensor = active
    return result


class _Snake(torch.nn.Module):
    """`Snake1d`, with what it computes from its parameters computed once."""

    def __init__(self, layer: Snake1d) -> None:
        super().__init__()
        alpha, beta = layer.alpha.detach().flatten(), layer.beta.detach().flatten()
        if layer.logscale:
            alpha, beta = alpha.exp(), beta.exp()
        self.alpha = torch.nn.Parameter(alpha)
        self.inverse_beta = torch.nn.Parameter((beta + _LEAST_BETA).reciprocal())

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = snake(rows, self.alpha, self.inverse_beta)
        return result


def _pointwise(layer: torch.nn.Conv1d) -> torch.nn.Linear:
    """The matrix product that a convolution of a single tap is."""
    product = torch.nn.Linear(layer.in_channels, layer.out_channels, device="meta")
    product.weight = torch.nn.Parameter(layer.weight.detach()[:, :, 0])
    assert layer.bias is not None
    product.bias = torch.nn.Parameter(layer.bias.detach())
    return product


class _ConvolutionOfRows(torch.nn.Module):
    """A `Conv1d` of [rows, channels]."""

    def __init__(self, layer: torch.nn.Conv1d) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(_channels_last(layer.weight.detach()))
        self.bias = layer.bias
        self._stride, self._dilation = layer.stride[0], layer.dilation[0]
        self._padding = int(layer.padding[0])

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return _convolve(rows, self.weight, self.bias, self._stride, self._padding, self._dilation)


class _UpsamplingRows(torch.nn.Module):
    """A `ConvTranspose1d` of [rows, channels], with a kernel of twice its stride.

    Every result is the sum over two neighbouring inputs: a convolution with two taps gives those between the
    two side by side, which is where rows have them. Where rows are fewer than channels it is a matrix product
    of their pairs: oneDNN's convolution arranges its weights anew in every call, which then takes longer than
    the product.
    """

    def __init__(self, layer: torch.nn.ConvTranspose1d, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        stride, inputs, outputs = layer.stride[0], layer.in_channels, layer.out_channels
        assert layer.kernel_size[0] == 2 * stride, f"a kernel of {layer.kernel_size[0]} at stride {stride}"
        ((_, norm),) = weight_norms(layer)
        assert norm.dim == 0, f"gains along dimension {norm.dim}"
        self._stride, self._padding = stride, int(layer.padding[0])
        weight = torch.empty(
            (stride * outputs, inputs, 1, 2), dtype=dtype, device=device, memory_format=torch.channels_last
        )
        rows = weight.permute(0, 2, 3, 1).view(stride, outputs, 2, inputs)
        for indices, part in folded_parts(layer, norm, device, dtype, _TRANSPOSED_INPUTS):
            # A matrix is transposed several times faster than three dimensions.
            taps = part.to(dtype).flatten(1).t().contiguous().view(outputs, 2, stride, -1)
            # The first tap is on the earlier input, whose results reach further.
            rows[:, :, 0, indices.start : indices.stop] = taps[:, 1].transpose(0, 1)
            rows[:, :, 1, indices.start : indices.stop] = taps[:, 0].transpose(0, 1)
        self.weight = torch.nn.Parameter(weight)
        self.bias = None if layer.bias is None else torch.nn.Parameter(layer.bias.detach().to(device, dtype))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.repeat(self._stride)
        if len(rows) < rows.shape[1]:
            between = linear(_pairs(rows), self.weight.permute(0, 2, 3, 1).flatten(1), bias)
        else:
            between = _convolve(rows, self.weight, bias, 1, 1, 1)
        results = between.view(len(between) * self._stride, -1)
        return results[self._padding : len(results) - self._padding]


def _pairs(rows: torch.Tensor) -> torch.Tensor:
    """[rows + 1, 2 * channels]: each of [rows, channels] beside the one before, with zeros at both ends."""
    padded = pad(rows, (0, 0, 1, 1))
    return torch.cat([padded[:-1], padded[1:]], dim=1)


def _convolution(layer: torch.nn.Conv1d, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    place(layer, device, dtype)
    return _pointwise(layer) if layer.kernel_size[0] == 1 else _ConvolutionOfRows(layer)


def _snake(layer: Snake1d, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    place(layer, device, dtype)
    return _Snake(layer)


_LAYERS: dict[type, Callable[[Any, torch.device, torch.dtype], torch.nn.Module]] = {
    torch.nn.ConvTranspose1d: _UpsamplingRows,
    torch.nn.Conv1d: _convolution,
    Snake1d: _snake,
}


def _channels_last(weight: torch.Tensor) -> torch.Tensor:
    """[outputs, inputs, taps] to the weight of a convolution over two dimensions, one of them 1 long."""
    return weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)


def _convolve(
    rows: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: int,
    padding: int,
    dilation: int,
) -> torch.Tensor:
    image = rows.t()[None, :, None]  # [1, channels, 1, rows], in memory still row after row
    result = conv2d(image, weight, bias, (1, stride), (0, padding), (1, dilation))
    return result[0, :, 0].t()

"""The layers of `AutoencoderOobleck`, computed on rows: [samples, channels].

Each takes its parameters, which `prepare` makes of a layer of diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from diffusers.models.autoencoders.autoencoder_oobleck import Snake1d
from torch.nn.functional import conv2d, linear, pad

from services.runtime.weights.placement import folded_parts, place, weight_norms
from services.vae.kernels import snake

_LEAST_BETA = 1e-9
"""What `Snake1d` adds to beta before it divides by it."""

_TRANSPOSED_INPUTS = 64
"""Inputs of an upsampling layer whose weights are transposed at once."""

Tensors = Mapping[str, torch.Tensor]


class RowLayer(Protocol):
    """What computes on rows in the place of `layer`, whose sizes it takes over."""

    def __call__(self, layer: Any, tensors: Tensors) -> torch.nn.Module:
        """Makes it of the parameters that it is to have."""
        ...

    def prepare(self, layer: Any, device: torch.device, dtype: torch.dtype) -> Tensors:
        """Its parameters, on `device` in `dtype`, by name."""
        ...


def row_layer(layer: torch.nn.Module) -> RowLayer | None:
    """What takes the place of `layer`; None where it consists of other layers, or is one for rows."""
    if isinstance(layer, torch.nn.Conv1d):
        return PointwiseRows if layer.kernel_size[0] == 1 else ConvolutionOfRows
    if isinstance(layer, torch.nn.ConvTranspose1d):
        return UpsamplingRows
    return SnakeRows if isinstance(layer, Snake1d) else None


class SnakeRows(torch.nn.Module):
    """`Snake1d`, with what it computes from its parameters computed once."""

    def __init__(self, layer: Snake1d, tensors: Tensors) -> None:
        super().__init__()
        self.alpha = torch.nn.Parameter(tensors["alpha"])
        self.inverse_beta = torch.nn.Parameter(tensors["inverse_beta"])

    @staticmethod
    def prepare(layer: Snake1d, device: torch.device, dtype: torch.dtype) -> Tensors:
        place(layer, device, dtype)
        alpha, beta = layer.alpha.detach().flatten(), layer.beta.detach().flatten()
        if layer.logscale:
            alpha, beta = alpha.exp(), beta.exp()
        return {"alpha": alpha, "inverse_beta": (beta + _LEAST_BETA).reciprocal()}

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = snake(rows, self.alpha, self.inverse_beta)
        return result


class _Weighted(torch.nn.Module):
    """A layer that has a weight, and mostly a bias."""

    def __init__(self, tensors: Tensors) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(tensors["weight"])
        self.bias = torch.nn.Parameter(tensors["bias"]) if "bias" in tensors else None


class PointwiseRows(_Weighted):
    """The matrix product that a `Conv1d` of a single tap is."""

    def __init__(self, layer: torch.nn.Conv1d, tensors: Tensors) -> None:
        super().__init__(tensors)

    @staticmethod
    def prepare(layer: torch.nn.Conv1d, device: torch.device, dtype: torch.dtype) -> Tensors:
        place(layer, device, dtype)
        return _with_bias(layer.weight.detach()[:, :, 0], layer.bias)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return linear(rows, self.weight, self.bias)


class ConvolutionOfRows(_Weighted):
    """A `Conv1d` of [rows, channels]."""

    def __init__(self, layer: torch.nn.Conv1d, tensors: Tensors) -> None:
        super().__init__(tensors)
        self.padding = int(layer.padding[0])
        self._stride, self._dilation = layer.stride[0], layer.dilation[0]

    @staticmethod
    def prepare(layer: torch.nn.Conv1d, device: torch.device, dtype: torch.dtype) -> Tensors:
        place(layer, device, dtype)
        # [outputs, inputs, taps] to the weight of a convolution over two dimensions, one of them 1 long.
        weight = layer.weight.detach().unsqueeze(2).contiguous(memory_format=torch.channels_last)
        return _with_bias(weight, layer.bias)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return _convolve(rows, self.weight, self.bias, self._stride, self.padding, self._dilation)


class UpsamplingRows(_Weighted):
    """A `ConvTranspose1d` of [rows, channels], with a kernel of twice its stride.

    Every result is the sum over two neighbouring inputs: a convolution with two taps gives those between the
    two side by side, which is where rows have them. Where rows are fewer than channels it is a matrix product
    of their pairs: oneDNN's convolution arranges its weights anew in every call, which then takes longer than
    the product.
    """

    def __init__(self, layer: torch.nn.ConvTranspose1d, tensors: Tensors) -> None:
        super().__init__(tensors)
        self.stride, self._padding = layer.stride[0], int(layer.padding[0])

    @staticmethod
    def prepare(layer: torch.nn.ConvTranspose1d, device: torch.device, dtype: torch.dtype) -> Tensors:
        stride, inputs, outputs = layer.stride[0], layer.in_channels, layer.out_channels
        assert layer.kernel_size[0] == 2 * stride, f"a kernel of {layer.kernel_size[0]} at stride {stride}"
        ((_, norm),) = weight_norms(layer)
        assert norm.dim == 0, f"gains along dimension {norm.dim}"
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
        return _with_bias(weight, None if layer.bias is None else layer.bias.to(device, dtype))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.repeat(self.stride)
        if len(rows) < rows.shape[1]:
            between = linear(_pairs(rows), self.weight.permute(0, 2, 3, 1).flatten(1), bias)
        else:
            between = _convolve(rows, self.weight, bias, 1, 1, 1)
        results = between.reshape(len(between) * self.stride, -1)
        return results[self._padding : len(results) - self._padding]


def _with_bias(weight: torch.Tensor, bias: torch.Tensor | None) -> Tensors:
    return {"weight": weight} if bias is None else {"weight": weight, "bias": bias.detach()}


def _pairs(rows: torch.Tensor) -> torch.Tensor:
    """[rows + 1, 2 * channels]: each of [rows, channels] beside the one before, with zeros at both ends."""
    padded = pad(rows, (0, 0, 1, 1))
    return torch.cat([padded[:-1], padded[1:]], dim=1)


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

"""Moves a module's weights from their mapped files to a device."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import torch
from torch.nn.utils.weight_norm import WeightNorm

from acestage.planning import Quantization
from services.runtime.weights.quantization import is_quantized, quantize, quantized_bytes

_PART_NUMBERS = 1 << 20
"""Numbers of a weight from which weight norm is taken, or that are converted, at once."""


def place(
    module: torch.nn.Module,
    device: torch.device,
    dtype: torch.dtype,
    quantization: Quantization = "none",
    quantizer: Callable[[torch.nn.Linear], None] = quantize,
    *,
    left_out: Collection[str] = (),
) -> None:
    """Moves `module` to `device`, and what its checkpoint holds to `dtype`.

    Weight norm is folded into plain weights: kept, it would compute a second copy of them in every pass.

    Tensors go one by one, so that neither the host nor the device ever holds a second copy of all weights,
    nor, with a quantization, all of them in `dtype`. What a device with memory of its own converts, it has
    twice for a moment, 4 MiB at most. Buffers that are not part of the checkpoint, such as the frequencies of
    rotary embeddings, keep their precision: in bfloat16 they would be wrong. Parameters keep `requires_grad`:
    without it, the linear layers of torch take up to twice as long in bfloat16 on a CPU.

    Args:
        module: what is moved.
        device: where it goes.
        dtype: the data type of what its checkpoint holds.
        quantization: how the matrices of its repeated layers are held.
        quantizer: does so for a layer, which is on the device, and leaves one as it is where it was done.
        left_out: names of children of `module` that stay where and what they are.
    """
    for name, part in parts_of(module, left_out):
        for hook_id, norm in weight_norms(part):
            _fold(part, norm, device, dtype)
            del part._forward_pre_hooks[hook_id]
        _move(part, device, dtype)
        if quantization == "int8" and is_quantized(name, part):
            quantizer(part)


def placed_bytes(
    modules: Iterable[torch.nn.Module],
    dtype: torch.dtype,
    quantization: Quantization = "none",
    *,
    left_out: Collection[str] = (),
) -> int:
    """The bytes that `place` makes `modules` take on a device; they may be mapped or on the meta device."""
    return sum(
        _part_bytes(name, part, dtype, quantization)
        for module in modules
        for name, part in parts_of(module, left_out)
    )


def parts_of(module: torch.nn.Module, left_out: Collection[str]) -> Iterator[tuple[str, Any]]:
    """The parts of `module` and their names, without its children named in `left_out` and theirs."""
    for name, part in module.named_modules():
        if name.split(".", 1)[0] not in left_out:
            yield name, part


def _move(part: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    for parameter in part.parameters(recurse=False):
        if (parameter.device, parameter.dtype) != (device, dtype):  # a tensor of torchao would be copied
            parameter.data = moved(parameter.data, device, dtype)
    for name, buffer in part.named_buffers(recurse=False):
        setattr(part, name, moved(buffer, device, _buffer_dtype(part, name, buffer, dtype)))


def moved(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """What `tensor.to(device, dtype)` gives, but converted by `device`.

    Torch converts on the CPU what it copies to a CUDA device (aten/src/ATen/native/cuda/Copy.cu): seconds of
    each swap where the device does not compute in the stored type. A part at a time is on the device as it is
    stored, 4 MiB at most: a whole embedder of timesteps would be more than the plan has beside its result.
    """
    if device.type == "cpu" or tensor.dtype == dtype:
        return tensor.to(device, dtype)
    return _converted_there(tensor, device, dtype)


def _converted_there(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    result = torch.empty(tensor.shape, dtype=dtype, device=device)
    both = (torch.split(whole.reshape(-1), _PART_NUMBERS) for whole in (result, tensor))
    for part, stored in zip(*both, strict=True):
        part.copy_(stored.to(device))
    return result


def _part_bytes(name: str, part: torch.nn.Module, dtype: torch.dtype, quantization: Quantization) -> int:
    parameters = dict(part.named_parameters(recurse=False))
    for _, norm in weight_norms(part):
        del parameters[f"{norm.name}_g"]  # the weight has the shape of the direction
    size = 0
    if quantization == "int8" and is_quantized(name, part):
        size += quantized_bytes(parameters.pop("weight"), dtype)
    size += sum(parameter.numel() for parameter in parameters.values()) * dtype.itemsize
    for buffer_name, buffer in part.named_buffers(recurse=False):
        size += buffer.numel() * _buffer_dtype(part, buffer_name, buffer, dtype).itemsize
    return size


def _buffer_dtype(part: torch.nn.Module, name: str, buffer: torch.Tensor, dtype: torch.dtype) -> torch.dtype:
    is_stored = name not in part._non_persistent_buffers_set
    return dtype if is_stored and buffer.is_floating_point() else buffer.dtype


def weight_norms(part: torch.nn.Module) -> list[tuple[int, WeightNorm]]:
    """The weight norms of a layer, with the keys of their hooks."""
    return [(key, hook) for key, hook in part._forward_pre_hooks.items() if isinstance(hook, WeightNorm)]


def folded_parts(
    part: torch.nn.Module, norm: WeightNorm, device: torch.device, dtype: torch.dtype, step: int
) -> Iterator[tuple[range, torch.Tensor]]:
    """The weight that gain and direction of a layer stand for, to be rounded to `dtype`.

    Yields:
        `step` indices of the dimension of the gains, or what is left; the weight at these, on `device`, in
        float32 at least.
    """
    precise = torch.promote_types(dtype, torch.float32)
    gain, direction = (getattr(part, f"{norm.name}_{suffix}").data for suffix in ("g", "v"))
    count = direction.shape[norm.dim]
    for start in range(0, count, step):
        indices = range(start, min(start + step, count))
        gains, directions = (
            moved(whole.narrow(norm.dim, start, len(indices)), device, precise) for whole in (gain, direction)
        )
        yield indices, torch._weight_norm(directions, gains, norm.dim)


def _fold(part: torch.nn.Module, norm: WeightNorm, device: torch.device, dtype: torch.dtype) -> None:
    """Replaces gain and direction by the weight that they stand for.

    A few rows at a time: the largest weight would outweigh all that a small tile takes.
    """
    direction = getattr(part, f"{norm.name}_v")
    weight = torch.empty(direction.shape, dtype=dtype, device=device)
    step = max(1, weight.shape[norm.dim] * _PART_NUMBERS // weight.numel())
    for indices, values in folded_parts(part, norm, device, dtype, step):
        weight.narrow(norm.dim, indices.start, len(indices)).copy_(values)
    for suffix in ("g", "v"):
        del part._parameters[f"{norm.name}_{suffix}"]
    delattr(part, norm.name)  # what weight norm computed for its last pass, if there was one
    part.register_parameter(norm.name, torch.nn.Parameter(weight))

"""What kernels allocate besides their results.

Most take nothing worth counting. The CPU's batched products in bfloat16 copy factors that are not dense, and
a weight is not when it is expanded over the batch. Convolutions always take something: their libraries
compute in a layout of their own, with copies of input, weight and result. What oneDNN takes was found by
profiling layers of torch 2.13 on a CPU with AMX, allocation by allocation. For CUDA the copies of
convolutions are assumed: cuDNN reorders to channels-last for its tensor cores, in a workspace of that size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from services.runtime.processes.cpu_features import has_feature

_CHANNEL_BLOCK = 16
"""oneDNN pads channels to a multiple of this, a vector of 32-bit numbers."""
_OUTPUT_BLOCK = 64
"""Output channels that a thread of a transposed convolution accumulates at once, in 32 bits."""
_PRODUCTS = {
    torch.ops.aten.bmm.default: 0,
    torch.ops.aten.mm.default: 0,
    torch.ops.aten.addmm.default: 1,
}
"""Products of matrices, with the index of the first factor."""
PRODUCT_BYTES = 2_400_000
_BATCHED_PRODUCT_BYTES = 2_800_000
"""What oneDNN takes for a product of matrices in bfloat16: the most that was seen, of one and of several."""


_AMX_THREAD_BYTES = 36_000
"""What a thread of a convolution with AMX takes besides."""
_AMX_STRIDED_LENGTH = 1000
"""It takes as much for shorter inputs."""


@dataclass(frozen=True, slots=True)
class Scratch:
    """Bytes that a kernel holds for itself.

    Attributes:
        before_result_bytes: the most that it holds before its result is allocated.
        beside_result_bytes: the most that it holds together with its result.
    """

    before_result_bytes: int = 0
    beside_result_bytes: int = 0


def scratch_of(func: Any, args: tuple[Any, ...], result: Any, cpu_thread_count: int | None) -> Scratch:
    """The scratch of the call `func(*args)`, which gave `result`.

    Args:
        func: an operator of `torch.ops`.
        args: the positional arguments of the call.
        result: what it returned.
        cpu_thread_count: threads of the CPU's kernels; None on a CUDA device.
    """
    if func is torch.ops.aten.convolution.default:
        return _of_convolution(args, result, cpu_thread_count)
    if func in _PRODUCTS and cpu_thread_count is not None and result.dtype == torch.bfloat16:
        is_batched = result.dim() == 3 and result.shape[0] > 1
        first = _PRODUCTS[func]
        own_bytes = _BATCHED_PRODUCT_BYTES if is_batched else PRODUCT_BYTES
        return Scratch(beside_result_bytes=own_bytes + sum(map(_copied_bytes, args[first : first + 2])))
    if func is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default and cpu_thread_count:
        return Scratch(beside_result_bytes=cpu_thread_count * _attention_bytes(args[0], args[1]))
    return Scratch()


def _attention_bytes(query: torch.Tensor, key: torch.Tensor) -> int:
    """What each thread of the CPU's flash attention takes: a block of scores, their sums, results; 32 bits.

    Block sizes as in torch's `FlashAttentionKernel.cpp`. Our own kernel (`services/dit/attention.cpp`) takes
    less for songs of 768 tokens and more, and up to 0.3 MB for shorter ones, whose peaks are elsewhere.
    """
    tokens, width = query.shape[-2:]
    rows = min(tokens, 256 if tokens >= 768 else 64 if tokens >= 192 else 32)
    columns = min(key.shape[-2], 512)
    return 4 * rows * (columns + 2 + width)


def _of_convolution(args: tuple[Any, ...], result: torch.Tensor, cpu_thread_count: int | None) -> Scratch:
    if result.dim() == 4:
        return _of_channels_last(args, result, cpu_thread_count)
    source, weight, is_transposed = args[0], args[1], bool(args[6])
    copies = _blocked_bytes(source) + _blocked_bytes(result)
    copies += weight.numel() * weight.element_size()
    # A transposed convolution's result is copied once more to have its bias added.
    beside = _blocked_bytes(result) * (2 if is_transposed else 1)
    if cpu_thread_count is None:
        return Scratch(copies, beside)
    return Scratch(copies + cpu_thread_count * _thread_bytes(source, weight, result, is_transposed), beside)


def _of_channels_last(args: tuple[Any, ...], result: torch.Tensor, cpu_thread_count: int | None) -> Scratch:
    """A convolution along the last of two dimensions whose channels lie side by side: no copies of the whole.

    Only with AMX does oneDNN have each thread lay out the whole input anew, once for each step of a stride.
    """
    source, weight, stride, padding = args[0], args[1], args[3][1], args[4][1]
    padded_count = -(-weight.shape[0] // _CHANNEL_BLOCK) * _CHANNEL_BLOCK
    copies = weight.numel() // weight.shape[0] * padded_count * weight.element_size()
    if cpu_thread_count is None:
        # Assumed: cuDNN goes back to a layout of its own where it has no tensor cores.
        copies += (source.numel() + result.numel()) * source.element_size()
    elif source.dtype == torch.bfloat16 and has_feature("amx_bf16"):
        length = source.shape[3] + 2 * padding
        laid_out = length if stride == 1 else stride * max(length, _AMX_STRIDED_LENGTH)
        thread_bytes = laid_out * source.shape[1] * source.element_size() + _AMX_THREAD_BYTES
        copies += cpu_thread_count * thread_bytes
    return Scratch(beside_result_bytes=copies)


def _thread_bytes(
    source: torch.Tensor, weight: torch.Tensor, result: torch.Tensor, is_transposed: bool
) -> int:
    """What each thread of the CPU's kernel takes."""
    if is_transposed:
        accumulated = min(_OUTPUT_BLOCK, result.shape[1]) * source.shape[-1] * 4
        is_wide = source.dtype == torch.float32
        return _blocked_bytes(source) + (0 if is_wide else accumulated)
    # Pointwise, in half precision: sums of the whole row in 32 bits.
    if weight.shape[-1] == 1 and source.dtype != torch.float32:
        return result.numel() * 4
    return 0


def _copied_bytes(factor: torch.Tensor) -> int:
    """Bytes of the copy that a batched product makes of `factor`; one of two matrices makes none."""
    if factor.dim() != 3 or factor.is_contiguous():
        return 0
    batch, rows, columns = factor.shape
    is_transposed = batch > 1 and factor.stride() == (rows * columns, 1, rows)
    return 0 if is_transposed else factor.numel() * factor.element_size()


def _blocked_bytes(tensor: torch.Tensor) -> int:
    batch, channels, length = tensor.shape
    padded = -(-channels // _CHANNEL_BLOCK) * _CHANNEL_BLOCK
    return batch * padded * length * tensor.element_size()

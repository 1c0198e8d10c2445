"""Attention in C++, for CPUs that multiply bfloat16 in their vector registers but have no AMX.

There torch's kernel computes at less than half the rate of a product of matrices, and this at nine tenths of
it. With AMX torch's multiplies in its tiles, out of reach of vectors, and in float32 it is nearly as fast as
products.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from services.runtime.kernels.native import NativeKernel
from services.runtime.processes.cpu_features import has_feature

HEAD_DIM = 128
"""The width of a head in every published model."""
_DTYPE = torch.bfloat16

KERNEL = NativeKernel(
    Path(__file__).with_name("attention.cpp"),
    "attention",
    [ctypes.c_void_p] * 4 + [ctypes.c_long] * 5 + [ctypes.c_float, ctypes.c_long, ctypes.c_int],
)


def is_supported(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether attention in `dtype` is faster on `device` with this kernel than with torch's."""
    is_tried = device.type == "cpu" and dtype == _DTYPE
    return is_tried and has_feature("avx512_bf16") and not has_feature("amx_bf16")


def is_ready(query: torch.Tensor) -> bool:
    """Whether `attend` takes [items, tokens, heads, head_dim] such as `query`, and is compiled."""
    return (
        KERNEL.compiled is not None
        and query.device.type == "cpu"
        and query.dtype == _DTYPE
        and query.shape[-1] == HEAD_DIM
        and type(query) is torch.Tensor  # fake ones have nothing to compute on
    )


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, width: int | None
) -> torch.Tensor:
    """Attention as `attend_within` has it.

    Args:
        query: [items, tokens, heads, 128], bfloat16 on a CPU.
        key: [items, keys, key heads, 128]; the heads are a multiple of the key heads.
        value: as `key`.
        scale: what the scores are multiplied by.
        width: a token sees keys at most so far away, and there are as many as tokens; None: all.

    Raises:
        MemoryError: there is none for what the threads need.
    """
    compiled = KERNEL.compiled
    assert compiled is not None
    # Nothing but these lines stands between wrong shapes and the memory of others.
    assert key.shape == value.shape
    assert query.shape[0] == key.shape[0]
    assert query.shape[2] % key.shape[2] == 0
    assert query.shape[3] == key.shape[3] == HEAD_DIM
    assert width is None or query.shape[1] == key.shape[1]
    assert all(state.dtype == _DTYPE and state.device.type == "cpu" for state in (query, key, value))
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    attended = torch.empty_like(query)
    item_count, token_count, head_count, _ = query.shape
    has_memory = compiled(
        *(tensor.data_ptr() for tensor in (query, key, value, attended)),
        *(item_count, token_count, key.shape[1], head_count, key.shape[2]),
        scale,
        -1 if width is None else width,
        torch.get_num_threads(),
    )
    if not has_memory:
        raise MemoryError("attention: no memory for the scratch of its threads")
    return attended

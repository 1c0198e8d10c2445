"""Weights of 8 bits in the order that oneDNN's products of integers want.

oneDNN puts them there at half a gigabyte a second, which takes longer than all else that waking a stage does.
So they are kept in that order, and mapped. In Python nothing makes a packed weight of memory that is there
already; torch's interface for compiled models does (`torch/csrc/inductor/aoti_torch/c/shim.h`).
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

ALIGNMENT = 64
"""Bytes: where oneDNN wants a weight to begin."""


def pack(values: torch.Tensor) -> torch.Tensor:
    """[outputs, inputs] int8, as `onednn.qlinear_pointwise` takes it."""
    packed: torch.Tensor = torch.ops.onednn.qlinear_prepack(values, None)
    return packed


def kept_tensors(packed: torch.Tensor) -> dict[str, torch.Tensor]:
    """What `restore` needs: the memory of `packed`, which is valid while that lives, and its order."""
    address, byte_count = int(torch.ops.mkldnn.data_ptr(packed)), int(torch.ops.mkldnn._nbytes(packed))
    memory = (ctypes.c_int8 * byte_count).from_address(address)
    return {
        "packed": torch.frombuffer(memory, dtype=torch.int8),
        "order": torch.ops.mkldnn._get_mkldnn_serialized_md(packed),
    }


def restore(kept: Mapping[str, torch.Tensor], shape: torch.Size) -> torch.Tensor:
    """A packed weight of [outputs, inputs] in the memory of `kept`, which must outlive it.

    Raises:
        RuntimeError: torch does not take it.
    """
    memory, order = kept["packed"], kept["order"]
    if memory.data_ptr() % ALIGNMENT:
        raise RuntimeError(
            f"a packed weight begins at {memory.data_ptr():#x}, which {ALIGNMENT} does not divide"
        )
    handle = ctypes.c_void_p()
    interface = _interface()
    is_failed = interface.aoti_torch_create_tensor_from_blob_v2(
        memory.data_ptr(),
        len(shape),
        (ctypes.c_int64 * len(shape))(*shape),
        (ctypes.c_int64 * len(shape))(shape[1], 1),
        0,
        interface.aoti_torch_dtype_int8(),
        interface.aoti_torch_device_type_cpu(),
        0,
        ctypes.byref(handle),
        interface.aoti_torch_layout__mkldnn(),
        order.data_ptr(),
        order.numel(),
    )
    if is_failed:
        raise RuntimeError(
            f"torch makes no packed weight of {memory.numel()} bytes and the shape {tuple(shape)}"
        )
    packed = torch._C._aoti.alloc_tensor_by_stealing_from_void_ptr(_capsule(handle))
    byte_count = int(torch.ops.mkldnn._nbytes(packed))
    if byte_count != memory.numel():
        raise RuntimeError(f"a packed weight has {memory.numel()} bytes; its order takes {byte_count}")
    return packed


@functools.cache
def _interface() -> Any:
    library = ctypes.CDLL(str(Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"))
    number, address = ctypes.c_int64, ctypes.c_void_p
    library.aoti_torch_create_tensor_from_blob_v2.argtypes = [
        *(address, number, address, address, number),
        *(ctypes.c_int32, ctypes.c_int32, ctypes.c_int32),
        *(address, ctypes.c_int32, address, number),
    ]
    return library


def _capsule(handle: ctypes.c_void_p) -> Any:
    new = ctypes.pythonapi.PyCapsule_New
    new.restype = ctypes.py_object
    new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return new(handle, None, None)

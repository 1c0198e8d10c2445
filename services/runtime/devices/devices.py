"""Devices, without torch: what there is, how much memory it has, which data type suits it."""

from __future__ import annotations

import logging

import pynvml

from acestage.errors import FailedPreconditionError
from services.runtime.devices.cuda_devices import VISIBLE, cuda_handle, cuda_handles
from services.runtime.processes.cpu_features import has_feature

log = logging.getLogger(__name__)

_BF16_CAPABILITY = (8, 0)  # Ampere: the first with bfloat16 in hardware
_TU11X = {
    *("1630", "1650", "1660", "30HX", "MX450", "MX550"),
    *("T400", "T500", "T550", "T600", "T1000", "T1200", "T2000"),
}
"""Words in the names of cards with the chips TU116 and TU117, which have no tensor cores. What cuDNN makes of
convolutions in float16 is not finite there, now and then: https://github.com/pytorch/pytorch/issues/58123.
ComfyUI goes by such names as well."""

_CPU_BF16_FEATURES = ("amx_bf16", "avx512_bf16")


def resolve_device(choice: str) -> str:
    """The device that `choice` ("auto", "cpu", "cuda" or "cuda:N") means here: "cpu" or "cuda:N".

    Where a driver fails, as after its update until the machine starts again, or once a GPU is lost, there is
    no telling what CUDA would find: "auto" warns then, and means "cpu".

    Raises:
        FailedPreconditionError: a CUDA device was asked for and NVML does not show it.
    """
    if choice == "cpu" or choice.startswith("fake:"):
        return choice
    count, fault = 0, ""
    try:
        count = _cuda_device_count()
    except pynvml.NVMLError as error:
        fault = f" (NVML says: {error})"
    if choice == "auto":
        if fault:
            log.warning("device: is 'auto', which means cpu, since the driver of the GPUs fails%s", fault)
        return "cuda:0" if count else "cpu"
    index = int(choice.partition(":")[2] or 0)
    if index >= count:
        raise FailedPreconditionError(
            f"device: is {choice!r}, but NVML and {VISIBLE} show {count} CUDA device(s){fault}; "
            "accepted here: " + ", ".join(["cpu", *(f"cuda:{i}" for i in range(count))])
        )
    return f"cuda:{index}"


def resolve_dtype(choice: str, device: str, stored: str, *, convolves: bool = False) -> str:
    """The data type to compute in.

    "auto" means, on the CPU, the type of the stored weights where the processor computes in it, else
    float32; on CUDA, bfloat16 from compute capability 8.0 on, else float16, or float32 for convolutions on a
    card that fails at them in float16.

    Args:
        choice: "auto" or a data type name.
        device: "cpu" or "cuda:N".
        stored: the data type of the checkpoint's weights.
        convolves: whether it is convolutions that are computed.
    """
    if choice != "auto":
        return choice
    if not device.startswith("cuda:"):
        return "bfloat16" if stored == "bfloat16" and has_feature(*_CPU_BF16_FEATURES) else "float32"
    if _compute_capability(device) >= _BF16_CAPABILITY:
        return "bfloat16"
    return "float32" if convolves and _TU11X & set(_name(device).split()) else "float16"


def _cuda_device_count() -> int:
    try:
        with cuda_handles() as handles:
            return len(handles)
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return 0  # no driver, hence no device


def _compute_capability(device: str) -> tuple[int, int]:
    with cuda_handle(device) as handle:
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        return int(major), int(minor)


def _name(device: str) -> str:
    with cuda_handle(device) as handle:
        return str(pynvml.nvmlDeviceGetName(handle))

"""CUDA devices through NVML, in CUDA's numbering: what a process can know of them without touching them.

NVML shows every device of the machine and ignores `CUDA_VISIBLE_DEVICES`; CUDA numbers only the devices that
the variable names, in its order. Integers in it are NVML's indices as long as CUDA orders devices by bus,
which is why preloads run with `CUDA_DEVICE_ORDER=PCI_BUS_ID`.
https://docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/environment-variables.html
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, Protocol

import pynvml

from acestage.errors import FailedPreconditionError, UnavailableError

VISIBLE = "CUDA_VISIBLE_DEVICES"

Handle = Any


class Nvml(Protocol):
    """The calls of `pynvml` that we use; all raise `pynvml.NVMLError`."""

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlSystemGetCudaDriverVersion_v2(self) -> int: ...
    def nvmlDeviceGetCount(self) -> int: ...
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Handle: ...
    def nvmlDeviceGetUUID(self, handle: Handle) -> str: ...
    def nvmlDeviceGetName(self, handle: Handle) -> str: ...
    def nvmlDeviceGetMemoryInfo(self, handle: Handle, version: int | None = None) -> Any: ...
    def nvmlDeviceGetComputeRunningProcesses(self, handle: Handle) -> list[Any]: ...
    def nvmlDeviceGetCudaComputeCapability(self, handle: Handle) -> tuple[int, int]: ...


@contextlib.contextmanager
def cuda_handles(nvml: Nvml = pynvml) -> Iterator[list[Handle]]:
    """NVML's handles of the devices that CUDA shows to this process: item N is "cuda:N". Valid in the body.

    Raises:
        NVMLError: there is no driver, or it does not answer.
        FailedPreconditionError: `CUDA_VISIBLE_DEVICES` says what we cannot map.
    """
    nvml.nvmlInit()
    try:
        yield _visible(nvml, os.environ.get(VISIBLE))
    finally:
        nvml.nvmlShutdown()


@contextlib.contextmanager
def cuda_handle(device: str, nvml: Nvml = pynvml) -> Iterator[Handle]:
    """NVML's handle of "cuda:N", valid in the body.

    Raises:
        UnavailableError: the driver does not answer, in the body neither, or has no such device.
        FailedPreconditionError: `CUDA_VISIBLE_DEVICES` says what we cannot map.
    """
    index = cuda_index(device)
    try:
        with cuda_handles(nvml) as handles:
            if index >= len(handles):
                raise UnavailableError(f"{device}: NVML no longer shows it", metadata={"device": device})
            yield handles[index]
    except pynvml.NVMLError as error:
        raise UnavailableError(f"{device}: NVML says {error}", metadata={"device": device}) from error


@contextlib.contextmanager
def driver_awake(device: str, nvml: Nvml = pynvml) -> Iterator[None]:
    """Keeps the driver of a CUDA device from going to sleep in the body, between one worker and the next.

    Without a screen or persistence mode, Linux drivers give up a GPU's state with the last process that has
    it open, and take 1 to 3 s to set it up for the next one. The handles are what keeps GPUs open: all that
    NVML shows, so none of them can be reset or powers down meanwhile.
    https://docs.nvidia.com/deploy/driver-persistence/overview.html

    Raises:
        UnavailableError: the driver does not answer, or has no such device.
    """
    with cuda_handle(device, nvml) if device.startswith("cuda:") else contextlib.nullcontext():
        yield


def cuda_index(device: str) -> int:
    """N of "cuda:N"."""
    return int(device.partition(":")[2])


def _visible(nvml: Nvml, visible: str | None) -> list[Handle]:
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    if visible is None:
        return handles
    found: list[int] = []
    for entry in visible.split(",") if visible.strip() else []:
        index = _index(nvml, handles, entry.strip(), visible)
        if index is None:
            break  # as CUDA does: only what stands before an entry without a device counts
        if index in found:
            raise FailedPreconditionError(f"{VISIBLE}: is {visible!r}, which names a device twice")
        found.append(index)
    return [handles[index] for index in found]


def _index(nvml: Nvml, handles: list[Handle], entry: str, visible: str) -> int | None:
    """NVML's index of the device that `entry` names; None where there is no such device."""
    if entry.removeprefix("-").isdecimal():
        return int(entry) if 0 <= int(entry) < len(handles) else None
    if entry.startswith("GPU-"):
        # The first characters of a UUID are enough, where they fit one device alone.
        matches = [i for i, handle in enumerate(handles) if nvml.nvmlDeviceGetUUID(handle).startswith(entry)]
        return matches[0] if len(matches) == 1 else None
    if entry.startswith("MIG-"):
        raise FailedPreconditionError(
            f"{VISIBLE}: is {visible!r}; accepted here: indices and GPU-… UUIDs, not {entry!r}"
        )
    return None  # "none", "NoDevFiles": what batch systems say to hide all

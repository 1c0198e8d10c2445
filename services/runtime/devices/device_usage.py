"""A worker's use of its device: the cap on what it may allocate, its peak, and giving back what is free."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch


class DeviceUsage:
    """What a worker process does with its device beside computing.

    As it stands it is the CPU, where nobody caps or counts: the process's resident memory tells.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.torch_device = torch.device(device)

    def counted(self) -> AbstractContextManager[object]:
        """Where all computing must happen."""
        return nullcontext()

    def cap(self, vram_bytes: int, context_bytes: int) -> None:
        """Allocations fail from now on where this process would take more than `vram_bytes`.

        Args:
            vram_bytes: what the lease allows.
            context_bytes: the part of it that is taken before the first tensor.
        """

    def start_job(self) -> None:
        """A job begins: its peak starts from here."""

    def settle(self) -> None:
        """Returns once the device has done what it was told."""

    def checkpoint(self) -> None:
        """Between two steps or tiles."""

    def peak_bytes(self) -> int:
        """Peak bytes allocated since the job began, weights included; 0 where the device does not tell."""
        return 0

    def trim(self) -> None:
        """Gives back what is free, for others."""


class CudaUsage(DeviceUsage):
    """A CUDA device, by torch's allocator."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        # Else "cuda" means the first one, which may get a context then.
        torch.cuda.set_device(self.torch_device)
        # Else convolutions in float32 round their inputs to 11 bits; matrix products do not.
        torch.backends.cudnn.allow_tf32 = False

    def cap(self, vram_bytes: int, context_bytes: int) -> None:
        _, total_bytes = torch.cuda.mem_get_info(self.torch_device)
        fraction = min(1.0, max(vram_bytes - context_bytes, 0) / total_bytes)
        torch.cuda.set_per_process_memory_fraction(fraction, self.torch_device)

    def start_job(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.torch_device)

    def settle(self) -> None:
        torch.cuda.synchronize(self.torch_device)

    def peak_bytes(self) -> int:
        return torch.cuda.max_memory_allocated(self.torch_device)

    def trim(self) -> None:
        torch.cuda.empty_cache()


def open_device_usage(device: str, run_dir: Path, stage: str) -> DeviceUsage:
    """The usage of `device` ("cpu", "cuda:N" or "fake:N") by this process."""
    if device == "cpu":
        return DeviceUsage()
    if device.startswith("fake:"):
        from services.runtime.devices.fake_device.usage import FakeUsage

        return FakeUsage(device, run_dir, stage)
    return CudaUsage(device)

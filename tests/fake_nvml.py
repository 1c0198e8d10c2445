"""A driver without a GPU: what `pynvml` would say of the devices it was given."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml


@dataclass
class FakeGpu:
    """A device. `processes`: bytes by process, None where the driver does not tell."""

    uuid: str
    total_bytes: int = 4 << 30
    free_bytes: int = 3 << 30
    processes: dict[int, int | None] = field(default_factory=dict)
    name: str = "Fake GPU"
    capability: tuple[int, int] = (8, 6)
    reserved_bytes: int = 0


class FakeNvml:
    """Stands for the module `pynvml`: answers only while it is initialised, and raises the real errors."""

    def __init__(self, *gpus: FakeGpu, has_driver: bool = True, tells_processes: bool = True) -> None:
        self.gpus = gpus
        self.cuda_version = 13000
        self.tells_reserved = True
        self.open_count = 0
        self._has_driver = has_driver
        self._tells_processes = tells_processes

    def nvmlInit(self) -> None:
        if not self._has_driver:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
        self.open_count += 1

    def nvmlShutdown(self) -> None:
        self._check()
        self.open_count -= 1

    def nvmlDeviceGetCount(self) -> int:
        self._check()
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        self._check()
        return self.gpus[index]

    def nvmlDeviceGetUUID(self, handle: FakeGpu) -> str:
        self._check()
        return handle.uuid

    def nvmlDeviceGetName(self, handle: FakeGpu) -> str:
        self._check()
        return handle.name

    def nvmlDeviceGetMemoryInfo(self, handle: FakeGpu, version: int | None = None) -> Any:
        self._check()
        found = SimpleNamespace(total=handle.total_bytes, free=handle.free_bytes)
        if version is None:
            found.used = handle.total_bytes - handle.free_bytes
        elif self.tells_reserved:
            found.reserved = handle.reserved_bytes
            found.used = handle.total_bytes - handle.free_bytes - handle.reserved_bytes
        else:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        return found

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        self._check()
        return self.cuda_version

    def nvmlDeviceGetComputeRunningProcesses(self, handle: FakeGpu) -> list[Any]:
        self._check()
        if not self._tells_processes:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in handle.processes.items()]

    def nvmlDeviceGetCudaComputeCapability(self, handle: FakeGpu) -> tuple[int, int]:
        self._check()
        return handle.capability

    def _check(self) -> None:
        if not self.open_count:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)

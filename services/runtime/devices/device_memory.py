"""How many bytes a device has and how many are free, without touching it: from NVML and `/proc`."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pynvml

from acestage.errors import UnavailableError
from acestage.protos.stage.v1 import stage_pb2
from services.runtime.devices.cuda_devices import Handle, Nvml, cuda_handle
from services.runtime.devices.fake_device.spec import FakeDeviceSpec, used_bytes
from services.runtime.preload.protocol import MODULE as PRELOAD_MODULE
from services.runtime.processes.process_memory import PROC, read_rollup

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """A device at one moment: its name for people, and its bytes, all of them and those that are free."""

    device: str
    name: str
    total_bytes: int
    free_bytes: int

    def to_pb(self) -> stage_pb2.DeviceMemory:
        return stage_pb2.DeviceMemory(
            device=self.device, name=self.name, total_bytes=self.total_bytes, free_bytes=self.free_bytes
        )


def read_device_memory(
    device: str, max_bytes: int | None, run_dir: Path, *, nvml: Nvml = pynvml, proc: Path = PROC
) -> DeviceMemory:
    """The memory of `device`, or of a simulated device of `max_bytes` in its place. Blocks for milliseconds.

    A GPU's bytes are those that its driver says, whoever uses them. The CPU's are those of the machine:
    `MemTotal`, and as free `MemAvailable`, which counts what the kernel could drop.

    On a simulated device only what workers of Acestage use counts as used, or other programs of a big machine
    would fill a small device: on a GPU the bytes that the driver says for their processes, on the CPU their
    proportional resident memory, mapped weights included, since a real card would hold them too. Workers in
    other containers or of other users cannot be seen and do not count. Never more is free than on the real
    device.

    Args:
        device: "cpu" or "cuda:N".
        max_bytes: size of the simulated device; None, or more than there is: the real one.
        run_dir: where a fake device lies.
        nvml: the driver's interface.
        proc: where the kernel tells.

    Raises:
        UnavailableError: the driver does not answer, or has no such device.
        FailedPreconditionError: `CUDA_VISIBLE_DEVICES` says what we cannot map.
    """
    if device.startswith("fake:"):
        return _read_fake(device, run_dir)
    real = _read_cpu(proc) if device == "cpu" else _read_cuda(device, nvml)
    if max_bytes is None or max_bytes >= real.total_bytes:
        return real
    used_bytes = _used_by_workers(device, nvml, proc)
    free_bytes = max(0, min(real.free_bytes, max_bytes - used_bytes))
    return DeviceMemory(device, real.name, max_bytes, free_bytes)


def _read_fake(device: str, run_dir: Path) -> DeviceMemory:
    try:
        total_bytes = FakeDeviceSpec.read(run_dir, device).total_bytes
    except (OSError, ValueError) as error:
        raise UnavailableError(f"device: is {device}, which {run_dir} does not describe: {error}") from error
    free_bytes = max(0, total_bytes - used_bytes(run_dir, device))
    return DeviceMemory(device, "fake device", total_bytes, free_bytes)


def process_device_bytes(device: str, *, nvml: Nvml = pynvml) -> dict[int, int]:
    """Bytes on `device` by process, as far as the driver tells; empty on the CPU.

    In a container the driver may number processes as the host does; none of ours is found then.
    """
    if not device.startswith("cuda:"):
        return {}
    try:
        with cuda_handle(device, nvml) as handle:
            processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            return {process.pid: process.usedGpuMemory or 0 for process in processes}
    except UnavailableError as error:
        log.debug("the driver does not say what processes use: %s", error, extra={"device": device})
        return {}


def worker_pids(device: str, proc: Path = PROC) -> Iterator[int]:
    """The workers of all stages on `device`: children of preloads, whose command line they keep."""
    preloads: dict[int, str] = {}
    for entry in proc.iterdir():
        if entry.name.isdecimal():
            # A process may end while we look; that of another user may be hidden.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                words = (entry / "cmdline").read_text(errors="replace").rstrip("\0").split("\0")
                if words[1:3] == ["-m", PRELOAD_MODULE]:
                    # Anybody may start a program of that name.
                    with contextlib.suppress(ValueError, LookupError, TypeError):
                        preloads[int(entry.name)] = json.loads(words[-1])["device"]
    for pid, its_device in preloads.items():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # The name, which stands in brackets, may have spaces and brackets of its own.
            after_name = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
            if its_device == device and int(after_name[1]) in preloads:
                yield pid


def _read_cuda(device: str, nvml: Nvml) -> DeviceMemory:
    with cuda_handle(device, nvml) as handle:
        total_bytes, free_bytes = _cuda_bytes(handle, nvml)
        return DeviceMemory(device, nvml.nvmlDeviceGetName(handle), total_bytes, free_bytes)


def _cuda_bytes(handle: Handle, nvml: Nvml) -> tuple[int, int]:
    """All and free bytes, as CUDA counts them: without those that the driver has for itself."""
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
        return int(memory.total - memory.reserved), int(memory.free)
    except pynvml.NVMLError:  # an older driver does not tell what it reserves
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return int(memory.total), int(memory.free)


def _read_cpu(proc: Path) -> DeviceMemory:
    sizes = {}
    for line in (proc / "meminfo").read_text().splitlines():
        key, _, value = line.partition(":")
        sizes[key] = int(value.split()[0]) * 1024
    return DeviceMemory("cpu", _cpu_name(proc), sizes["MemTotal"], sizes["MemAvailable"])


def _cpu_name(proc: Path) -> str:
    for line in (proc / "cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return "CPU"  # not every architecture has a name there


def _used_by_workers(device: str, nvml: Nvml, proc: Path) -> int:
    pids = set(worker_pids(device, proc))
    if device == "cpu":
        # Not what is private to a worker: weights that two workers share would not count at all.
        return sum(read_rollup(pid, proc).get("Pss", 0) for pid in pids)
    return sum(size for pid, size in process_device_bytes(device, nvml=nvml).items() if pid in pids)

"""A worker's use of a fake device."""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import torch

from services.runtime.devices.device_usage import DeviceUsage
from services.runtime.devices.fake_device.spec import FakeDeviceSpec, due_fault, note_usage, used_bytes
from services.runtime.memory.memory_probe import LiveBytes

_FOREVER_S = 86_400.0
_POLL_S = 0.02
_NOTE_STEP_BYTES = 1 << 20


class _CappedBytes(LiveBytes):  # type: ignore[no-untyped-call]
    """Fails an allocation beyond the cap, as CUDA's allocator does.

    Attributes:
        counts_arguments: what a computation is given counts too: weights that placing had no need to copy,
            because they lie on the CPU already, would be on a real device all the same.
    """

    def __init__(self, usage: FakeUsage) -> None:
        super().__init__(cpu_thread_count=None)
        self.counts_arguments = False
        self._usage = usage

    def _meet(self, tensor: torch.Tensor, *, is_new: bool) -> None:
        super()._meet(tensor, is_new=is_new or self.counts_arguments)

    def on_growth(self) -> None:
        self._usage.check(self.live_bytes)


class FakeUsage(DeviceUsage):
    """Counts what this process allocates, and lets faults strike."""

    def __init__(self, device: str, run_dir: Path, stage: str) -> None:
        super().__init__()
        self._device = device
        self._run_dir = run_dir
        self._stage = stage
        self._total_bytes = FakeDeviceSpec.read(run_dir, device).total_bytes
        self._bytes = _CappedBytes(self)
        self._context_bytes = 0
        self._cap_bytes = self._total_bytes
        self._noted_bytes = 0
        self._number = 0
        self._strike(0)

    def counted(self) -> AbstractContextManager[object]:
        return self._bytes

    def cap(self, vram_bytes: int, context_bytes: int) -> None:
        self._context_bytes = context_bytes
        self._cap_bytes = min(vram_bytes, self._total_bytes)

    def start_job(self) -> None:
        self._number = 0
        self._bytes.counts_arguments = True
        self._bytes.peak_bytes = self._bytes.live_bytes
        self.checkpoint()

    def checkpoint(self) -> None:
        self._number += 1
        self._note(self._context_bytes + self._bytes.live_bytes)
        self._strike(self._number)

    def peak_bytes(self) -> int:
        return self._bytes.peak_bytes

    def trim(self) -> None:
        self._note(self._context_bytes + self._bytes.live_bytes)

    def check(self, live_bytes: int) -> None:
        """Raises `torch.OutOfMemoryError` where the process has more than it may."""
        mine = self._context_bytes + live_bytes
        if mine > self._cap_bytes:
            raise torch.OutOfMemoryError(f"{mine} bytes on {self._device}, {self._cap_bytes} allowed")
        if mine - self._noted_bytes > _NOTE_STEP_BYTES:
            others = used_bytes(self._run_dir, self._device, besides=os.getpid())
            if mine + others > self._total_bytes:
                raise torch.OutOfMemoryError(
                    f"{mine} bytes on {self._device} beside {others} of others, which has {self._total_bytes}"
                )
            self._note(mine)

    def _note(self, size: int) -> None:
        self._noted_bytes = size
        note_usage(self._run_dir, self._device, os.getpid(), size)

    def _strike(self, number: int) -> None:
        fault = due_fault(self._run_dir, self._device, self._stage, number)
        if fault is None:
            return
        match fault.kind:
            case "out_of_memory":
                raise torch.OutOfMemoryError(f"{self._device}: out of memory, on command")
            case "crash":
                os._exit(70)
            case "slow":
                time.sleep(fault.seconds)
            case "wedge":
                time.sleep(_FOREVER_S)
            case "linger":
                self._linger(fault.seconds)
            case unknown:
                raise ValueError(f"fault of unknown kind {unknown!r}")

    def _linger(self, seconds: float) -> None:
        """Leaves a process behind that has the lock open, and so holds the device, after this one is dead."""
        worker = os.getpid()
        if os.fork() == 0:
            _close_sockets()
            while os.getppid() == worker:
                time.sleep(_POLL_S)
            note_usage(self._run_dir, self._device, os.getpid(), self._noted_bytes)
            time.sleep(seconds)
            os._exit(0)


def _close_sockets() -> None:
    """The service takes the end of its worker's socket for the end of the worker."""
    for entry in os.listdir("/proc/self/fd"):
        # The folder's own descriptor is in its list, and closed by now.
        with suppress(FileNotFoundError):
            if os.readlink(f"/proc/self/fd/{entry}").startswith("socket:"):
                os.close(int(entry))

"""Memory of processes, from `/proc`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from acestage.protos.stage.v1 import stage_pb2


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Resident memory of one process, in bytes, now and at its peak (`VmRSS` and `VmHWM`).

    Mapped weights count, though the kernel may drop them at any time.
    """

    name: str
    pid: int
    rss_bytes: int
    peak_rss_bytes: int

    def to_pb(self) -> stage_pb2.ProcessMemory:
        return stage_pb2.ProcessMemory(
            name=self.name, pid=self.pid, rss_bytes=self.rss_bytes, peak_rss_bytes=self.peak_rss_bytes
        )


def measure(name: str, pid: int | None = None) -> ProcessMemory | None:
    """The memory of process `pid` (None: this one), or None where it no longer lives."""
    pid = os.getpid() if pid is None else pid
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    kilobytes = {"VmRSS": 0, "VmHWM": 0}
    for line in status.splitlines():
        key, _, value = line.partition(":")
        if key in kilobytes:
            kilobytes[key] = int(value.split()[0])
    return ProcessMemory(name, pid, kilobytes["VmRSS"] * 1024, kilobytes["VmHWM"] * 1024)

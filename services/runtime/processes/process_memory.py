"""Memory of processes, from `/proc`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from acestage.protos.stage.v1 import stage_pb2

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Memory of one process, in bytes.

    Attributes:
        rss_bytes: resident now (`VmRSS`). Mapped weights count, though the kernel may drop them at any time,
            and what a worker shares with its preload counts in both.
        peak_rss_bytes: the most that was resident (`VmHWM`).
        anonymous_bytes: the part that the kernel cannot drop, now. A page that forked processes share counts
            for each of them by its share, so that the sum over all processes of the services is what they
            take together. `RssAnon` is no such figure: a worker starts with all pages of its preload in it,
            about 290 MiB that exist only once.
        device_bytes: on a CUDA device, where the driver tells; else 0.
    """

    name: str
    pid: int
    rss_bytes: int
    peak_rss_bytes: int
    anonymous_bytes: int = 0
    device_bytes: int = 0

    def to_pb(self) -> stage_pb2.ProcessMemory:
        return stage_pb2.ProcessMemory(
            name=self.name,
            pid=self.pid,
            rss_bytes=self.rss_bytes,
            peak_rss_bytes=self.peak_rss_bytes,
            anonymous_bytes=self.anonymous_bytes,
            device_bytes=self.device_bytes,
        )


def measure(
    name: str,
    pid: int | None = None,
    *,
    device_bytes: Mapping[int, int] | None = None,
    proc: Path = PROC,
) -> ProcessMemory | None:
    """The memory of process `pid` (None: this one), or None where it no longer lives.

    The kernel walks all pages of the process for it: about 1 ms for a service, 20 ms for a worker, and longer
    the more weights are mapped. Not for the event loop.

    Args:
        name: what to call it.
        pid: the process.
        device_bytes: by process, as `process_device_bytes` says; None where nobody asked.
        proc: where the kernel tells.
    """
    pid = os.getpid() if pid is None else pid
    try:
        status = _sizes(proc / str(pid) / "status")
    except (FileNotFoundError, ProcessLookupError):
        return None
    rollup = read_rollup(pid, proc)
    return ProcessMemory(
        name=name,
        pid=pid,
        rss_bytes=status.get("VmRSS", 0),
        peak_rss_bytes=status.get("VmHWM", 0),
        anonymous_bytes=(
            # Without swap the pages of shared memory stay too.
            rollup["Pss_Anon"] + rollup.get("Pss_Shmem", 0)
            if "Pss_Anon" in rollup  # kernels before 5.4 do not tell
            else status.get("RssAnon", 0) + status.get("RssShmem", 0)
        ),
        device_bytes=(device_bytes or {}).get(pid, 0),
    )


def read_rollup(pid: int, proc: Path = PROC) -> dict[str, int]:
    """`/proc/PID/smaps_rollup` in bytes; empty where the process is gone, or not ours to look into."""
    try:
        return _sizes(proc / str(pid) / "smaps_rollup")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return {}


def _sizes(path: Path) -> dict[str, int]:
    """The lines of a file of `/proc` that give a size, in bytes."""
    found = {}
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if value.endswith(" kB"):
            found[key] = int(value.split()[0]) * 1024
    return found

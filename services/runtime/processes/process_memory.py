"""Memory of processes, from `/proc`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from acestage.generation import ProcessMemory

PROC = Path("/proc")


def measure(
    name: str,
    pid: int | None = None,
    *,
    device_bytes: Mapping[int, int] | None = None,
    proc: Path = PROC,
) -> ProcessMemory | None:
    """The memory of process `pid` (None: this one), or None where it cannot be read: it no longer lives,
    or this process has no descriptor left.

    The kernel walks all pages of the process for it: about 1 ms for a service, 25 ms for an orchestrator with
    1 GiB of audio in its logs, 20 ms for a worker, and longer the more weights are mapped.

    Args:
        name: what to call it.
        pid: the process.
        device_bytes: by process, as `process_device_bytes` says; None where nobody asked.
        proc: where the kernel tells.
    """
    pid = os.getpid() if pid is None else pid
    try:
        status = _sizes(proc / str(pid) / "status")
    except OSError:
        return None
    rollup = read_rollup(pid, proc)
    return ProcessMemory(
        name=name,
        pid=pid,
        rss_bytes=status.get("VmRSS", 0),
        peak_rss_bytes=status.get("VmHWM", 0),
        anonymous_bytes=(
            # RssAnon would hold, in a worker, all pages of its preload: about 290 MiB that exist only once.
            # Without swap the pages of shared memory stay too.
            rollup["Pss_Anon"] + rollup.get("Pss_Shmem", 0)
            if "Pss_Anon" in rollup  # kernels before 5.4 do not tell
            else status.get("RssAnon", 0) + status.get("RssShmem", 0)
        ),
        device_bytes=(device_bytes or {}).get(pid, 0),
    )


def read_rollup(pid: int, proc: Path = PROC) -> dict[str, int]:
    """`/proc/PID/smaps_rollup` in bytes; empty where it cannot be read."""
    try:
        return _sizes(proc / str(pid) / "smaps_rollup")
    except OSError:  # gone, not ours to look into, or no descriptor is left
        return {}


def _sizes(path: Path) -> dict[str, int]:
    """The lines of a file of `/proc` that give a size, in bytes."""
    found = {}
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if value.endswith(" kB"):
            found[key] = int(value.split()[0]) * 1024
    return found

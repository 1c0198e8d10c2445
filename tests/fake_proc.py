"""A folder in the place of `/proc`."""

from __future__ import annotations

import json
from pathlib import Path

KIB = 1024


def write_process(
    proc: Path,
    pid: int,
    *,
    command: tuple[str, ...] = (),
    parent_pid: int = 1,
    status: dict[str, int] | None = None,
    rollup: dict[str, int] | None = None,
) -> None:
    """Adds a process; sizes in bytes, which must be whole KiB."""
    folder = proc / str(pid)
    folder.mkdir(parents=True)
    (folder / "cmdline").write_text("".join(f"{word}\0" for word in command))
    (folder / "stat").write_text(f"{pid} (a name (with) brackets) S {parent_pid} 1 1 0 -1")
    (folder / "status").write_text("Name:\tpython\nThreads:\t3\n" + _lines(status or {}))
    if rollup is not None:
        (folder / "smaps_rollup").write_text("5581-7fff ---p 00000000 00:00 0 [rollup]\n" + _lines(rollup))


def write_worker(proc: Path, pid: int, preload_pid: int, device: str, *, pss_bytes: int) -> None:
    """Adds a worker, and its preload where it is not there yet."""
    config = json.dumps({"stage": "dit", "device": device})
    command = ("python", "-m", "services.runtime.preload", "7", "1", config)
    if not (proc / str(preload_pid)).exists():
        write_process(proc, preload_pid, command=command, rollup={"Pss": 300 << 20})
    write_process(proc, pid, command=command, parent_pid=preload_pid, rollup={"Pss": pss_bytes})


def write_machine(proc: Path, *, total_bytes: int, available_bytes: int, cpu_name: str | None) -> None:
    """Adds the files about the machine."""
    proc.mkdir(exist_ok=True)
    sizes = {"MemTotal": total_bytes, "MemFree": 0, "MemAvailable": available_bytes}
    (proc / "meminfo").write_text(_lines(sizes) + "HugePages_Total:       0\n")
    name = f"model name\t: {cpu_name}\n" if cpu_name else ""
    (proc / "cpuinfo").write_text(f"processor\t: 0\n{name}flags\t\t: fpu vme\n")


def _lines(sizes: dict[str, int]) -> str:
    return "".join(f"{key}:\t{size // KIB:8} kB\n" for key, size in sizes.items())

"""What a fake device is like, from its file. No torch."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from acestage.atomic_file import replacing


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong on command; see the package's description."""

    stage: str
    kind: str
    at: int = 1
    times: int = 1
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class FakeDeviceSpec:
    """The size of the device, and its faults."""

    total_bytes: int
    faults: tuple[Fault, ...] = ()

    @classmethod
    def read(cls, run_dir: Path, device: str) -> FakeDeviceSpec:
        """Raises `OSError` or `ValueError` where there is no such device."""
        values = json.loads(_path(run_dir, device, ".json").read_text())
        return cls(int(values["total_bytes"]), tuple(Fault(**fault) for fault in values.get("faults", ())))

    def write(self, run_dir: Path, device: str) -> None:
        """Makes the device, with faults that have not struck yet."""
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            _path(run_dir, device, ".struck").unlink()
        faults = [
            {name: getattr(fault, name) for name in Fault.__dataclass_fields__} for fault in self.faults
        ]
        with replacing(_path(run_dir, device, ".json")) as part:
            part.write_text(json.dumps({"total_bytes": self.total_bytes, "faults": faults}))


def due_fault(run_dir: Path, device: str, stage: str, number: int) -> Fault | None:
    """The fault that strikes `stage` before message `number`; it is used up by this."""
    spec = FakeDeviceSpec.read(run_dir, device)
    for index, fault in enumerate(spec.faults):
        if (fault.stage, fault.at) == (stage, number):
            with _struck(_path(run_dir, device, ".struck")) as counts:
                is_due = counts.get(str(index), 0) < fault.times
                counts[str(index)] = counts.get(str(index), 0) + is_due
            if is_due:
                return fault
    return None


def strike_count(run_dir: Path, device: str) -> int:
    """How often faults struck since the device was made."""
    with _struck(_path(run_dir, device, ".struck")) as counts:
        return sum(counts.values())


def used_bytes(run_dir: Path, device: str, *, besides: int | None = None) -> int:
    """Bytes that living processes use, but for process `besides`."""
    folder = _path(run_dir, device, ".usage")
    total = 0
    for entry in folder.glob("[0-9]*"):
        if int(entry.name) != besides and Path(f"/proc/{entry.name}").exists():
            with suppress(FileNotFoundError, ValueError):
                total += int(entry.read_text())
    return total


def note_usage(run_dir: Path, device: str, pid: int, size: int) -> None:
    """Says that process `pid` uses `size` bytes now."""
    folder = _path(run_dir, device, ".usage")
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / str(pid)) as part:
        part.write_text(str(size))


def _path(run_dir: Path, device: str, suffix: str) -> Path:
    return run_dir / (device.replace(":", "-") + suffix)


@contextmanager
def _struck(path: Path) -> Iterator[dict[str, int]]:
    """How often each fault struck; locked, and written back on leaving."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with open(fd, "r+", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        counts: dict[str, int] = json.loads(file.read() or "{}")
        yield counts
        file.seek(0)
        file.truncate()
        json.dump(counts, file)

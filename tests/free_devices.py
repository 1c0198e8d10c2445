"""Whether a device is free."""

from __future__ import annotations

import fcntl
from pathlib import Path

from services.runtime.devices.device_lock import lock_path


def is_free(run_dir: Path, device: str) -> bool:
    """Whether no process holds the lock of `device`."""
    with lock_path(run_dir, device).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True

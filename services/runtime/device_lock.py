"""The kernel lock of a device: a `flock` that its user takes before it touches the device.

The kernel frees the lock when the last process that has the file open is gone, however it ends; so a free
lock proves that the last user of the device is dead. Lock files stay: to delete one would let two
processes lock two different files of the same name.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from acestage.errors import DeviceQuarantinedError

RETRY_INTERVAL_S = 0.02
"""Between attempts: `flock` has no timeout of its own, and an alarm signal would not be ours to use."""


def lock_path(run_dir: Path, device: str) -> Path:
    """The lock file of `device` ("cpu" or "cuda:N")."""
    return run_dir / f"{device.replace(':', '-')}.lock"


def is_free(run_dir: Path, device: str) -> bool:
    """True if no process holds the lock of `device`, which a device that was never used also proves.

    Raises:
        OSError: the lock file cannot be opened, so nothing is known.
    """
    try:
        fd = os.open(lock_path(run_dir, device), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        return _try_lock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def lock_within(fd: int, timeout_s: float) -> bool:
    """Locks the open file `fd` for this process alone; False if others held it for `timeout_s`. Blocks."""
    deadline = time.monotonic() + timeout_s
    while not _try_lock(fd, fcntl.LOCK_EX):
        if time.monotonic() >= deadline:
            return False
        time.sleep(RETRY_INTERVAL_S)
    return True


class DeviceLock:
    """Holds the lock of a device for as long as the context lasts, or until the process dies.

    Forked children inherit it: the device stays locked until the last of them is gone too. Programs that
    a process executes do not. Entering blocks, so this is for worker processes and not for event loops.
    """

    def __init__(self, run_dir: Path, device: str, *, timeout_s: float) -> None:
        """Prepares to wait `timeout_s` at most for `device`; `run_dir` is created where it is missing."""
        self._run_dir = run_dir
        self._device = device
        self._timeout_s = timeout_s
        self._fd: int | None = None

    def __enter__(self) -> Self:
        """Waits for the lock.

        Raises:
            DeviceQuarantinedError: others held it all the time.
        """
        path = lock_path(self._run_dir, self._device)
        self._run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            locked = lock_within(fd, self._timeout_s)
        except BaseException:
            os.close(fd)
            raise
        if not locked:
            os.close(fd)
            raise DeviceQuarantinedError(
                f"{self._device} is still in use by another process: "
                f"{path} was locked for the {self._timeout_s:g} s of the wait",
                metadata={"device": self._device, "lock_file": str(path)},
                retry_delay_s=self._timeout_s,
            )
        self._fd = fd
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._fd is not None:
            # Closing, not LOCK_UN: a forked child that still uses the device keeps it locked.
            os.close(self._fd)
            self._fd = None


def _try_lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

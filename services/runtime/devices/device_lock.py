"""The kernel lock of a device, which its user takes before it touches the device.

The lock file of a device carries two locks of one open file, and the kernel frees both when the last process
that has it open is gone, however it ends:

- a `flock` on the file: for one holder alone on an exclusive device, shared by all holders on others;
- a lock on one byte (an "open file description" lock, fcntl(2)): the byte whose offset is the fencing token
  of the holder's lease.

So a byte that can be locked proves that the worker of that lease is dead, or that it never began; and who
keeps it locked keeps a worker that comes too late from ever beginning. Lock files stay: to delete one would
let two processes lock two different files of the same name.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from acestage.errors import DeviceQuarantinedError, FailedPreconditionError, StaleFencingTokenError

RETRY_INTERVAL_S = 0.02
"""Between attempts: `flock` has no timeout of its own, and an alarm signal would not be ours to use."""

_STRUCT_FLOCK = struct.Struct("@hhqqi4x")
"""`struct flock` of 64-bit Linux: type, whence, start, length, process."""


def lock_path(run_dir: Path, device: str) -> Path:
    """The lock file of `device` ("cpu", "cuda:N" or "fake:N")."""
    return run_dir / f"{device.replace(':', '-')}.lock"


def open_run_file(path: Path) -> int:
    """Opens a file of the run folder, both made where they are missing, for this user alone.

    Raises:
        FailedPreconditionError: that cannot be done; it names the setting.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (user := os.getuid()) and path.parent.stat().st_uid not in (user, 0):
            raise PermissionError(errno.EPERM, "its folder belongs to another user")
        return _open(path)
    except OSError as error:
        raise FailedPreconditionError(
            f"run_dir: {path} cannot be used: {error.strerror}; ACESTAGE_RUN_DIR names another folder",
            metadata={"run_dir": str(path.parent)},
        ) from error


def lock_within(fd: int, timeout_s: float, *, kind: int = fcntl.LOCK_EX) -> bool:
    """Locks the open file `fd`; False if others held it for `timeout_s`. Blocks.

    Args:
        fd: the file.
        timeout_s: how long to wait.
        kind: `LOCK_EX` for this process alone, `LOCK_SH` beside others of the kind.
    """
    deadline = time.monotonic() + timeout_s
    while not _try_flock(fd, kind):
        if time.monotonic() >= deadline:
            return False
        time.sleep(RETRY_INTERVAL_S)
    return True


class DeviceLock:
    """Holds the lock of a device for as long as the context lasts, or until the process dies.

    Forked children inherit it: the device stays locked until the last of them is gone too. Programs that
    a process executes do not. Entering blocks, so this is for worker processes and not for event loops.
    """

    def __init__(
        self,
        run_dir: Path,
        device: str,
        *,
        fencing_token: int,
        is_exclusive: bool = True,
        timeout_s: float,
    ) -> None:
        """Prepares to wait `timeout_s` at most for `device`; `run_dir` is created where it is missing."""
        self._run_dir = run_dir
        self._device = device
        self._fencing_token = fencing_token
        self._kind = fcntl.LOCK_EX if is_exclusive else fcntl.LOCK_SH
        self._timeout_s = timeout_s
        self._fd: int | None = None

    def __enter__(self) -> Self:
        """Waits for the lock.

        Raises:
            FailedPreconditionError: the lock file cannot be opened.
            DeviceQuarantinedError: others held it all the time.
            StaleFencingTokenError: the lease was given up for lost meanwhile.
        """
        path = lock_path(self._run_dir, self._device)
        fd = open_run_file(path)
        try:
            self._lock(fd, path)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._fd is not None:
            # Closing, not unlocking: a forked child that still uses the device keeps it locked.
            os.close(self._fd)
            self._fd = None

    def _lock(self, fd: int, path: Path) -> None:
        if not lock_within(fd, self._timeout_s, kind=self._kind):
            raise DeviceQuarantinedError(
                f"{self._device} is still in use by another process: "
                f"{path} was locked for the {self._timeout_s:g} s of the wait",
                metadata={"device": self._device, "lock_file": str(path)},
                retry_delay_s=self._timeout_s,
            )
        if not _try_lock_byte(fd, self._fencing_token):
            raise StaleFencingTokenError(
                f"fencing_token {self._fencing_token}: its lease on {self._device} was given up for lost",
                metadata={"device": self._device},
                retry_delay_s=0.0,
            )


class Fences:
    """What the ledger knows of dead holders: a holder that was proved dead stays shut out of its device."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._files: dict[str, int] = {}

    def shut_out(self, device: str, fencing_token: int) -> bool:
        """True once the worker of the lease with `fencing_token` is dead and can never begin; never blocks.

        Raises:
            OSError: the lock file cannot be opened, so nothing is known.
        """
        if device not in self._files:
            self._files[device] = _open(lock_path(self._run_dir, device))
        return _try_lock_byte(self._files[device], fencing_token)

    def close(self) -> None:
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _try_flock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _try_lock_byte(fd: int, offset: int) -> bool:
    lock = _STRUCT_FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True

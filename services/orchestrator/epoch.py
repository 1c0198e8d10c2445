"""The ledger's epoch: a number in a file that grows with every start of the ledger."""

from __future__ import annotations

import os
from pathlib import Path

from acestage.errors import FailedPreconditionError, UnavailableError
from services.orchestrator.lessor import MAX_EPOCH
from services.runtime.device_lock import lock_within

EPOCH_FILE = "ledger-epoch"

LOCK_TIMEOUT_S = 5.0
"""Another ledger that starts holds the lock for one read and one write."""


def next_epoch(run_dir: Path) -> int:
    """Takes the next epoch of the ledgers of `run_dir`, 1 on the first call. Blocks for disk I/O.

    Raises:
        FailedPreconditionError: the epoch file is damaged.
        UnavailableError: another process kept `run_dir` locked.
    """
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = run_dir / EPOCH_FILE
    # The folder is what gets locked: the file itself is replaced.
    dir_fd = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not lock_within(dir_fd, LOCK_TIMEOUT_S):
            raise UnavailableError(
                f"{run_dir} was locked by another process for {LOCK_TIMEOUT_S:g} s",
                metadata={"run_dir": str(run_dir)},
            )
        epoch = _read(path) + 1
        _write(path, epoch)
        os.fsync(dir_fd)
    finally:
        os.close(dir_fd)
    return epoch


def _read(path: Path) -> int:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return 0
    digits = content.strip()
    if not digits.isdigit() or len(digits) > len(str(MAX_EPOCH)) or not 1 <= int(digits) < MAX_EPOCH:
        raise FailedPreconditionError(
            f"the ledger's epoch file {path} is damaged: it has {content[:40]!r}, "
            f"expected a whole number from 1 to {MAX_EPOCH - 1}",
            metadata={"file": str(path)},
        )
    return int(digits)


def _write(path: Path, epoch: int) -> None:
    temporary = path.with_suffix(".tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(fd, "w", encoding="ascii") as file:
        file.write(f"{epoch}\n")
        file.flush()
        os.fsync(fd)
    temporary.replace(path)

"""The ledger's epoch: a number in a file that grows with every start of the ledger.

The file also says whether the ledger of that epoch ended with nothing held. Where it did not, there may be
holders who still use a device, and the next ledger waits for them to report.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from acestage.atomic_file import replacing
from acestage.errors import FailedPreconditionError
from services.orchestrator.ledger.lease import MAX_EPOCH
from services.runtime.devices.device_lock import lock_within, open_run_file

EPOCH_FILE = "ledger-epoch"
LOCK_FILE = "ledger.lock"

LOCK_TIMEOUT_S = 5.0
"""A ledger that is just ending lets go of the folder within this time."""


_CLOSED = " closed"


@dataclass(frozen=True, slots=True)
class Epoch:
    """The number of a ledger's life, and whether the one before left holders behind."""

    number: int
    has_holders_before: bool


@contextlib.contextmanager
def sole_ledger(run_dir: Path) -> Iterator[None]:
    """Keeps other ledgers away from `run_dir` for as long as the context or the process lasts.

    Two ledgers would grant the same devices, each without knowing of the other's holders.

    Raises:
        FailedPreconditionError: there is one already, or the folder cannot be used.
    """
    fd = open_run_file(run_dir / LOCK_FILE)
    try:
        if not lock_within(fd, LOCK_TIMEOUT_S):
            raise FailedPreconditionError(
                f"run_dir: {run_dir} belongs to another orchestrator that runs; use that one, stop it, or "
                "give this one a folder and devices of its own with ACESTAGE_RUN_DIR",
                metadata={"run_dir": str(run_dir)},
            )
        yield
    finally:
        os.close(fd)


def next_epoch(run_dir: Path) -> Epoch:
    """Takes the next epoch of the ledgers of `run_dir`, 1 on the first call. Blocks for disk I/O.

    The caller is the `sole_ledger` of `run_dir`.

    Raises:
        FailedPreconditionError: the epoch file is damaged.
    """
    path = run_dir / EPOCH_FILE
    number, is_closed = _read(path)
    _write(path, f"{number + 1}")
    return Epoch(number + 1, has_holders_before=not is_closed)


def close_epoch(run_dir: Path, number: int) -> None:
    """Notes that the ledger of epoch `number` ends with nothing held. Blocks for disk I/O.

    The caller is still the `sole_ledger` of `run_dir`. Where somebody removed its lock and a later ledger has
    begun, this does nothing: that one must not seem closed.

    Raises:
        FailedPreconditionError: the epoch file is damaged.
    """
    path = run_dir / EPOCH_FILE
    last, _ = _read(path)
    if last <= number:
        _write(path, f"{number}{_CLOSED}")


def _read(path: Path) -> tuple[int, bool]:
    """The last epoch and whether it was closed; (0, True) before the first."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return 0, True
    text = content.strip()
    digits = text.removesuffix(_CLOSED.encode())
    if not digits.isdigit() or len(digits) > len(str(MAX_EPOCH)) or not 1 <= int(digits) < MAX_EPOCH:
        raise FailedPreconditionError(
            f"the ledger's epoch file {path} is damaged: it has {content[:40]!r}, "
            f"expected a whole number from 1 to {MAX_EPOCH - 1}",
            metadata={"file": str(path)},
        )
    return int(digits), digits != text


def _write(path: Path, text: str) -> None:
    with replacing(path, survives_power_loss=True) as part:
        part.touch(mode=0o600)
        part.write_text(f"{text}\n", encoding="ascii")

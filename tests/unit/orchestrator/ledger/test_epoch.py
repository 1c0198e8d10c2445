from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from acestage.errors import FailedPreconditionError
from services.orchestrator.ledger import epoch
from services.orchestrator.ledger.epoch import (
    EPOCH_FILE,
    LOCK_FILE,
    Epoch,
    close_epoch,
    next_epoch,
    sole_ledger,
)
from services.orchestrator.ledger.lease import MAX_EPOCH


def test_every_start_gets_a_greater_epoch(tmp_path: Path) -> None:
    assert [next_epoch(tmp_path).number for _ in range(3)] == [1, 2, 3]


def test_the_run_dir_is_created_for_its_owner_alone(tmp_path: Path) -> None:
    run_dir = tmp_path / "a" / "run"

    with sole_ledger(run_dir):
        next_epoch(run_dir)

    assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in run_dir.iterdir()} == {
        EPOCH_FILE: 0o600,
        LOCK_FILE: 0o600,
    }


def test_only_a_ledger_that_ended_with_nothing_held_leaves_no_holders(tmp_path: Path) -> None:
    assert next_epoch(tmp_path) == Epoch(1, has_holders_before=False)
    assert next_epoch(tmp_path) == Epoch(2, has_holders_before=True)
    close_epoch(tmp_path, 2)
    assert next_epoch(tmp_path) == Epoch(3, has_holders_before=False)


def test_epochs_survive_a_power_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    number = next_epoch(tmp_path).number
    assert synced
    synced.clear()
    close_epoch(tmp_path, number)
    assert synced


def test_a_ledger_that_ends_late_does_not_close_the_epoch_of_its_successor(tmp_path: Path) -> None:
    next_epoch(tmp_path)
    next_epoch(tmp_path)
    close_epoch(tmp_path, 1)
    assert next_epoch(tmp_path) == Epoch(3, has_holders_before=True)


def test_epochs_go_on_though_somebody_removed_the_file(tmp_path: Path) -> None:
    next_epoch(tmp_path)
    number = next_epoch(tmp_path).number
    (tmp_path / EPOCH_FILE).unlink()
    close_epoch(tmp_path, number)
    assert next_epoch(tmp_path) == Epoch(3, has_holders_before=False)


def test_a_run_folder_has_one_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch, "LOCK_TIMEOUT_S", 0.0)
    with sole_ledger(tmp_path / "run"):
        second = sole_ledger(tmp_path / "run")
        with pytest.raises(FailedPreconditionError, match=str(tmp_path / "run")), second:
            pass
    with sole_ledger(tmp_path / "run"):
        pass


def test_a_run_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run_dir = tmp_path / "file" / "run"
    with pytest.raises(FailedPreconditionError, match=r"run_dir: .*Not a directory"), sole_ledger(run_dir):
        pass


@pytest.mark.parametrize(
    "content", [b"", b"seven", b"-1", b"1.5", b"0", b"1 2", b"3closed", b"\xb2", str(MAX_EPOCH).encode()]
)
def test_a_damaged_file_is_named_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / EPOCH_FILE
    path.write_bytes(content)

    with pytest.raises(FailedPreconditionError, match=str(path)):
        next_epoch(tmp_path)

    assert path.read_bytes() == content

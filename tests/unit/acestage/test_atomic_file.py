"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from acestage.atomic_file import replacing


@pytest.mark.parametrize("survives_power_loss", [False, True])
def test_until_the_new_file_is_whole_the_old_one_stands(tmp_path: Path, survives_power_loss: bool) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path, survives_power_loss=survives_power_loss) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_survives_a_power_loss_is_on_the_disk_before_its_name_and_its_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, Path]] = []
    replace = os.replace

    def note_sync(fd: int) -> None:
        done.append(("sync", Path(os.readlink(f"/proc/self/fd/{fd}"))))

    def note_replace(old: Path, new: Path) -> None:
        done.append(("replace", old))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    with replacing(tmp_path / "file", survives_power_loss=True) as part:
        part.write_text("new")
    assert done == [("sync", part), ("replace", part), ("sync", tmp_path)]


def test_after_an_error_there_is_nothing_new(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail_half_way() -> None:
        with replacing(path) as part:
            part.write_text("ne")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]

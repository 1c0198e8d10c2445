"""Folders for files in the making: a dead process's are removed, a living one's are not."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from services.runtime.processes.work_folder import WorkFolder

TAKE = """
import sys
from pathlib import Path
from services.runtime.processes.work_folder import WorkFolder
folder = WorkFolder(Path(sys.argv[1]))
(folder.path / "half a file").touch()
print(folder.path, flush=True)
sys.stdin.read()
"""


def test_the_next_process_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TAKE, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        theirs = Path(process.stdout.readline().strip())
        ours = WorkFolder(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([theirs, ours.path])
        process.kill()
        process.wait()
    assert (theirs / "half a file").exists()
    other = WorkFolder(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([ours.path, other.path])
    ours.close()
    other.close()
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_taken_for_a_dead_process_s_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = tempfile.mkdtemp, []

    def make_and_lose_the_first(**where: Any) -> str:
        path = make(**where)
        if not made:  # another process looks just then
            Path(path).rmdir()
        made.append(path)
        return path

    monkeypatch.setattr("services.runtime.processes.work_folder.tempfile.mkdtemp", make_and_lose_the_first)
    folder = WorkFolder(tmp_path)
    assert (len(made), str(folder.path), folder.path.is_dir()) == (2, made[1], True)
    folder.close()

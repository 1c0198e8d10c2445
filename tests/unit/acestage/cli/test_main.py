"""What holds for every command."""

from __future__ import annotations

import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from acestage.cli import main

ROOT = Path(__file__).resolve().parents[4]


@pytest.mark.parametrize("width", ["0", "00"])
def test_lines_of_no_width_silence_nothing(
    width: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setattr(sys, "argv", ["acestage", "status", "--target", "nowhere"])
    with pytest.raises(SystemExit):
        main(safe_path=False)  # which is of the environment, and would be that of later tests, too
    assert "is not an address" in capsys.readouterr().err


def test_ctrl_c_while_modules_are_imported_ends_it_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)\n")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, name = project["scripts"]["acestage"].partition(":")
    ended = subprocess.run(
        [sys.executable, "-c", f"from {module} import {name}; {name}()", "--help"],
        cwd=ROOT,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")

"""What holds for every command."""

from __future__ import annotations

import sys

import pytest

from acestage.cli import main


@pytest.mark.parametrize("width", ["0", "00", ""])
def test_lines_of_no_width_silence_nothing(
    width: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setattr(sys, "argv", ["acestage", "status", "--target", "nowhere"])
    with pytest.raises(SystemExit):
        main()
    assert "is not an address" in capsys.readouterr().err

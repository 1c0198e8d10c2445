"""`acestage adapters` lists what lies in the folder."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from acestage.cli import app


def test_names_and_reasons_are_whole_however_narrow_the_output_is(tmp_path: Path) -> None:
    name = "an-adapter-of-a-very-long-name-" * 3
    (tmp_path / f"{name}.safetensors").write_bytes(b"")
    runner = CliRunner(env={"COLUMNS": "60"})
    listed = runner.invoke(app, ["adapters", "--adapters-dir", str(tmp_path)]).stdout
    rows = [line.split("│")[1:-1] for line in listed.splitlines() if line.startswith("│")]
    names, states = ("".join("".join(row[column].split()) for row in rows) for column in (0, 4))
    assert names == name
    assert states.startswith("notusable:")
    assert "truncated:0bytes" in states

"""`acestage models`: what there is, and whether it is whole."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from acestage.cli import main
from scripts.random_checkpoint import write_checkpoint
from tests.command_line import acestage, without_torch

Verify = Callable[..., tuple[object, str, str]]
"""Returns the exit code, and what was printed to stdout and stderr."""


@pytest.fixture
def verify(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Verify:
    """Runs `acestage models verify` in this process, which has imported torch."""

    def run(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setenv("COLUMNS", "300")
        monkeypatch.setattr(sys, "argv", ["acestage", "models", "verify", *arguments])
        with pytest.raises(SystemExit) as ended:
            main(safe_path=False)  # which is of the environment, and would be that of later tests, too
        return ended.value.code, *capsys.readouterr()

    return run


def test_models_are_listed_and_verified(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    listed = acestage("models", "list", "--checkpoints-dir", str(tmp_path))
    assert "tiny-turbo" in listed.stdout
    assert "xl-turbo" in listed.stdout
    verified = acestage("models", "verify", str(checkpoints["base/original"]))
    assert verified.returncode == 0, verified.stderr
    assert "is complete" in verified.stdout


def test_paths_and_reasons_are_whole_however_narrow_the_output_is(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints of a very long name" / "model"
    write_checkpoint(folder)
    (folder / "transformer" / "config.json").unlink()
    listed = acestage("models", "list", "--checkpoints-dir", str(folder.parent), COLUMNS="80")
    assert listed.returncode == 0, listed.stderr
    assert "…" not in listed.stdout
    rows = [line.split("│")[1:-1] for line in listed.stdout.splitlines() if line.startswith("│")]
    layouts, paths = ("".join("".join(row[column].split()) for row in rows) for column in (1, 3))
    assert "".join(str(folder).split()) in paths
    assert "notusable:" in layouts
    assert "transformer/config.json" in layouts


def test_verify_finds_a_model_in_the_folder_that_is_given(verify: Verify, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "here" / "model")
    code, said, errors = verify("model", "--checkpoints-dir", str(tmp_path / "here"))
    assert code == 0, errors
    assert "is complete" in said


def test_verify_names_what_is_wrong(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    ended = acestage("models", "verify", str(folder))
    assert ended.returncode == 1
    assert "transformer/diffusion_pytorch_model.safetensors" in ended.stderr


def test_verify_reads_the_tokenizer(verify: Verify, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    code, _, errors = verify(str(folder))
    assert code == 1
    assert str(folder / "tokenizer") in errors


def test_what_is_not_there_is_told_before_torch_is_imported(tmp_path: Path) -> None:
    ended = acestage("models", "verify", "nope", cwd=tmp_path, **without_torch(tmp_path))
    assert ended.returncode == 1
    assert "checkpoint 'nope' not found" in ended.stderr


def test_an_unknown_model_cannot_be_pulled(tmp_path: Path) -> None:
    ended = acestage("models", "pull", "gpt-9", "--checkpoints-dir", str(tmp_path))
    assert ended.returncode == 1
    assert "gpt-9" in ended.stderr
    assert "xl-turbo" in ended.stderr

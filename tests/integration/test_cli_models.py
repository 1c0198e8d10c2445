"""`acestage models`: what there is, and whether it is whole."""

from __future__ import annotations

from pathlib import Path

from scripts.random_checkpoint import write_checkpoint
from tests.command_line import acestage, without_torch


def test_models_are_listed_and_verified(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    listed = acestage("models", "list", "--checkpoints-dir", str(tmp_path))
    assert "tiny-turbo" in listed.stdout
    assert "xl-turbo" in listed.stdout
    verified = acestage("models", "verify", str(checkpoints["base/original"]))
    assert verified.returncode == 0, verified.stderr
    assert "is complete" in verified.stdout


def test_verify_names_what_is_wrong(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    ended = acestage("models", "verify", str(folder))
    assert ended.returncode == 1
    assert "transformer/diffusion_pytorch_model.safetensors" in ended.stderr


def test_verify_reads_the_tokenizer(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    ended = acestage("models", "verify", str(folder))
    assert ended.returncode == 1
    assert str(folder / "tokenizer") in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_is_not_there_is_told_before_torch_is_imported(tmp_path: Path) -> None:
    ended = acestage("models", "verify", "nope", cwd=tmp_path, **without_torch(tmp_path))
    assert ended.returncode == 1
    assert "checkpoint 'nope' not found" in ended.stderr


def test_an_unknown_model_cannot_be_pulled(tmp_path: Path) -> None:
    ended = acestage("models", "pull", "gpt-9", "--checkpoints-dir", str(tmp_path))
    assert ended.returncode == 1
    assert "gpt-9" in ended.stderr
    assert "xl-turbo" in ended.stderr

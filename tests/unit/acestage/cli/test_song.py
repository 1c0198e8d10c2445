"""What is wrong with a command is said before anything is started or sent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from acestage.cli import app
from acestage.errors import FailedPreconditionError, InvalidArgumentError, ServiceUnreachableError

AUDIO_ID = "a" + "0" * 32


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with one file; nothing is opened by accident."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.wav").write_bytes(b"")


def invoke(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "300"}).invoke(app, [*arguments, "--target", "127.0.0.1:1"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cover", "none.wav", "x"], ["SOURCE", "none.wav does not exist", "uploaded"]),
        (["cover", ".", "x"], ["SOURCE", "is a folder"]),
        (["cover", "here.wav", "x", "--reference", "none.wav"], ["--reference", "none.wav does not exist"]),
        (["generate", "x", "--reference", "a123"], ["--reference", "a123 does not exist"]),
        (["codes", "none.wav"], ["SOURCE", "none.wav does not exist"]),
        (["generate", "x", "--preview", "--stream", "here.wav"], ["--preview", "--output"]),
    ],
)
def test_files_that_cannot_be_read_and_flags_without_use_are_named(
    arguments: Sequence[str], words: Sequence[str]
) -> None:
    ended = invoke(*arguments)
    assert ended.exit_code == 2, ended.output
    for word in words:
        assert word in ended.output


@pytest.mark.parametrize("arguments", [["cover", AUDIO_ID, "x"], ["codes", AUDIO_ID], ["codes", "here.wav"]])
def test_an_id_needs_no_file_and_a_file_that_is_there_is_sent(arguments: Sequence[str]) -> None:
    assert isinstance(invoke(*arguments).exception, ServiceUnreachableError)


def test_a_tilde_that_no_shell_has_expanded_is_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "taken").mkdir(parents=True)
    (tmp_path / "home" / "lyrics.txt").write_text("la")
    for flags in (["--output", "~/taken"], ["--stream", "~/taken"], ["--reference", "~/taken"]):
        assert "home/taken is a folder" in invoke("generate", "x", *flags).output
    assert isinstance(invoke("generate", "x", "--lyrics", "@~/lyrics.txt").exception, ServiceUnreachableError)
    for flag in ("--output", "--stream", "--reference", "--lyrics"):
        ended = invoke("generate", "x", flag, f"{'@' * (flag == '--lyrics')}~nobody-here/x")
        assert ended.exit_code == 2
        assert flag in ended.output
        assert "begins with ~nobody-here, and there is no such user" in ended.output
    assert {path.name for path in tmp_path.iterdir()} == {"home", "here.wav"}


def test_a_preview_beside_a_stream_has_its_file_with_an_output() -> None:
    ended = invoke("generate", "x", "--preview", "--stream", "here.wav", "-o", "song.wav")
    assert isinstance(ended.exception, ServiceUnreachableError)


def test_services_are_sought_where_the_file_says_that_stands_in_for_env(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ACESTAGE_ORCHESTRATOR", raising=False)
    (tmp_path / ".env").write_text("ACESTAGE_ORCHESTRATOR=127.0.0.1:1\n")
    (tmp_path / "other").write_text("ACESTAGE_ORCHESTRATOR=127.0.0.1:2\n")
    for command in (["generate", "x", "--detach"], ["generate", "x", "--detach", "--env-file", "other"]):
        error = CliRunner().invoke(app, command).exception
        assert isinstance(error, FailedPreconditionError)
        assert f"no services run at 127.0.0.1:{2 if 'other' in command else 1}" in error.message


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        (["--seed", "99999999999999999999"], "seed"),
        (["--batch", "3000000000"], "batch_size"),
        (["--bpm", "3000000000"], "bpm"),
        (["--lyrics", "caf\udce9"], "lyrics"),
    ],
)
def test_what_no_request_can_hold_is_refused_before_files_are_sent(flags: Sequence[str], field: str) -> None:
    ended: Any = invoke("generate", "x", "--reference", "here.wav", *flags)
    assert isinstance(ended.exception, InvalidArgumentError)
    assert [violation.field for violation in ended.exception.violations] == [field]

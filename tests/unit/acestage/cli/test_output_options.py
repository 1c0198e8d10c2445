"""Flags of the output: which go together, and what they mean."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from acestage.cli import app
from acestage.cli.output_options import Format, OutputFlags, OutputOptions


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--stream", "-", "--batch", "2"], ["--stream", "one take", "2"]),
        (["--play", "--batch", "3"], ["--play", "one take", "3"]),
        (["--stream", "-", "--format", "flac"], ["--format", "wav or raw"]),
        (["--stream", "-", "--json"], ["--stream", "--json"]),
        (["--stream", "x", "--play"], ["--stream", "--play"]),
        (["--stream", "."], ["--stream", "is a folder"]),
        (["--format", "raw"], ["--format", "--stream"]),
        (["-o", "song.mp3"], ["--output", "is song.mp3; accepted: .wav, .flac; mp3 and others come from"]),
        (["-o", "x.FLAC", "--format", "wav"], ["--output", "is x.FLAC, but the format is wav"]),
        (["-o", "x.wav", "--format", "flac"], ["--output", "accepted for that: .flac"]),
        (["-o", "x.ogg", "--stream", "x"], ["--output", "is x.ogg"]),
        (["--detach", "-o", "x.wav"], ["--detach", "acestage attach"]),
        (["--detach", "--play"], ["--detach", "acestage attach"]),
    ],
)
def test_flags_that_do_not_go_together_are_named(flags: Sequence[str], words: Sequence[str]) -> None:
    runner = CliRunner(env={"COLUMNS": "300"})
    ended = runner.invoke(app, ["generate", "x", "--target", "127.0.0.1:1", *flags])
    assert ended.exit_code == 2, ended.output
    for word in words:
        assert word in ended.output


def options(**flags: Any) -> OutputOptions:
    return OutputFlags(**flags).options()


def test_a_file_is_written_unless_a_stream_alone_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert options().has_file
    assert not options(stream="pipe").has_file
    assert options(stream="pipe", output=Path("x.wav")).has_file


def test_with_a_stream_the_format_is_its_own_and_the_name_tells_that_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    both = options(stream="pipe", audio_format=Format.raw, output=Path("x.flac"))
    assert (both.stream_has_header, both.file_format) == (False, "flac")
    assert options(stream="pipe").stream_has_header
    assert options(output=Path("x.flac")).file_format == "flac"
    assert options(output=Path("x.audio"), audio_format=Format.flac).file_format == "flac"
    assert options(output=Path("x")).file_format == "wav"


def test_a_stream_to_an_output_that_is_closed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(typer.BadParameter, match="stdout, which is closed here"):
        options(stream="-")

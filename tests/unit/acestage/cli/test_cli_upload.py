"""`acestage upload` prints the id of what it sent, and what there is to say about it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import acestage
from tests.unit.audio_files import encoded, tone
from tests.unit.audio_server import Served


def upload(served: Served, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "acestage", "upload", *arguments, "--target", served.target]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_id_is_all_that_is_on_stdout_and_the_facts_are_beside_it(tmp_path: Path) -> None:
    served = Served(tmp_path / "audio")
    path = tmp_path / "tone.wav"
    path.write_bytes(encoded(tone(1.5, 8_000, 0.5), 8_000))
    done = served.run(lambda: upload(served, path))
    assert done.returncode == 0, done.stderr
    assert served.files() == [f"{done.stdout.strip()}.audio"]
    assert done.stderr.startswith("1.50 s of 48 kHz stereo, peak 0.500")
    assert "it came as WAV PCM_16, 8000 Hz, 1 channel\n" in done.stderr


def test_json_has_every_fact_and_warnings_are_shown(tmp_path: Path) -> None:
    served = Served(tmp_path / "audio")
    path = tmp_path / "silence.flac"
    path.write_bytes(encoded(tone(1.0, 48_000, 0, 0, 0, 0, 0, 0), 48_000, "FLAC"))
    done = served.run(lambda: upload(served, path, "--json"))
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert served.files() == [f"{facts['audio_id']}.audio"]
    assert (facts["duration_s"], facts["original_channel_count"], facts["peak"]) == (1.0, 6, 0.0)
    assert facts["warnings"] == ["the audio is silent", "6 channels were mixed down to 2"]
    assert f"Warning: {path}: the audio is silent" in done.stderr


def test_a_file_that_is_no_audio_is_an_error_with_a_reason(tmp_path: Path) -> None:
    served = Served(tmp_path / "audio")
    path = tmp_path / "song.wav"
    path.write_text("la la la")
    done = served.run(lambda: upload(served, path))
    assert (done.returncode, done.stdout) == (1, "")
    assert "data: is no audio that can be read: Format not recognised; accepted: WAV" in done.stderr
    assert f"  FILE: {path}: data: " in done.stderr


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        (["cover", "song.wav", "x", "--reference", "README.md"], "--reference"),
        (["cover", "README.md", "x"], "SOURCE"),
        (["generate", "x", "--reference", "README.md"], "--reference"),
        (["codes", "README.md"], "SOURCE"),
    ],
)
def test_of_several_files_the_one_that_is_no_audio_is_named(
    tmp_path: Path, command: list[str], flag: str
) -> None:
    served = Served(tmp_path / "audio")
    (tmp_path / "song.wav").write_bytes(encoded(tone(1.5, 8_000, 0.5), 8_000))
    (tmp_path / "README.md").write_text("la la la")
    done = served.run(lambda: acestage(*command, "--target", served.target, cwd=tmp_path))
    assert done.returncode == 1
    assert f"  {flag}: README.md: data: is no audio that can be read" in done.stderr


@pytest.mark.parametrize(
    "command",
    [["cover", "cut.flac", "x"], ["generate", "x", "--reference", "cut.flac"], ["codes", "cut.flac"]],
)
def test_what_is_odd_about_the_file_of_a_command_is_said(tmp_path: Path, command: list[str]) -> None:
    served = Served(tmp_path / "audio")
    whole = encoded(tone(3.0, 48_000, 0.5, 0.25), 48_000, "FLAC")
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    done = served.run(lambda: acestage(*command, "--target", served.target, cwd=tmp_path))
    assert "Warning: cut.flac: the file is cut off or damaged" in done.stderr


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    served = Served(tmp_path / "audio")
    served.target = "127.0.0.1:1"
    done = upload(served, tmp_path / "none.wav")
    assert (done.returncode, done.stdout) == (1, "")
    assert "none.wav cannot be read: No such file or directory" in done.stderr
